"""Exact, tie-correct ranking metrics of 10^8 pixels in seconds: AP, AUROC, best Dice, and points of the curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from course_lib.errors import BadInput
from course_lib.metrics import tally

_BLOCK = 2**18  # positives looked up at a time: bounds the memory whatever the prevalence


@dataclass(frozen=True)
class RankMetrics:
    """What a ranking of pixels is worth, over all thresholds.

    Attributes:
        ap: average precision, sum over thresholds of (recall step) x precision; chance is the prevalence.
        auroc: the probability that a positive outranks a negative, ties counted half; chance is 0.5.
        best_dice: the largest Dice over all thresholds. It is chosen with the labels in hand: an oracle.
        best_threshold: the highest threshold that reaches it.
        prevalence: share of positives.
        positives, negatives: counts.
    """

    ap: float
    auroc: float
    best_dice: float
    best_threshold: float
    prevalence: float
    positives: int
    negatives: int


def rank_metrics(scores: np.ndarray, labels: np.ndarray, region: np.ndarray | None = None) -> RankMetrics:
    """AP, AUROC and best Dice from one sort, exact and with ties.

    With TP(t) and FP(t) the positives and negatives that score at least t, and t running over the distinct scores of
    the positives: AP = sum_t [TP(t) - TP(t+)] / P x TP(t) / (TP(t) + FP(t)), Dice(t) = 2 TP / (TP + FP + P). Between
    two positives' scores TP is constant and FP only grows, so neither AP's steps nor the best Dice can fall there.
    Hence only the few positives are sorted, and looked up among all pixels (`metrics.tally`).

    Args:
        scores: any shape, any real dtype, higher is more anomalous.
        labels: same shape, bool or 0 and 1.
        region: same shape, bool; only these pixels count. Default: all.

    Returns:
        The metrics; all of them NaN (prevalence and counts apart) when a class is absent.

    Raises:
        BadInput: shapes differ, labels are not binary, scores are not finite, no pixel is left.

    Source: Davis and Goadrich, ICML 2006 (no linear interpolation of precision); Bamber, J. Math. Psychol. 12 (1975).
    """
    scores, labels, region = _checked(scores, labels, region)
    total = scores.size if region is None else int(region.sum())
    P = int((labels if region is None else labels & region).sum())
    if P == 0 or total <= tally.FEW or 8 * P > total:  # little to gain, or as many to look up as to look among
        return rank_sorted(*_sorted(scores, labels, region))
    positive = np.sort(scores[labels if region is None else labels & region])
    if not (np.isfinite(positive[0]) and np.isfinite(positive[-1])):
        raise _not_finite()
    everything = scores if region is None else scores[region]
    try:
        values, first, count = (np.concatenate(parts) for parts in zip(*_distinct(positive), strict=True))
        below, ties = tally.below_and_ties(values, everything)
    except FloatingPointError as error:
        raise _not_finite() from error
    sums = _Sums(P, total - P)
    sums.add(values, first, count, below - first, ties - count)  # of the negatives alone
    return sums.metrics()


def rank_sorted(positive: np.ndarray, negative: np.ndarray) -> RankMetrics:
    """`rank_metrics` of classes that are sorted already (`sorted_classes`); both may not be empty."""
    P, N = len(positive), len(negative)
    if P == 0 or N == 0:
        nan = float("nan")
        return RankMetrics(nan, nan, nan, nan, P / (P + N), P, N)
    sums = _Sums(P, N)
    for values, first, count in _distinct(positive):
        below = np.searchsorted(negative, values, "left")
        sums.add(values, first, count, below, np.searchsorted(negative, values, "right") - below)
    return sums.metrics()


class _Sums:
    """The metrics as they add up over the positives' distinct scores, which come in ascending order."""

    def __init__(self, positives: int, negatives: int):
        self.P, self.N = positives, negatives
        self.precision = self.pairs = 0.0
        self.best, self.threshold = -1.0, float("nan")

    def add(self, values: np.ndarray, first: np.ndarray, count: np.ndarray, below: np.ndarray, ties: np.ndarray):
        """Add some distinct scores.

        Args:
            values: the scores.
            first, count: how many positives score less, and as much.
            below, ties: how many negatives score less, and as much.
        """
        tp, fp = self.P - first, self.N - below
        self.precision += float((tp / (tp + fp) * count).sum())
        self.pairs += float((count * (below + 0.5 * ties)).sum())
        dice = 2 * tp / (tp + fp + self.P)
        last = len(dice) - 1 - int(dice[::-1].argmax())
        if dice[last] >= self.best:
            self.best, self.threshold = float(dice[last]), float(values[last])

    def metrics(self) -> RankMetrics:
        """The result."""
        P, N = self.P, self.N
        return RankMetrics(self.precision / P, self.pairs / (P * N), self.best, self.threshold, P / (P + N), P, N)


