import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from course_lib.errors import BadInput
from course_lib.metrics.curves import rank_metrics
from course_lib.metrics.intervals import bootstrap, difference, jackknife_weights, resample_weights
from course_lib.metrics.statistics import Maximum, Mean, PooledRanking, Ratio


def subjects(rng, count=8, pixels=60, decimals=1, prevalence=0.2):
    """Scores and labels of some subjects, with ties and a level of each one's own."""
    labels = [rng.random(pixels) < prevalence for _ in range(count)]
    scores = [(rng.normal(size=pixels) * 0.5 + g + rng.normal(0, 0.5)).round(decimals) for g in labels]
    return [s.astype(np.float32) for s in scores], labels


def repeated(scores, labels, weights):
    """The pooled pixels when each subject is drawn so often: the brute force."""
    times = weights.astype(int)
    return (np.concatenate([np.tile(a, k) for a, k in zip(part, times, strict=True)]) for part in (scores, labels))


def test_weighted_ranking_equals_repeating_the_subjects():
    rng = np.random.default_rng(0)
    scores, labels = subjects(rng)
    pooled, weights = PooledRanking(scores, labels), resample_weights((8,), 40, 1)
    assert pooled.exact
    ap, auroc, dice = pooled.ap(weights), pooled.auroc(weights), pooled.best_dice(weights)
    for r, row in enumerate(weights):
        s, g = repeated(scores, labels, row)
        assert ap[r] == pytest.approx(average_precision_score(g, s), abs=1e-12)
        assert auroc[r] == pytest.approx(roc_auc_score(g, s), abs=1e-12)
        best = max(2 * ((s >= t) & g).sum() / ((s >= t).sum() + g.sum()) for t in np.unique(s))
        assert dice[r] == pytest.approx(best, abs=1e-12)


def test_thinned_ranking_is_accurate_and_its_value_exact():
    rng = np.random.default_rng(1)
    scores, labels = subjects(rng, pixels=4000, decimals=7)
    exact, thin = PooledRanking(scores, labels, grid=10**9), PooledRanking(scores, labels, grid=512)
    weights = resample_weights((8,), 200, 2)
    assert exact.exact and not thin.exact
    assert np.abs(thin.auroc(weights) - exact.auroc(weights)).max() < 2 / (3 * 512)
    assert np.abs(thin.ap(weights) - exact.ap(weights)).max() < 2e-4
    assert np.abs(thin.best_dice(weights) - exact.best_dice(weights)).max() < 2 / 512
    s, g = np.concatenate(scores), np.concatenate(labels)
    assert thin.ap(np.ones((1, 8)))[0] == pytest.approx(average_precision_score(g, s), abs=1e-12)
    assert thin.auroc(np.ones((1, 8)))[0] == pytest.approx(roc_auc_score(g, s), abs=1e-12)


def test_a_resample_without_a_class_is_undefined():
    pooled = PooledRanking([np.arange(3.0), np.arange(3.0)], [np.array([True, False, True]), np.zeros(3, bool)])
    weights = np.array([[0.0, 2.0], [1.0, 1.0]])
    assert (
        np.isnan(pooled.ap(weights)[0])
        and np.isnan(pooled.auroc(weights)[0])
        and np.isnan(pooled.best_dice(weights)[0])
    )
    assert np.isfinite(pooled.ap(weights)[1])


def test_ratios_means_and_maxima_are_what_they_say():
    weights = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    assert Ratio([1, 5, 2], [2, 5, 2])(weights).tolist() == [4 / 6, 1.0]
    assert np.isnan(Ratio([0, 0, 0], [0, 1, 0])(weights)[0])
    assert Mean([1.0, np.nan, 4.0])(weights)[0] == 2 and np.isnan(Mean([1.0, np.nan, 4.0])(weights)[1])
    assert Maximum([1, 9, 3])(weights).tolist() == [3, 9]


def test_resamples_keep_the_strata_and_are_reproducible():
    weights = resample_weights((6, 4), 100, 3)
    assert (weights[:, :6].sum(1) == 6).all() and (weights[:, 6:].sum(1) == 4).all()
    resample_weights.cache_clear()
    assert np.array_equal(weights, resample_weights((6, 4), 100, 3))
    assert jackknife_weights(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    with pytest.raises(ValueError):
        weights[0, 0] = 7


@given(st.lists(st.floats(-10, 10), min_size=5, max_size=30), st.sampled_from(["bca", "percentile"]), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_the_interval_contains_the_estimate(values, method, seed):
    found = bootstrap(Mean(values), len(values), resamples=200, method=method, seed=seed)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_equal_scipys(method):
    values = np.random.default_rng(0).lognormal(0, 1, 40)
    ours = bootstrap(Mean(values), 40, resamples=20_000, method=method, expand=False)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_of_the_pooled_ap_equal_brute_force(method):
    rng = np.random.default_rng(5)
    scores, labels = subjects(rng, count=12)
    found = bootstrap(PooledRanking(scores, labels).ap, 12, resamples=300, method=method, expand=False, seed=4)

    def ap(row):
        s, g = repeated(scores, labels, row)
        return average_precision_score(g, s)

    values, value = np.array([ap(row) for row in resample_weights((12,), 300, 4)]), ap(np.ones(12))
    tails = np.array([0.025, 0.975])
    if method == "bca":
        jackknife = np.array([ap(row) for row in jackknife_weights(12)])
        away = jackknife.mean() - jackknife
        a = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
        z0 = stats.norm.ppf(np.mean(values < value))
        z = z0 + stats.norm.ppf(tails)
        tails = stats.norm.cdf(z0 + z / (1 - a * z))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, tails)), abs=1e-9)


