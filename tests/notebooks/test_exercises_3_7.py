"""The exercises of lesson 3.7: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.7")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.7.1", "3.7.2", "3.7.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def dict_of(number):
    """A function that gives each name `number(seconds of its step, seconds of the AE's, steps)`."""
    return lambda seconds, steps: {name: number(s, seconds["AE"], steps) for name, s in seconds.items()}


@pytest.mark.parametrize(
    "answer",
    [
        dict_of(lambda s, ae, steps: steps * ae / s),
        dict_of(lambda s, ae, steps: int(steps * ae / s)),
        dict_of(lambda s, ae, steps: round(steps / (s / ae))),
    ],
)
def test_ways_to_equal_minutes(cards, answer):
    assert cards.verdict("3.7.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (dict_of(lambda s, ae, steps: steps * s / ae), "Upside down"),
        (dict_of(lambda s, ae, steps: steps), "equal steps"),
        (dict_of(lambda s, ae, steps: steps * s), "seconds, not steps"),
        (lambda seconds, steps: {"AAE": steps}, "also for the AE"),
        (dict_of(lambda s, ae, steps: 3.0), "fit into it"),
    ],
)
def test_misconceptions_of_equal_minutes(cards, answer, message):
    assert message in cards.verdict("3.7.1", answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda ap: rankdata(-ap, axis=0).mean(1),
        lambda ap: (len(ap) + 1 - rankdata(ap, axis=0)).mean(1),
        lambda ap: [float(np.mean([rankdata(-column)[k] for column in ap.T])) for k in range(len(ap))],
    ],
)
def test_ways_to_the_mean_rank(cards, answer):
    assert cards.verdict("3.7.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda ap: rankdata(ap, axis=0).mean(1), "Rank 1 is to be the best"),
        (lambda ap: ap.mean(1), "mean AP"),
        (lambda ap: rankdata(-ap, axis=0), "take their mean"),
        (lambda ap: ((-ap).argsort(0).argsort(0) + 1).mean(1), "share the mean"),
        (lambda ap: rankdata(-ap, axis=0).mean(1) - 1, "Ranks start at 1"),
        (lambda ap: 0.5, "One number for each method"),
        (lambda ap: ap.max(1), "highest gets rank 1"),
    ],
)
def test_misconceptions_of_the_mean_rank(cards, answer, message):
    assert message in cards.verdict("3.7.2", answer)


@pytest.mark.parametrize("answer", [1 - 0.95**63, 0.96, "0.9605"])
def test_ways_to_the_chance(cards, answer):
    assert cards.verdict("3.7.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (63 * 0.05, "expect"),
        (0.05, "one of them"),
        (0.95**63, "none of them does"),
        (0.0, "all of them do"),
        (96, "between 0 and 1"),
        (0.5, "all of them contain zero"),
    ],
)
def test_misconceptions_of_the_chance(cards, answer, message):
    assert message in cards.verdict("3.7.3", answer)
