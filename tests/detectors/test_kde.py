"""Kernel density estimation against scikit-learn, and its map against its score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity as Reference

from course_lib.detectors.kde import KernelDensity


def test_the_score_is_scikit_learns_density(brains, unseen):
    detector = KernelDensity((32, 32), pool=4, kept=120, gamma=2.0).fit(brains)
    reference = Reference(bandwidth=0.5).fit(detector.vectors(brains).numpy())  # gamma = 1 / (2 h^2)
    constant = 64 / 2 * np.log(2 * np.pi * 0.5**2)  # of the normalised density
    expected = -reference.score_samples(detector.vectors(unseen).numpy()) - constant
    np.testing.assert_allclose(detector.anomaly_score(unseen), expected, rtol=1e-5, atol=1e-5)


def test_far_away_the_score_is_the_nearest_distance_not_infinity(brains):
    detector = KernelDensity((32, 32), kept=120, gamma=50.0).fit(brains)
    far = torch.full((1, 1, 32, 32), 4.0)
    nearest = torch.cdist(far.flatten(1).double(), brains.flatten(1).double()).min().square()
    assert detector.anomaly_score(far).item() == pytest.approx(50 * nearest.item() + np.log(120), rel=1e-4)


def test_the_map_sums_to_the_score_but_for_the_weights_divergence():
    images = torch.rand(60, 1, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.1  # no background
    detector = KernelDensity((4, 6), kept=40, gamma=1.5).fit(images[:40])
    weights = detector.log_kernel(images[40:]).softmax(1)
    divergence = (weights * (weights * 40).log()).sum(1)
    total = detector.anomaly_map(images[40:]).sum((1, 2)) + divergence
    torch.testing.assert_close(total, detector.anomaly_score(images[40:]).double(), rtol=1e-5, atol=1e-5)
