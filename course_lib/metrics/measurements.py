"""Every number that is made of one detector's scores, as a statistic over subjects that waits for its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from course_lib.errors import BadInput
from course_lib.metrics import lesions
from course_lib.metrics.intervals import Statistic
from course_lib.metrics.overlap import pixel_counts
from course_lib.metrics.scores import HEALTHY, Scores
from course_lib.metrics.statistics import Maximum, Mean, PooledRanking, Ratio
from course_lib.metrics.thresholds import OracleDataset, OraclePatient, Threshold

RANKING = "all thresholds"  # the protocol of AP and AUROC: they need none
PIXELS = ("all slices", "lesion slices")


class Key(NamedTuple):
    """Which number it is."""

    family: str
    level: str
    metric: str
    protocol: str
    postprocess: str


@dataclass(frozen=True)
class Measured:
    """A number before its interval.

    Attributes:
        statistic: weights (R, S) -> values (R,).
        names: the S subjects, in the order of the weights.
        strata: sizes of the groups of subjects that are resampled apart; they sum to S.
        chance: what a detector that knows nothing would get; NaN where there is no such number.
        bounded: whether it has an interval at all (a maximum has none).
    """

    statistic: Statistic
    names: tuple[str, ...]
    strata: tuple[int, ...]
    chance: float = float("nan")
    bounded: bool = True


def measurements(
    scores: Scores,
    thresholds: Sequence[Threshold],
    *,
    pixels: str = "all slices",
    min_iou: float | None = None,
    healthy: Sequence[str] = (HEALTHY,),
    images: bool = True,
    rankings_only: bool = False,
) -> dict[Key, Measured]:
    """All numbers of one detector, for every family; see `course_lib.evaluation.evaluate` for what they are.

    Args:
        scores: test scores.
        thresholds: fitted on validation data. The two oracles are added, fitted on each family.
        pixels: `"all slices"` or `"lesion slices"`.
        min_iou: for lesions, see `metrics.lesions.match`.
        healthy: the families that count as healthy.
        images: whether to give the image level.
        rankings_only: leave out what needs a threshold (Dice at thresholds, lesions): a small part of the work.

    Raises:
        BadInput: `pixels` is unknown, or a threshold does not fit the scores.
    """
    if pixels not in PIXELS:
        raise BadInput(f"pixels={pixels!r}.", field="pixels", remedy=f"One of {PIXELS}.")
    well = scores.family(*healthy)
    cells: dict[Key, Measured] = {}
    for family in scores.families:
        if family in healthy:
            continue
        ill = scores.family(family)
        found: dict[tuple[str, str, str], Measured] = {}
        if (ill.masks & ill.brains).any():
            found |= _ranking_cells(ill, pixels)
            if not rankings_only:
                for threshold in [*thresholds, OracleDataset().fit(ill)]:
                    found |= _threshold_cells(ill, threshold) | _lesion_cells(ill, threshold, min_iou)
                found |= _patient_oracle_cells(ill)
        if images and well is not None and ill.image_scores is not None:
            found |= _image_cells(ill, well)
        cells |= {Key(family, *key, scores.postprocess): cell for key, cell in found.items()}
    if well is not None and not rankings_only:
        for threshold in thresholds:
            found = _healthy_cells(well, threshold)
            cells |= {Key(HEALTHY, *key, scores.postprocess): cell for key, cell in found.items()}
    return cells


def _ranking_cells(ill: Scores, pixels: str) -> dict[tuple[str, str, str], Measured]:
    """AP, AUROC and best Dice of pooled brain pixels, and the mean over subjects of each one's own AP."""
    region = ill.brains.copy()
    if pixels == "lesion slices":
        region &= (ill.lesion_px > 0)[:, None, None]
    groups = ill.by_unit()
    values = [ill.maps[rows][region[rows]] for rows in groups.values()]
    labels = [ill.masks[rows][region[rows]] for rows in groups.values()]
    pooled = PooledRanking(values, labels)
    prevalence = pooled.whole.prevalence
    suffix = "" if pixels == "all slices" else f", {pixels}"
    names, strata = tuple(groups), (len(groups),)
    cells = {
        ("pixel", f"AP{suffix}", RANKING): Measured(pooled.ap, names, strata, prevalence),
        ("pixel", f"AUROC{suffix}", RANKING): Measured(pooled.auroc, names, strata, 0.5),
        ("pixel", f"best Dice{suffix}", str(OracleDataset())): Measured(
            pooled.best_dice, names, strata, 2 * prevalence / (1 + prevalence)
        ),
    }
    own = [np.nan if each is None else each.ap for each in pooled.own]
    shares = [float(g.mean()) if g.size and g.any() else np.nan for g in labels]
    cells["pixel", f"AP (subject mean){suffix}", RANKING] = _mean(
        own, names, float(np.nanmean(shares))
    )  # each one's own prevalence
    return cells


