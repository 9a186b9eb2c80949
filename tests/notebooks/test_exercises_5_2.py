"""The exercises of lesson 5.2: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib.detectors.memory_bank import coreset


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("5.2")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["5.2.1", "5.2.2", "5.2.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


# ---- a corruption and its mask --------------------------------------------------------------------------------------


def spoil(x, v, alpha, limit, *, brain=True, mix=None, soft=0.5, seen=True):
    """A corruption and its mask, with what a mistake may change."""
    mixed = x + alpha * (v - x) if mix is None else mix(x, v, alpha)
    spoilt = np.where(x > 0, mixed, 0) if brain else mixed
    mask = (alpha >= soft) if soft else np.ones_like(x, bool)
    return spoilt, mask & (np.abs(spoilt - x) > limit) if seen else mask


def pixel_by_pixel(x, v, alpha, limit):
    spoilt, mask = x.copy(), np.zeros(x.shape, bool)
    for place in np.ndindex(x.shape):
        if x[place] > 0:
            spoilt[place] = (1 - alpha[place]) * x[place] + alpha[place] * v[place]
            mask[place] = alpha[place] >= 0.5 and abs(spoilt[place] - x[place]) > limit
    return spoilt, mask


@pytest.mark.parametrize(
    "answer", [spoil, pixel_by_pixel, lambda x, v, a, limit: [torch.tensor(part) for part in spoil(x, v, a, limit)]]
)
def test_ways_to_a_corruption(cards, answer):
    assert cards.verdict("5.2.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, v, a, limit: spoil(x, v, a, limit, brain=False), "background changed"),
        (lambda x, v, a, limit: spoil(x, v, a, limit, seen=False), "did not change"),
        (lambda x, v, a, limit: spoil(x, v, a, limit, soft=None), "soft edge"),
        (lambda x, v, a, limit: spoil(x, v, a, limit, mix=lambda x, v, a: x + a * v), "x + alpha (v - x)"),
        (lambda x, v, a, limit: spoil(x, v, a, limit, mix=lambda x, v, a: a * v), "x + alpha (v - x)"),
        (lambda x, v, a, limit: spoil(x, v, a, limit, mix=lambda x, v, a: v), "x + alpha (v - x) in the brain"),
        (lambda x, v, a, limit: (spoil(x, v, a, limit)[0], a), "mask is boolean"),
        (lambda x, v, a, limit: spoil(x, v, a, limit)[0], "two arrays"),
        (lambda x, v, a, limit: (spoil(x, v, a, limit)[0][:3], a[:3]), "shape of the slice"),
    ],
)
def test_wrong_corruptions_are_named(cards, answer, message):
    assert message in cards.verdict("5.2.1", answer)


# ---- k-centre -------------------------------------------------------------------------------------------------------


def centres(points, size, first, rule=lambda gaps: gaps.min(1)):
    """The greedy choice with all distances written out; `rule` is what a mistake changes."""
    distance, chosen = np.linalg.norm(points[:, None] - points, axis=2), [first]
    while len(chosen) < size:
        gaps = rule(distance[:, chosen]).astype(float)
        gaps[chosen] = -np.inf
        chosen.append(int(gaps.argmax()))
    return chosen


def kept_up_to_date(points, size, first):
    chosen, gaps = [first], np.full(len(points), np.inf)
    while len(chosen) < size:
        gaps = np.minimum(gaps, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(gaps.argmax()))
    return np.array(chosen)


def with_the_library(points, size, first):
    for seed in range(100):
        chosen = coreset(torch.tensor(points), size, torch.Generator().manual_seed(seed))
        if chosen[0] == first:
            return chosen
    return None


@pytest.mark.parametrize("answer", [centres, kept_up_to_date, with_the_library])
def test_ways_to_the_centres(cards, answer):
    assert cards.verdict("5.2.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, k, f: centres(p, k, f, lambda gaps: -gaps.min(1)), "nearest to the choice"),
        (lambda p, k, f: centres(p, k, f, lambda gaps: gaps[:, -1]), "last chosen point alone"),
        (lambda p, k, f: centres(p, k, f, lambda gaps: gaps.sum(1)), "add up distances"),
        (lambda p, k, f: centres(p, k, f, lambda gaps: gaps.max(1)), "largest distance"),
        (lambda p, k, f: centres(p, k, 3), "comes first"),
        (lambda p, k, f: [0, 1, 2, 5], "distance to the nearest chosen one"),
        (lambda p, k, f: [0, 4, 0, 4], "twice"),
        (lambda p, k, f: centres(p, k, f)[1:], "you gave 3"),
    ],
)
def test_wrong_centres_are_named(cards, answer, message):
    assert message in cards.verdict("5.2.2", answer)


# ---- the prior ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [0.05 * 4 / (0.05 * 4 + 0.95), 4 / 23, "0.174"])
def test_what_a_perfect_network_says(cards, answer):
    assert cards.verdict("5.2.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.8, "equally common"),
        (0.2, "share times ratio"),
        (0.05, "tells nothing"),
        (0.95, "share of sound"),
        (19 / 23, "is sound"),
        (0.05 * 4 / 0.95, "odds"),
        (0.25, "not the other way round"),
        (4, "between 0 and 1"),
        (0.5, "Bayes"),
    ],
)
def test_wrong_probabilities_are_named(cards, answer, message):
    assert message in cards.verdict("5.2.3", answer)
