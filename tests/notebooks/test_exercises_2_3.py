"""The exercises of lesson 2.3: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from course_lib.detectors.restoration import total_variation
from course_lib.detectors.vae import kl_per_dimension


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("2.3")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["2.3.1", "2.3.2", "2.3.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


RIGHT_KL = [
    lambda mu, logvar: 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(1),
    lambda mu, logvar: kl_per_dimension(mu, logvar).sum(-1),
    lambda mu, logvar: kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1),
    lambda mu, logvar: [float(kl) for kl in kl_per_dimension(mu, logvar).sum(1)],
]


@pytest.mark.parametrize("answer", RIGHT_KL)
def test_ways_to_the_kl(cards, answer):
    assert cards.verdict("2.3.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (kl_per_dimension, "add them up over the code"),
        (lambda mu, logvar: kl_per_dimension(mu, logvar).sum(1).mean(), "One number for the batch"),
        (lambda mu, logvar: kl_per_dimension(mu, logvar).mean(1), "the mean changes beta"),
        (lambda mu, logvar: -kl_per_dimension(mu, logvar).sum(1), "sign is flipped"),
        (lambda mu, logvar: 2 * kl_per_dimension(mu, logvar).sum(1), "half is missing"),
        (lambda mu, logvar: kl_per_dimension(mu, 2 * logvar).sum(1), "log sigma^2 for log sigma"),
        (lambda mu, logvar: 0.5 * mu.square().sum(1), "every other code costs something"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_kls_are_named(cards, answer, message):
    assert message in cards.verdict("2.3.1", answer)


@pytest.mark.parametrize("answer", [2 * 0.005 / 96**2, 1.085e-6, "1.085e-6", torch.tensor(1.085e-6)])
def test_the_weight_is_right(cards, answer):
    assert cards.verdict("2.3.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (1, "That is the bug itself"),
        (96**2 / 0.01, "Upside down"),
        (1 / 96**2, "divided by 2v"),
        (0.01, "also divides by the number of pixels"),
        (0.005 / 96**2, "The 2 of 2v is missing"),
        (100, "the weight of the squares"),
        (0.3, "Multiply the whole loss by one number"),
        ("one", "could not use this answer"),
    ],
)
def test_wrong_weights_are_named(cards, answer, message):
    assert message in cards.verdict("2.3.2", answer)


def l1(a, b):
    return (a - b).abs().sum((1, 2, 3))


def by_slicing(x, y, fixed, lam):
    """The right objective, with slices for differences."""
    d = (y - x)[:, 0]
    tv = (d[:, 1:] - d[:, :-1]).abs().sum((1, 2)) + (d[..., 1:] - d[..., :-1]).abs().sum((1, 2))
    return torch.linalg.vector_norm(x - fixed, ord=1, dim=(1, 2, 3)) + lam * tv


@pytest.mark.parametrize(
    "answer",
    [
        by_slicing,
        lambda x, y, fixed, lam: l1(x, fixed) + lam * total_variation(y - x),
        lambda x, y, r, k: by_slicing(-x, -y, -r, k),
    ],
)
def test_ways_to_the_tie(cards, answer):
    assert cards.verdict("2.3.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y, r, k: l1(x, r) + k * total_variation(x - r), "Nothing ties x to the input"),
        (lambda x, y, r, k: l1(x, r) + k * total_variation(x), "smooths the image itself"),
        (lambda x, y, r, k: l1(y, r) + k * total_variation(y - x), "does not depend on x"),
        (lambda x, y, r, k: ((x - r) ** 2).sum((1, 2, 3)) + k * total_variation(y - x), "not squares"),
        (lambda x, y, r, k: l1(x, r) + total_variation(y - x), "Lambda is not used"),
        (lambda x, y, r, k: (l1(x, r) + k * total_variation(y - x)).mean(), "One number for the batch"),
        (lambda x, y, r, k: (l1(x, r) + k * total_variation(y - x)) / 30, "plus lambda times"),
        (lambda x: x, "could not use this answer"),
    ],
)
def test_wrong_ties_are_named(cards, answer, message):
    assert message in cards.verdict("2.3.3", answer)
