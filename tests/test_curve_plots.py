"""The curves' drawings, against scikit-learn and by what they say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from course_lib.curve_plots import plot_coverage, plot_roc_and_precision_recall, plot_threshold, threshold_curves
from course_lib.errors import BadInput
from course_lib.metrics.scores import Scores


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def scores(lesions: bool = True) -> Scores:
    """Six noisy slices, in whose left half the brain lies; lesions score higher."""
    rng = np.random.default_rng(0)
    brains = np.zeros((6, 16, 16), bool)
    brains[:, :, :8] = True
    masks = brains & (rng.random(brains.shape) < 0.1) & lesions
    table = pd.DataFrame({"subject": [f"sub-{k}" for k in range(6)], "slice": 0, "split": "test", "family": "ms"})
    return Scores(rng.normal(0, 1, brains.shape) + 1.5 * masks, masks, brains, table)


def of_brain(s: Scores) -> tuple[np.ndarray, np.ndarray]:
    return s.masks[s.brains], s.maps[s.brains]


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_legends_give_what_scikit_learn_finds():
    s = scores()
    left, right = plot_roc_and_precision_recall({"map": s}).axes
    assert labels(left) == [f"map: AUROC {roc_auc_score(*of_brain(s)):.3f}", "guessing: 0.5"]
    chance = s.masks[s.brains].mean()
    assert labels(right) == [f"map: AP {average_precision_score(*of_brain(s)):.3f}", f"guessing: {chance:.4f}"]


def test_roc_runs_from_corner_to_corner():
    left, _ = plot_roc_and_precision_recall({"map": scores()}).axes
    x, y = left.lines[0].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()


def test_no_curve_without_scores_or_lesions():
    with pytest.raises(BadInput, match="no scores"):
        plot_roc_and_precision_recall({})
    with pytest.raises(BadInput, match="no curve"):
        plot_roc_and_precision_recall({"map": scores(lesions=False)})


@pytest.mark.parametrize("t", [-1.0, 0.3, 1.7])
def test_curves_at_a_threshold_agree_with_scikit_learn(t):
    s = scores()
    row = threshold_curves(s, np.array([t])).iloc[0]
    truth, values = of_brain(s)
    given = (truth, values >= t)
    assert row["recall"] == pytest.approx(recall_score(*given))
    assert row["precision"] == pytest.approx(precision_score(*given))
    assert row["dice"] == pytest.approx(f1_score(*given))


def test_where_nothing_is_marked_precision_is_undefined():
    row = threshold_curves(scores(), np.array([99.0])).iloc[0]
    assert np.isnan(row["precision"]) and row["recall"] == row["dice"] == 0


def test_threshold_curves_need_a_lesion():
    with pytest.raises(BadInput, match="no lesion"):
        threshold_curves(scores(lesions=False), np.array([0.0]))


def test_marks_stand_at_their_thresholds():
    curves = threshold_curves(scores(), np.linspace(-2, 3, 21))
    ax = plot_threshold(curves, {"honest": 1.25, "oracle": 0.75}, xlabel="score")
    assert labels(ax) == ["recall", "precision", "Dice", "honest", "oracle"]
    assert [line.get_xdata()[0] for line in ax.lines[3:]] == [1.25, 0.75]
    assert ax.get_xlabel() == "score"


def test_intervals_are_told_apart_by_the_truth():
    table = pd.DataFrame({"low": [0.1, 0.5, 0.3], "high": [0.4, 0.6, 0.4]}, index=[7, 8, 9])
    ax = plot_coverage(table, 0.4)
    hit, miss = ([segment[0, 0] for segment in lines.get_segments()] for lines in ax.collections)
    assert (hit, miss) == ([0, 2], [1])
