"""Identities between the families of detectors: what is the same thing under two names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from scipy.stats import spearmanr

from course_lib.detectors.gaussian import Gaussian
from course_lib.detectors.kde import KernelDensity
from course_lib.detectors.kernel_pca import KernelPCA
from course_lib.detectors.one_class_svm import OneClassSVM

GAMMA, NU = 1.0, 0.2


@pytest.fixture(scope="module")
def points():
    """60 points to fit and 200 to score, `(N, 1, 1, 2)`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 1, 1, 2, generator=generator), 1.5 * torch.randn(200, 1, 1, 2, generator=generator)


def kernel(a, b):
    a, b = (x.view(len(x), 2).double() for x in (a, b))
    return torch.exp(-GAMMA * torch.cdist(a, b).square()).numpy()


def smallest_ball(points) -> np.ndarray:
    """alpha of support vector data description by a general solver, straight from the dual; they sum to 1."""
    k = kernel(points, points)
    n = len(k)
    found = minimize(  # max sum_i alpha_i k_ii - alpha^T K alpha
        lambda a: a @ k @ a - a @ np.diag(k),
        np.full(n, 1 / n),
        jac=lambda a: 2 * k @ a - np.diag(k),
        bounds=[(0, 1 / (NU * n))] * n,
        constraints=LinearConstraint(np.ones(n), 1, 1),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return found.x


def test_one_class_svm_is_support_vector_data_description(points):
    healthy, test = points
    machine = OneClassSVM((1, 2), kept=60, gamma=GAMMA, nu=NU).fit(healthy)
    alpha = smallest_ball(healthy)
    np.testing.assert_allclose(machine.alpha.numpy() / (NU * 60), alpha, atol=2e-4)
    cross, inner = kernel(test, healthy), kernel(healthy, healthy)
    distance = 1 - 2 * cross @ alpha + alpha @ inner @ alpha  # ||phi(x) - c||^2
    assert np.corrcoef(distance, machine.anomaly_score(test))[0, 1] > 0.99999


def test_one_class_svm_as_nu_goes_to_one_ranks_like_kernel_density(points):
    healthy, test = points
    density = KernelDensity((1, 2), kept=60, gamma=GAMMA).fit(healthy).anomaly_score(test)
    nearly = OneClassSVM((1, 2), kept=60, gamma=GAMMA, nu=0.9999).fit(healthy)
    assert (nearly.alpha.max() - nearly.alpha.min()) < 0.01
    assert spearmanr(density, nearly.anomaly_score(test)).statistic > 0.99999
    few = OneClassSVM((1, 2), kept=60, gamma=GAMMA, nu=0.05).fit(healthy)
    assert spearmanr(density, few.anomaly_score(test)).statistic < 0.9999  # and only then


def test_kernel_density_with_a_wide_kernel_is_the_distance_from_the_mean(points):
    healthy, test = points
    wide = KernelDensity((1, 2), kept=60, gamma=1e-5).fit(healthy)
    score = 1e5 * (-torch.logsumexp(wide.log_kernel(test), 1))  # in double precision
    sphere = Gaussian((1, 2), covariance="spherical").fit(healthy).anomaly_score(test)
    assert spearmanr(score, sphere).statistic > 0.99999


def test_kernel_pca_needs_the_centred_test_kernel(points):
    """Without centring, more than everything is explained: a squared distance below 0."""
    healthy, _ = points
    detector = KernelPCA((1, 2), kept=60, gamma=GAMMA, components=30).fit(healthy)
    projection, length = detector.project(healthy)
    assert (length - projection.square().sum(1)).min() > -1e-9
    assert projection.mean(0).abs().max() < 1e-9  # centred features have mean 0
    forgotten = torch.from_numpy(kernel(healthy, healthy)) @ detector.directions
    assert forgotten.mean(0).abs().max() > 1e-3
