"""The exercises of lesson 3.1: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from course_lib.detectors.aae import bce
from course_lib.detectors.gpnd import log_volume


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.1")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.1.1", "3.1.2", "3.1.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def second(D, codes, draws):
    """The right loss of phase 2."""
    return bce(D(draws), 1) + bce(D(codes.detach()), 0)


def by_softplus(D, codes, draws):
    """Both losses, without the library."""
    return softplus(-D(draws)).mean() + softplus(D(codes.detach())).mean(), softplus(-D(codes)).mean()


def by_logits(D, codes, draws):
    """Both losses by torch's own cross-entropy, the codes copied out of the graph."""
    frozen, ones = codes.data.clone(), torch.ones(len(codes))
    loss = binary_cross_entropy_with_logits
    of_d = loss(D(draws), torch.ones(len(draws))) + loss(D(frozen), 0 * ones)
    return of_d, loss(D(codes), ones)


@pytest.mark.parametrize("answer", [by_softplus, by_logits, lambda D, c, e: [second(D, c, e), bce(D(c), 1)]])
def test_ways_to_the_two_losses(cards, answer):
    assert cards.verdict("3.1.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda D, c, e: (bce(D(e), 0) + bce(D(c.detach()), 1), bce(D(c), 0)), "All labels are swapped"),
        (lambda D, c, e: (bce(D(e), 0) + bce(D(c.detach()), 1), bce(D(c), 1)), "the same way, away from the prior"),
        (lambda D, c, e: (second(D, c, e), bce(D(c), 0)), "label 1. With 0 it helps D"),
        (lambda D, c, e: (second(D, c, e), -bce(D(c), 0)), "no slope where D is sure"),
        (lambda D, c, e: (second(D, c, e) / 2, bce(D(c), 1)), "chance would be log 2"),
        (lambda D, c, e: (bce(D(e), 1), bce(D(c), 1)), "plus the mean bce of the codes with label 0"),
        (lambda D, c, e: (second(D, c, e), second(D, c, e)), "a loss of its own"),
        (lambda D, c, e: (second(D, c, e), 2 * bce(D(c), 1)), "the codes alone, with label 1"),
        (lambda D, c, e: (bce(D(e), 1) + bce(D(c), 0), bce(D(c), 1)), "not detached"),
        (lambda D, c, e: (second(D, c, e), bce(D(c.detach()), 1)), "no gradient reaches the encoder"),
        (lambda D: D, "could not use this answer"),
        (0.7, "could not use this answer"),
    ],
)
def test_wrong_losses_are_named(cards, answer, message):
    assert message in cards.verdict("3.1.1", answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda J: -0.5 * torch.linalg.slogdet(J.mT @ J)[1],
        lambda J: -log_volume(J),
        lambda J: -torch.linalg.svdvals(J).log().sum(-1),
        lambda J: [-0.5 * float(torch.logdet(j.T @ j)) for j in J],
    ],
)
def test_ways_to_the_volume(cards, answer):
    assert cards.verdict("3.1.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (log_volume, "Plus belongs to the encoder's volume"),
        (lambda J: -2 * log_volume(J), "The half is missing"),
        (lambda J: log_volume(J).exp(), "take the log"),
        (lambda J: (-log_volume(J)).exp(), "take the log"),
        (lambda J: -log_volume(J).sum(), "One number for the batch"),
        (lambda J: -0.5 * torch.linalg.slogdet(J @ J.mT)[1], "Multiply the other way round"),
        (lambda J: J.square().sum((1, 2)).log(), "then think about the sign"),
        ("minus", "could not use this answer"),
    ],
)
def test_wrong_volumes_are_named(cards, answer, message):
    assert message in cards.verdict("3.1.2", answer)


@pytest.mark.parametrize("answer", [(4 / 0.04 + 1) / 9200, 4 / (0.04 * 9200), 0.011, "0.011", torch.tensor(0.011)])
def test_the_mul_is_right(cards, answer):
    assert cards.verdict("3.1.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (100, "Divide by d"),
        (101, "Divide by d"),
        (92, "Upside down"),
        (100**2 / 9200, "s.d. against s.d."),
        (4 / 9200, "It is not 1"),
        (0.04, "By what must it be multiplied"),
        (0.2, "still above 70 nats"),
        (1, "hundreds of nats"),
        (0.5, "solve for mul"),
        ("a little", "could not use this answer"),
    ],
)
def test_wrong_muls_are_named(cards, answer, message):
    assert message in cards.verdict("3.1.3", answer)
