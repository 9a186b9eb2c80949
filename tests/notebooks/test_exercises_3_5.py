"""The exercises of lesson 3.5: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import math

import pytest
import torch

from course_lib.detectors.glow import ActNorm


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.5")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.5.1", "3.5.2", "3.5.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def by_the_layer(s, height, width):
    """The log-determinant of the course's own actnorm."""
    layer = ActNorm((len(s), 1, 1)).eval()
    layer.s.data = s[:, None, None]
    return layer(torch.zeros(1, len(s), height, width))[1].sum().detach()


def by_autograd(s, height, width):
    """The log-determinant of the full Jacobian."""

    def layer(x):
        return (s.double().exp()[:, None, None] * (x.reshape(len(s), height, width) + 3)).flatten()

    jacobian = torch.autograd.functional.jacobian(layer, torch.zeros(len(s) * height * width, dtype=torch.float64))
    return torch.linalg.slogdet(jacobian)[1]


@pytest.mark.parametrize(
    "answer",
    [
        lambda s, height, width: height * width * s.sum(),
        lambda s, h, w: float(s.exp().log().sum()) * h * w,
        by_the_layer,
        by_autograd,
    ],
)
def test_ways_to_the_log_determinant(cards, answer):
    assert cards.verdict("3.5.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, h, w: s.sum(), "one position's"),
        (lambda s, h, w: -h * w * s.sum(), "sign is flipped"),
        (lambda s, h, w: h * w * s.exp().sum(), "The log of each is s itself"),
        (lambda s, h, w: h * w * s.mean(), "mean over the channels"),
        (lambda s, h, w: h * w * s.abs().sum(), "exp(s) is positive"),
        (lambda s, h, w: s.exp().prod() ** (h * w), "That is the determinant"),
        (lambda s, h, w: h * w * s, "One number for the whole layer"),
        (lambda s, h, w: (h + w) * s.sum(), "diagonal of the Jacobian"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_log_determinants_are_named(cards, answer, message):
    assert message in cards.verdict("3.5.1", answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda log_p, d: -log_p / (d * math.log(2)) + 8,
        lambda log_p, d: (d * math.log(256) - log_p) / (d * math.log(2)),
        lambda log_p, d: [8 - float(nats) * math.log2(math.e) / d for nats in log_p],
        lambda log_p, d: -(log_p / d).exp().log2() + math.log2(256),
    ],
)
def test_ways_to_bits(cards, answer):
    assert cards.verdict("3.5.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda log_p, d: log_p / (d * math.log(2)) + 8, "mind the sign"),
        (lambda log_p, d: -log_p / (d * math.log(2)), "This is of the density"),
        (lambda log_p, d: -log_p / (d * math.log(2)) - 8, "The 8 bits are added"),
        (lambda log_p, d: -log_p / d + math.log(256), "This is in nats"),
        (lambda log_p, d: -log_p / d + 8, "You added bits to nats"),
        (lambda log_p, d: -log_p / math.log(2) + 8 * d, "divide by D"),
        (lambda log_p, d: (-log_p / math.log(2) + 8) / d, "a step of its own"),
        (lambda log_p, d: (-log_p / (d * math.log(2)) + 8).mean(), "One number for each image"),
        (lambda log_p, d: log_p * 0 + 1, "Two terms"),
        (lambda log_p: log_p, "could not use this answer"),
    ],
)
def test_wrong_bits_are_named(cards, answer, message):
    assert message in cards.verdict("3.5.2", answer)


def by_halves(y, network):
    """The inverse."""
    a, b = y.chunk(2, 1)
    t, scale = network(a)
    return torch.cat([a, b / scale - t], 1)


def in_place(y, network):
    """The inverse, written into y."""
    half = y.shape[1] // 2
    t, scale = network(y[:, :half])
    y[:, half:] = (y[:, half:] - t * scale) / scale
    return y


@pytest.mark.parametrize("answer", [by_halves, in_place])
def test_ways_back(cards, answer):
    assert cards.verdict("3.5.3", answer).endswith("right.")


def halves(combine, of_second=False):
    """An inverse with a mistake: `combine(b, t, scale)` makes the second half."""

    def answer(y, network):
        a, b = y.chunk(2, 1)
        return torch.cat([a, combine(b, *network(b if of_second else a))], 1)

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (halves(lambda b, t, scale: (b - t) / scale), "divide, then subtract"),
        (halves(lambda b, t, scale: b / scale + t), "Subtract it"),
        (halves(lambda b, t, scale: b * scale - t), "Divide by it"),
        (halves(lambda b, t, scale: b / scale - t, of_second=True), "Only a is the same"),
        (lambda y, network: by_halves(y, network)[:, 2:], "Return both halves"),
        (lambda y, network: y, "in reverse order"),
        (lambda y: y, "could not use this answer"),
    ],
)
def test_wrong_ways_back_are_named(cards, answer, message):
    assert message in cards.verdict("3.5.3", answer)
