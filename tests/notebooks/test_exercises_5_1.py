"""The exercises of lesson 5.1: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("5.1")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["5.1.1", "5.1.2", "5.1.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def first_by_loop(abar, variance):
    """The right level, one after the other, by standard deviations."""
    for t, a in enumerate(abar):
        if (1 - a) ** 0.5 > (a * variance) ** 0.5:
            return t
    return len(abar)


@pytest.mark.parametrize(
    "answer",
    [
        lambda abar, variance: int(np.argmax(1 - abar > abar * variance)),
        first_by_loop,
        lambda abar, variance: np.flatnonzero(abar < 1 / (1 + variance))[0],
    ],
)
def test_ways_to_the_level(cards, answer):
    assert cards.verdict("5.1.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda abar, v: np.argmax(1 - abar > abar), "variance scales the signal"),
        (lambda abar, v: np.argmax(np.sqrt(1 - abar) > np.sqrt(abar) * v), "compare squares on both sides"),
        (lambda abar, v: np.argmax(1 - abar > v), "The signal fades too"),
        (lambda abar, v: first_by_loop(abar, v) - 1, "One too low"),
        (lambda abar, v: first_by_loop(abar, v) + 7, "Return the first t"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_levels_are_named(cards, answer, message):
    assert message in cards.verdict("5.1.1", answer)


def stitched(x, state, mask, t, s, add_noise, reverse):
    """The right stride, by products."""
    return (1 - mask) * add_noise(x, s) + mask * reverse(state, t, s)


def by_assignment(x, state, mask, t, s, add_noise, reverse):
    """The right stride, by writing into the known picture."""
    new = add_noise(x, s)
    new[mask] = reverse(state, t, s)[mask]
    return new


@pytest.mark.parametrize(
    "answer",
    [
        stitched,
        by_assignment,
        lambda x, state, mask, t, s, noise, back: np.where(mask, back(state, t, s), noise(x, s)),
    ],
)
def test_ways_to_the_stitch(cards, answer):
    assert cards.verdict("5.1.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, z, m, t, s, noise, back: np.where(m, back(z, t, s), noise(x, t)), "still at t"),
        (lambda x, z, m, t, s, noise, back: np.where(m, noise(x, s), back(z, t, s)), "other way round"),
        (lambda x, z, m, t, s, noise, back: np.where(m, back(z, t, s), x), "no noise at all"),
        (lambda x, z, m, t, s, noise, back: np.where(m, back(x, t, s), noise(x, s)), "What goes back is the state"),
        (lambda x, z, m, t, s, noise, back: back(z, t, s), "Nothing holds the known pixels"),
        (lambda x, z, m, t, s, noise, back: x, "Outside the mask x noised to s"),
        (lambda x, z, m, t, s, noise, back: 0.0, "as large as x"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_stitches_are_named(cards, answer, message):
    assert message in cards.verdict("5.1.2", answer)


def by_sorting(maps, brains, share):
    """The right threshold, by hand."""
    values = np.sort(maps[brains])
    return values[int(np.ceil((1 - share) * (len(values) - 1)))]


@pytest.mark.parametrize(
    "answer",
    [
        lambda maps, brains, share: np.quantile(maps[brains], 1 - share),
        lambda maps, brains, share: np.percentile(maps[brains > 0], 100 * (1 - share)),
        by_sorting,
    ],
)
def test_ways_to_the_threshold(cards, answer):
    assert cards.verdict("5.1.3", answer).endswith("right.")


def each(maps, brains, share):
    """A threshold of each image's own."""
    return [np.quantile(m[b], 1 - share) for m, b in zip(maps, brains, strict=True)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (each, "One number for all images"),
        (lambda m, b, share: np.mean(each(m, b, share)), "Pool the pixels"),
        (lambda m, b, share: np.quantile(m, 1 - share), "The background counts too"),
        (lambda m, b, share: np.quantile(m[b], share), "That marks nearly everything"),
        (lambda m, b, share: m.max(), "marks nothing in the healthy"),
        (lambda m, b, share: 0.5, "(1 - share) quantile"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_thresholds_are_named(cards, answer, message):
    assert message in cards.verdict("5.1.3", answer)
