"""A known affine is found again, whatever the contrast; the same bits in every run; what is no head is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.images.anatomy import template
from course_lib.images.registration import has_simpleitk, import_simpleitk, register
from course_lib.images.volumes import Volume, resample

needs_simpleitk = pytest.mark.skipif(not has_simpleitk(), reason="SimpleITK is not installed")


def known_affine() -> np.ndarray:
    """MNI mm -> scan mm: turned by 7 and 4 degrees, 8 % smaller, 3 % sheared, moved by 18 mm."""
    a, b = np.radians([7, 4])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = 0.92 * about_z @ about_x @ np.array([[1, 0.03, 0], [0, 1, 0], [0, 0, 1.04]])
    matrix[:3, 3] = 12, -10, 9
    return matrix


def moved_scan(contrast) -> Volume:
    """The template on a grid of 2.5 mm, as a scanner would see it through `known_affine`, with noise."""
    atlas, matrix = template(), known_affine()
    image = np.where(atlas.brain, contrast(atlas), 0).astype(np.float32)
    grid = np.diag([2.5, 2.5, 2.5, 1.0])
    grid[:3, 3] = -100, -130, -80
    scan = resample(Volume(image, matrix @ atlas.affine), grid, (80, 90, 76))
    noise = np.random.default_rng(0).normal(0, 0.02, scan.data.shape)
    return scan.noted(data=np.where(scan.data > 0.02, scan.data + noise, 0).astype(np.float32))


def worst_error_mm(to_mni: np.ndarray) -> float:
    """How far the result is off, at most, over the brain."""
    atlas = template()
    places = atlas.affine @ np.vstack([np.argwhere(atlas.brain)[::50].T, np.ones(len(np.argwhere(atlas.brain)[::50]))])
    return float(np.linalg.norm((to_mni @ known_affine() @ places - places)[:3], axis=0).max())


@needs_simpleitk
def test_a_known_affine_is_found_again_to_the_bit_in_every_run():
    scan = moved_scan(lambda atlas: atlas.t1)
    found = register(scan.data, scan.affine)
    assert worst_error_mm(np.eye(4)) > 15
    assert worst_error_mm(found.to_mni) < 1.0
    np.testing.assert_array_equal(found.to_mni, register(scan.data, scan.affine).to_mni)
    assert "mutual information" in str(found)


@needs_simpleitk
def test_another_contrast_with_a_given_brain_is_found_too():
    scan = moved_scan(lambda atlas: 0.9 * atlas.gm + 0.6 * atlas.wm + 0.15 * atlas.csf)  # like a FLAIR
    found = register(scan.data, scan.affine, brain=scan.data > 0)
    assert worst_error_mm(found.to_mni) < 2.0


@needs_simpleitk
def test_noise_is_not_taken_for_a_head():
    noise = np.random.default_rng(0).random((60, 60, 60)).astype(np.float32)
    with pytest.raises(BadInput) as caught:
        register(noise, np.diag([4.0, 4.0, 4.0, 1.0]))
    assert "--no-register" in caught.value.remedy


def test_without_simpleitk_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert not has_simpleitk()
    with pytest.raises(BadInput, match="pip install") as caught:
        import_simpleitk()
    assert "scans" in caught.value.remedy and "--no-register" in caught.value.remedy
