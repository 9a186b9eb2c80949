"""The exercises of lesson 3.4: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib.detectors.lsa import normalise, probability


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.4")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.4.1", "3.4.2", "3.4.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


@pytest.mark.parametrize("answer", [["A", "B", "B"], "bab", ("B", "B", "A")])
def test_masks_that_keep_order_and_hints(cards, answer):
    assert cards.verdict("3.4.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("BBB", "reads it off"),
        (["A", "A", "A"], "3 strict layers"),
        (["A", "A", "B"], "2 strict layers"),
        (["A", "B"], "three letters"),
        (["A", "B", "C"], "three letters"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_masks_are_named(cards, answer, message):
    assert message in cards.verdict("3.4.1", answer)


def gathered(codes, log_p, bins=None, reduce=lambda each: each.sum(1), index=None):
    """NLL with hard bins, with what a mistake may change."""
    last = log_p.shape[-1] - 1
    index = (codes * (bins or last + 1)).long() if index is None else index
    return reduce(-log_p.gather(-1, index.clamp(0, last)[..., None])[..., 0])


def one_by_one(codes, log_p):
    """The right NLL, by loops."""
    bins = log_p.shape[-1]
    places = [[min(int(z * bins), bins - 1) for z in code] for code in codes.tolist()]
    return [-sum(float(log_p[n, j, b]) for j, b in enumerate(row)) for n, row in enumerate(places)]


@pytest.mark.parametrize(
    "answer", [gathered, one_by_one, lambda codes, log_p: -probability(codes, log_p, soft=False).log().sum(1)]
)
def test_ways_to_the_surprise(cards, answer):
    assert cards.verdict("3.4.2", answer).endswith("right.")


def unclipped(codes, log_p):
    """A code of 1 has no bin."""
    return -log_p.gather(-1, (codes * log_p.shape[-1]).long()[..., None])[..., 0].sum(1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z, p: gathered(z, p, reduce=lambda each: each), "add them up over the code"),
        (lambda z, p: gathered(z, p).mean(), "One number for the batch"),
        (lambda z, p: gathered(z, p, reduce=lambda each: each.mean(1)), "not a mean"),
        (lambda z, p: -gathered(z, p), "sign is flipped"),
        (lambda z, p: gathered(z, p, index=(z * 5).round().long()), "nearest edge"),
        (lambda z, p: gathered(z, p, bins=4), "not floor((B - 1) z)"),
        (lambda z, p: gathered(z, p.exp()), "Add their logarithms"),
        (unclipped, "clip the index"),
        (lambda z, p: z.sum(1), "take log_p of that bin"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_surprises_are_named(cards, answer, message):
    assert message in cards.verdict("3.4.2", answer)


def norm(v, w):
    """(v - min w) / (max w - min w)."""
    return (v - w.min()) / np.ptp(w)


def by_the_detector(rec, nll, rec_healthy, nll_healthy):
    """The right sum, with the library's own function."""
    pairs = [(rec, rec_healthy), (nll, nll_healthy)]
    return sum(normalise(torch.tensor(v), torch.tensor([w.min(), w.max()])).numpy() for v, w in pairs)


@pytest.mark.parametrize("answer", [lambda r, n, rh, nh: norm(r, rh) + norm(n, nh), by_the_detector])
def test_ways_to_the_sum(cards, answer):
    assert cards.verdict("3.4.3", answer).endswith("right.")


def standard(v, w):
    """The z-score."""
    return (v - w.mean()) / w.std()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda r, n, rh, nh: norm(r, r) + norm(n, n), "Use validation"),
        (lambda r, n, rh, nh: r + n, "no common unit"),
        (lambda r, n, rh, nh: norm(r, rh).clip(0, 1) + norm(n, nh).clip(0, 1), "Clipping throws away"),
        (lambda r, n, rh, nh: 2 - norm(r, rh) - norm(n, nh), "high for normal"),
        (lambda r, n, rh, nh: norm(-r, -rh) + norm(-n, -nh), "high for normal"),
        (lambda r, n, rh, nh: standard(r, rh) + standard(n, nh), "z-scores"),
        (lambda r, n, rh, nh: norm(r, rh) * norm(n, nh), "a product is 0"),
        (lambda r, n, rh, nh: norm(r, rh), "then the sum"),
        (lambda r: r, "could not use this answer"),
    ],
)
def test_wrong_sums_are_named(cards, answer, message):
    assert message in cards.verdict("3.4.3", answer)
