"""The exercises of lesson 1.3: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import norm, rankdata
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("1.3")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["1.3.1", "1.3.2", "1.3.3", "1.3.4"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def half_of_the_persons(persons, rng):
    everyone = np.unique(persons)
    return np.isin(persons, rng.permutation(everyone)[: len(everyone) // 2])


def by_codes(persons, rng):
    codes, names = pd.factorize(persons)
    chosen = np.zeros(len(names), bool)
    chosen[rng.choice(len(names), len(names) // 2, replace=False)] = True
    return chosen[codes]


def of_scikit_learn(persons, rng):
    splitter = GroupShuffleSplit(1, train_size=0.5, random_state=int(rng.integers(2**31)))
    rows, _ = next(splitter.split(persons, groups=persons))
    return np.isin(np.arange(len(persons)), rows)


@pytest.mark.parametrize("answer", [half_of_the_persons, by_codes, of_scikit_learn])
def test_ways_to_split(cards, answer):
    assert cards.verdict("1.3.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, rng: rng.random(len(p)) < 0.5, "persons are on both sides"),
        (lambda p, rng: rng.permutation(len(p)) < len(p) // 2, "persons are on both sides"),
        (lambda p, rng: np.arange(len(p)) < len(p) // 2 - 1, "is cut in two"),
        (lambda p, rng: np.isin(p, np.unique(p)[:10]), "The same persons train whatever the generator says"),
        (lambda p, rng: np.isin(p, rng.permutation(np.unique(p))[:14]), "14 of 20 persons train"),
        (lambda p, rng: np.ones(len(p), bool), "One of the two sides is empty"),
        (lambda p, rng: np.flatnonzero(half_of_the_persons(p, rng)), "one boolean for each slice"),
        (lambda p, rng: rng.permutation(np.unique(p))[:10], "one boolean for each slice"),
        (True, "could not use this answer"),
    ],
)
def test_wrong_splits_are_named(cards, answer, message):
    assert message in cards.verdict("1.3.1", answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda v, t: (t - v.mean()) / v.std(),
        lambda v, t: (t - v.mean()) / v.std(ddof=1),
        lambda v, t: StandardScaler().fit(v[:, None]).transform(t[:, None])[:, 0],
    ],
)
def test_ways_to_a_scale(cards, answer):
    assert cards.verdict("1.3.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, t: (t - t.mean()) / t.std(), "the test set's own mean"),
        (lambda v, t: (t - np.median(t)) / t.std(), "the test set's own mean"),
        (lambda v, t: (t - t.min()) / np.ptp(t), "Min-max over the test set"),
        (lambda v, t: rankdata(t) / len(t), "Ranks within the test set"),
        (lambda v, t: rankdata(t), "Ranks within the test set"),
        (lambda v, t: (t - np.r_[v, t].mean()) / np.r_[v, t].std(), "You pooled validation and test"),
        (lambda v, t: t - v.mean(), "Divide by the healthy standard deviation"),
        (lambda v, t: (t - v.mean()) / t.std(), "another number than in the set"),
        (lambda v, t: (t - v.min()) / np.ptp(v), "Take the mean and the standard deviation of the healthy"),
        (lambda v, t: v, "one number for each test score"),
        (1.0, "could not use this answer"),
    ],
)
def test_wrong_scales_are_named(cards, answer, message):
    assert message in cards.verdict("1.3.2", answer)


def integral(runs, sd):
    """The mean of the largest of `runs` standard normal numbers, times sd."""
    return sd * quad(lambda x: x * runs * norm.pdf(x) * norm.cdf(x) ** (runs - 1), -8, 8)[0]


def simulated(runs, sd):
    return np.random.default_rng(0).normal(0, sd, (100_000, runs)).max(1).mean()


def around_a_truth(runs, sd):
    papers = np.random.default_rng(1).normal(0.7, sd, (100_000, runs))
    return papers.max(1).mean() - 0.7


@pytest.mark.parametrize("answer", [integral, simulated, around_a_truth])
def test_ways_to_luck(cards, answer):
    assert cards.verdict("1.3.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda runs, sd: 0, "the inflation of the mean, or of a single run"),
        (lambda runs, sd: np.random.default_rng(0).normal(0, sd, (100_000, runs)).mean(), "the inflation of the mean"),
        (lambda runs, sd: sd / runs**0.5, "the standard error of the mean"),
        (lambda runs, sd: sd, "One standard deviation, whatever"),
        (lambda runs, sd: 1.96 * sd, "A fixed number of standard deviations"),
        (lambda runs, sd: 2 * sd, "A fixed number of standard deviations"),
        (lambda runs, sd: sd * (2 * np.log(runs)) ** 0.5, "the limit for very many runs"),
        (lambda runs, sd: integral(runs, 1), "multiply by sd"),
        (lambda runs, sd: 0.7 + integral(runs, sd), "too high on average"),
        (0.1, "could not use this answer"),
    ],
)
def test_wrong_luck_is_named(cards, answer, message):
    assert message in cards.verdict("1.3.3", answer)


RIGHT = {"A": 1, "B": 2, "C": 7, "D": 9, "E": 4, "F": 8}


@pytest.mark.parametrize("answer", [RIGHT, {key: str(sin) for key, sin in RIGHT.items()} | {"G": 3}])
def test_ways_to_read(cards, answer):
    assert cards.verdict("1.3.4", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (RIGHT | {"A": 4}, "the threshold is found on the data"),
        (RIGHT | {"B": 4}, "what was shuffled are slices"),
        (RIGHT | {"C": 2}, "class and scanner are one"),
        (RIGHT | {"D": 6}, "the cut-off moves with the share of the ill"),
        (RIGHT | {"D": 1}, "the cut-off moves with the share of the ill"),
        (RIGHT | {"E": 3}, "no threshold, no seed"),
        (RIGHT | {"F": 5}, "nothing that learns nothing stands between"),
        ({"A": 1}, "No sin yet for B, C, D, E, F"),
        ([1, 2, 7, 9, 4, 8], "No sin yet for A"),
        ({**RIGHT, "A": "threshold"}, "could not use this answer"),
    ],
)
def test_wrong_readings_are_named(cards, answer, message):
    assert message in cards.verdict("1.3.4", answer)
