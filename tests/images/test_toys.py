"""The toy points: their density integrates to one, and describes the points that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib.images.toys import SQUARE, as_images, moons_density, moons_level, plane, sample_moons


def test_the_density_integrates_to_one():
    cells = plane(160)
    assert moons_density(cells).sum() * (2 * SQUARE / 160) ** 2 == pytest.approx(1, abs=1e-4)


def test_the_density_is_that_of_the_points():
    """The share of the points in any piece of the plane is the integral of the density over it."""
    cells, points = plane(160), sample_moons(40_000, seed=3)
    density = moons_density(cells) * (2 * SQUARE / 160) ** 2
    for low, high in [((-1.6, -1.6), (0, 0)), ((0, -1.6), (1.6, -0.3)), ((-0.3, -0.9), (0.7, -0.35))]:
        inside = ((points > low) & (points < high)).all(1).mean()
        expected = density[((cells > low) & (cells < high)).all(1)].sum()
        assert inside == pytest.approx(expected, abs=0.012)


def test_the_level_set_holds_its_share():
    fresh = moons_density(sample_moons(20_000, seed=9))
    for share in (0.5, 0.97):
        assert (fresh > moons_level(share)).mean() == pytest.approx(share, abs=0.012)


def test_a_seed_is_a_sample():
    assert np.array_equal(sample_moons(50, 1), sample_moons(50, 1))
    assert not np.array_equal(sample_moons(50, 1), sample_moons(50, 2))


def test_points_become_images():
    points = sample_moons(5)
    images = as_images(points)
    assert images.shape == (5, 1, 1, 2) and images.dtype == torch.float32
    np.testing.assert_allclose(images[:, 0, 0], points, rtol=1e-6)
