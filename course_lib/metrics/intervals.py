"""Confidence intervals: bootstrap over subjects, paired differences, training seeds as a second level.

Pixels and slices of one person are not independent, so only subjects are resampled; there is no function that
resamples anything else. A resample is written as how often each subject is drawn, a row of a weight matrix; a
statistic is a function of such weights (`course_lib.metrics.statistics`), so that a thousand resamples are one
matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from course_lib.errors import BadInput

MINIMAL_SUBJECTS = 5
Statistic = Callable[[np.ndarray], np.ndarray]  # weights (R, S) -> values (R,)


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
        value: on the subjects as they are.
        low, high: NaN where there is no interval.
        subjects: how many were resampled.
        seeds: how many trainings the value averages.
        method: how the interval was made.
    """

    value: float
    low: float
    high: float
    subjects: int
    seeds: int = 1
    method: str = ""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistic: Statistic | Sequence[Statistic],
    subjects: int | Sequence[int],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    method: str = "bca",
    expand: bool = True,
    seed: int = 0,
    minimum: int = MINIMAL_SUBJECTS,
) -> Interval:
    """The interval of a statistic over subjects.

    Args:
        statistic: weights (R, S) -> values (R,); several of them are one for each training seed: their mean is
            the value, and every resample draws seeds as well as subjects, with replacement.
        subjects: S; or the sizes of strata that are resampled apart (ill and healthy), which sum to S.
        resamples: R.
        level: nominal coverage.
        method: `"percentile"`, or `"bca"`: bias-corrected and accelerated, better where the statistic is skewed.
        expand: widen the quantiles from the normal's to Student's t and by sqrt(n / (n - 1)): without it an interval
            of ten subjects is about a tenth too short. With strata n is the smallest one's size, which is cautious.
        seed: of the resampling.
        minimum: fewer subjects (in any stratum) are refused.

    Returns:
        The interval. Resamples on which the statistic is undefined (no lesion was drawn) are left out; if they are
        more than a tenth, or the value itself is undefined, the bounds are NaN. An interval that would leave out its
        own value, as happens with few and skewed subjects, is widened to it.

    Raises:
        BadInput: too few subjects, an unknown method, a level outside (0, 1).

    Source: Efron, JASA 82 (1987) (BCa); Hesterberg, The American Statistician 69 (2015) (expansion).
    """
    strata = (int(subjects),) if np.ndim(subjects) == 0 else tuple(int(size) for size in subjects)
    several = list(statistic) if isinstance(statistic, (list, tuple)) else [statistic]
    if min(strata) < minimum:
        raise BadInput(
            f"{min(strata)} subjects are too few for an interval; the minimum is {minimum}.",
            field="subjects",
            remedy="Report the subjects one by one.",
        )
    if method not in ("bca", "percentile") or not 0 < level < 1:
        raise BadInput(f"no interval by {method!r} at level {level}.", field="method")
    weights, left_out = resample_weights(strata, resamples, seed), jackknife_weights(sum(strata))
    value = float(np.mean([each(np.ones((1, sum(strata))))[0] for each in several]))
    values = _mean_over_seeds(np.stack([each(weights) for each in several]), seed)  # (R,)
    label = method + (", expanded" if expand else "")
    nothing = Interval(value, float("nan"), float("nan"), sum(strata), len(several), label)
    defined = values[np.isfinite(values)]
    if not np.isfinite(value) or len(defined) < 0.9 * resamples:
        return nothing
    tail = _tail(level, min(strata), expand)  # the smallest stratum's variance is the least well known
    if method == "bca":
        jackknife = np.mean([each(left_out) for each in several], axis=0)  # (S,)
        low, high = _bca(defined, value, jackknife, tail)
    else:
        low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(min(low, value)), float(max(high, value)), sum(strata), len(several), label)


def difference(a: Statistic | Sequence[Statistic], b: Statistic | Sequence[Statistic]) -> list[Statistic]:
    """The paired difference a - b of two statistics over the same subjects in the same order, seed by seed.

    Both sides see the same resampled subjects, so what is hard for both cancels. Give it to `bootstrap`.

    Raises:
        BadInput: the numbers of seeds differ and neither is one.
    """
    a, b = (list(side) if isinstance(side, (list, tuple)) else [side] for side in (a, b))
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise BadInput(f"{len(a)} and {len(b)} seeds cannot be paired.", field="seeds")
    seeds = max(len(a), len(b))
    a, b = (side * seeds if len(side) == 1 else side for side in (a, b))
    return [lambda weights, x=x, y=y: x(weights) - y(weights) for x, y in zip(a, b, strict=True)]


@lru_cache(maxsize=64)
def resample_weights(strata: tuple[int, ...], resamples: int, seed: int = 0) -> np.ndarray:
    """(R, S): how often each subject is drawn, with replacement, within its stratum. Read-only; the same array for
    the same arguments, so that statistics can remember what they made of it.
    """
    rng = np.random.default_rng(seed)
    parts = [rng.multinomial(size, np.full(size, 1 / size), size=resamples) for size in strata]
    weights = np.concatenate(parts, axis=1).astype(np.float64)
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=64)
def jackknife_weights(subjects: int) -> np.ndarray:
    """(S, S): all subjects once but one, each in turn. Read-only."""
    weights = 1.0 - np.eye(subjects)
    weights.setflags(write=False)
    return weights


def _mean_over_seeds(values: np.ndarray, seed: int) -> np.ndarray:
    """(K, R) -> (R,): the mean of K seeds drawn with replacement, anew for every resample."""
    seeds, resamples = values.shape
    if seeds == 1:
        return values[0]
    drawn = np.random.default_rng([seed, seeds]).integers(0, seeds, (seeds, resamples))
    return np.take_along_axis(values, drawn, axis=0).mean(0)


def _tail(level: float, subjects: int, expand: bool) -> float:
    tail = (1 - level) / 2
    if not expand or subjects < 2:
        return tail
    return float(special.ndtr(np.sqrt(subjects / (subjects - 1)) * special.stdtrit(subjects - 1, tail)))


def _bca(values: np.ndarray, value: float, jackknife: np.ndarray, tail: float) -> tuple[float, float]:
    """The quantiles at Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z0 the median's bias, a the acceleration."""
    share = (np.sum(values < value) + 0.5 * np.sum(values == value)) / len(values)
    z0 = special.ndtri(np.clip(share, 1 / len(values), 1 - 1 / len(values)))
    jackknife = jackknife[np.isfinite(jackknife)]
    away = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    away = away / (np.abs(away).max() or 1.0)  # a change of scale changes nothing, and powers cannot underflow
    spread = np.sum(away**2)
    acceleration = np.sum(away**3) / (6 * spread**1.5) if spread > 0 else 0.0
    z = z0 + special.ndtri([tail, 1 - tail])
    low, high = np.quantile(values, special.ndtr(z0 + z / np.maximum(1 - acceleration * z, 1e-6)))
    return float(low), float(high)
