"""The exercises of lesson 4.2: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib.detectors.orders import inverse


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("4.2")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["4.2.1", "4.2.2", "4.2.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def padded(tokens, start):
    return F.pad(tokens[:, :-1], (1, 0), value=start)


def by_hand(tokens, start):
    inputs = tokens.roll(1, 1)
    inputs[:, 0] = start
    return inputs, tokens


@pytest.mark.parametrize("answer", [lambda tokens, start: (padded(tokens, start), tokens), by_hand])
def test_ways_to_shift(cards, answer):
    assert cards.verdict("4.2.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda tokens, start: (tokens, tokens), "copies"),
        (lambda tokens, start: (padded(tokens, start), tokens.roll(-1, 1)), "Shifted twice"),
        (lambda tokens, start: (tokens, padded(tokens, start)), "wrong side"),
        (lambda tokens, start: (padded(tokens, 0), tokens), "start symbol"),
        (lambda tokens, start: (tokens[:, :-1], tokens[:, 1:]), "L places"),
        (lambda tokens, start: tokens, "L places"),  # two rows unpack into an input and a target
        (lambda tokens, start: None, "two tensors"),
        (lambda tokens, start: (tokens + 1, tokens), "all tokens but the last"),
    ],
)
def test_wrong_shifts_are_named(cards, answer, message):
    assert message in cards.verdict("4.2.1", answer)


def sorted_limit(healthy, new, share):
    ranked = np.sort(healthy.ravel())
    return new > ranked[int(np.ceil((1 - share) * len(ranked))) - 1]


@pytest.mark.parametrize("answer", [lambda h, n, s: n > np.quantile(h, 1 - s), sorted_limit])
def test_ways_to_one_threshold(cards, answer):
    assert cards.verdict("4.2.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda h, n, s: n > np.quantile(n, 1 - s, axis=1, keepdims=True), "each new image"),
        (lambda h, n, s: n > np.quantile(n, 1 - s), "images that are judged"),
        (lambda h, n, s: n < np.quantile(h, 1 - s), "probable tokens"),
        (lambda h, n, s: n > np.quantile(h, s), "wrong tail"),
        (lambda h, n, s: n > np.quantile(h, 1 - s, axis=0), "One threshold a place"),
        (lambda h, n, s: np.quantile(h, 1 - s), "one boolean"),
        (lambda h, n, s: n > 1.0, "One number"),
    ],
)
def test_wrong_thresholds_are_named(cards, answer, message):
    assert message in cards.verdict("4.2.2", answer)


def put_back(values, pi, grid):
    flat = np.empty(len(values))
    flat[pi] = values
    return flat.reshape(grid)


def with_the_library(values, pi, grid):
    return torch.as_tensor(values)[inverse(torch.as_tensor(pi))].view(grid)


@pytest.mark.parametrize("answer", [put_back, lambda v, pi, grid: v[pi.argsort()].reshape(grid), with_the_library])
def test_ways_back_to_the_grid(cards, answer):
    assert cards.verdict("4.2.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, pi, grid: v.reshape(grid), "order is still in it"),
        (lambda v, pi, grid: v[pi].reshape(grid), "applies pi once more"),
        (lambda v, pi, grid: v[::-1].reshape(grid), "reverse order alone"),
        (lambda v, pi, grid: v[pi.argsort()], "grid of h rows"),
        (lambda v, pi, grid: 0 * v.reshape(grid), "put it back"),
    ],
)
def test_wrong_ways_back_are_named(cards, answer, message):
    assert message in cards.verdict("4.2.3", answer)
