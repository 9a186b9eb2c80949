"""Bad NIfTI files: every one is refused by name, or read with a note. Images and masks."""

from __future__ import annotations

import gzip
import json
import os
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

AFFINE = np.diag([1.0, 1, 2, 1])
SHAPE = (12, 10, 8)
KINDS = pytest.mark.parametrize("kind", ["image", "mask"])


def voxels(kind: str = "image") -> np.ndarray:
    if kind == "mask":
        mask = np.zeros(SHAPE, np.uint8)
        mask[3:6, 2:5, 2:4] = 1
        return mask
    return np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)


def raw(kind: str = "image", data=None, affine=AFFINE, cls=nibabel.Nifti1Image, **fields) -> bytearray:
    """The bytes of a sound .nii, with header fields replaced afterwards, unchecked."""
    image = cls(voxels(kind) if data is None else data, affine)
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    return patch(content, **fields)


def patch(content: bytearray, **fields) -> bytearray:
    """Replace fields of a NIfTI-1 header."""
    places = {
        "dim": (40, "8h"),
        "datatype": (70, "h"),
        "bitpix": (72, "h"),
        "pixdim": (76, "8f"),
        "vox_offset": (108, "f"),
    }
    places |= {"scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "b"), "magic": (344, "4s")}
    places |= {"qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "3f"), "srow": (280, "12f")}
    for name, value in fields.items():
        place, code = places[name]
        struct.pack_into("<" + code, content, place, *(value if isinstance(value, tuple | list) else (value,)))
    return content


def put(folder: Path, content: bytes, name: str = "scan.nii.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(bytes(content), 1) if name.endswith(".gz") else bytes(content))
    return path


def refused(path: Path, kind: str = "image", field: str = "", match: str | None = None, **options) -> BadInput:
    with pytest.raises(BadInput, match=match) as caught:
        read_volume(path, kind=kind, **options)
    error = caught.value
    assert Path(error.file) == path and error.cause and error.field
    assert field in error.field
    return error


# ---- sound files ----------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "with space.nii.gz", "Größe 脳 é.nii.gz"])
def test_a_sound_file_is_read_exactly_whatever_its_name(tmp_path, kind, name):
    read = read_volume(put(tmp_path, raw(kind), name), kind=kind)
    np.testing.assert_array_equal(read.data, voxels(kind))
    np.testing.assert_array_equal(read.affine, AFFINE)
    assert read.data.dtype == (np.float32 if kind == "image" else bool)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_real_type_and_byte_order_is_read(tmp_path, dtype, order):
    data = (np.arange(960).reshape(SHAPE) % 120).astype(order + dtype)
    image = nibabel.Nifti1Image(data, AFFINE, nibabel.Nifti1Header(endianness=order), dtype=data.dtype)
    np.testing.assert_array_equal(read_volume(put(tmp_path, image.to_bytes())).data, data.astype(np.float32))


def test_nifti_2_is_read(tmp_path):
    read = read_volume(put(tmp_path, raw(cls=nibabel.Nifti2Image)))
    np.testing.assert_array_equal(read.data, voxels())


def test_scaled_integers_are_read_as_nibabel_reads_them(tmp_path):
    content = raw(data=np.arange(960, dtype=np.int16).reshape(SHAPE), scl_slope=0.25, scl_inter=-3.0)
    path = put(tmp_path, content)
    np.testing.assert_allclose(read_volume(path).data, nibabel.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", ">i2", "i4", "f4"])
@pytest.mark.parametrize("slope, intercept", [(0.1, 0.0), (1 / 8192, 0.0), (0.1, 7.3), (-3e-5, 1e4)])
def test_scaling_rounds_once(tmp_path, dtype, slope, intercept):
    """The float32 nearest to slope * stored + intercept, as float64 arithmetic has it."""
    stored = np.random.default_rng(0).integers(-128 if "i" in dtype or "f" in dtype else 0, 127, SHAPE).astype(dtype)
    image = nibabel.Nifti1Image(stored, AFFINE, nibabel.Nifti1Header(endianness=stored.dtype.str[0].replace("|", "<")))
    content = bytearray(image.to_bytes())
    struct.pack_into(stored.dtype.str[0].replace("|", "<") + "2f", content, 112, slope, intercept)
    wanted = stored.astype(np.float64) * float(np.float32(slope)) + float(np.float32(intercept))
    np.testing.assert_array_equal(read_volume(put(tmp_path, content)).data, wanted.astype(np.float32))


def test_gzip_in_several_pieces_with_padding_is_read(tmp_path):
    content = bytes(raw())
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]) + b"\0" * 512)
    np.testing.assert_array_equal(read_volume(path).data, voxels())


def test_large_integers_are_rounded_with_a_note(tmp_path):
    data = np.full(SHAPE, 2**24 + 1, np.int32)
    data[0] = 5
    assert any("2^24" in note for note in read_volume(put(tmp_path, raw(data=data))).report)


# ---- damaged files --------------------------------------------------------------------------------------------------


@KINDS
def test_half_a_file_is_refused(tmp_path, kind):
    path = put(tmp_path, raw(kind))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, kind, "gzip", "too early")


