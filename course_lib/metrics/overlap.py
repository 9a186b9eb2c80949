"""Counts of detected pixels by subject, and the Dice and rates made from them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from course_lib.errors import BadInput
from course_lib.metrics.curves import as_binary
from course_lib.metrics.scores import Scores


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|); NaN when the truth is empty, whatever was predicted (empty-mask policy).

    Args:
        predicted, truth: same shape, bool or 0 and 1. Neither is changed.

    Raises:
        BadInput: shapes differ, not binary.

    Source: Dice, Ecology 26 (1945).
    """
    predicted, truth = as_binary(predicted, "predicted"), as_binary(truth, "truth")
    if predicted.shape != truth.shape:
        raise BadInput(f"predicted {predicted.shape} for truth {truth.shape}.", field="predicted")
    if not truth.any():
        return float("nan")
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def mean_dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The mean Dice over subjects, the first axis. Healthy subjects are refused, not given a 0 or a 1.

    Raises:
        BadInput: a subject has no lesion.
    """
    values = [dice(p, t) for p, t in zip(predicted, truth, strict=True)]
    if np.isnan(values).any():
        raise BadInput(
            f"{int(np.isnan(values).sum())} subjects have no lesion, so no Dice.",
            field="truth",
            remedy="Report healthy subjects apart: false-positive rate, false positives per scan.",
        )
    return float(np.mean(values))


def pixel_counts(detections: np.ndarray, scores: Scores) -> pd.DataFrame:
    """What was detected in each subject, in brain pixels.

    Args:
        detections: (N, H, W) bool, e.g. `Threshold.apply(scores)`.
        scores: gives masks, brains and subjects.

    Returns:
        One row a subject, in the order of `scores.subjects`: tp, fp, fn, tn, and `dice` (NaN without a lesion).
    """
    detections = detections & scores.brains
    lesion = scores.masks & scores.brains
    by_slice = pd.DataFrame(
        {
            "tp": (detections & lesion).sum((1, 2)),
            "detected": detections.sum((1, 2)),
            "lesion": lesion.sum((1, 2)),
            "brain": scores.brains.sum((1, 2)),
        }
    )
    table = by_slice.groupby(scores.units, sort=False).sum()
    table["fp"], table["fn"] = table["detected"] - table["tp"], table["lesion"] - table["tp"]
    table["tn"] = table["brain"] - table["tp"] - table["fp"] - table["fn"]
    total = table["detected"] + table["lesion"]
    table["dice"] = (2 * table["tp"] / total.where(total > 0)).where(table["lesion"] > 0)
    return table[["tp", "fp", "fn", "tn", "dice"]]
