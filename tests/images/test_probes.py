"""Far-out inputs: in the course's intensities, where they should be, and refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.images import probes

SHAPE = (96, 96)


@pytest.fixture
def brains():
    """Two round brains."""
    rows, columns = np.indices(SHAPE) - 48
    return np.stack([rows**2 + columns**2 < radius**2 for radius in (30, 40)])


@pytest.fixture
def chest(tmp_path):
    """A file of ten X-rays, of which six are normal."""
    file = tmp_path / "chest.npz"
    pictures = np.random.default_rng(0).integers(0, 255, (10, 20, 20), dtype=np.uint8)
    np.savez(file, image=pictures, label=np.array([0] * 6 + [1] * 4, np.uint8))
    return file


def assert_is_a_picture(images):
    assert images.dtype == np.float32 and images.shape[1:] == SHAPE
    for image in images:
        inside = image > 0
        rows, columns = np.nonzero(inside)
        assert inside.sum() == 72 * 72 == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # one filled square
        assert image[inside].mean() == pytest.approx(0.5, abs=0.02)
        assert image[inside].std() == pytest.approx(1 / 8, rel=0.1)


def test_digits_are_pictures_and_differ(brains):
    images = probes.digits(4, SHAPE, seed=1)
    assert_is_a_picture(images)
    assert len({image.tobytes() for image in images}) == 4
    assert np.array_equal(images, probes.digits(4, SHAPE, seed=1))


def test_a_checkerboard_fills_the_brain_with_two_values(brains):
    images = probes.checkerboards(brains, cell=4)
    assert np.array_equal(images > 0, brains)
    assert set(np.unique(images[brains])) == {0.25, 0.75}
    assert images[1, 48, 48] != images[1, 48, 52] and images[1, 48, 48] == images[1, 52, 52]


def test_blanks_keep_the_outline_alone(brains):
    images = probes.blanks(brains)
    assert np.array_equal(images > 0, brains) and np.unique(images[brains]).tolist() == [0.5]


def test_upside_down_twice_is_the_slice():
    images = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    turned = probes.upside_down(images)
    assert np.array_equal(turned[:, 0], images[:, -1])
    assert np.array_equal(probes.upside_down(turned), images)


def test_normal_xrays_are_pictures(chest, monkeypatch):
    images = probes.chest_xrays(4, SHAPE, chest)
    assert_is_a_picture(images)
    monkeypatch.setenv("LEARNING_NORMAL_CHEST", str(chest))
    assert len(probes.chest_xrays(100, SHAPE)) == 6  # no more than there are


def test_a_missing_or_other_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNING_NORMAL_DATA", str(tmp_path))
    monkeypatch.delenv("LEARNING_NORMAL_CHEST", raising=False)
    with pytest.raises(BadInput, match="not there") as error:
        probes.chest_xrays(1, SHAPE)
    assert "cxr_nih.npz" in str(error.value) and "LEARNING_NORMAL_CHEST" in str(error.value)
    other, text = tmp_path / "other.npz", tmp_path / "text.npz"
    np.savez(other, picture=np.zeros(3))
    text.write_text("no archive")
    for file in (other, text):
        with pytest.raises(BadInput, match="no file of chest X-rays"):
            probes.chest_xrays(1, SHAPE, file)
    np.savez(other, image=np.zeros((2, 4, 4)), label=np.zeros(3))
    with pytest.raises(BadInput, match="do not fit"):
        probes.chest_xrays(1, SHAPE, other)


def test_objects_in_a_file_are_not_unpickled(tmp_path):
    file = tmp_path / "objects.npz"
    np.savez(file, image=np.array([{"a": 1}], dtype=object), label=np.zeros(1))
    with pytest.raises(BadInput, match="no file of chest X-rays"):
        probes.chest_xrays(1, SHAPE, file)


def test_a_constant_picture_is_refused():
    with pytest.raises(BadInput, match="constant"):
        probes.in_a_square(np.ones((4, 4)), SHAPE)