@KINDS
def test_half_a_plain_file_is_refused(tmp_path, kind):
    content = raw(kind)
    refused(put(tmp_path, content[: len(content) // 2], "scan.nii"), kind, "file length")


@KINDS
@pytest.mark.parametrize("cut", [1, 6, 8])
def test_a_missing_end_is_refused(tmp_path, kind, cut):
    """All voxels are there, but the checksum is not."""
    path = put(tmp_path, raw(kind))
    path.write_bytes(path.read_bytes()[:-cut])
    refused(path, kind, "gzip trailer", "too early")


@KINDS
def test_a_flipped_bit_never_changes_a_voxel(tmp_path, kind):
    """Nearly all are refused; the few bits that gzip does not use do no harm."""
    path = put(tmp_path, raw(kind))
    whole, read = path.read_bytes(), 0
    for place in np.linspace(10, len(whole) - 1, 40).astype(int):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        try:
            np.testing.assert_array_equal(read_volume(path, kind=kind).data, voxels(kind))
            read += 1
        except BadInput as error:
            assert error.file == path and error.field
    assert read <= 4


@KINDS
def test_a_flipped_voxel_is_found_by_the_checksum(tmp_path, kind):
    """Stored without compression the data unpack without any error: only the checksum tells."""
    path = tmp_path / "scan.nii.gz"
    content = bytearray(gzip.compress(bytes(raw(kind)), 0))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, kind, "gzip data", "incorrect data check")


@KINDS
def test_a_header_without_voxels_is_refused(tmp_path, kind):
    refused(put(tmp_path, raw(kind)[:352]), kind, "file length", "ends after 352")


@KINDS
@pytest.mark.parametrize("size", [0, 1, 3, 100, 347])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_less_than_a_header_is_refused(tmp_path, kind, size, name):
    path = tmp_path / name
    path.write_bytes(bytes(raw(kind)[:size]))
    error = refused(path, kind)
    assert "empty" in error.cause if size == 0 else "less than a header" in error.cause


@KINDS
def test_gzip_of_nothing_is_refused(tmp_path, kind):
    refused(put(tmp_path, b""), kind, "header", "0 bytes")


@KINDS
def test_a_plain_file_named_gz_is_read_with_a_note(tmp_path, kind):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(bytes(raw(kind)))
    assert "the file is not gzip, in spite of its name" in read_volume(path, kind=kind).report


def test_gzip_named_nii_is_read_with_a_note(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(gzip.compress(bytes(raw())))
    assert "the file is gzip, in spite of its name" in read_volume(path).report


@KINDS
def test_other_bytes_after_the_voxels(tmp_path, kind):
    read = read_volume(put(tmp_path, raw(kind) + bytes(100)), kind=kind)
    assert "100 bytes after the voxels were ignored" in read.report
    refused(put(tmp_path, raw(kind) + bytes(2**21)), kind, "file length", "other bytes follow")


def test_garbage_after_gzip_is_refused(tmp_path):
    path = put(tmp_path, raw())
    path.write_bytes(path.read_bytes() + b"garbage")
    refused(path, field="gzip data")


def test_what_is_no_nifti_is_refused(tmp_path):
    refused(put(tmp_path, b"\x89PNG" + bytes(400), "picture.nii"), field="magic", match="not a NIfTI")
    refused(put(tmp_path, raw(magic=b"ni1\0"), "half.nii"), field="magic", match="pair")
    refused(put(tmp_path, bytes(128) + b"DICM" + bytes(400), "slice.nii"), field="magic", match="DICOM")


@pytest.mark.parametrize(
    "make", [lambda p: p.mkdir(), lambda p: os.mkfifo(p), lambda p: None], ids=["folder", "pipe", "none"]
)
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "scan.nii.gz")
    refused(tmp_path / "scan.nii.gz", field="path")


# ---- headers that lie -----------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_absurd_dimensions_are_refused(tmp_path, kind, name):
    huge = raw(kind, dim=(3, 32767, 32767, 32767, 1, 1, 1, 1))
    refused(put(tmp_path, huge, name), kind, "dim", "the limit is 1024 MiB")


def test_dimensions_within_the_limit_that_the_file_cannot_hold_are_refused(tmp_path):
    big = raw(dim=(3, 400, 400, 300, 1, 1, 1, 1))
    refused(put(tmp_path, big, "scan.nii"), field="file length", match="bytes; the file has")
    refused(put(tmp_path, big), field="file length", match="packed")


@KINDS
@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("size", [-12, 0])
def test_negative_and_zero_dimensions_are_named(tmp_path, kind, axis, size):
    dim = [3, *SHAPE, 1, 1, 1, 1]
    dim[axis] = size
    refused(put(tmp_path, raw(kind, dim=dim)), kind, f"dim[{axis}]", str(size))


@pytest.mark.parametrize("count", [-1, 0, 8, 300])
def test_an_absurd_number_of_dimensions_is_refused(tmp_path, count):
    refused(put(tmp_path, raw(dim=(count, *SHAPE, 1, 1, 1, 1))), field="dim[0]")


@KINDS
def test_trailing_zeros_without_end_are_refused(tmp_path, kind):
    refused(put(tmp_path, raw(kind) + bytes(60 * 2**20)), kind, "file length")


@KINDS
def test_a_4d_file_needs_a_frame(tmp_path, kind):
    data = np.stack([voxels(kind), voxels(kind)[::-1]], -1)
    path = put(tmp_path, raw(kind, data))
    assert "frame=0 to frame=1" in refused(path, kind, "dim[4]", "2 volumes").remedy
    for frame in (0, 1):
        read = read_volume(path, kind=kind, frame=frame)
        np.testing.assert_array_equal(read.data, data[..., frame])
        assert f"volume {frame} of 2 was taken" in read.report
    for frame in (2, -1):
        refused(path, kind, "frame", frame=frame)


@KINDS
def test_a_trailing_axis_of_one_is_accepted(tmp_path, kind):
    assert read_volume(put(tmp_path, raw(kind, voxels(kind)[..., None])), kind=kind).data.shape == SHAPE


def test_a_picture_and_a_vector_field_are_refused(tmp_path):
    refused(put(tmp_path, raw(data=voxels()[:, :, 0])), field="dim[0]", match="picture")
    refused(put(tmp_path, raw(data=np.zeros((*SHAPE, 1, 3), np.float32))), field="dim[0]", match="vector")


@KINDS
@pytest.mark.parametrize("letters", ["RGB", "RGBA"])
def test_colours_are_refused_with_advice(tmp_path, kind, letters):
    data = np.zeros(SHAPE, [(letter, "u1") for letter in letters])
    error = refused(put(tmp_path, raw(kind, data)), kind, "datatype", letters)
    assert "grey values" in error.remedy


@KINDS
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_voxels_are_refused_with_advice(tmp_path, kind, dtype):
    error = refused(put(tmp_path, raw(kind, np.ones(SHAPE, dtype))), kind, "datatype", "complex")
    assert "magnitude" in error.remedy


@KINDS
@pytest.mark.parametrize("code", [0, 1, 1536, 17, -3])
def test_other_types_are_refused(tmp_path, kind, code):
    refused(put(tmp_path, raw(kind, datatype=code)), kind, "datatype")


def test_a_wrong_bitpix_is_noted(tmp_path):
    assert any("bitpix" in note for note in read_volume(put(tmp_path, raw(bitpix=8))).report)


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -5, 100, 1e9, 352.5])
def test_a_wrong_start_of_the_voxels_is_refused(tmp_path, offset):
    refused(put(tmp_path, raw(vox_offset=offset)), field="vox_offset")


