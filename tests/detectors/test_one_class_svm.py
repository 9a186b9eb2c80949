"""The one-class support vector machine against scikit-learn and its own optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import OneClassSVM as Reference

from course_lib.detectors.one_class_svm import OneClassSVM


def test_the_score_is_scikit_learns_decision_function(brains, unseen):
    detector = OneClassSVM((32, 32), pool=4, kept=200, gamma=1.3, nu=0.2).fit(brains)
    reference = Reference(gamma=1.3, nu=0.2, tol=1e-6).fit(detector.vectors(brains).numpy())
    expected = -reference.decision_function(detector.vectors(unseen).numpy())
    np.testing.assert_allclose(detector.anomaly_score(unseen), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nu", [0.1, 0.4])
def test_the_nu_property(brains, nu):
    detector = OneClassSVM((32, 32), pool=4, kept=120, nu=nu).fit(brains)
    assert detector.alpha.sum().item() == pytest.approx(nu * 120)
    assert detector.alpha.min() >= 0 and detector.alpha.max() <= 1 + 1e-9
    outside = (detector.anomaly_score(brains) > 1e-4).sum().item()
    assert outside <= nu * 120 <= (detector.alpha > 0).sum().item()


def test_the_map_is_the_weighted_squared_difference(brains, unseen):
    detector = OneClassSVM((32, 32), kept=120, gamma=0.2, nu=0.3).fit(brains)
    x, points = unseen[4].flatten().double(), detector.points
    weights = detector.alpha * torch.exp(-0.2 * (x - points).square().sum(1))
    expected = 0.2 * (weights[:, None] * (x - points).square()).sum(0) / weights.sum()
    found = detector.anomaly_map(unseen[4:5])[0]
    torch.testing.assert_close(found, (expected.view(32, 32) * (unseen[4, 0] > 0)).float(), rtol=1e-4, atol=1e-6)
