"""The Gaussian of whole images against scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from course_lib.detectors.gaussian import SMALLEST_VARIANCE, Gaussian


def test_the_score_is_the_mahalanobis_distance(brains, unseen):
    detector = Gaussian((32, 32), pool=4).fit(brains)
    reference = LedoitWolf().fit(detector.vectors(brains).numpy())
    offset = detector.vectors(unseen).numpy() - reference.location_
    inverse = np.linalg.inv(reference.covariance_ + SMALLEST_VARIANCE * np.eye(64))
    expected = np.einsum("bi,ij,bj->b", offset, inverse, offset)
    np.testing.assert_allclose(detector.anomaly_score(unseen), expected, rtol=1e-5)


def test_contributions_sum_to_the_score(brains, unseen):
    detector = Gaussian((32, 32), pool=2).fit(brains)
    torch.testing.assert_close(detector.contributions(unseen).sum(1).float(), detector.anomaly_score(unseen))
    assert (detector.anomaly_map(unseen) < 0).any()  # as the docstring says


def test_the_sphere_is_the_distance_from_the_mean(brains, unseen):
    detector = Gaussian((32, 32), covariance="spherical").fit(brains)
    distance = (unseen - brains.mean(0)).square().sum((1, 2, 3))
    ratio = detector.anomaly_score(unseen) / distance
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-4, atol=0)