def test_expansion_widens_and_matters_less_with_more_subjects():
    def width(count, expand):
        found = bootstrap(Mean(np.arange(count)), count, expand=expand)
        return found.high - found.low

    ratios = [width(count, True) / width(count, False) for count in (8, 100)]
    assert ratios[0] > 1.1 > ratios[1] > 1.0


def test_expansion_is_that_of_the_smallest_stratum():
    """Five ill and two hundred healthy subjects: what is uncertain is the five."""
    few = np.arange(5.0)

    def width(strata, **options):
        padded = np.r_[few, np.full(sum(strata) - 5, np.nan)]  # the mean over the five alone
        found = bootstrap(Mean(padded), strata, resamples=20_000, method="percentile", **options)
        return found.high - found.low

    assert width((5, 200)) == pytest.approx(width((5,)), rel=0.02)
    assert width((5, 200)) > 1.2 * width((5, 200), expand=False)


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, 20)
    a, b = Mean(level + 0.2 + rng.normal(0, 0.1, 20)), Mean(level + rng.normal(0, 0.1, 20))
    paired, alone = bootstrap(difference(a, b), 20), bootstrap(a, 20)
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)
    assert paired.low > 0 and paired.value == pytest.approx(0.2, abs=0.1)
    with pytest.raises(BadInput):
        difference([a, a], [b, b, b])


def test_seeds_are_a_second_level():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 30)
    near, far = ([Mean(values + shift) for shift in shifts] for shifts in ((-0.01, 0.01, 0.0), (-1.0, 1.0, 0.0)))
    one, same, spread = bootstrap(Mean(values), 30), bootstrap(near, 30), bootstrap(far, 30)
    assert same.seeds == 3 and same.value == pytest.approx(one.value)
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)
    assert spread.high - spread.low > 1.5 * (one.high - one.low)


def test_too_few_subjects_and_unknown_methods_are_refused():
    with pytest.raises(BadInput, match="too few"):
        bootstrap(Mean(np.arange(4)), 4)
    with pytest.raises(BadInput, match="too few"):
        bootstrap(Mean(np.arange(12)), (8, 4))
    assert bootstrap(Mean(np.arange(4)), 4, minimum=3).subjects == 4
    for wrong in ({"method": "pixels"}, {"level": 1.0}):
        with pytest.raises(BadInput):
            bootstrap(Mean(np.arange(9)), 9, **wrong)


def test_an_undefined_statistic_has_no_interval():
    found = bootstrap(Mean(np.full(6, np.nan)), 6)
    assert np.isnan([found.value, found.low, found.high]).all()
    rare = bootstrap(Ratio([1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]), 6)  # most resamples do not draw the one lesion
    assert rare.value == 1 and np.isnan([rare.low, rare.high]).all()


def coverage(draw, truth, count, method, trials=300, **options):
    inside = 0
    for trial in range(trials):
        found = bootstrap(draw(np.random.default_rng([trial, count])), count, resamples=400, method=method, **options)
        inside += found.low <= truth <= found.high
    return inside / trials


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("count", [12, 40])
def test_a_95_percent_interval_of_a_mean_covers_about_95_percent(method, count):
    # 300 trials: one standard error is 1.3 %
    covered = coverage(lambda rng: Mean(rng.beta(3, 2, count)), 0.6, count, method)
    assert 0.91 <= covered <= 0.985


def test_intervals_of_a_pooled_ap_cover_and_resampled_pixels_would_not():
    # patients differ in noise level and in how visible the lesion is
    def patients(rng, count):
        labels = [np.arange(80) < 8 for _ in range(count)]
        return [rng.normal(size=80) * rng.lognormal(0, 0.2) + rng.uniform(0, 3) * g for g in labels], labels

    def pooled(rng, count):
        return (np.concatenate(part) for part in patients(rng, count))

    truth = rank_metrics(*pooled(np.random.default_rng(99), 8000)).ap
    covered = coverage(lambda rng: PooledRanking(*patients(rng, 24)).ap, truth, 24, "bca", trials=150)
    assert 0.88 <= covered <= 0.99
    inside = 0
    for trial in range(60):
        rng = np.random.default_rng([trial, 24])
        scores, labels = pooled(rng, 24)
        drawn = rng.integers(0, len(scores), (60, len(scores)))
        low, high = np.quantile([rank_metrics(scores[rows], labels[rows]).ap for rows in drawn], [0.025, 0.975])
        inside += low <= truth <= high
    assert inside / 60 < 0.85
