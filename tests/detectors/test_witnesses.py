"""The witnesses' Gaussian: its features, its distance by hand, witnesses that stay as they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.positional_gaussian import PositionalGaussian
from course_lib.detectors.synthetic import SyntheticAnomalies
from course_lib.detectors.witnesses import WitnessGaussian
from course_lib.training import fit
from tests.detectors.conftest import SHAPE


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    return DenoisingAE(SHAPE).eval(), SyntheticAnomalies(SHAPE).eval()


def test_the_opinions_are_blurred_residuals_and_logits(parts, unseen):
    denoiser, outliner = parts
    found = WitnessGaussian(SHAPE, *parts, levels=3).opinions(unseen[:2]).numpy()
    brain = (unseen[:2, 0] > 0).numpy()
    with torch.no_grad():
        residual = (unseen[:2, 0] - denoiser.pseudo_healthy(unseen[:2])[:, 0]).numpy() * brain * 4
        logit = np.clip(outliner(unseen[:2])[:, 0].numpy() / 4, -3, 3) * brain
    for image in range(2):
        for channel, (values, sigma) in enumerate(((residual, 1.0), (residual, 2.0), (logit, 1.0))):
            expected = gaussian_filter(values[image], sigma, mode="constant", truncate=4.0)
            np.testing.assert_allclose(found[image, channel], expected, atol=2e-6)


def test_the_map_is_the_mahalanobis_distance_of_all_nine_features(parts, brains, unseen):
    detector = WitnessGaussian(SHAPE, *parts, levels=1)
    fit(detector, brains, progress=False)
    found = detector.anomaly_map(unseen)
    f = detector.features(unseen).numpy()[:, :, 16, 16]
    W = detector.whitening[0, :, :, 16, 16].numpy()
    covariance = np.linalg.inv(W.T @ W)
    offset = f - detector.mean[0, :, 16, 16].numpy()
    assert f.shape[1] == 9
    expected = np.sqrt(np.einsum("ni,ni->n", offset, np.linalg.solve(covariance, offset.T).T))
    np.testing.assert_allclose(found[:, 16, 16], expected, rtol=2e-3)


def test_keeping_a_levels_features_changes_nothing_and_keeps_nothing(parts, brains, monkeypatch):
    kept = WitnessGaussian(SHAPE, *parts, levels=3)
    kept.fit(brains)
    assert kept._computed is None
    plain = WitnessGaussian(SHAPE, *parts, levels=3)
    monkeypatch.setattr(WitnessGaussian, "_chunks", PositionalGaussian._chunks)
    plain.fit(brains)
    torch.testing.assert_close(kept.mean, plain.mean)
    torch.testing.assert_close(kept.whitening, plain.whitening)


def test_witnesses_are_never_trained(parts, brains):
    before = copy.deepcopy([part.state_dict() for part in parts])
    detector = WitnessGaussian(SHAPE, *parts, levels=3)
    detector.train()
    assert detector.training and not any(part.training for part in parts)
    fit(detector, brains, progress=False)
    for part, state in zip(parts, before, strict=True):
        assert all(torch.equal(part.state_dict()[name], value) for name, value in state.items())


def test_with_bright_only_dark_is_no_anomaly(parts, brains, unseen):
    detector = WitnessGaussian(SHAPE, *parts, levels=1, side="bright")
    fit(detector, brains, progress=False)
    assert detector.mean.shape[1] == 6
    dark = unseen.clone()
    dark[:, :, 12:18, 14:20] *= 0.3
    bright = unseen.clone()
    bright[:, :, 12:18, 14:20] *= 2
    lowered, plain, raised = (detector.anomaly_map(x)[:, 14:16, 16:18].mean() for x in (dark, unseen, bright))
    assert raised > 2 * plain and raised > 2 * lowered


def test_others_are_no_witnesses(parts):
    with pytest.raises(TypeError, match="the witnesses are"):
        WitnessGaussian(SHAPE, parts[1], parts[0])
