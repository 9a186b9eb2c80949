import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib.errors import BadInput
from course_lib.metrics import curves, tally
from course_lib.metrics.curves import rank_metrics, sorted_classes
from course_lib.metrics.tally import below_and_ties


@pytest.fixture
def always(monkeypatch):
    """Use the buckets however few the numbers, and so few buckets that many numbers share one."""
    monkeypatch.setattr(tally, "FEW", 0)
    monkeypatch.setattr(tally, "_BLOCK", 16)
    monkeypatch.setattr(tally, "_BUCKETS", (32, 32))


def check(values, many):
    below, ties = below_and_ties(values, many)
    assert np.array_equal(below, [(many < v).sum() for v in values])
    assert np.array_equal(ties, [(many == v).sum() for v in values])


NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32) | st.integers(-5, 5).map(float) | st.floats(-1, 1, width=32)


@given(many=hnp.arrays(np.float32, st.integers(2, 80), elements=NUMBERS), data=st.data())
@settings(max_examples=400, deadline=None)
def test_counts_are_exact(many, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "FEW", 0)
        patch.setattr(tally, "_BLOCK", 16)
        patch.setattr(tally, "_BUCKETS", (32, 32))
        values = np.unique(data.draw(hnp.arrays(np.float32, st.integers(1, 20), elements=NUMBERS)))
        check(values, many)
        check(np.unique(many[::3]), many)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.int16])
def test_counts_are_exact_for_any_type(always, dtype):
    many = (np.random.default_rng(0).gamma(1.5, 20, 3000)).astype(dtype)
    check(np.unique(many[::17]), many)
    check(np.array([many.max()]), many)


@pytest.mark.parametrize("spread", ["gamma", "outlier above", "outlier below", "negative", "constant", "tiny", "huge"])
def test_awkward_distributions_are_ranked_as_by_sorting(spread):
    rng = np.random.default_rng(0)
    scores, labels = rng.gamma(1.5, 0.1, 1_500_000).astype(np.float32), rng.random(1_500_000) < 0.01
    scores[labels] += 0.1
    positive = np.flatnonzero(labels)[0]
    if spread == "outlier above":
        scores[:3], scores[positive] = 1e30, 1e31
    elif spread == "outlier below":
        scores[:3], scores[positive] = -1e30, -1e31
    elif spread == "negative":
        scores = -scores
    elif spread == "constant":
        scores[:] = 0.5
    elif spread == "tiny":
        scores *= np.float32(1e-42)
    elif spread == "huge":
        scores *= np.float32(1e37)
    found = rank_metrics(scores, labels)
    expected = curves.rank_sorted(*sorted_classes(scores, labels))
    assert found.ap == pytest.approx(expected.ap, abs=1e-13) and found.auroc == pytest.approx(expected.auroc, abs=1e-13)
    assert (found.best_dice, found.best_threshold) == (expected.best_dice, expected.best_threshold)


def test_many_pixels_in_a_region_equal_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(1)
    labels, region = rng.random((20, 300, 300)) < 0.02, rng.random((20, 300, 300)) < 0.8
    scores = (rng.normal(size=labels.shape) + labels).astype(np.float32)
    found = rank_metrics(scores, labels, region)
    assert found.ap == pytest.approx(average_precision_score(labels[region], scores[region]), abs=1e-12)
    assert found.auroc == pytest.approx(roc_auc_score(labels[region], scores[region]), abs=1e-12)
    assert found.positives == (labels & region).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("positive", [True, False])
def test_one_score_that_is_not_finite_is_found_among_many(bad, positive):
    scores, labels = np.random.default_rng(0).random(1_200_000), np.arange(1_200_000) % 50 == 0
    scores[0 if positive else 777_777] = bad
    with pytest.raises(BadInput, match="NaN or infinite"):
        rank_metrics(scores, labels)
