"""The exercises of lesson 4.1: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from course_lib.detectors.quantiser import Quantiser
from course_lib.detectors.vq_vae import VQVAE


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("4.1")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["4.1.1", "4.1.2", "4.1.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def by_the_network(height, width, factor, codes):
    """The grid of a VQ-VAE itself."""
    halvings = int(math.log2(factor))
    model = VQVAE((height, width), halvings=halvings, codes=codes, dimensions=2, channels=(2,) * halvings)
    return math.prod(model.grid) * math.log2(codes)


@pytest.mark.parametrize(
    "answer",
    [
        lambda h, w, f, k: (h // f) * (w // f) * np.log2(k),
        lambda h, w, f, k: math.log2(k ** (h * w // f**2)),
        by_the_network,
    ],
)
def test_ways_to_the_bits(cards, answer):
    assert cards.verdict("4.1.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda h, w, f, k: h * w / f**2 * k, "log2(K) bits to name it"),
        (lambda h, w, f, k: h * w / f**2 * math.log(k), "in nats"),
        (lambda h, w, f, k: h * w / f**2, "number of tokens"),
        (lambda h, w, f, k: h * w / f * math.log2(k), "by its square"),
        (lambda h, w, f, k: h * w * math.log2(k), "Not each pixel"),
        (lambda h, w, f, k: math.log2(k), "bits of one token"),
        (lambda h, w, f, k: 16 * h * w / f**2 * math.log2(k), "times log2 of the number of codes"),
        (1008, "could not use this answer"),
    ],
)
def test_wrong_bits_are_named(cards, answer, message):
    assert message in cards.verdict("4.1.1", answer)


def one_by_one(z, codebook):
    """The right tokens, place by place."""
    tokens = torch.zeros(len(z), *z.shape[2:], dtype=torch.long)
    for place in np.ndindex(*tokens.shape):
        vector = z[place[0], :, place[1], place[2]]
        tokens[place] = min(range(len(codebook)), key=lambda k: float((vector - codebook[k]).square().sum()))
    return tokens


def by_the_quantiser(z, codebook):
    """The right tokens, by the library, as NumPy."""
    quantiser = Quantiser(*codebook.shape).eval()
    quantiser.codebook.copy_(codebook)
    return quantiser(z)[1].numpy()


def expanded(z, codebook):
    """The square expanded, without |z|^2."""
    return (codebook.square().sum(1) - 2 * z.movedim(1, -1) @ codebook.T).argmin(-1)


@pytest.mark.parametrize("answer", [one_by_one, by_the_quantiser, expanded])
def test_ways_to_the_nearest(cards, answer):
    assert cards.verdict("4.1.2", answer).endswith("right.")


def vectors(z):
    """The vectors of all places, `(N, D)`."""
    return z.movedim(1, -1).reshape(-1, z.shape[1])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z, e: e[one_by_one(z, e)].movedim(-1, 1), "You return the codes"),
        (lambda z, e: torch.cdist(vectors(z), e), "one integer for each place"),
        (lambda z, e: one_by_one(z, e).flatten(), "not their shape"),
        (lambda z, e: (z.movedim(1, -1) @ e.T).argmax(-1), "favours long codes"),
        (lambda z, e: torch.cdist(vectors(z), e).argmax(1).view(2, 4, 5), "farthest"),
        (lambda z, e: torch.cdist(z.reshape(-1, 3), e).argmin(1).view(2, 4, 5), "cuts through the channels"),
        (lambda z, e: torch.cdist(vectors(z), e, p=1).argmin(1).view(2, 4, 5), "squared distances"),
        (lambda z, e: torch.cdist(vectors(z), e, p=torch.inf).argmin(1).view(2, 4, 5), "squared distances"),
        (lambda z, e: torch.zeros(2, 4, 5), "smallest sum"),
        ([1, 2], "could not use this answer"),
    ],
)
def test_wrong_nearest_codes_are_named(cards, answer, message):
    assert message in cards.verdict("4.1.2", answer)


class Straight(torch.autograd.Function):
    """The trick with its derivative written out."""

    @staticmethod
    def forward(ctx, z, z_q):
        return z_q.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@pytest.mark.parametrize(
    "answer",
    [lambda z, z_q: z + (z_q - z).detach(), lambda z, z_q: z_q.detach() + z - z.detach(), Straight.apply],
)
def test_ways_straight_through(cards, answer):
    assert cards.verdict("4.1.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z, z_q: z, "no bottleneck at all"),
        (lambda z, z_q: z_q + (z - z_q).detach(), "no bottleneck at all"),
        (lambda z, z_q: z + z_q, "it has to be z_q"),
        (lambda z, z_q: z_q.detach(), "No gradient reaches anything"),
        (lambda z, z_q: z_q, "none to the encoder"),
        (lambda z, z_q: z + (z_q - z), "none to the encoder"),
        (lambda z, z_q: z_q + z - z.detach(), "and so are the codes"),
        (lambda z, z_q: 2 * z + (z_q - 2 * z).detach(), "has to be one"),
        (lambda z, z_q: z_q.tolist(), "could not use this answer"),
    ],
)
def test_wrong_ways_through_are_named(cards, answer, message):
    assert message in cards.verdict("4.1.3", answer)
