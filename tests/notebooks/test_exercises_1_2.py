"""The exercises of lesson 1.2: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from sklearn.metrics import f1_score

from course_lib.metrics.intervals import bootstrap
from course_lib.metrics.overlap import dice
from course_lib.metrics.statistics import Mean
from course_lib.metrics.thresholds import threshold_at_fpr


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("1.2")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def overlap(p, t):
    return (p & t).sum()


def either_or_nan(value):
    """`value(p, t)`, but NaN for an empty truth."""
    return lambda p, t: value(p, t) if t.any() else np.nan


@pytest.mark.parametrize(
    "answer",
    [
        dice,
        either_or_nan(lambda p, t: 2 * overlap(p, t) / (p.sum() + t.sum())),
        either_or_nan(lambda p, t: f1_score(t.ravel(), p.ravel())),
        either_or_nan(lambda p, t: 1 / (1 + (p ^ t).sum() / (2 * overlap(p, t)))),
    ],
)
def test_ways_to_dice(cards, answer):
    assert cards.verdict("1.2.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, t: overlap(p, t) / (p | t).sum(), "intersection over union"),
        (lambda p, t: 2 * overlap(p, t) / (p + t).sum(), "Adding two boolean arrays gives their union"),
        (lambda p, t: (p == t).mean(), "This is accuracy"),
        (lambda p, t: overlap(p, t) / p.sum(), "This is precision"),
        (lambda p, t: overlap(p, t) / t.sum(), "This is recall"),
        (lambda p, t: overlap(p, t) / (p.sum() + t.sum()), "The 2 is missing"),
        (lambda p, t: 0.9, "twice the overlap"),
        (lambda p, t: 2 * overlap(p, t) / max(p.sum() + t.sum(), 1), "Without a lesion you return 0"),
        (lambda p, t: dice(p, t) if t.any() else 1.0, "Without a lesion you return 1"),
        (lambda p, t: dice(p, t) if p.any() or t.any() else np.nan, "right"),  # NaN for each empty truth
        (0.47, "could not use this answer"),
    ],
)
def test_wrong_dices_are_named(cards, answer, message):
    assert message in cards.verdict("1.2.1", answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda maps, brains, q: np.quantile(maps[brains], 1 - q),
        lambda maps, brains, q: threshold_at_fpr(maps[brains], q),
        lambda maps, brains, q: np.sort(maps[brains])[::-1][int(q * brains.sum()) - 1],
        lambda maps, brains, q: np.percentile(maps[brains], 100 * (1 - q)),
    ],
)
def test_ways_to_the_threshold(cards, answer):
    assert cards.verdict("1.2.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda maps, brains, q: np.quantile(maps[brains], q), "The *highest* share q may pass"),
        (lambda maps, brains, q: np.quantile(maps, 1 - q), "You counted the background"),
        (lambda maps, brains, q: maps.max(), "The maximum lets one pixel pass"),
        (lambda maps, brains, q: maps[brains].mean() + 2 * maps[brains].std(), "assume a Gaussian"),
        (lambda maps, brains, q: maps[brains].mean() + 1.645 * maps[brains].std(), "assume a Gaussian"),
        (lambda maps, brains, q: np.quantile(maps[brains], 0.95), "At q = 0.2 your threshold marks 0.05"),
        (0.5, "could not use this answer"),
    ],
)
def test_wrong_thresholds_are_named(cards, answer, message):
    assert message in cards.verdict("1.2.2", answer)


def by_search(s, p, wanted):
    """The specificity at which Bayes' rule gives the wanted PPV."""
    return brentq(lambda spec: s * p / (s * p + (1 - spec) * (1 - p)) - wanted, 0, 1, xtol=1e-12)


@pytest.mark.parametrize(
    "answer",
    [
        by_search,
        lambda s, p, ppv: 1 - s * p * (1 - ppv) / (ppv * (1 - p)),
        lambda s, p, ppv: 1 - s * (p / (1 - p)) / (ppv / (1 - ppv)),
        lambda s, p, ppv: (ppv * (1 - p) - s * p * (1 - ppv)) / (ppv * (1 - p)),
    ],
)
def test_ways_to_the_specificity(cards, answer):
    assert cards.verdict("1.2.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, p, ppv: 1 - by_search(s, p, ppv), "false-positive rate that may remain"),
        (lambda s, p, ppv: 1 - s * (1 - ppv) / ppv, "The prevalence is missing"),
        (lambda s, p, ppv: 1 - s * p * (1 - ppv) / ppv, "there are 1 - prevalence, not 1"),
        (lambda s, p, ppv: ppv, "PPV and specificity are different shares"),
        (lambda s, p, ppv: 100 * by_search(s, p, ppv), "not in per cent"),
        (lambda s, p, ppv: s, "Solve PPV"),
        (0.995, "could not use this answer"),
    ],
)
def test_wrong_specificities_are_named(cards, answer, message):
    assert message in cards.verdict("1.2.3", answer)


def means(values, subjects):
    return pd.Series(values).groupby(subjects).mean().to_numpy()


def drawn_subjects(values, subjects, ends=(0.025, 0.975)):
    own = means(values, subjects)
    rows = np.random.default_rng(0).integers(0, len(own), (1000, len(own)))
    return np.quantile(own[rows].mean(1), ends)


def all_their_pixels(values, subjects):
    """Each resample gathers all pixels of the subjects that were drawn."""
    rng, of = np.random.default_rng(1), {name: values[subjects == name] for name in np.unique(subjects)}
    names = list(of)
    again = [np.concatenate([of[name] for name in rng.choice(names, len(names))]).mean() for _ in range(500)]
    return np.percentile(again, [2.5, 97.5])


def of_the_library(values, subjects):
    own = means(values, subjects)
    found = bootstrap(Mean(own), len(own))
    return found.low, found.high


@pytest.mark.parametrize("answer", [drawn_subjects, all_their_pixels, of_the_library])
def test_ways_to_the_interval(cards, answer):
    assert cards.verdict("1.2.4", answer).endswith("right.")


def drawn_pixels(values, subjects):
    rows = np.random.default_rng(0).integers(0, len(values), (300, len(values)))
    return np.quantile(values[rows].mean(1), [0.025, 0.975])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drawn_pixels, "Far too narrow"),
        (lambda v, s: (v.mean() - 1.96 * v.std() / len(v) ** 0.5, v.mean() + 1.96 * v.std() / len(v) ** 0.5), "narrow"),
        (lambda v, s: np.quantile(v, [0.025, 0.975]), "the spread of the values themselves"),
        (lambda v, s: np.quantile(means(v, s), [0.025, 0.975]), "the spread of the values themselves"),
        (lambda v, s: drawn_subjects(v, s)[::-1], "The lower end comes first"),
        (lambda v, s: drawn_subjects(v, s, (0.25, 0.75)), "Not the 95 % interval"),
        (lambda v, s: drawn_subjects(v, s, (0.05, 0.95)), "Not the 95 % interval"),
        (lambda v, s: drawn_subjects(v, s) + 0.2, "does not contain the mean itself"),
        (lambda v, s: v.mean(), "could not use this answer"),
    ],
)
def test_wrong_intervals_are_named(cards, answer, message):
    assert message in cards.verdict("1.2.4", answer)
