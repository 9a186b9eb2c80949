import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from course_lib.errors import BadInput
from course_lib.metrics import curves
from course_lib.metrics.curves import precision_recall, rank_metrics, roc, sensitivity_at_fpr


def same(a, b):
    assert np.array_equal(
        [a.ap, a.auroc, a.best_dice, a.prevalence], [b.ap, b.auroc, b.best_dice, b.prevalence], equal_nan=True
    )


@st.composite
def scored(draw, minimum=2):
    """Scores from few values (ties are the rule) or many, with labels of both classes."""
    size = draw(st.integers(minimum, 60))
    values = st.integers(-4, 4).map(float) if draw(st.booleans()) else st.floats(-1e3, 1e3, width=32)
    scores = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    labels = draw(hnp.arrays(bool, size))
    labels[:2] = True, False
    return scores, labels


def reference(scores, labels):
    precision, recall, _ = precision_recall_curve(labels, scores)
    dice = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r > 0]
    return average_precision_score(labels, scores), roc_auc_score(labels, scores), max(dice)


@given(scored())
@settings(max_examples=300, deadline=None)
def test_equals_scikit_learn_ties_included(case):
    found = rank_metrics(*case)
    assert np.allclose([found.ap, found.auroc, found.best_dice], reference(*case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.uint8, np.int64])
@pytest.mark.parametrize("prevalence", [0.002, 0.3, 0.9])
def test_equals_scikit_learn_on_many_pixels_of_any_type(dtype, prevalence):
    rng = np.random.default_rng(3)
    labels = rng.random(50_000) < prevalence
    scores = (rng.normal(size=labels.size) * 20 + 15 * labels + 100).clip(0, 255).astype(dtype)
    found = rank_metrics(scores, labels)
    assert np.allclose([found.ap, found.auroc, found.best_dice], reference(scores, labels), rtol=0, atol=1e-12)


def test_blocks_do_not_cut_ties(monkeypatch):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 30, 3000).astype(np.float32), rng.random(3000) < 0.4
    whole = rank_metrics(scores, labels)
    monkeypatch.setattr(curves, "_BLOCK", 7)
    pieces = rank_metrics(scores, labels)
    assert pieces.ap == pytest.approx(whole.ap, abs=1e-14)
    assert (pieces.best_dice, pieces.best_threshold) == (whole.best_dice, whole.best_threshold)
    assert pieces.auroc == pytest.approx(whole.auroc, abs=1e-14)


@given(scored())
@settings(max_examples=100, deadline=None)
def test_a_monotone_map_changes_nothing(case):
    scores, labels = case
    same(rank_metrics(scores, labels), rank_metrics(np.unique(scores, return_inverse=True)[1] ** 3 - 7, labels))


