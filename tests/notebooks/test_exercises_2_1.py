"""The exercises of lesson 2.1: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_lib.detectors.autoencoder import DenseAE, SpatialAE

SHAPE = (96, 96)


def made_up_scores(seed):
    """Maps of two slices whose background is quieter than the brain, as a detector's scores hold them."""
    rng = np.random.default_rng(seed)
    brains = np.zeros((2, 200, 200), bool)
    brains[:, 20:180, 20:180] = True
    return SimpleNamespace(maps=rng.exponential(size=brains.shape) * np.where(brains, 1 + seed, 0.1), brains=brains)


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises, with one slice to encode and made-up scores."""
    return exercises(
        "2.1",
        train=SimpleNamespace(batch=lambda rows: torch.full((len(rows), 1, *SHAPE), 0.5)),
        code={"AE spatial": 16 * 6 * 6},
        healthy={"AE dense 16": [made_up_scores(0)]},
        scores={"AE dense 16": [made_up_scores(1)]},
    )


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["2.1.1", "2.1.2", "2.1.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, x_hat: (x_hat - x).clamp(min=0)[:, 0],
        lambda x, x_hat: torch.relu(x_hat - x).squeeze(1),
        lambda x, x_hat: torch.where(x < x_hat, (x - x_hat).abs(), 0.0)[:, 0],
    ],
)
def test_ways_to_one_side(cards, answer):
    assert cards.verdict("2.1.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, x_hat: (x_hat - x).clamp(min=0), "the channel goes"),
        (lambda x, x_hat: (x - x_hat).abs()[:, 0], "the absolute residual"),
        (lambda x, x_hat: (x - x_hat).clamp(min=0)[:, 0], "The sign is flipped"),
        (lambda x, x_hat: torch.zeros_like(x)[:, 0], "The dark lesion is not found"),
        (lambda x, x_hat: (1 + x_hat - x)[:, 0].where(x[:, 0] < 0.9, 0.0), "the map is 0"),
        (lambda x, x_hat: (x_hat - x)[:, 0], "clip at 0"),
        (0.1, "could not use this answer"),
    ],
)
def test_other_residuals_are_named(cards, answer, message):
    assert message in cards.verdict("2.1.1", answer)


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 4, "code_channels": 3},
        {"depth": 4, "code_channels": 1},
        {"depth": 5, "code_channels": 14, "channels": (8,) * 5},
    ],
)
def test_small_spatial_codes(cards, settings):
    assert cards.verdict("2.1.2", SpatialAE(SHAPE, **settings)).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: SpatialAE, "Make an object of the class"),
        (lambda: SpatialAE(SHAPE, depth=4), "the spatial auto-encoder from above"),
        (lambda: SpatialAE(SHAPE, depth=2), "Its code has 9216 numbers"),
        (lambda: DenseAE(SHAPE, latent=16), "It has to be a SpatialAE"),
        (lambda: 108, "could not use this answer"),
    ],
)
def test_other_bottlenecks_are_named(cards, answer, message):
    assert message in cards.verdict("2.1.2", answer())


def honest():
    """Healthy validation pixels inside the brain."""
    scores = made_up_scores(0)
    return scores.maps[scores.brains]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: np.quantile(honest(), 0.99),
        lambda: float(np.percentile(honest(), 99)),
        lambda: torch.quantile(torch.from_numpy(honest()), 0.99),
        lambda: np.sort(honest())[-len(honest()) // 100],
    ],
)
def test_ways_to_the_threshold(cards, answer):
    assert cards.verdict("2.1.3", answer()).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: np.quantile(made_up_scores(1).maps[made_up_scores(1).brains], 0.99), "on the test set"),
        (lambda: np.quantile(made_up_scores(0).maps, 0.99), "You counted the background"),
        (lambda: np.quantile(honest(), 0.01), "Which quantile"),
        (lambda: "0.3 or so", "could not use this answer"),
    ],
)
def test_other_thresholds_are_named(cards, answer, message):
    assert message in cards.verdict("2.1.3", answer())