@KINDS
@pytest.mark.parametrize("slope", [float("nan"), 0.0])
def test_no_slope_means_raw_values_with_a_note(tmp_path, kind, slope):
    read = read_volume(put(tmp_path, raw(kind, scl_slope=slope, scl_inter=7.0)), kind=kind)
    np.testing.assert_array_equal(read.data, voxels(kind))
    assert any("scl_slope" in note for note in read.report)


def test_odd_scalings(tmp_path):
    refused(put(tmp_path, raw(scl_slope=float("inf"))), field="scl_slope")
    refused(put(tmp_path, raw(scl_slope=1.0, scl_inter=float("-inf"))), field="scl_slope")
    refused(put(tmp_path, raw(scl_slope=3e38, scl_inter=0.0)), field="scl_slope", match="float32")
    read = read_volume(put(tmp_path, raw(scl_slope=2.0, scl_inter=float("nan"))))
    np.testing.assert_array_equal(read.data, 2 * voxels())
    assert any("scl_inter" in note for note in read.report)


# ---- affines --------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_affine_of_nan_or_zero_is_refused(tmp_path, kind, value):
    refused(put(tmp_path, raw(kind, srow=[value] * 12)), kind, "sform")


@KINDS
def test_a_singular_affine_is_refused(tmp_path, kind):
    flat = [1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0]  # y and z are one axis
    refused(put(tmp_path, raw(kind, srow=flat)), kind, "sform", "singular")


