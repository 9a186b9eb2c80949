"""Who comes before whom: ranks of detectors over people, how far apart they must be, how stable the order is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from course_lib.errors import BadInput
from course_lib.metrics.intervals import resample_weights

COLUMNS = ("detector", "seed", "family", "subject", "value")


def rank_people(values: np.ndarray) -> np.ndarray:
    """The rank of each detector on each person, 1 for the highest value, ties shared: `(D, S)` to `(D, S)`."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(values, np.float64), axis=0)


def critical_difference(detectors: int, people: int, level: float = 0.95) -> float:
    """Nemenyi's critical difference: mean ranks over `people` that lie closer than this are not told apart.

        CD = q / sqrt(2) * sqrt(k (k + 1) / 6 N),

    k detectors, N people, q the quantile of the studentised range of k normal variables. It guards all pairs at once,
    and knows people as the only source of chance: trainings have to be averaged before.

    Raises:
        BadInput: fewer than two detectors or people.

    Source: Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006), section 3.2.2.
    """
    from scipy.stats import studentized_range

    if detectors < 2 or people < 2:
        raise BadInput(f"{detectors} detectors on {people} people have no critical difference.", field="ranks")
    q = float(studentized_range.ppf(level, detectors, math.inf))
    return q / math.sqrt(2) * math.sqrt(detectors * (detectors + 1) / (6 * people))


def value_cube(table: pd.DataFrame) -> tuple[np.ndarray, list[str], pd.DataFrame]:
    """A tidy table as an array, for those people whom every detector and seed has scored.

    Args:
        table: with `COLUMNS`. A detector with one seed (a closed form) is repeated for the seeds of the others.

    Returns:
        values `(D, R, S)`: detectors, seeds, people; the detectors' names; `family` and `subject` of the people.

    Raises:
        BadInput: a detector has more than one seed but not all of them, a number comes twice, or nobody is left.
    """
    seeds = sorted(table["seed"].unique())
    if table.duplicated(list(COLUMNS[:-1])).any():
        raise BadInput("a detector, seed and person occur twice.", field="table")
    wide = table.pivot(index=["family", "subject"], columns=["detector", "seed"], values="value")
    names = list(dict.fromkeys(table["detector"]))
    wide = wide.dropna()
    if wide.empty:
        raise BadInput("no person is scored by every detector and seed.", field="table")
    cube = []
    for name in names:
        own = wide[name]
        if own.shape[1] not in (1, len(seeds)):
            raise BadInput(f"{name} has {own.shape[1]} of {len(seeds)} seeds.", field="table")
        cube.append(np.broadcast_to(own.to_numpy().T, (len(seeds), len(wide))))
    return np.stack(cube), names, wide.index.to_frame(index=False)


def resampled_means(values: np.ndarray, families: Sequence[str], resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Means over families of means over people, under resampled people and seeds, the same draw for all detectors.

    Args:
        values: `(D, R, S)`.
        families: `(S,)`; people are resampled within each.
        resamples, seed: of the bootstrap.

    Returns:
        `(B, D)`, B resamples: how often one detector is above another in them is how sure the order is.
    """
    families = np.asarray(families)
    order = np.argsort(families, kind="stable")
    _, sizes = np.unique(families, return_counts=True)
    weights = resample_weights(tuple(int(size) for size in sizes), resamples, seed)  # (B, S), strata in sorted order
    starts = np.cumsum([0, *sizes[:-1]])
    rng = np.random.default_rng([seed, 1])
    seeds = values.shape[1]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds  # (B, R)
    averaged = np.einsum("br,drs->bds", drawn, values[:, :, order])  # (B, D, S)
    sums = np.add.reduceat(averaged * weights[:, None], starts, axis=2)  # (B, D, F)
    return (sums / sizes).mean(2)


def rank_shares(draws: np.ndarray) -> np.ndarray:
    """In which share of the resamples each detector has each rank: `(B, D)` to `(D, D)`, rows sum to 1.

    Detectors that tie share their places alike.
    """
    from scipy.stats import rankdata

    first, last = (rankdata(-draws, method, axis=1) - 1 for method in ("min", "max"))  # (B, D), 0 for the highest
    shares = [((first <= place) & (place <= last)) / (last - first + 1) for place in range(draws.shape[1])]
    return np.stack([share.mean(0) for share in shares], 1)


def order_agreement(values: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """Kendall's tau between the orders of two trainings, for each pair of seeds: `(D, R, S)` to `(R (R - 1) / 2,)`."""
    from scipy.stats import kendalltau

    families = np.asarray(families)
    means = np.mean([values[:, :, families == family].mean(2) for family in np.unique(families)], 0)  # (D, R)
    pairs = [(a, b) for a in range(means.shape[1]) for b in range(a)]
    return np.array([kendalltau(means[:, a], means[:, b]).statistic for a, b in pairs])
