"""Lesion-wise detection: which lesions were found, and how many detections were none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.metrics.scores import Scores

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class LesionMatch:
    """The lesions and the detections of some scans, matched.

    Attributes:
        lesions: one row a lesion: subject, slice (its first), pixels, found.
        detections: one row a detected component: subject, slice, pixels, true.
        scans: how many scans (ids in the table's column `subject`) each person or subject has, with or without a
            lesion or a detection.
        criterion: what counts as found, in words.
    """

    lesions: pd.DataFrame
    detections: pd.DataFrame
    scans: dict[str, int]
    criterion: str

    @property
    def sensitivity(self) -> float:
        """Share of lesions found; NaN without a lesion."""
        return float(self.lesions["found"].mean()) if len(self.lesions) else float("nan")

    @property
    def precision(self) -> float:
        """Share of detections that are a lesion; NaN without a detection."""
        return float(self.detections["true"].mean()) if len(self.detections) else float("nan")

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), with TP the lesions found, FN those missed, FP the detections that are none."""
        if not len(self.lesions):
            return float("nan")
        found, false = int(self.lesions["found"].sum()), int((~self.detections["true"]).sum())
        return 2 * found / (found + len(self.lesions) + false)

    @property
    def false_positives_per_scan(self) -> float:
        """Detections that are no lesion, per scan; a person may have several scans."""
        return float((~self.detections["true"]).sum() / sum(self.scans.values()))

    def by_subject(self) -> pd.DataFrame:
        """One row a person or subject: lesions, found, detections, false, scans (counts)."""
        index = pd.Index(list(self.scans))
        lesions, detections = self.lesions.groupby("subject"), self.detections.groupby("subject")
        table = {
            "lesions": lesions.size(),
            "found": lesions["found"].sum(),
            "detections": detections.size(),
            "true": detections["true"].sum(),
        }
        counts = pd.DataFrame({name: column.reindex(index, fill_value=0) for name, column in table.items()}).astype(int)
        false = counts["detections"] - counts["true"]
        return counts.assign(false=false, scans=list(self.scans.values())).drop(columns="true")

    def sizes(self, borders: Sequence[float] | None = None) -> np.ndarray:
        """Each lesion's size class, 0 small, 1 medium, 2 large, by terciles of the lesions' pixels.

        Args:
            borders: the two borders, to use the same for several detectors; default: of these lesions.
        """
        pixels = self.lesions["pixels"].to_numpy()
        if not len(pixels):
            return np.zeros(0, int)
        borders = np.quantile(pixels, [1 / 3, 2 / 3]) if borders is None else borders
        return np.searchsorted(np.asarray(borders), pixels, "left")


def components(
    binary: np.ndarray, subjects: Sequence | None = None, slices: Sequence[int] | None = None, *, volumes: bool = False
) -> tuple[np.ndarray, int]:
    """Number the connected components.

    By default a component lies in one slice (8 neighbours): the course's slices are 4 mm apart, so what touches in
    two of them need not touch in the head, and a lesion seen in three slices counts three times. With `volumes`,
    pixels at the same or a neighbouring place in consecutive slices of one subject are joined too (26 neighbours).

    Args:
        binary: (N, H, W) bool.
        subjects, slices: (N,) for `volumes`: whose slice, and which; consecutive numbers are neighbours.
        volumes: see above.

    Returns:
        (N, H, W) int labels from 1, and their number.

    Raises:
        BadInput: not (N, H, W), or `volumes` without subjects and slices, or a slice given twice.
    """
    binary = np.asarray(binary, bool)
    if binary.ndim != 3:
        raise BadInput(f"{binary.shape} is not (N, H, W).", field="binary")
    flat = np.zeros((3, 3, 3), bool)
    flat[1] = True
    if not volumes:
        return ndimage.label(binary, flat)
    if subjects is None or slices is None:
        raise BadInput("volumes need the subject and the number of each slice.", field="volumes")
    out, count = np.zeros(binary.shape, np.int32), 0
    numbers = np.asarray(slices, int)
    for rows in pd.Series(np.arange(len(binary))).groupby(np.asarray(subjects), sort=False):
        rows = rows[1].to_numpy()
        places = numbers[rows] - numbers[rows].min()
        if len(set(places)) < len(places):
            raise BadInput("a subject has two slices of one number.", field="slices")
        volume = np.zeros((places.max() + 1, *binary.shape[1:]), bool)  # missing slices stay empty: they separate
        volume[places] = binary[rows]
        labels, found = ndimage.label(volume, np.ones((3, 3, 3)))
        out[rows] = np.where(labels > 0, labels + count, 0)[places]
        count += found
    return out, count


def match(
    detections: np.ndarray, scores: Scores, min_iou: float | None = None, *, volumes: bool = False
) -> LesionMatch:
    """Match detected components with lesions.

    Without `min_iou`, **any overlap** counts: a lesion is found if one of its pixels is detected, and a component is
    true if one of its pixels is lesion. It is generous: one detection that covers the brain finds everything. With
    `min_iou`, pairs are matched one to one by falling intersection over union, which has to exceed it.

    Args:
        detections: (N, H, W) bool, e.g. `Threshold.apply(scores)`.
        scores: gives masks, brains and the table; lesion pixels outside the brain do not count.
        min_iou: see above, in [0, 1).
        volumes: join components across consecutive slices, see `components`.

    Returns:
        The match; components of one pixel count as any other.

    Raises:
        BadInput: shapes differ, `min_iou` outside [0, 1).
    """
    if min_iou is not None and not 0 <= min_iou < 1:
        raise BadInput(f"an intersection over union above {min_iou}.", field="min_iou")
    if np.shape(detections) != scores.masks.shape:
        raise BadInput(f"detections {np.shape(detections)} for masks {scores.masks.shape}.", field="detections")
    place = {"subjects": scores.table["subject"], "slices": scores.table["slice"], "volumes": volumes}
    labels_d, count_d = components(np.asarray(detections, bool) & scores.brains, **place)
    labels_l, count_l = components(scores.masks & scores.brains, **place)
    size_d, size_l = (np.bincount(a.ravel(), minlength=c + 1) for a, c in ((labels_d, count_d), (labels_l, count_l)))
    both = (labels_d > 0) & (labels_l > 0)
    code, shared = np.unique(labels_d[both].astype(np.int64) * (count_l + 1) + labels_l[both], return_counts=True)
    d, lesion = code // (count_l + 1), code % (count_l + 1)
    true, found = np.zeros(count_d + 1, bool), np.zeros(count_l + 1, bool)
    if min_iou is None:
        true[d], found[lesion] = True, True
        criterion = "any overlap"
    else:
        iou = shared / (size_d[d] + size_l[lesion] - shared)
        for pair in np.argsort(-iou, kind="stable"):
            if iou[pair] > min_iou and not true[d[pair]] and not found[lesion[pair]]:
                true[d[pair]] = found[lesion[pair]] = True
        criterion = f"IoU > {min_iou:g}"
    criterion += ", components across slices" if volumes else ", components slice by slice"
    return LesionMatch(
        _rows(labels_l, size_l, scores).assign(found=found[1:]),
        _rows(labels_d, size_d, scores).assign(true=true[1:]),
        {unit: scores.table["subject"].iloc[rows].nunique() for unit, rows in scores.by_unit().items()},
        criterion,
    )


def froc(scores: Scores, points: int = 20, min_iou: float | None = None) -> pd.DataFrame:
    """The free-response curve: lesion sensitivity against false positives per scan.

    Args:
        scores: subjects with lesions.
        points: thresholds, from lesions' highest scores at equally spaced ranks (there the sensitivity changes).
        min_iou: as for `match`.

    Returns:
        Columns threshold, sensitivity, false_positives_per_scan, by falling threshold.

    Raises:
        BadInput: there is no lesion.

    Source: Bunch et al., J. Appl. Photogr. Eng. 4 (1978).
    """
    labels, count = components(scores.masks & scores.brains)
    if not count:
        raise BadInput("there is no lesion.", field="masks")
    peaks = np.sort(ndimage.maximum(scores.maps, labels, np.arange(1, count + 1)))
    thresholds = np.unique(peaks[np.linspace(0, count - 1, min(points, count)).round().astype(int)])[::-1]
    matches = [match(scores.detections(t), scores, min_iou) for t in thresholds]
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "sensitivity": [each.sensitivity for each in matches],
            "false_positives_per_scan": [each.false_positives_per_scan for each in matches],
        }
    )


def _rows(labels: np.ndarray, sizes: np.ndarray, scores: Scores) -> pd.DataFrame:
    """Subject, first slice and pixels of each component."""
    count = len(sizes) - 1
    slice_of = np.zeros(count + 1, int)
    flat = labels.reshape(-1)
    where = np.flatnonzero(flat)[::-1]  # written from the last to the first, so that the first slice stays
    slice_of[flat[where]] = where // max(1, labels[0].size)
    rows = slice_of[1:]
    return pd.DataFrame(
        {
            "subject": scores.units[rows] if count else np.zeros(0, object),
            "slice": scores.table["slice"].to_numpy()[rows],
            "pixels": sizes[1:],
        }
    )