def test_a_singular_qform_is_refused_where_it_is_needed(tmp_path):
    pixdim = (1, 1, 0, 2, 1, 1, 1, 1)
    refused(put(tmp_path, raw(sform_code=0, qform_code=1, pixdim=pixdim)), field="qform")
    refused(put(tmp_path, raw(sform_code=0, qform_code=1, quatern=(2.0, 2.0, 2.0))), field="qform")
    read = read_volume(put(tmp_path, raw(qform_code=1, quatern=(2.0, 2.0, 2.0))))
    assert any("qform cannot be used" in note for note in read.report)


@pytest.mark.parametrize("size", [1e-6, 1e6, 1e30])
def test_absurd_voxel_sizes_and_places_are_refused(tmp_path, size):
    refused(put(tmp_path, raw(srow=[size, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0])), match="large|singular")
    refused(put(tmp_path, raw(srow=[1, 0, 0, 1e30, 0, 1, 0, 0, 0, 0, 1, 0])), match="10 m")


@KINDS
def test_a_missing_affine_is_a_guess_with_a_note(tmp_path, kind):
    read = read_volume(put(tmp_path, raw(kind, sform_code=0, qform_code=0)), kind=kind)
    assert any("which side is left is a guess" in note for note in read.report)
    np.testing.assert_array_equal(read.data, voxels(kind)[::-1])  # NIfTI's default: x grows to the left
    for sizes in ((1, 0, 1, 1), (1, float("nan"), 1, 1), (1, -2, 1, 1)):
        path = put(tmp_path, raw(kind, sform_code=0, qform_code=0, pixdim=(*sizes, 1, 1, 1, 1)))
        refused(path, kind, "pixdim")


def test_forms_that_disagree(tmp_path):
    image = nibabel.Nifti1Image(voxels(), AFFINE)
    image.set_sform(AFFINE, 1)
    moved = AFFINE.copy()
    moved[0, 3] = 5
    image.set_qform(moved, 1)
    read = read_volume(put(tmp_path, image.to_bytes()))
    assert any("disagree by up to 5.0 mm; the sform was used" in note for note in read.report)
    np.testing.assert_array_equal(read.affine, AFFINE)
    image.set_qform(np.diag([-1.0, 1, 2, 1]), 1)
    refused(put(tmp_path, image.to_bytes()), field="sform, qform", match="which side is left")


