"""Brains are found in bare brains and in heads; what is none is refused."""

from __future__ import annotations

import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.images.anatomy import healthy_subject, template
from course_lib.images.brain import DARK, dark_shell, estimate_brain, otsu, to_grid
from course_lib.images.registration import has_simpleitk
from course_lib.images.volumes import Volume


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def head() -> np.ndarray:
    """A T1-like head: brain, dark skull of 8 mm, bright scalp of 8 mm, air with noise."""
    atlas, rng = template(), np.random.default_rng(0)
    image = np.abs(rng.normal(0, 0.01, atlas.t1.shape))
    image[atlas.brain] = atlas.t1[atlas.brain]
    image[(atlas.depth_mm < -8) & (atlas.depth_mm > -16)] = 1.4
    return image.astype(np.float32)


def test_a_bare_brain_is_recognised():
    subject = healthy_subject(np.random.default_rng(0))
    mask, how = estimate_brain(subject.image, subject.affine, register=False)
    assert "already brain-extracted" in how
    assert dice(mask, subject.brain) > 0.995 and mask.dtype == bool


def test_a_head_with_zero_background_is_not_taken_for_a_bare_brain():
    image = head()
    image[image < 0.1] = 0  # many scanners set the air to exactly 0
    assert (image == 0).mean() > 0.4
    mask, how = estimate_brain(image, template().affine, register=False)
    assert "ROUGH" in how and dice(mask, template().brain) > 0.9
    whole = Volume(image, template().affine)
    bare = Volume(template().t1, template().affine)
    assert dark_shell(whole, template().depth_mm > -16) > DARK > dark_shell(bare, template().brain)


@pytest.mark.skipif(not has_simpleitk(), reason="SimpleITK is not installed")
def test_registration_finds_the_brain_in_a_head():
    mask, how = estimate_brain(head(), template().affine, register=True)
    assert dice(mask, template().brain) > 0.93
    assert "carried back" in how and "contact sheet" in how


@pytest.mark.parametrize("image", [np.zeros((40, 40, 40), np.float32), np.full((8, 8, 8), 5, np.float32)])
def test_what_holds_no_brain_is_refused(image):
    with pytest.raises(BadInput) as caught:
        estimate_brain(image, np.diag([4.0, 4.0, 4.0, 1.0]), register=False)
    assert caught.value.remedy


def test_otsu_parts_two_classes():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 2, 5000), rng.normal(50, 5, 3000)]).clip(0.1)
    assert 14 < otsu(values) < 35


def test_the_grid_is_on_even_millimetres_and_holds_everything():
    affine = np.array([[0.7, 0.03, 0.1, -13.3], [-0.03, 0.7, 0.1, 4.7], [0, 0, 4, -9.1], [0, 0, 0, 1]])
    scan = Volume(np.random.default_rng(0).random((30, 28, 6)).astype(np.float32), affine)
    grid = to_grid(scan)
    np.testing.assert_array_equal(grid.affine[:3, :3], 2 * np.eye(3))
    assert not (grid.affine[:3, 3] % 2).any()
    ends = np.array(np.meshgrid((0, 29), (0, 27), (0, 5))).reshape(3, -1)
    voxels = np.linalg.solve(grid.affine, affine @ np.vstack([ends, np.ones(8)]))[:3]
    assert (voxels >= 0).all() and (voxels.max(1) <= np.array(grid.data.shape) - 1).all()


def test_a_scan_as_wide_as_a_room_is_refused_before_it_is_resampled():
    with pytest.raises(BadInput, match="too much for a head"):
        to_grid(Volume(np.ones((20, 20, 20), np.float32), np.diag([90.0, 90.0, 90.0, 1.0])))
