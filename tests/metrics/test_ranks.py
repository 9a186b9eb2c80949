"""Ranks, critical differences and the stability of orders."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare

from course_lib.errors import BadInput
from course_lib.metrics.ranks import (
    critical_difference,
    order_agreement,
    rank_people,
    rank_shares,
    resampled_means,
    value_cube,
)
from course_lib.metrics.statistics import GroupMean


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_has_the_quantiles_of_demsars_table(k, q):
    people = 14
    found = critical_difference(k, people) / math.sqrt(k * (k + 1) / (6 * people))
    assert found == pytest.approx(q, abs=2e-3)


def test_the_critical_difference_wants_two_of_each():
    with pytest.raises(BadInput, match="critical difference"):
        critical_difference(1, 20)


def test_ranks_start_at_the_highest_value_and_ties_share():
    values = np.array([[0.9, 0.1], [0.5, 0.4], [0.5, 0.8]])
    np.testing.assert_array_equal(rank_people(values), [[1, 3], [2.5, 2], [2.5, 1]])


def test_mean_ranks_give_the_statistic_of_friedmans_test():
    values = np.random.default_rng(0).normal(size=(4, 20))
    k, n = values.shape
    mean = rank_people(values).mean(1)
    chi = 12 * n / (k * (k + 1)) * (np.square(mean).sum() - k * (k + 1) ** 2 / 4)
    assert chi == pytest.approx(friedmanchisquare(*-values).statistic)


def tidy(seeds=3, people=8):
    """Two detectors with seeds, one closed form, two families."""
    rng = np.random.default_rng(1)
    rows = []
    for name, own in (("net", seeds), ("other net", seeds), ("closed form", 1)):
        for seed in range(own):
            for person in range(people):
                family = "a" if person < 3 else "b"
                rows.append((name, seed, family, f"sub-{person}", rng.random()))
    return pd.DataFrame(rows, columns=["detector", "seed", "family", "subject", "value"])


def test_the_cube_repeats_a_closed_form_and_keeps_the_people_of_all():
    table = tidy()
    table = table[~((table["subject"] == "sub-2") & (table["detector"] == "net") & (table["seed"] == 1))]
    values, names, people = value_cube(table)
    assert names == ["net", "other net", "closed form"]
    assert values.shape == (3, 3, 7) and "sub-2" not in set(people["subject"])
    assert (values[2] == values[2][:1]).all() and not (values[0] == values[0][:1]).all()
    one = table[(table["detector"] == "other net") & (table["seed"] == 2) & (table["subject"] == "sub-5")]
    assert values[1, 2, list(people["subject"]).index("sub-5")] == one["value"].item()


def test_a_table_with_a_missing_seed_or_a_double_row_is_refused():
    table = tidy()
    with pytest.raises(BadInput, match="2 of 3 seeds"):
        value_cube(table[~((table["detector"] == "net") & (table["seed"] == 1))])
    with pytest.raises(BadInput, match="twice"):
        value_cube(pd.concat([table, table.iloc[:1]]))
    alone = tidy()
    alone = alone[(alone["detector"] != "net") | (alone["subject"] == "sub-0")]
    alone = alone[(alone["detector"] != "closed form") | (alone["subject"] == "sub-1")]
    with pytest.raises(BadInput, match="no person is scored by every detector"):
        value_cube(alone)


def test_resampled_means_centre_on_the_mean_over_families_and_seeds():
    values, _, people = value_cube(tidy())
    draws = resampled_means(values, people["family"], resamples=4000, seed=3)
    of_family = [values[:, :, people["family"] == f].mean((1, 2)) for f in ("a", "b")]
    np.testing.assert_allclose(draws.mean(0), np.mean(of_family, 0), atol=0.01)
    assert (draws.std(0) > 0.01).all()


def test_resampled_means_draw_the_same_people_and_seeds_for_all_detectors():
    values, _, people = value_cube(tidy())
    draws = resampled_means(np.stack([values[0], values[0] + 0.1]), people["family"])
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 0.1)


def test_rank_shares_are_certain_where_nothing_overlaps():
    draws = np.array([[0.1, 0.9, 0.5], [0.2, 0.8, 0.6]])
    np.testing.assert_array_equal(rank_shares(draws), [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    mixed = rank_shares(np.array([[0.1, 0.9], [0.9, 0.1]]))
    np.testing.assert_array_equal(mixed, 0.5)
    tied = rank_shares(np.array([[0.3, 0.9, 0.3, 0.3]]))
    np.testing.assert_array_equal(tied[1], [1, 0, 0, 0])
    np.testing.assert_allclose(tied[[0, 2, 3], 1:], 1 / 3)
    np.testing.assert_allclose(tied.sum(1), 1)


def test_trainings_that_agree_have_a_tau_of_one_and_opposite_ones_minus_one():
    ladder = np.arange(5.0)[:, None] + np.zeros(4)  # (D, S)
    families = ["a", "a", "b", "b"]
    assert order_agreement(np.stack([ladder, ladder + 1], 1), families) == pytest.approx(1)
    assert order_agreement(np.stack([ladder, -ladder], 1), families) == pytest.approx(-1)


def test_the_group_mean_counts_every_family_alike():
    values, groups = [1.0, 1.0, 1.0, 0.0, np.nan], ["a", "a", "a", "b", "b"]
    statistic = GroupMean(values, groups)
    assert statistic(np.ones((1, 5)))[0] == pytest.approx(0.5)
    assert statistic(np.array([[3.0, 0, 0, 1, 1]]))[0] == pytest.approx(0.5)
