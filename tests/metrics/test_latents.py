"""Distances of codes from a prior, and of pictures from slices, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import ks_1samp

from course_lib.metrics.latents import UNIT, ks_distance, nearest_distance

RNG = np.random.default_rng(0)


def test_ks_is_scipys_for_each_number():
    codes = RNG.normal(0.3, 1.4, (200, 5))
    expected = [ks_1samp(column, ndtr).statistic for column in codes.T]
    np.testing.assert_allclose(ks_distance(codes, ndtr), expected, rtol=1e-12)


def test_ks_of_tied_codes_is_scipys():
    codes = np.repeat(RNG.uniform(-1, 1, (20, 2)), 5, axis=0)
    expected = [ks_1samp(column, lambda t: (t + 1) / 2).statistic for column in codes.T]
    np.testing.assert_allclose(ks_distance(codes, lambda t: (t + 1) / 2), expected, rtol=1e-12)


def test_weights_count_codes_as_repeated_ones():
    codes = RNG.normal(size=(30, 3))
    weights = RNG.integers(0, 4, (6, 30))
    expected = [ks_distance(np.repeat(codes, row, axis=0), ndtr) for row in weights]
    np.testing.assert_allclose(ks_distance(codes, ndtr, weights), expected, rtol=1e-12)


def test_draws_from_the_prior_are_as_near_as_stated():
    distances = [ks_distance(RNG.normal(size=(400, 1)), ndtr)[0] for _ in range(300)]
    assert np.mean(distances) == pytest.approx(0.87 / 20, rel=0.05)


def test_the_nearest_slice_is_found_and_measured_in_standard_deviations_of_the_brain():
    slices = RNG.random((300, 6, 5))
    brain = RNG.random((6, 5)) > 0.4
    pictures = slices[[7, 250]] + UNIT * np.array([0.0, 2.0])[:, None, None]
    pictures[:, ~brain] = 99.0  # outside the brain nothing counts
    by_hand = np.sqrt(((pictures[:, None] - slices[None])[..., brain] ** 2).mean(-1)).min(1) / UNIT
    found = nearest_distance(pictures, slices, brain)
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=2e-3)
    assert found[0] == pytest.approx(0, abs=2e-3)
