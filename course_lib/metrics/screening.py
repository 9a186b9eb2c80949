"""What a threshold would mean in a screening clinic: predictive values, workload and cost at a prevalence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from course_lib.errors import BadInput
from course_lib.metrics.intervals import Interval

SCANS = 1000  # workload is stated for so many
_DRAWS = 2000


@dataclass(frozen=True)
class Clinic:
    """One threshold, one prevalence.

    Attributes:
        sensitivity: share of ill persons who are recalled.
        specificity: share of healthy persons who are not.
        ppv: share of the recalled who are ill. NaN where nobody is recalled.
        npv: share of the others who are healthy. NaN where everybody is recalled.
        recalled, missed, false_alarms: persons in `SCANS` scans.
        cost: of `SCANS` scans, in false alarms: a missed person counts as `miss_cost` of them.
    """

    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval
    recalled: float
    missed: float
    false_alarms: float
    cost: float


def clinic(
    ill_flagged: int, ill: int, healthy_flagged: int, healthy: int, prevalence: float, miss_cost: float = 1.0
) -> Clinic:
    """Predictive values by Bayes' rule, from counts of persons.

    With sensitivity s, specificity c and prevalence p: PPV = s p / (s p + (1 - c)(1 - p)) and
    NPV = c (1 - p) / (c (1 - p) + (1 - s) p). In n scans, n s p + n (1 - c)(1 - p) persons are recalled, n p (1 - s)
    missed. Intervals (95 %) of s and c are Jeffreys', the quantiles of Beta(k + 1/2, n - k + 1/2), which does not
    shrink to a point where all or none are flagged; those of PPV and NPV are quantiles over draws from both. They
    hold what sampling persons leaves open, at a prevalence that is known.

    Args:
        ill_flagged, ill: recalled and all ill persons.
        healthy_flagged, healthy: recalled and all healthy persons.
        prevalence: share of ill persons among those who come, in (0, 1).
        miss_cost: what a missed person costs, in false alarms; 0 or more.

    Raises:
        BadInput: counts that cannot be, a prevalence outside (0, 1), a negative cost.

    Source: Brown, Cai and DasGupta, Statistical Science 16 (2001) (Jeffreys); Altman and Bland, BMJ 309 (1994) (PPV).
    """
    for flagged, all_, field in ((ill_flagged, ill, "ill"), (healthy_flagged, healthy, "healthy")):
        if not 0 <= flagged <= all_ or all_ == 0:
            raise BadInput(f"{flagged} of {all_} {field} persons are recalled.", field=field)
    if not 0 < prevalence < 1:
        raise BadInput(f"a prevalence of {prevalence} is not between 0 and 1.", field="prevalence")
    if miss_cost < 0:
        raise BadInput(f"a missed person cannot cost {miss_cost:g}.", field="miss_cost")
    s, c, p = ill_flagged / ill, 1 - healthy_flagged / healthy, prevalence
    s_draws, c_draws = _draws(ill_flagged, ill, 0), _draws(healthy - healthy_flagged, healthy, 1)
    persons = ill + healthy
    false_alarms, missed = SCANS * (1 - c) * (1 - p), SCANS * p * (1 - s)
    return Clinic(
        sensitivity=jeffreys(ill_flagged, ill),
        specificity=jeffreys(healthy - healthy_flagged, healthy),
        ppv=_interval(_share(s * p, (1 - c) * (1 - p)), _share(s_draws * p, (1 - c_draws) * (1 - p)), persons),
        npv=_interval(_share(c * (1 - p), (1 - s) * p), _share(c_draws * (1 - p), (1 - s_draws) * p), persons),
        recalled=SCANS * s * p + false_alarms,
        missed=missed,
        false_alarms=false_alarms,
        cost=false_alarms + miss_cost * missed,
    )


def jeffreys(hits: int, trials: int) -> Interval:
    """A share with Jeffreys' 95 % interval; its end is 0 or 1 where no or all trials are hits."""
    low, high = special.betaincinv(hits + 0.5, trials - hits + 0.5, [0.025, 0.975])
    ends = (0.0 if hits == 0 else float(low), 1.0 if hits == trials else float(high))
    return Interval(hits / trials, *ends, trials, method="Jeffreys")


def _draws(hits: int, trials: int, stream: int) -> np.ndarray:
    """Draws from Beta(k + 1/2, n - k + 1/2), the same ones for the same counts."""
    return np.random.default_rng([stream, 7]).beta(hits + 0.5, trials - hits + 0.5, _DRAWS)


def _share(part: float | np.ndarray, rest: float | np.ndarray):
    total = part + rest
    return part / total if np.ndim(total) or total > 0 else float("nan")


def _interval(value: float, draws: np.ndarray, persons: int) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    if np.isnan(value):
        return Interval(value, float("nan"), float("nan"), persons, method="Jeffreys")
    return Interval(value, float(min(low, value)), float(max(high, value)), persons, method="Jeffreys")
