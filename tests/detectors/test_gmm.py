"""The Gaussian mixture against scikit-learn, and its map against its distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from course_lib.detectors.gmm import SMALLEST_VARIANCE, GaussianMixture


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_the_score_is_scikit_learns_density(brains, unseen, covariance):
    detector = GaussianMixture((32, 32), pool=4, mixtures=3, features=5, covariance=covariance).fit(brains)
    code, test = ((detector.vectors(images) - detector.mean) @ detector.directions.T for images in (brains, unseen))
    reference = Reference(3, covariance_type=covariance, reg_covar=SMALLEST_VARIANCE, random_state=0).fit(code.numpy())
    np.testing.assert_allclose(detector.anomaly_score(unseen), -reference.score_samples(test.numpy()), rtol=1e-5)


def test_one_gaussian_on_all_pixels_is_the_mahalanobis_distance():
    points = torch.randn(300, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0])
    detector = GaussianMixture((1, 2), mixtures=1, features=None, covariance="full").fit(points)
    x = points.view(-1, 2).double().numpy()
    inverse = np.linalg.inv(np.cov(x.T, bias=True))
    distance = np.einsum("ni,ij,nj->n", x - x.mean(0), inverse, x - x.mean(0))
    offset = detector.anomaly_score(points).numpy() - 0.5 * distance
    np.testing.assert_allclose(offset, offset[0], atol=1e-4)  # the same but for a constant


def test_the_map_sums_to_the_weighted_distance():
    images = torch.rand(80, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1  # no background
    detector = GaussianMixture((4, 4), mixtures=2, features=3, covariance="full").fit(images[:60])
    code = (detector.vectors(images[60:]) - detector.mean) @ detector.directions.T
    white = torch.einsum("bkd,kde->bke", code[:, None] - detector.centres, detector.factors)
    expected = (detector.log_joint(images[60:]).softmax(1) * white.square().sum(2)).sum(1).float()
    torch.testing.assert_close(detector.anomaly_map(images[60:]).sum((1, 2)), expected, rtol=1e-4, atol=1e-4)
