"""The exercises of lesson 5.3: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from course_lib.metrics.ranks import critical_difference


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("5.3")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["5.3.1", "5.3.2", "5.3.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


@pytest.mark.parametrize(
    "answer",
    [
        lambda q, k, N: q / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * N)),
        lambda q, k, N: q * (k * (k + 1) / 12 / N) ** 0.5,
        lambda q, k, N: critical_difference(k, N) * q / 4.474,  # 4.474: the quantile of ten at 95 %
    ],
)
def test_ways_to_a_critical_difference(cards, answer):
    assert cards.verdict("5.3.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda q, k, N: q * np.sqrt(k * (k + 1) / (6 * N)), "root of two"),
        (lambda q, k, N: q / np.sqrt(2) * k * (k + 1) / (6 * N), "this is a variance"),
        (lambda q, k, N: q / np.sqrt(2) * np.sqrt(k * (k + 1) / 6), "Where are the people"),
        (lambda q, k, N: q / np.sqrt(2) * np.sqrt(N * (N + 1) / (6 * k)), "changed places"),
        (lambda q, k, N: q, "CD ="),
    ],
)
def test_wrong_critical_differences_are_named(cards, answer, message):
    assert message in cards.verdict("5.3.1", answer)


def by_sorting(cost, quality):
    """Walk from cheap to dear and keep whoever is better than all before."""
    front, best = [], -np.inf
    for index in np.argsort(cost):
        if quality[index] > best:
            front.append(int(index))
            best = quality[index]
    return front


def by_pairs(cost, quality):
    beaten = (cost[:, None] > cost) & (quality[:, None] < quality)
    return np.flatnonzero(~beaten.any(1))


def by_neighbours(cost, quality):
    """Whoever is better than the next cheaper one: wrong."""
    order = np.argsort(cost)
    return [order[0], *(b for a, b in zip(order, order[1:], strict=False) if quality[b] > quality[a])]


@pytest.mark.parametrize("answer", [by_sorting, by_pairs, lambda c, q: set(by_sorting(c, q))])
def test_ways_to_a_front(cards, answer):
    assert cards.verdict("5.3.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c, q: np.flatnonzero(((c[:, None] > c) & (q[:, None] < q)).any(1)), "return the others"),
        (lambda c, q: [int(q.argmax())], "The best alone"),
        (lambda c, q: [int(c.argmin())], "The cheapest alone"),
        (lambda c, q: by_sorting(c, -q), "Low quality is taken for good"),
        (lambda c, q: range(len(c)), "Who is beaten by nobody"),
        (lambda c, q: ~((c[:, None] > c) & (q[:, None] < q)).any(1), "This is a mask"),
        (by_neighbours, "the next cheaper one alone"),
        (lambda c, q: None, "Return the indices"),
    ],
)
def test_wrong_fronts_are_named(cards, answer, message):
    assert message in cards.verdict("5.3.2", answer)


def test_ways_to_the_winners_curse(cards):
    exact = quad(lambda x: x * 27 * norm.pdf(x) * norm.cdf(x) ** 26, -8, 8)[0]
    simulated = np.random.default_rng(5).normal(size=(50_000, 27)).max(1).mean()
    for answer in (exact, simulated):
        assert cards.verdict("5.3.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.0, "picked for its luck"),
        (norm.ppf(1 - 1 / 27), "one in 27 exceeds"),
        (-2.0, "lifts its number"),
        (3.5, "Draw 27 normal numbers"),
    ],
)
def test_wrong_curses_are_named(cards, answer, message):
    assert message in cards.verdict("5.3.3", answer)
