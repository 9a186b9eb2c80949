"""Statistics as functions of how often each subject is drawn: weights (R, S) -> values (R,)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from course_lib.metrics.curves import rank_sorted, sorted_classes

GRID = 4096  # distinct positive scores up to which the weighted ranking metrics are exact
_BLOCK = 512  # thresholds looked at together


class Mean:
    """The mean over subjects of one number each; subjects for whom it is NaN (undefined) are left out.

    Args:
        values: (S,).
    """

    def __init__(self, values: Sequence[float]):
        values = np.asarray(values, np.float64)
        self.defined = np.isfinite(values).astype(np.float64)
        self.values = np.where(self.defined > 0, values, 0.0)

    def __call__(self, weights: np.ndarray) -> np.ndarray:  # noqa: D102  (see the class)
        return _divide(weights @ self.values, weights @ self.defined)


class GroupMean:
    """The mean over groups of the mean over their subjects: every family counts alike, however many people it has.

    Args:
        values: (S,); NaN is left out.
        groups: (S,), the group of each subject.
    """

    def __init__(self, values: Sequence[float], groups: Sequence):
        values, groups = np.asarray(values, np.float64), np.asarray(groups)
        self.means = [Mean(np.where(groups == group, values, np.nan)) for group in dict.fromkeys(groups.tolist())]

    def __call__(self, weights: np.ndarray) -> np.ndarray:  # noqa: D102  (see the class)
        return np.mean([mean(weights) for mean in self.means], axis=0)


class Ratio:
    """Sum over subjects of a count, over the sum of another: pooled sensitivity, precision, Dice, FPR, FP per scan.

    Args:
        numerator, denominator: (S,).
    """

    def __init__(self, numerator: Sequence[float], denominator: Sequence[float]):
        self.numerator, self.denominator = (np.asarray(part, np.float64) for part in (numerator, denominator))

    def __call__(self, weights: np.ndarray) -> np.ndarray:  # noqa: D102  (see the class)
        return _divide(weights @ self.numerator, weights @ self.denominator)


class Maximum:
    """The largest of the subjects' numbers. A bootstrap of a maximum has no valid interval: give it none."""

    def __init__(self, values: Sequence[float]):
        self.values = np.asarray(values, np.float64)

    def __call__(self, weights: np.ndarray) -> np.ndarray:  # noqa: D102  (see the class)
        return np.where(weights > 0, self.values, -np.inf).max(1)


