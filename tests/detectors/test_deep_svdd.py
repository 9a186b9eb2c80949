"""Deep SVDD: its loss and its centre against their formulas, its phases, and what breaking its conditions does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from course_lib.detectors.deep_svdd import DeepSVDD, away_from_zero
from course_lib.errors import BadInput
from course_lib.images.toys import as_images, sample_moons
from course_lib.training import batch_indices, fit

SHAPE = (32, 32)
STEPS = {"pretraining": 5, "centring": 3}


def small(**settings) -> DeepSVDD:
    torch.manual_seed(0)
    return DeepSVDD(SHAPE, **({"latent": 8, "channels": (4, 8, 8)} | STEPS | settings))


def test_the_loss_of_each_phase_is_its_formula(brains):
    detector = small().train()
    phi = detector(brains)  # (B, 8)
    rebuilt = detector.decoder(phi)
    expected = torch.stack([((r - x) ** 2).sum() for r, x in zip(rebuilt, brains, strict=True)]).mean()
    torch.testing.assert_close(detector.training_losses(brains)["loss"], expected)
    detector.step.fill_(STEPS["pretraining"])
    detector.centre.fill_(0.5)
    expected = torch.linalg.vector_norm(phi - 0.5, dim=1).square().mean()
    torch.testing.assert_close(detector.training_losses(brains)["loss"], expected)
    torch.testing.assert_close(detector.eval().anomaly_score(brains), ((detector(brains) - 0.5) ** 2).sum(1))


def test_the_centre_is_the_mean_of_phi_in_evaluation_mode(brains):
    detector, before = small(), small()
    fit(detector, brains, steps=8, batch_size=16, progress=False)
    fit(before, brains, steps=5, batch_size=16, progress=False)  # pre-training alone
    seen = np.concatenate([batch_indices(len(brains), 16, 0, step) for step in (5, 6, 7)])
    with torch.no_grad():
        mean = before(brains[seen]).mean(0)  # (8,)
    torch.testing.assert_close(detector.centre, away_from_zero(mean), rtol=1e-4, atol=1e-5)


def test_no_weight_moves_while_the_centre_is_found_and_it_never_moves_afterwards(brains):
    states = []
    for steps in (5, 8, 20):
        detector = small()
        fit(detector, brains, steps=steps, batch_size=16, progress=False)
        states.append({name: value.clone() for name, value in detector.state_dict().items()})
    weights = [name for name, _ in small().named_parameters()]
    assert all(states[0][name].equal(states[1][name]) for name in weights)
    assert not states[0]["centre"].equal(states[1]["centre"])
    assert states[1]["centre"].equal(states[2]["centre"])
    moved = {name for name in weights if not states[1][name].equal(states[2][name])}
    assert moved == {name for name in weights if name.startswith("phi.")}  # the decoder has had its time


def test_one_step_of_the_third_phase_is_one_of_adamw(brains):
    detector = small(weight_decay=0.1, batch_norm=False)
    fit(detector, brains, steps=8, batch_size=16, progress=False)
    batch = brains[:16]
    weight = detector.phi[0].weight
    loss = (detector(batch) - detector.centre).square().sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    optimizers = detector.configure_optimizers()
    before = weight.detach().clone()
    detector.train().training_step(batch, optimizers)
    expected = before * (1 - 1e-3 * 0.1) - 1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's first step is the sign
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0.1), (0.05, 0.1), (-0.05, -0.1), (0.2, 0.2), (-3.0, -3.0)])
def test_a_centre_is_pushed_away_from_zero(value, expected):
    assert float(away_from_zero(torch.tensor([value]))) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [SHAPE, (1, 2)])
def test_no_layer_has_a_bias_or_a_learned_shift_unless_asked(shape):
    channels = {"channels": (4, 8, 8)}
    layers = list(DeepSVDD(shape, **channels).phi.modules())
    assert all(getattr(layer, "bias", None) is None for layer in layers)
    assert any(isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)) for layer in layers)
    broken = [m for m in DeepSVDD(shape, bias=True, **channels).phi.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert broken and all(layer.bias is not None for layer in broken)


def test_without_biases_and_normalisation_an_empty_image_stays_at_zero():
    detector = small(batch_norm=False).eval()
    assert detector(torch.zeros(2, 1, *SHAPE)).abs().max() == 0  # so c can be reached by looking at the image alone


def test_zero_weights_solve_the_loss_if_and_only_if_the_centre_is_zero(brains):
    """Proposition 1: with c = 0 the trivial solution exists, and weight decay finds it."""
    size = {}
    for zero_centre in (False, True):
        detector = small(batch_norm=False, zero_centre=zero_centre, weight_decay=30.0, pretraining=20)
        fit(detector, brains, steps=300, batch_size=32, progress=False)
        size[zero_centre] = float(detector.anomaly_score(brains).mean())
    assert size[True] < 1e-6
    assert size[False] > 1e-3


def test_it_separates_the_moons_from_the_plane():
    torch.manual_seed(0)
    detector = DeepSVDD((1, 2))
    fit(detector, as_images(sample_moons(600, 0)), steps=600, batch_size=128, progress=False)
    rng = np.random.default_rng(0)
    points = np.concatenate([sample_moons(300, 1), rng.uniform(-1.6, 1.6, (300, 2))])
    score = detector.anomaly_score(as_images(points)).numpy()
    assert roc_auc_score(np.repeat([0, 1], 300), score) > 0.85


def test_the_map_is_the_gradient_times_the_image(brains):
    detector = small()
    fit(detector, brains, steps=30, batch_size=16, progress=False)
    images, step = brains[:2].double(), 1e-5
    detector = detector.double()
    detector.forward = lambda x: detector.phi(x)
    relevance = detector.anomaly_map(images)
    for row, column in ((16, 16), (12, 20)):
        moved = [images.clone() for _ in range(2)]
        moved[0][:, 0, row, column] += step
        moved[1][:, 0, row, column] -= step
        slope = (detector.squared_distances(moved[0]) - detector.squared_distances(moved[1])) / (2 * step)
        expected = (slope * images[:, 0, row, column]).abs()
        torch.testing.assert_close(relevance[:, row, column], expected.detach(), rtol=1e-4, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(detector.anomaly_map(images), relevance)


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(BadInput, match="multiples of 16"):
        DeepSVDD((90, 96))