def _threshold_cells(ill: Scores, threshold: Threshold) -> dict[tuple[str, str, str], Measured]:
    """Dice, sensitivity and precision of pixels at a threshold."""
    counts = pixel_counts(threshold.apply(ill), ill)
    names, strata, protocol = tuple(counts.index), (len(counts),), str(threshold.protocol)
    tp, fp, fn = (counts[name].to_numpy(float) for name in ("tp", "fp", "fn"))
    q = getattr(threshold.protocol, "q", float("nan"))
    prevalence = (tp + fn).sum() / counts[["tp", "fp", "fn", "tn"]].to_numpy().sum()
    ratios = {
        "Dice": (Ratio(2 * tp, 2 * tp + fp + fn), 2 * q * prevalence / (q + prevalence)),
        "sensitivity": (Ratio(tp, tp + fn), q),
        "precision": (Ratio(tp, tp + fp), prevalence),
    }
    cells = {
        ("pixel", name, protocol): Measured(ratio, names, strata, chance) for name, (ratio, chance) in ratios.items()
    }
    cells["pixel", "Dice (subject mean)", protocol] = _mean(counts["dice"].to_numpy(), names)
    return cells


def _patient_oracle_cells(ill: Scores) -> dict[tuple[str, str, str], Measured]:
    threshold = OraclePatient().fit(ill)
    counts = pixel_counts(threshold.apply(ill), ill)
    key = ("pixel", "Dice (subject mean)", str(threshold.protocol))
    return {key: _mean(counts["dice"].to_numpy(), tuple(counts.index))}


def _lesion_cells(ill: Scores, threshold: Threshold, min_iou: float | None) -> dict[tuple[str, str, str], Measured]:
    """Lesion-wise sensitivity (also by size), precision, F1 and false positives per scan."""
    matched = lesions.match(threshold.apply(ill), ill, min_iou)
    counts = matched.by_subject()
    names, strata, protocol = tuple(counts.index), (len(counts),), str(threshold.protocol)
    total, found, detected, false, scans = (
        counts[name].to_numpy(float) for name in ("lesions", "found", "detections", "false", "scans")
    )
    ratios = {
        "sensitivity": Ratio(found, total),
        "precision": Ratio(detected - false, detected),
        "F1": Ratio(2 * found, found + total + false),
        "FP per scan": Ratio(false, scans),
    }
    classes = matched.sizes()
    for number, size in enumerate(lesions.SIZES):
        of_size = matched.lesions[classes == number].groupby("subject")["found"]
        sums = [group.reindex(counts.index, fill_value=0).to_numpy(float) for group in (of_size.sum(), of_size.size())]
        ratios[f"sensitivity ({size})"] = Ratio(*sums)
    return {("lesion", name, protocol): Measured(ratio, names, strata) for name, ratio in ratios.items()}


def _healthy_cells(well: Scores, threshold: Threshold) -> dict[tuple[str, str, str], Measured]:
    """What the threshold does to healthy subjects."""
    detections = threshold.apply(well)
    counts, protocol = pixel_counts(detections, well), str(threshold.protocol)
    names, strata = tuple(counts.index), (len(counts),)
    fp, brain = counts["fp"].to_numpy(float), counts[["fp", "tn"]].to_numpy(float).sum(1)
    matched = lesions.match(detections, well).by_subject()
    false, scans = matched["false"].to_numpy(float), matched["scans"].to_numpy(float)
    q = getattr(threshold.protocol, "q", float("nan"))
    return {
        ("pixel", "FPR", protocol): Measured(Ratio(fp, brain), names, strata, q),
        ("pixel", "FPR (worst subject)", protocol): Measured(Maximum(fp / brain), names, strata, bounded=False),
        ("lesion", "FP per scan", protocol): Measured(Ratio(false, scans), names, strata),
    }


def _image_cells(ill: Scores, well: Scores) -> dict[tuple[str, str, str], Measured]:
    """Lesion slices against all slices of healthy subjects; each subject's slices stay together."""
    positive, negative = ill.select(ill.lesion_px > 0) if (ill.lesion_px > 0).any() else None, well
    if positive is None:
        return {}
    values, labels, names = [], [], []
    for part, label in ((positive, True), (negative, False)):
        for unit, rows in part.by_unit().items():
            values.append(part.image_scores[rows])
            labels.append(np.full(len(rows), label))
            names.append(unit)
    strata = (len(positive.subjects), len(negative.subjects))
    pooled = PooledRanking(values, labels)
    prevalence = len(positive) / (len(positive) + len(negative))
    rule = f"image score: {ill.image_rule}"
    return {
        ("image", "AUROC", rule): Measured(pooled.auroc, tuple(names), strata, 0.5),
        ("image", "AP", rule): Measured(pooled.ap, tuple(names), strata, prevalence),
    }


def _mean(values: np.ndarray, names: Sequence[str], chance: float = float("nan")) -> Measured:
    """The mean over the subjects for whom the number is defined."""
    values = np.asarray(values, np.float64)
    kept = np.flatnonzero(np.isfinite(values))
    return Measured(Mean(values[kept]), tuple(names[i] for i in kept), (len(kept),), chance)