@given(scored(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_permutation_changes_nothing(case, random):
    scores, labels = case
    order = list(range(len(scores)))
    random.shuffle(order)
    same(rank_metrics(scores, labels), rank_metrics(scores[order], labels[order]))


@given(scored())
@settings(max_examples=100, deadline=None)
def test_the_best_threshold_reaches_the_best_dice(case):
    scores, labels = case
    found = rank_metrics(scores, labels)
    above = scores >= found.best_threshold
    assert 2 * (above & labels).sum() / (above.sum() + labels.sum()) == pytest.approx(found.best_dice, abs=1e-14)


@given(scored())
@settings(max_examples=100, deadline=None)
def test_flipping_scores_and_labels_keeps_the_auroc(case):
    scores, labels = case
    assert rank_metrics(-scores, ~labels).auroc == pytest.approx(rank_metrics(scores, labels).auroc, abs=1e-14)


def test_constant_scores_give_the_prevalence():
    labels = np.arange(1000) < 37
    found = rank_metrics(np.full(1000, 0.3), labels)
    assert (found.ap, found.auroc, found.prevalence) == (0.037, 0.5, 0.037)
    assert found.best_dice == pytest.approx(2 * 0.037 / 1.037)


@pytest.mark.parametrize("label", [True, False])
def test_a_single_class_is_undefined_never_0_or_1(label):
    found = rank_metrics(np.arange(5.0), np.full(5, label))
    assert np.isnan([found.ap, found.auroc, found.best_dice, found.best_threshold]).all()
    assert found.prevalence == float(label)
    assert np.isnan(sensitivity_at_fpr(np.arange(5.0), np.full(5, label), 0.1))
    assert precision_recall(np.arange(5.0), np.full(5, label)).empty and roc(np.arange(5.0), np.full(5, label)).empty


def test_only_the_region_counts():
    rng = np.random.default_rng(5)
    scores, labels, region = rng.normal(size=(4, 9, 9)), rng.random((4, 9, 9)) < 0.3, rng.random((4, 9, 9)) < 0.5
    same(rank_metrics(scores, labels, region), rank_metrics(scores[region], labels[region]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_scores_that_are_not_finite_are_refused(bad, where):
    scores = np.arange(4.0)
    scores[where] = bad
    with pytest.raises(BadInput) as error:
        rank_metrics(scores, np.array([True, False, True, False]))
    assert error.value.field == "scores"


@pytest.mark.parametrize("labels", [[0, 255, 0], [0.0, 0.5, 1.0], [0, 2, 1], [-1, 0, 1], [0, np.nan, 1]])
def test_labels_that_are_not_binary_are_refused(labels):
    for dtype in (None, np.uint8) if np.isfinite(labels).all() and min(labels) >= 0 and max(labels) > 1 else (None,):
        with pytest.raises(BadInput) as error:
            rank_metrics(np.arange(3.0), np.array(labels, dtype))
        assert error.value.field == "labels"


def test_other_shapes_no_pixels_and_text_are_refused():
    with pytest.raises(BadInput, match="labels"):
        rank_metrics(np.zeros((2, 3)), np.zeros((3, 2), bool))
    with pytest.raises(BadInput, match="region"):
        rank_metrics(np.zeros(3), np.zeros(3, bool), np.ones(2, bool))
    with pytest.raises(BadInput, match="no pixel"):
        rank_metrics(np.zeros(3), np.ones(3, bool), np.zeros(3, bool))
    with pytest.raises(BadInput, match="ranked"):
        rank_metrics(np.array(["a", "b"]), np.array([True, False]))


def test_nothing_is_changed_in_place():
    scores, labels, region = np.random.default_rng(0).normal(size=100), np.arange(100) % 3 == 0, np.arange(100) < 90
    copies = scores.copy(), labels.copy(), region.copy()
    for function in (rank_metrics, precision_recall, roc):
        function(scores, labels, region)
    assert all(np.array_equal(a, b) for a, b in zip((scores, labels, region), copies, strict=True))


def test_thinned_precision_recall_points_are_exact():
    rng = np.random.default_rng(2)
    labels = rng.random(20_000) < 0.1
    scores = (rng.normal(size=labels.size) + labels).round(3)
    curve = precision_recall(scores, labels, points=40)
    precision, recall, threshold = precision_recall_curve(labels, scores)
    at = np.searchsorted(threshold, curve["threshold"])
    assert 20 < len(curve) <= 40
    assert np.allclose(curve[["precision", "recall"]], np.c_[precision[at], recall[at]], rtol=0, atol=1e-12)
    assert curve["recall"].is_monotonic_increasing and curve["recall"].iloc[-1] == 1


def test_thinned_roc_points_are_exact_and_end_in_both_corners():
    rng = np.random.default_rng(2)
    labels = rng.random(20_000) < 0.1
    scores = (rng.normal(size=labels.size) + labels).round(3)
    curve = roc(scores, labels, points=60)
    fpr, tpr, threshold = roc_curve(labels, scores, drop_intermediate=False)
    at = len(threshold) - 1 - np.searchsorted(threshold[::-1], curve["threshold"][1:])
    assert np.allclose(curve[["fpr", "tpr"]][1:], np.c_[fpr[at], tpr[at]], rtol=0, atol=1e-12)
    assert tuple(curve.iloc[0, 1:]) == (0, 0) and tuple(curve.iloc[-1, 1:]) == (1, 1)


@given(scored(), st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
@settings(max_examples=100, deadline=None)
def test_sensitivity_at_fpr_is_the_best_that_keeps_the_rate(case, q):
    scores, labels = case
    thresholds = np.r_[np.unique(scores), np.inf]
    allowed = [t for t in thresholds if (scores[~labels] >= t).mean() <= q + 1e-12]
    best = max((scores[labels] >= t).mean() for t in allowed)
    # between two scores there is room for one more threshold, which the candidates above all contain
    assert sensitivity_at_fpr(scores, labels, q) == pytest.approx(best)


def test_sensitivity_at_an_impossible_rate_is_refused():
    with pytest.raises(BadInput):
        sensitivity_at_fpr(np.arange(3.0), np.array([True, False, True]), 1.5)


def test_extra_memory_stays_below_twelve_bytes_a_pixel():
    import tracemalloc

    rng = np.random.default_rng(0)
    for prevalence in (0.01, 0.5):
        scores, labels = rng.standard_normal(4_000_000, np.float32), rng.random(4_000_000) < prevalence
        tracemalloc.start()
        rank_metrics(scores, labels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * scores.size + 40 * 2**20  # the blocks of the look-up are a constant
