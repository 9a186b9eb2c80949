"""NIfTI files damaged by chance or made to do harm, beside the ordinary refusals of test_nifti.py.

A damaged .nii.gz is refused or read exactly right: its checksum tells. A .nii has none, so all that can be asked is a
refusal or a finite volume.
"""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.errors import BadInput
from course_lib.images.volumes import read_volume

SHAPE = (8, 9, 5)
AFFINE = np.array([[1.0, 0, 0, -3], [0, 1, 0, -4], [0, 0, 2, -5], [0, 0, 0, 1]])
VOXELS = {
    "image": np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32),
    "mask": (np.random.default_rng(0).normal(size=SHAPE) > 0).astype(np.uint8),
}
FIELDS = {  # of the NIfTI-1 header: name -> (offset, struct code, how many)
    "sizeof_hdr": (0, "i", 1),
    "dim": (40, "h", 8),
    "intent_code": (68, "h", 1),
    "datatype": (70, "h", 1),
    "bitpix": (72, "h", 1),
    "pixdim": (76, "f", 8),
    "vox_offset": (108, "f", 1),
    "scl_slope": (112, "f", 1),
    "scl_inter": (116, "f", 1),
    "xyzt_units": (123, "B", 1),
    "qform_code": (252, "h", 1),
    "sform_code": (254, "h", 1),
    "quatern": (256, "f", 6),
    "sform": (280, "f", 12),
}
VALUES = {
    "f": st.floats(width=32),
    "h": st.one_of(st.integers(-2, 9), st.integers(-(2**15), 2**15 - 1), st.sampled_from([16, 64, 512, 1024])),
    "i": st.integers(-(2**31), 2**31 - 1),
    "B": st.integers(0, 255),
}
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=4)  # relative place, bit
HEAD_FLIPS = st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 7)), max_size=6)  # header and first voxels
CUTS = st.one_of(st.just(1.0), st.floats(0, 1))
KIND = st.sampled_from(["image", "mask"])


def raw(kind: str = "image", **fields: tuple) -> bytes:
    """A plain NIfTI file with the first values of some header fields overwritten."""
    content = bytearray(nibabel.Nifti1Image(VOXELS[kind], AFFINE).to_bytes())
    for name, values in fields.items():
        offset, code, _ = FIELDS[name]
        struct.pack_into(f"<{len(values)}{code}", content, offset, *values)
    return bytes(content)


def damaged(content: bytes, flips: list[tuple[float, int]], cut: float) -> bytes:
    changed = bytearray(content[: max(1, round(len(content) * cut))])
    for place, bit in flips:
        changed[int(place * (len(changed) - 1))] ^= 1 << bit
    return bytes(changed)


def sound_or_refused(path: Path, content: bytes, kind: str = "image"):
    path.write_bytes(content)
    try:
        volume = read_volume(path, kind=kind, limit_mib=8)
    except BadInput as error:
        assert Path(error.file) == path and error.cause and error.field and error.remedy
        return None
    assert volume.data.dtype == (bool if kind == "mask" else np.float32) and volume.data.ndim == 3
    assert np.isfinite(volume.data).all() and np.isfinite(volume.affine).all()
    assert abs(np.linalg.det(volume.affine[:3, :3])) > 0
    return volume


# ---- chance -------------------------------------------------------------------------------------------------------


@FUZZ
@given(flips=FLIPS, cut=CUTS, kind=KIND)
def test_a_damaged_gz_is_refused_or_exactly_right(tmp_path, flips, cut, kind):
    volume = sound_or_refused(tmp_path / "scan.nii.gz", damaged(gzip.compress(raw(kind), 1, mtime=0), flips, cut), kind)
    if volume is not None:  # nothing was changed, or only the time or system in the gzip header
        np.testing.assert_array_equal(volume.data, VOXELS[kind])
        np.testing.assert_array_equal(volume.affine, AFFINE)


@FUZZ
@given(flips=HEAD_FLIPS, cut=CUTS, kind=KIND)
def test_a_damaged_nii_is_refused_or_finite(tmp_path, flips, cut, kind):
    sound_or_refused(tmp_path / "scan.nii", damaged(raw(kind), flips, cut), kind)


@FUZZ
@given(data=st.data(), kind=KIND)
def test_any_header_is_refused_or_finite(tmp_path, data, kind):
    fields = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True)):
        _, code, count = FIELDS[name]
        fields[name] = tuple(data.draw(st.lists(VALUES[code], min_size=1, max_size=count)))
    sound_or_refused(tmp_path / "scan.nii", raw(kind, **fields), kind)


@FUZZ
@given(content=st.binary(min_size=1, max_size=2000), packed=st.booleans())
def test_other_bytes_are_refused(tmp_path, content, packed):
    content = gzip.compress(content) if packed else content
    assert sound_or_refused(tmp_path / "scan.nii", content) is None


def test_damage_in_a_frame_that_was_not_asked_for_is_found(tmp_path):
    frames = nibabel.Nifti1Image(np.stack([VOXELS["image"]] * 4, -1), AFFINE).to_bytes()
    content = bytearray(gzip.compress(frames, 0))  # stored: it unpacks without any error
    content[-100] ^= 1
    path = tmp_path / "series.nii.gz"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        read_volume(path, frame=0)


# ---- made to do harm ------------------------------------------------------------------------------------------------

PROBE = """
import json, sys, time
from course_lib.errors import BadInput
from course_lib.images.volumes import read_volume
def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
read_volume(sys.argv[1], limit_mib=16)  # what the imports take
found, base = {}, peak()
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        read_volume(path, limit_mib=16)
        said = "read"
    except BadInput as error:
        said = error.field
    found[path] = [said, peak() - base, time.process_time() - start]
print(json.dumps(found))
"""


def zeros_after(path: Path, head: bytes, mib: int = 300) -> Path:
    with gzip.open(path, "wb", 1) as stream:
        stream.write(head)
        for _ in range(mib):
            stream.write(bytes(2**20))
    return path


def hostile(folder: Path) -> list[tuple[Path, str]]:
    """Files that want memory or time, and the field that the refusal names; the limit is 16 MiB."""
    huge = raw(dim=(3, 32767, 32767, 32767))
    plain, packed, sparse = folder / "huge.nii", folder / "huge.nii.gz", folder / "sparse.nii"
    plain.write_bytes(huge)
    packed.write_bytes(gzip.compress(huge))
    with open(sparse, "wb") as stream:
        stream.write(huge)
        stream.truncate(2**38)  # a hole: 256 GiB that take no place on the disk
    return [
        (plain, "dim"),
        (packed, "dim"),
        (zeros_after(folder / "bomb.nii.gz", raw()), "file length"),
        (zeros_after(folder / "true bomb.nii.gz", raw(dim=(3, 17500, 17500, 1), datatype=(2,))[:352]), "dim"),
        (zeros_after(folder / "extension.nii.gz", raw(vox_offset=(2.0**28,))[:352]), "vox_offset"),
        (sparse, "file"),
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_refusal_takes_next_to_no_memory_or_time(tmp_path):
    cases, sound = hostile(tmp_path), tmp_path / "sound.nii"
    sound.write_bytes(raw())
    command = [sys.executable, "-c", PROBE, str(sound), *(str(path) for path, _ in cases)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    for path, field in cases:
        said, mib, seconds = found[str(path)]
        assert said == field and mib < 16 and seconds < 1, (path.name, found[str(path)])
