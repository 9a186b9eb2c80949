"""Kernel principal components against scikit-learn and against explicit features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import KernelPCA as Reference

from course_lib.detectors.kernel_pca import KernelPCA


@pytest.mark.parametrize("kept", [120, 200])  # a full memory, and one with empty places
def test_the_projections_are_scikit_learns(brains, unseen, kept):
    detector = KernelPCA((32, 32), pool=4, kept=kept, gamma=1.3, components=5).fit(brains)
    reference = Reference(5, kernel="rbf", gamma=1.3, eigen_solver="dense").fit(detector.vectors(brains).numpy())
    expected = reference.transform(detector.vectors(unseen).numpy())
    found, _ = detector.project(unseen)
    np.testing.assert_allclose(found.abs(), np.abs(expected), atol=1e-9)  # an axis has no sign


def test_the_score_is_the_length_left_over(brains, unseen):
    """With all components nothing is left of the training images; and the score plus the projection is k~(x, x)."""
    whole = KernelPCA((32, 32), pool=4, kept=120, gamma=2.0, components=119).fit(brains)
    assert whole.anomaly_score(brains).max() < 1e-6
    few = KernelPCA((32, 32), pool=4, kept=120, gamma=2.0, components=4).fit(brains)
    kernel = torch.exp(-2.0 * torch.cdist(few.vectors(unseen), few.vectors(brains)).square())
    inner = torch.exp(-2.0 * torch.cdist(few.vectors(brains), few.vectors(brains)).square()).mean()
    projection, length = few.project(unseen)
    torch.testing.assert_close(length, 1 - 2 * kernel.mean(1) + inner)
    left = (length - projection.square().sum(1)).float()
    torch.testing.assert_close(few.anomaly_score(unseen), left, atol=1e-6, rtol=0)


def test_the_score_falls_with_more_components(brains, unseen):
    scores = [
        KernelPCA((32, 32), pool=4, kept=120, components=k).fit(brains).anomaly_score(unseen) for k in (2, 10, 40)
    ]
    assert (scores[0] >= scores[1] - 1e-6).all() and (scores[1] >= scores[2] - 1e-6).all()
    assert scores[0].mean() > scores[2].mean()
