"""Drawings of what a ranking of pixels is worth: ROC, precision and recall, and all of it against the threshold."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.errors import BadInput
from course_lib.metrics.curves import counts_at, precision_recall, rank_metrics, roc, sorted_classes
from course_lib.metrics.scores import Scores
from course_lib.plots import MARKERS, PALETTE, WIDTH

MARK_STYLES = (":", "-.", "--", "-")


def plot_roc_and_precision_recall(scores: Mapping[str, Scores]) -> Figure:
    """The ROC curves on the left, the precision-recall curves on the right, of the same brain pixels.

    The legends give AUROC and AP, and what guessing reaches: 0.5 on the left, the prevalence on the right.

    Args:
        scores: by name; all of the same slices.

    Raises:
        BadInput: there is nothing to draw, or no lesion, or nothing else.
    """
    if not scores:
        raise BadInput("there are no scores to draw.", field="scores")
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    for k, (name, one) in enumerate(scores.items()):
        given = (one.maps, one.masks, one.brains)
        found = rank_metrics(*given)
        if np.isnan(found.ap):
            raise BadInput("all pixels are lesion, or none is: there is no curve.", field="masks")
        style = {"color": PALETTE[k % 10], "marker": MARKERS[k % len(MARKERS)], "markevery": 0.12}
        curve, against = roc(*given), precision_recall(*given)
        left.plot(curve["fpr"], curve["tpr"], label=f"{name}: AUROC {found.auroc:.3f}", **style)
        right.plot(against["recall"], against["precision"], label=f"{name}: AP {found.ap:.3f}", **style)
    left.plot([0, 1], [0, 1], color="0.4", ls=":", label="guessing: 0.5")
    right.axhline(found.prevalence, color="0.4", ls=":", label=f"guessing: {found.prevalence:.4f}")
    left.set(xlabel="false-positive rate", ylabel="recall", title="ROC")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall, the same pixels")
    for ax in (left, right):
        ax.legend(fontsize=8)
    fig.tight_layout()
    return fig


def threshold_curves(scores: Scores, thresholds: np.ndarray) -> pd.DataFrame:
    """Recall, precision and Dice of the pooled brain pixels at each threshold.

    Args:
        scores: with lesions.
        thresholds: (U,).

    Returns:
        Columns threshold, recall, precision (NaN where nothing is marked), dice.

    Raises:
        BadInput: there is no lesion.
    """
    positive, negative = sorted_classes(scores.maps, scores.masks, scores.brains)
    if not len(positive):
        raise BadInput("there is no lesion.", field="masks")
    tp, fp = counts_at(positive, negative, np.asarray(thresholds))
    marked = tp + fp
    precision = np.divide(tp, marked, out=np.full(len(tp), np.nan), where=marked > 0)
    dice = 2 * tp / (marked + len(positive))
    return pd.DataFrame({"threshold": thresholds, "recall": tp / len(positive), "precision": precision, "dice": dice})


def plot_threshold(curves: pd.DataFrame, marks: Mapping[str, float], *, xlabel: str, ax: Axes | None = None) -> Axes:
    """Recall, precision and Dice against the threshold, with named thresholds as upright lines.

    Args:
        curves: of `threshold_curves`.
        marks: thresholds by name, at most four.
        xlabel: the scores' quantity and unit.
        ax: where to draw.
    """
    ax = ax or plt.subplots(figsize=(WIDTH * 0.75, 3.5))[1]
    for k, (column, label) in enumerate({"recall": "recall", "precision": "precision", "dice": "Dice"}.items()):
        ax.plot(curves["threshold"], curves[column], color=PALETTE[k], marker=MARKERS[k], markevery=0.1, label=label)
    for style, (name, threshold) in zip(MARK_STYLES, marks.items(), strict=False):
        ax.axvline(threshold, color="0.25", ls=style, lw=1, label=name)
    ax.set(xlabel=xlabel, ylabel="over all brain pixels", ylim=(-0.02, 1.03))
    ax.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    ax.figure.tight_layout()
    return ax


def plot_coverage(intervals: pd.DataFrame, truth: float, *, ax: Axes | None = None) -> Axes:
    """Intervals side by side, one study each, with those that miss the truth in another colour and dashed.

    Args:
        intervals: columns low and high, one row a study.
        truth: drawn as a line; an end that equals it contains it.
        ax: where to draw.
    """
    ax = ax or plt.gca()
    contains = ((intervals["low"] <= truth) & (truth <= intervals["high"])).to_numpy()
    for which, color, style, label in (
        (contains, PALETTE[0], "-", "contains the truth"),
        (~contains, PALETTE[1], "--", "misses it"),
    ):
        ax.vlines(
            np.flatnonzero(which), intervals["low"][which], intervals["high"][which], color=color, ls=style, lw=2,
            label=label,
        )  # fmt: skip
    ax.axhline(truth, color="0.2", lw=1)
    ax.set(xlabel="study")
    return ax
