"""Orientation, values, pairs, resampling, normalisation and writing."""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.errors import BadInput
from course_lib.images.lattice import smooth_121
from course_lib.images.volumes import (
    CEILING,
    FLOOR,
    Volume,
    check_pair,
    normalise,
    read_volume,
    resample,
    to_ras,
    write_volume,
)

AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


@pytest.fixture
def ramp() -> Volume:
    return Volume(np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4), AFFINE)


def save(path: Path, data: np.ndarray, affine=AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image", "mask"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_or_replaced_and_counted(tmp_path, kind, value):
    data = np.ones((6, 5, 4), np.float32)
    data[:3] = 0
    data[0, 0, :3] = value
    path = save(tmp_path / "scan.nii.gz", data)
    with pytest.raises(BadInput, match="3 of 120 voxels") as caught:
        read_volume(path, kind=kind)
    assert caught.value.field == "voxels" and "allow_non_finite" in caught.value.remedy
    read = read_volume(path, kind=kind, allow_non_finite=True)
    assert "3 NaN or infinite voxels were set to 0" in read.report
    assert (read.data[0, 0, :3] == 0).all() and np.isfinite(read.data).all()


@pytest.mark.parametrize("value", [0, 7.5])
def test_a_constant_image_is_refused(tmp_path, value):
    with pytest.raises(BadInput, match="constant"):
        read_volume(save(tmp_path / "scan.nii", np.full((6, 5, 4), value, np.float32)))


@pytest.mark.parametrize("label", [1, 255, 7])
def test_a_single_label_is_a_mask(tmp_path, label):
    data = np.zeros((6, 5, 4), np.uint8)
    data[2:4] = label
    read = read_volume(save(tmp_path / "mask.nii", data), kind="mask")
    np.testing.assert_array_equal(read.data, data > 0)
    assert any("label" in note for note in read.report) == (label != 1)


@pytest.mark.parametrize("values", [(0.999,), (0.2, 0.7), (1, 2, 3), (-1,), (1, 1.5)], ids=str)
def test_a_soft_or_many_valued_mask_needs_a_threshold(tmp_path, values):
    data = np.zeros((6, 5, 4), np.float32)
    data[0].flat[: len(values)] = values
    path = save(tmp_path / "mask.nii", data)
    with pytest.raises(BadInput, match="not binary") as caught:
        read_volume(path, kind="mask")
    assert caught.value.file == path and "threshold" in caught.value.remedy
    read = read_volume(path, kind="mask", threshold=0.5)
    np.testing.assert_array_equal(read.data, data > 0.5)
    assert "mask: True where value > 0.5" in read.report


def test_labels_are_chosen_and_counted(tmp_path):
    data = np.zeros((6, 5, 4), np.uint8)
    data[0], data[1, 0], data[2, 0, 0] = 1, 2, 4
    path = save(tmp_path / "mask.nii", data)
    read = read_volume(path, kind="mask", labels=(1, 4, 9))
    np.testing.assert_array_equal(read.data, (data == 1) | (data == 4))
    assert "mask: 20 voxels of label 1 were taken" in read.report
    assert "mask: 1 voxels of label 4 were taken" in read.report
    assert "mask: 4 voxels of other values (2) were not taken" in read.report
    read = read_volume(path, kind="mask", labels=())
    assert not read.data.any() and any("empty" in note for note in read.report)
    with pytest.raises(BadInput, match="threshold and labels"):
        read_volume(path, kind="mask", labels=[1], threshold=0.5)


def test_an_empty_mask_is_accepted_and_noted(tmp_path):
    read = read_volume(save(tmp_path / "mask.nii", np.zeros((6, 5, 4), np.uint8)), kind="mask")
    assert not read.data.any() and any("empty" in note for note in read.report)
    read = read_volume(save(tmp_path / "mask.nii", np.ones((6, 5, 4), np.uint8)), kind="mask")
    assert read.data.all() and any("whole volume" in note for note in read.report)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(BadInput, match="kind"):
        read_volume(tmp_path, kind="label")


# ---- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_of_a_volume_reads_the_same(tmp_path, ramp, order, signs):
    data, affine = ramp.data.transpose(order), ramp.affine[:, [*order, 3]]
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine = affine.copy()
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    read = read_volume(save(tmp_path / "scan.nii", np.ascontiguousarray(data), affine))
    np.testing.assert_array_equal(read.data, ramp.data)
    np.testing.assert_allclose(read.affine, ramp.affine, atol=1e-5)
    turned = order != (0, 1, 2) or -1 in signs
    assert any("to RAS" in note for note in read.report) == turned


def test_an_oblique_volume_keeps_its_voxels_and_says_so(ramp):
    angle = np.radians(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    read = to_ras(Volume(ramp.data, turn @ AFFINE))
    np.testing.assert_array_equal(read.data, ramp.data)
    assert any("10.0 degrees" in note for note in read.report)


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_a_mask_must_lie_on_its_image(ramp):
    mask = Volume(np.zeros(ramp.data.shape, bool), AFFINE.copy(), Path("mask.nii"))
    check_pair(ramp, mask)
    with pytest.raises(BadInput, match="5 x 5 x 4 voxels, its image 6 x 5 x 4") as caught:
        check_pair(ramp, Volume(mask.data[:5], AFFINE, mask.path))
    assert caught.value.field == "dim" and caught.value.file == mask.path


@pytest.mark.parametrize("shift, fits", [(0.1, True), (0.3, False), (40.0, False)])
def test_a_mask_that_lies_elsewhere_is_refused(ramp, shift, fits):
    moved = AFFINE.copy()
    moved[1, 3] += shift
    mask = Volume(np.zeros(ramp.data.shape, bool), moved)
    if fits:
        check_pair(ramp, mask)
    else:
        with pytest.raises(BadInput, match=f"{shift:.2f} mm apart"):
            check_pair(ramp, mask)


def test_a_mask_of_other_voxel_sizes_is_refused(ramp):
    with pytest.raises(BadInput, match="elsewhere"):
        check_pair(ramp, Volume(np.zeros(ramp.data.shape, bool), AFFINE @ np.diag([1.05, 1, 1, 1])))


def test_a_mirrored_mask_is_refused_or_turned_right(tmp_path, ramp):
    """Stored with the other handedness but a true affine, a mask is turned; with the image's affine it is wrong."""
    marked = np.zeros(ramp.data.shape, np.uint8)
    marked[1, 2, 3] = 1
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 5
    read = read_volume(save(tmp_path / "mask.nii", marked[::-1], AFFINE @ mirror), kind="mask")
    check_pair(ramp, read)
    assert read.data[1, 2, 3]


# ---- resampling -----------------------------------------------------------------------------------------------------


def test_the_same_grid_changes_nothing(ramp):
    np.testing.assert_array_equal(resample(ramp, AFFINE, ramp.data.shape).data, ramp.data)


def test_a_linear_function_of_place_is_kept(ramp):
    """Linear interpolation is exact for it, on any grid inside, whatever the turn."""
    grid = np.indices((20, 20, 20)).reshape(3, -1)
    place = AFFINE[:3, :3] @ grid + AFFINE[:3, 3:]
    slope = np.array([0.5, -1.0, 2.0])
    volume = Volume((slope @ place).reshape(20, 20, 20).astype(np.float32), AFFINE)
    angle = np.radians(20)
    target = np.eye(4)
    target[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    target[:3, 3] = (8, 0, 30)
    out = resample(volume, target, (5, 6, 7)).data
    there = target[:3, :3] @ np.indices((5, 6, 7)).reshape(3, -1) + target[:3, 3:]
    np.testing.assert_allclose(out.ravel(), slope @ there, atol=1e-4)


def test_outside_is_zero(ramp):
    away = AFFINE.copy()
    away[0, 3] = 500
    assert not resample(ramp, away, (3, 3, 3)).data.any()


def test_downsampling_smooths_first_as_the_lattice_does():
    """1 to 2 mm: the checkerboard, which plain picking would turn into a constant 1, becomes grey."""
    board = (np.indices((24, 24, 24)).sum(0) % 2).astype(np.float32)
    out = resample(Volume(board, np.eye(4)), np.diag([2.0, 2, 2, 1]), (12, 12, 12)).data[3:-3, 3:-3, 3:-3]
    assert np.abs(out - 0.5).max() < 0.02
    plane = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    tall = Volume(np.repeat(plane[:, :, None], 24, 2), np.eye(4))
    ours = resample(tall, np.diag([2.0, 2, 2, 1]), (12, 12, 12)).data[2:-2, 2:-2, 6]
    theirs = smooth_121(plane)[::2, ::2][2:-2, 2:-2]
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98


def test_masks_keep_their_volume_and_report_what_they_lose():
    grid = np.indices((40, 40, 40)) - 19.5
    ball = Volume((grid**2).sum(0) < 10**2, np.eye(4))
    out = resample(ball, np.diag([2.0, 2, 2, 1]), (20, 20, 20))
    assert out.data.dtype == bool
    assert out.data.sum() * out.voxel_ml == pytest.approx(ball.data.sum() * ball.voxel_ml, rel=0.03)
    speck = np.zeros((40, 40, 40), bool)
    speck[11, 11, 11] = True
    gone = resample(Volume(speck, np.eye(4)), np.diag([2.0, 2, 2, 1]), (20, 20, 20))
    assert not gone.data.any() and any("lost" in note for note in gone.report)


# ---- normalisation --------------------------------------------------------------------------------------------------


def test_normalise_follows_its_formula():
    rng = np.random.default_rng(0)
    image = rng.normal(700, 50, (20, 20, 20)).astype(np.float32)
    brain = rng.random((20, 20, 20)) < 0.5
    out = normalise(image, brain)
    median = np.median(image[brain])
    mad = np.median(np.abs(image[brain] - median))
    wanted = np.clip(0.5 + (image - median) / (8 * 1.4826 * mad), 1 / 255, 2)
    np.testing.assert_allclose(out[brain], wanted[brain], rtol=1e-5)
    assert out.dtype == np.float32 and (out[~brain] == 0).all()
    np.testing.assert_array_equal(out > 0, brain)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(1e-3, 1e5), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 100))
def test_normalise_does_not_see_gain_and_offset(scale, shift, seed):
    image = np.random.default_rng(seed).normal(0, 1, 500)
    brain = np.ones(500, bool)
    if abs(shift) < 1e3 * scale:  # beyond it float32 has no digits left
        np.testing.assert_allclose(normalise(image * scale + shift, brain), normalise(image, brain), atol=2e-3)


def test_normalise_clips():
    image = np.r_[np.random.default_rng(0).normal(0, 1, 99), 1e6, -1e6]
    out = normalise(image, np.ones(101, bool))
    assert out[-2] == np.float32(CEILING) and out[-1] == np.float32(FLOOR)


@pytest.mark.parametrize(
    "image, brain, match",
    [
        (np.arange(8.0), np.zeros(8, bool), "empty"),
        (np.full(8, 3.0), np.ones(8, bool), "constant"),
        (np.r_[np.full(6, 3.0), 1, 2], np.ones(8, bool), "constant"),
        (np.r_[np.arange(7.0), np.nan], np.ones(8, bool), "NaN"),
        (np.r_[np.arange(7.0), np.inf], np.ones(8, bool), "NaN"),
        (np.arange(8.0), np.ones(7, bool), "differ in shape"),
        (np.arange(8.0), np.ones(8, np.uint8), "not bool"),
        (np.tile([-3e38, 3e38], 4).astype(np.float32), np.ones(8, bool), "too far apart"),
    ],
)
def test_what_cannot_be_normalised_is_refused(image, brain, match):
    with pytest.raises(BadInput, match=match) as caught:
        normalise(image, brain)
    assert caught.value.field


def test_nan_outside_the_brain_becomes_background():
    image = np.r_[np.arange(8.0), np.nan]
    assert normalise(image, np.arange(9) < 8)[-1] == 0


# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_normalised_image_survives_writing(tmp_path):
    rng = np.random.default_rng(0)
    brain = rng.random((20, 18, 16)) < 0.6
    image = normalise(rng.normal(size=brain.shape), brain)
    write_volume(tmp_path / "a.nii.gz", image, AFFINE)
    read = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read.data, image, atol=1 / 16384 + 1e-7)
    np.testing.assert_array_equal(read.data > 0, brain)
    np.testing.assert_array_equal(read.affine, AFFINE)
    write_volume(tmp_path / "b.nii.gz", read.data, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_survives_writing(tmp_path):
    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.3
    write_volume(tmp_path / "m.nii.gz", mask, AFFINE)
    np.testing.assert_array_equal(read_volume(tmp_path / "m.nii.gz", kind="mask").data, mask)
    assert nibabel.load(tmp_path / "m.nii.gz").get_data_dtype() == np.uint8


def test_the_gzip_header_holds_neither_time_nor_name(tmp_path):
    write_volume(tmp_path / "a name.nii.gz", np.eye(3, dtype=np.float32)[:, :, None], AFFINE)
    head = (tmp_path / "a name.nii.gz").read_bytes()[:10]
    assert head[:3] == b"\x1f\x8b\x08" and head[3] & 8 == 0 and head[4:8] == bytes(4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 4.5, -4.5])
