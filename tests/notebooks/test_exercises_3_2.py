"""The exercises of lesson 3.2: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.2")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.2.1", "3.2.2", "3.2.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def unit(gradient):
    """Each row divided by its own length."""
    return gradient / gradient.norm(dim=1, keepdim=True)


def by_rows(u, gradient, rate):
    """The right step, point by point, in numpy."""
    rows = zip(u.numpy(), gradient.numpy(), strict=True)
    return np.stack([np.clip(x - rate * g / np.sqrt((g**2).sum()), -1, 1) for x, g in rows])


@pytest.mark.parametrize(
    "answer",
    [
        by_rows,
        lambda u, g, rate: (u - rate * F.normalize(g, dim=1)).clamp(-1, 1),
        lambda u, g, rate: torch.clamp(u + rate * unit(-g), min=-1, max=1),
    ],
)
def test_ways_to_a_step_of_mining(cards, answer):
    assert cards.verdict("3.2.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda u, g, rate: (u + rate * unit(g)).clamp(-1, 1), "Uphill"),
        (lambda u, g, rate: u - rate * unit(g), "may leave the cube"),
        (lambda u, g, rate: (u - rate * g).clamp(-1, 1), "Divide by each row's own norm"),
        (lambda u, g, rate: (u - rate * g / g.norm()).clamp(-1, 1), "the norm of its own row"),
        (lambda u, g, rate: (u - rate * g.sign()).clamp(-1, 1), "another method's step"),
        (lambda u, g, rate: (u - rate * unit(g)).clamp(0, 1), "not from 0 to 1"),
        (lambda u, g, rate: (u - rate * unit(g)).clamp(-1, 1).mean(0), "One point for each point"),
        (lambda u, g, rate: (u - 2 * rate * unit(g)).clamp(-1, 1), "then back into"),
        (lambda u: u, "could not use this answer"),
    ],
)
def test_wrong_steps_are_named(cards, answer, message):
    assert message in cards.verdict("3.2.1", answer)


@pytest.mark.parametrize("answer", [np.tanh(1) ** 16, (2 * np.tanh(1)) ** 16 / 2**16, 0.0128, "0.0128"])
def test_the_share_is_right(cards, answer):
    assert cards.verdict("3.2.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.tanh(1), "All 16 have to lie within"),
        (1 - np.tanh(1) ** 16, "it can *not* reach"),
        ((2 * np.tanh(1)) ** 16, "Divide by the cube's own"),
        (16 * np.tanh(1), "Sides multiply"),
        (np.tanh(1) ** 2, "Two numbers only"),
        (1, "the corners are out of reach"),
        (0.5, "by the sides of both cubes"),
        (1 - np.tanh(1), "what is missing of one side"),
        (0.1, "What share of the cube's side"),
        ("all", "could not use this answer"),
    ],
)
def test_wrong_shares_are_named(cards, answer, message):
    assert message in cards.verdict("3.2.2", answer)


def by_bce():
    """The floor, by torch's cross-entropy of the best 'logits'."""
    one = F.binary_cross_entropy_with_logits(torch.tensor(1.0), torch.tensor(1.0))
    return (one + F.binary_cross_entropy_with_logits(torch.tensor(0.0), torch.tensor(0.0))) / 2


@pytest.mark.parametrize("answer", [(np.log1p(np.exp(-1)) + np.log(2)) / 2, by_bce(), 0.5, "0.503"])
def test_the_floor_is_right(cards, answer):
    assert cards.verdict("3.2.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0, "the logit cannot leave (0, 1)"),
        (np.log(2), "That is chance"),
        (np.log1p(np.exp(-1)), "a mean over both labels"),
        (np.log1p(np.exp(-1)) + np.log(2), "Half of the sum"),
        ((np.log1p(np.exp(1)) + np.log(2)) / 2, "softplus(-1)"),
        (np.log1p(np.exp(1)), "the worst that can happen"),
        (0.2, "Put both into bce"),
        ("low", "could not use this answer"),
    ],
)
def test_wrong_floors_are_named(cards, answer, message):
    assert message in cards.verdict("3.2.3", answer)