class PooledRanking:
    """AP, AUROC and best Dice of pooled pixels (or images) when every subject counts w times.

    Nothing is sorted again: for each distinct positive score u, how many positives and negatives of each subject
    score at least u is counted once; weighted counts are then matrix products of weights (R, S) and counts (S, U).
    Exact if the positives have at most `grid` distinct scores. With more, `grid` of them are kept: the highest quarter
    of the grid one by one, where precision still jumps, and the rest at equally spaced ranks; positives between two
    are given their mean precision. AUROC is then off by at most 2 / (3 grid), AP by at most the sum over gaps of
    (share of positives) x (range of the precision there) / 2, in practice below 1e-4, and the best Dice is low by
    at most the step between two kept scores. With every subject once (the value itself) all three are exact always.

    Args:
        scores: one array for each subject.
        labels: one bool array for each subject.
        grid: see above.

    Attributes:
        whole: the exact `RankMetrics` of all subjects together.
        own: those of each subject.
        exact: whether resamples are exact too.
    """

    def __init__(self, scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], grid: int = GRID):
        classes = [_sorted_or_empty(s, g) for s, g in zip(scores, labels, strict=True)]
        self.positives = np.array([len(p) for p, _ in classes], np.float64)  # (S,)
        self.negatives = np.array([len(n) for _, n in classes], np.float64)
        pooled, negative = (np.sort(np.concatenate([pair[side] for pair in classes])) for side in (0, 1))
        self.whole = rank_sorted(pooled, negative)
        self.own = [rank_sorted(*pair) if len(pair[0]) + len(pair[1]) else None for pair in classes]
        thresholds = np.unique(pooled)
        self.exact = len(thresholds) <= grid
        if not self.exact:
            spaced = np.linspace(0, len(pooled) - 1, grid - grid // 4).round().astype(int)
            thresholds = np.unique(pooled[np.r_[spaced, len(pooled) - grid // 4 : len(pooled)]])
        self.tp = _above([p for p, _ in classes], thresholds, "left")  # (S, U): that score at least u
        self.fp = _above([n for _, n in classes], thresholds, "left")
        self._higher = _above([n for _, n in classes], thresholds, "right") if self.exact else self._next(self.fp)
        higher = _above([p for p, _ in classes], thresholds, "right")
        self._between = higher - self._next(self.tp)  # (S, U): positives strictly between u and the next threshold
        self._wins = self._count_wins()  # (S, S)
        self._last: tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray]] = (None, (np.zeros(0), np.zeros(0)))

    def ap(self, weights: np.ndarray) -> np.ndarray:
        """(R, S) -> (R,); NaN where a class is not drawn."""
        return self._curve(weights)[0]

    def best_dice(self, weights: np.ndarray) -> np.ndarray:
        """(R, S) -> (R,): the threshold is chosen again in every resample."""
        return self._curve(weights)[1]

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """(R, S) -> (R,): sum over pairs of subjects of w w' x (wins of one's positives over the other's negatives)."""
        if _everyone(weights):
            return np.array([self.whole.auroc])
        won = np.einsum("rs,rs->r", weights @ self._wins, weights)
        return _divide(won, (weights @ self.positives) * (weights @ self.negatives))

    def _count_wins(self) -> np.ndarray:
        """wins[s, s']: pairs in which a positive of s outranks a negative of s', ties (and gaps) counted half."""
        own = -np.diff(self.tp, axis=1, append=0)  # (S, U) positives in [u, next u)
        # they beat the negatives below u, and half of those at u (exact) or between u and the next threshold
        return own @ (self.negatives[:, None] - 0.5 * (self.fp + self._higher)).T

    @staticmethod
    def _next(counts: np.ndarray) -> np.ndarray:
        return np.concatenate([counts[:, 1:], np.zeros((len(counts), 1))], axis=1)

    def _curve(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if _everyone(weights):
            return np.array([self.whole.ap]), np.array([self.whole.best_dice])
        if self._last[0] is weights:
            return self._last[1]
        positives = weights @ self.positives  # (R,)
        total = np.zeros(len(weights))
        best = np.zeros(len(weights))
        tp_next, precision_next = np.zeros((len(weights), 1)), None
        for stop in range(self.tp.shape[1], 0, -_BLOCK):  # from the highest threshold down
            part = slice(max(0, stop - _BLOCK), stop)
            tp, fp = weights @ self.tp[:, part], weights @ self.fp[:, part]  # (R, U)
            precision = _divide(tp, tp + fp, 0.0)
            steps = tp - np.concatenate([tp[:, 1:], tp_next], axis=1)
            total += (steps * precision).sum(1)
            if not self.exact:  # those strictly between two thresholds: half the way to the precision above
                last = precision[:, -1:] if precision_next is None else precision_next
                above = np.concatenate([precision[:, 1:], last], axis=1)
                between = np.where(above > 0, above - precision, 0)  # 0: nothing drawn above
                total += 0.5 * ((weights @ self._between[:, part]) * between).sum(1)
            best = np.maximum(best, _divide(2 * tp, tp + fp + positives[:, None], 0.0).max(1))
            tp_next, precision_next = tp[:, :1], precision[:, :1]
        defined = (positives > 0) & (weights @ self.negatives > 0)
        result = np.where(defined, _divide(total, positives), np.nan), np.where(defined, best, np.nan)
        self._last = (weights, result)
        return result


def _sorted_or_empty(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.size(scores) == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    return sorted_classes(scores, labels)


def _everyone(weights: np.ndarray) -> bool:
    return len(weights) == 1 and bool((weights == 1).all())


def _above(ascending: Sequence[np.ndarray], thresholds: np.ndarray, side: str) -> np.ndarray:
    """(S, U): how many of each subject's sorted scores lie at or above (`"left"`), or above, each threshold."""
    counts = [len(scores) - np.searchsorted(scores, thresholds, side) for scores in ascending]
    return np.array(counts, np.float64).reshape(len(ascending), len(thresholds))


def _divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, otherwise), where=denominator > 0)