def test_what_int16_cannot_hold_is_not_written(tmp_path, value):
    data = np.zeros((3, 3, 3), np.float32)
    data[0, 0, 0] = value
    with pytest.raises(BadInput):
        write_volume(tmp_path / "a.nii.gz", data, AFFINE)
    assert not list(tmp_path.iterdir())


def test_values_must_fit_the_type_that_is_asked_for(tmp_path):
    for data, dtype in ((np.full((2, 2, 2), 300), np.uint8), (np.full((2, 2, 2), 1e39), np.float32)):
        with pytest.raises(BadInput, match="do not fit"):
            write_volume(tmp_path / "a.nii.gz", data, AFFINE, dtype)
    with pytest.raises(BadInput, match="cannot be stored"):
        write_volume(tmp_path / "a.nii.gz", np.zeros((2, 2, 2)), AFFINE, np.complex64)
    write_volume(tmp_path / "a.nii.gz", np.arange(8.0).reshape(2, 2, 2) * 1000, AFFINE, np.float32)
    assert read_volume(tmp_path / "a.nii.gz").data.max() == 7000


FULL = """
import resource, signal, sys
import numpy as np
from course_lib.errors import BadInput
from course_lib.images.volumes import write_volume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_volume(sys.argv[1], np.random.default_rng(0).random((64, 64, 64)).astype(np.float32), np.eye(4))
except BadInput as error:
    print("refused", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_file_that_may_not_grow_leaves_nothing(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"what was there")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused") and str(path) in done.stdout, done.stderr
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    # Lazily: the traceback of the error that was caught may still hold the file that could not be written.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing(small_disk):
    noise = np.random.default_rng(0).random((64, 64, 64)).astype(np.float32)
    with pytest.raises(BadInput, match="No space left") as caught:
        write_volume(small_disk / "scan.nii.gz", noise, AFFINE)
    assert "Free some space" in caught.value.remedy and not list(small_disk.iterdir())


def test_a_read_only_folder_is_named(small_disk):
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    assert subprocess.run(remount, capture_output=True).returncode == 0
    with pytest.raises(BadInput, match="Read-only"):
        write_volume(small_disk / "scan.nii.gz", np.eye(3, dtype=np.float32)[:, :, None], AFFINE)


@pytest.mark.parametrize("number", ["EACCES", "EROFS", "ENOSPC", "EDQUOT"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, number):
    import errno
    import tempfile

    def refuse(*args, **kwargs):
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(BadInput, match="cannot be written") as caught:
        write_volume(tmp_path / "scan.nii.gz", np.eye(3, dtype=np.float32)[:, :, None], AFFINE)
    assert caught.value.file == tmp_path / "scan.nii.gz" and caught.value.remedy


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(BadInput, match="cannot be written"):
        write_volume(tmp_path / "sub" / "scan.nii.gz", np.eye(3, dtype=np.float32)[:, :, None], AFFINE)


def test_real_scans_are_read_as_nibabel_reads_them(shared_data):
    for path in sorted((shared_data / "ms" / "source_sample").glob("*.nii.gz")):
        image = nibabel.as_closest_canonical(nibabel.load(path))
        kind = "mask" if "GOLD" in path.name else "image"
        read = read_volume(path, kind=kind)
        np.testing.assert_array_equal(read.data, image.get_fdata(dtype=np.float32))
        np.testing.assert_allclose(read.affine, image.affine, atol=1e-5)


def test_a_gzip_file_can_be_read_by_others(tmp_path):
    write_volume(tmp_path / "m.nii.gz", np.ones((3, 3, 3), bool), AFFINE)
    with gzip.open(tmp_path / "m.nii.gz") as stream:
        assert len(stream.read()) == 352 + 27