def precision_recall(
    scores: np.ndarray, labels: np.ndarray, region: np.ndarray | None = None, points: int = 1000
) -> pd.DataFrame:
    """Points of the precision-recall curve, thinned for plotting; each of them is exact.

    Args:
        scores, labels, region: as for `rank_metrics`.
        points: at most so many, at equally spaced recalls.

    Returns:
        Columns threshold, recall, precision, dice, by falling threshold; empty when a class is absent.

    Raises:
        BadInput: as `rank_metrics`.
    """
    positive, negative = sorted_classes(scores, labels, region)
    P, N = len(positive), len(negative)
    if P == 0 or N == 0:
        return pd.DataFrame({name: np.zeros(0) for name in ("threshold", "recall", "precision", "dice")})
    thresholds = _ranks(positive, points)[::-1]
    tp, fp = counts_at(positive, negative, thresholds)
    table = {"threshold": thresholds, "recall": tp / P, "precision": tp / (tp + fp), "dice": 2 * tp / (tp + fp + P)}
    return pd.DataFrame(table)


def roc(scores: np.ndarray, labels: np.ndarray, region: np.ndarray | None = None, points: int = 1000) -> pd.DataFrame:
    """Points of the ROC curve, thinned for plotting; each of them is exact.

    Args:
        scores, labels, region: as for `rank_metrics`.
        points: at most about so many; half at equally spaced true-positive rates, half at false-positive rates.

    Returns:
        Columns threshold, fpr, tpr, from (0, 0) at threshold infinity to (1, 1); empty when a class is absent.

    Raises:
        BadInput: as `rank_metrics`.
    """
    positive, negative = sorted_classes(scores, labels, region)
    P, N = len(positive), len(negative)
    if P == 0 or N == 0:
        return pd.DataFrame({name: np.zeros(0) for name in ("threshold", "fpr", "tpr")})
    thresholds = np.unique(np.concatenate([_ranks(positive, points // 2), _ranks(negative, points // 2)]))[::-1]
    tp, fp = counts_at(positive, negative, thresholds)
    table = {"threshold": np.r_[np.inf, thresholds], "fpr": np.r_[0, fp / N], "tpr": np.r_[0, tp / P]}
    return pd.DataFrame(table)


def sensitivity_at_fpr(scores: np.ndarray, labels: np.ndarray, fpr: float, region: np.ndarray | None = None) -> float:
    """The share of positives detected when at most `fpr` of the negatives of the **same data** are.

    It takes its threshold from the labels of the data that it scores, so it is an oracle; for a threshold that a
    hospital could set, see `thresholds.HealthyFPR`. NaN when a class is absent.

    Raises:
        BadInput: as `rank_metrics`, or `fpr` outside [0, 1].
    """
    if not 0 <= fpr <= 1:
        raise BadInput(f"a false-positive rate of {fpr} is not in [0, 1].", field="fpr")
    positive, negative = sorted_classes(scores, labels, region)
    P, N = len(positive), len(negative)
    if P == 0 or N == 0:
        return float("nan")
    allowed = int(np.floor(fpr * N * (1 + 1e-12)))  # 0.05 x 20 is 1 negative, not 0.9999...
    if allowed >= N:
        return 1.0
    return float((P - np.searchsorted(positive, negative[N - 1 - allowed], "right")) / P)


def counts_at(positive: np.ndarray, negative: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at each threshold, from the two classes' sorted scores (`sorted_classes`)."""
    tp = len(positive) - np.searchsorted(positive, thresholds, "left")
    fp = len(negative) - np.searchsorted(negative, thresholds, "left")
    return tp, fp


def sorted_classes(
    scores: np.ndarray, labels: np.ndarray, region: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the positives and of the negatives, each ascending, in the scores' own dtype.

    Raises:
        BadInput: shapes differ, labels or region are not binary, scores are not finite, no pixel is left.
    """
    return _sorted(*_checked(scores, labels, region))


def _checked(
    scores: np.ndarray, labels: np.ndarray, region: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The three as flat arrays of fitting types; whether the scores are finite is seen when they are sorted."""
    scores = np.asarray(scores)
    if scores.dtype == bool:
        scores = scores.view(np.uint8)
    elif scores.dtype == np.float16:
        scores = scores.astype(np.float32)  # exact, and sorts faster
    elif scores.dtype.kind not in "fiu":
        raise BadInput(f"scores of type {scores.dtype} cannot be ranked.", field="scores")
    flat = []
    for field, array in (("labels", labels), ("region", region)):
        array = None if array is None else as_binary(array, field)
        if array is not None and array.shape != scores.shape:
            raise BadInput(f"{field} {array.shape} for scores {scores.shape}.", field=field)
        flat.append(None if array is None else array.reshape(-1))
    if not (scores.size if region is None else flat[1].any()):
        raise BadInput("there is no pixel to score.", field="scores")
    return scores.reshape(-1), *flat


def _sorted(scores: np.ndarray, labels: np.ndarray, region: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    positive = scores[labels if region is None else labels & region]
    negative = scores[~labels if region is None else ~labels & region]
    for part in (positive, negative):
        part.sort()  # NaN goes last, so the ends tell whether all are finite
        if len(part) and not (np.isfinite(part[0]) and np.isfinite(part[-1])):
            raise _not_finite()
    return positive, negative


def _not_finite() -> BadInput:
    return BadInput("scores are NaN or infinite.", field="scores", remedy="Look at the detector's maps.")


def as_binary(array: np.ndarray, field: str) -> np.ndarray:
    """The array as bool, without a copy where it is bool or uint8.

    Raises:
        BadInput: it has a value other than 0 and 1 (0 and 255, a soft mask, NaN).
    """
    array = np.asarray(array)
    if array.dtype == bool:
        return array
    if array.dtype == np.uint8:
        binary = array.size == 0 or array.max() <= 1
    else:
        binary = array.dtype.kind in "fiu" and bool(((array == 0) | (array == 1)).all())
    if not binary:
        raise BadInput("not binary: a value is neither 0 nor 1.", field=field, remedy="Threshold it first.")
    return array.view(bool) if array.dtype == np.uint8 else array.astype(bool)


def _distinct(positive: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The distinct values of a sorted array in blocks, with the index of the first of each and their count."""
    start, size = 0, len(positive)
    while start < size:
        stop = min(start + _BLOCK, size)
        if stop < size:  # do not cut a run of equal scores
            stop = int(np.searchsorted(positive, positive[stop - 1], "right"))
        block = positive[start:stop]
        first = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
        yield block[first], start + first, np.diff(first, append=len(block))
        start = stop


def _ranks(ascending: np.ndarray, points: int) -> np.ndarray:
    """Distinct values of a sorted array at equally spaced ranks, both ends among them, ascending."""
    ranks = np.linspace(0, len(ascending) - 1, max(2, min(points, len(ascending)))).round().astype(int)
    return np.unique(ascending[ranks])
