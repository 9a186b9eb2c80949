"""The clinic's arithmetic, against simulation, SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from course_lib.errors import BadInput
from course_lib.metrics.screening import SCANS, clinic, jeffreys


def test_predictive_values_are_what_a_simulated_clinic_sees():
    rng = np.random.default_rng(0)
    ill = rng.random(2_000_000) < 0.02
    recalled = rng.random(len(ill)) < np.where(ill, 0.9, 1 - 0.8)
    found = clinic(9, 10, 4, 20, 0.02)
    assert found.ppv.value == pytest.approx(ill[recalled].mean(), rel=0.02)
    assert found.npv.value == pytest.approx(1 - ill[~recalled].mean(), abs=2e-4)
    assert found.recalled == pytest.approx(SCANS * recalled.mean(), rel=0.01)
    assert found.missed == pytest.approx(SCANS * (ill & ~recalled).mean(), rel=0.05)
    assert found.false_alarms == pytest.approx(SCANS * (recalled & ~ill).mean(), rel=0.01)


def test_bayes_by_hand():
    found = clinic(8, 10, 1, 10, 0.5, miss_cost=3)
    assert found.ppv.value == pytest.approx(0.8 / 0.9)
    assert found.npv.value == pytest.approx(0.9 / 1.1)
    assert found.cost == pytest.approx(50 + 3 * 100)


@pytest.mark.parametrize(("hits", "trials"), [(0, 6), (3, 8), (8, 8), (40, 41)])
def test_jeffreys_is_the_beta_quantile_with_its_ends(hits, trials):
    found, beta = jeffreys(hits, trials), stats.beta(hits + 0.5, trials - hits + 0.5)
    assert found.low == (0 if hits == 0 else pytest.approx(beta.ppf(0.025)))
    assert found.high == (1 if hits == trials else pytest.approx(beta.ppf(0.975)))
    assert found.low <= found.value <= found.high


def test_the_interval_of_ppv_covers_the_truth():
    """Clinics of 30 ill and 30 healthy persons, again and again: the 95 % interval holds the true PPV as often."""
    rng, prevalence, s, c = np.random.default_rng(1), 0.05, 0.8, 0.9
    truth = s * prevalence / (s * prevalence + (1 - c) * (1 - prevalence))
    hits = 0
    for _ in range(400):
        ppv = clinic(rng.binomial(30, s), 30, rng.binomial(30, 1 - c), 30, prevalence).ppv
        hits += ppv.low <= truth <= ppv.high
    assert 0.92 <= hits / 400 <= 0.99


def test_where_nobody_or_everybody_is_recalled():
    nobody, everybody = clinic(0, 5, 0, 5, 0.1), clinic(5, 5, 5, 5, 0.1)
    assert np.isnan(nobody.ppv.value) and nobody.npv.value == pytest.approx(0.9)
    assert np.isnan(everybody.npv.value) and everybody.ppv.value == pytest.approx(0.1)
    assert everybody.recalled == pytest.approx(SCANS)


def test_ppv_falls_with_the_prevalence():
    values = [clinic(9, 10, 2, 10, p).ppv.value for p in (0.5, 0.1, 0.01, 0.001)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ((6, 5, 0, 5, 0.1), "ill"),
        ((0, 0, 0, 5, 0.1), "ill"),
        ((1, 5, -1, 5, 0.1), "healthy"),
        ((1, 5, 1, 5, 0.0), "prevalence"),
        ((1, 5, 1, 5, 1.0), "prevalence"),
        ((1, 5, 1, 5, 0.1, -1), "miss_cost"),
    ],
)
def test_what_cannot_be_is_refused(given, field):
    with pytest.raises(BadInput) as refused:
        clinic(*given)
    assert refused.value.field == field