def test_units_are_changed_to_mm(tmp_path):
    metres = raw(srow=[0.001, 0, 0, 0, 0, 0.001, 0, 0, 0, 0, 0.002, 0.05], xyzt_units=1)
    read = read_volume(put(tmp_path, metres))
    np.testing.assert_allclose(read.affine, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 50], [0, 0, 0, 1]], atol=1e-5)
    assert any("metres" in note for note in read.report)


# ---- bounds ---------------------------------------------------------------------------------------------------------

MEASURE = """
import json, resource, sys, time
from course_lib.errors import BadInput
from course_lib.images.volumes import read_volume
path, warm, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
read_volume(warm)  # imports
def peak():
    with open("/proc/self/status") as s:
        return next(int(line.split()[1]) / 1024 for line in s if line.startswith("VmHWM"))
before, start = peak(), time.process_time()
try:
    read_volume(path, limit_mib=limit)
    said = "read"
except BadInput as error:
    said = error.cause
print(json.dumps({"said": said, "mib": peak() - before, "s": time.process_time() - start}))
"""


def measured(path: Path, warm: Path, limit: float) -> dict:
    call = [sys.executable, "-c", MEASURE, str(path), str(warm), str(limit)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _long_name(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b\x08\x08\0\0\0\0\0\x03" + b"x" * (60 * 2**20))


def _many_pieces(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(raw())[:400]) + gzip.compress(b"") * 400_000)


def _bomb(path: Path) -> None:
    header = raw(dim=(3, *SHAPE, 1, 1, 1, 1))
    with gzip.open(path, "wb", 6) as stream:
        stream.write(bytes(header))
        for _ in range(400):
            stream.write(bytes(2**20))


def _promise(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(raw(dim=(3, 250, 250, 120, 1, 1, 1, 1))) + bytes(10**6)) + b"\0" * 2**20)


def _full(path: Path) -> None:
    data = np.zeros((200, 200, 200), np.float32)  # 61 MiB as stored and as float32: just within the limit
    data[50:60] = 1
    image = nibabel.Nifti1Image(data, np.diag([-1.0, -1, 1, 1]))
    path.write_bytes(gzip.compress(image.to_bytes(), 1))


def _frames(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(raw(dim=(4, 64, 64, 32, 5000, 1, 1, 1))) + bytes(20 * 2**20), 1))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize("make", [_long_name, _many_pieces, _bomb, _promise, _full, _frames])
def test_no_file_takes_more_than_four_times_the_limit_or_ten_seconds(tmp_path, make):
    path, limit = tmp_path / "bad.nii.gz", 64
    make(path)
    result = measured(path, put(tmp_path, raw()), limit)
    assert result["mib"] < 4 * limit and result["s"] < 10, result
    assert (result["said"] == "read") == (make is _full), result


# ---- whatever comes -------------------------------------------------------------------------------------------------

_FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(place=st.integers(0, 351), value=st.integers(0, 255), kind=st.sampled_from(["image", "mask"]))
def test_any_byte_of_the_header_is_read_soundly_or_refused(tmp_path, place, value, kind):
    content = raw(kind)
    content[place] = value
    _sound_or_refused(put(tmp_path, content), kind)
    _sound_or_refused(put(tmp_path, content, "scan.nii"), kind)


@_FUZZ
@given(data=st.data(), kind=st.sampled_from(["image", "mask"]))
def test_any_flipped_byte_of_a_file_is_read_soundly_or_refused(tmp_path, data, kind):
    content = bytearray(gzip.compress(bytes(raw(kind)), 1))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    _sound_or_refused(path, kind)


@_FUZZ
@given(place=st.integers(0, 4191), flip=st.integers(1, 255))
def test_any_flipped_byte_of_a_plain_file_is_read_soundly_or_refused(tmp_path, place, flip):
    content = raw()
    content[place] ^= flip
    _sound_or_refused(put(tmp_path, content, "scan.nii"), "image")


def _sound_or_refused(path: Path, kind: str) -> None:
    try:
        read = read_volume(path, kind=kind, limit_mib=64)
    except BadInput as error:
        assert error.file and error.field and error.cause
    else:
        assert np.isfinite(read.data).all() and np.isfinite(read.affine).all() and read.data.ndim == 3
