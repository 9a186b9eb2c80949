"""What one threshold detects, counted by runs of pixels: exact, components included, 10^7 pixels in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from course_lib.errors import BadInput
from course_lib.metrics.scores import Scores


@dataclass(frozen=True)
class Counts:
    """What is detected in each unit (a person, else a subject), all (U,) int64, in the order of `Scores.subjects`.

    Attributes:
        tp, fp: detected brain pixels inside and outside lesions.
        lesion, brain: lesion pixels in the brain, and brain pixels.
        components: detected components (8 neighbours, slice by slice).
        false: components without a lesion pixel.
    """

    tp: np.ndarray
    fp: np.ndarray
    lesion: np.ndarray
    brain: np.ndarray
    components: np.ndarray
    false: np.ndarray

    @property
    def fn(self) -> np.ndarray:
        """Lesion pixels that were missed."""
        return self.lesion - self.tp

    @property
    def tn(self) -> np.ndarray:
        """Healthy brain pixels that were left alone."""
        return self.brain - self.lesion - self.fp


class PixelRuns:
    """The maps of some scores, laid out so that any threshold is counted at once.

    Detected pixels that are neighbours in a row form a *run*. Runs of consecutive rows that touch, also by a corner,
    belong to one component. There are far fewer runs than pixels, and a running sum over the lesion pixels gives how
    many of them a run holds; so neither a sort nor a label image is needed. The counts equal those of
    `overlap.pixel_counts` and `lesions.match` on `Scores.detections`, component size included.

    Args:
        scores: their own `min_component` is not used; it is given to `at`.

    Attributes:
        scores: as given.
    """

    def __init__(self, scores: Scores):
        self.scores = scores
        slices, height, width = scores.maps.shape
        self._width = width + 1  # an empty column and an empty row: runs cannot reach around an edge
        padded = np.full((slices, height + 1, width + 1), -np.inf, np.float32)
        padded[:, :-1, :-1] = np.where(scores.brains, scores.maps, -np.inf)
        self._maps = padded.reshape(-1)
        lesions = np.zeros((slices, height + 1, width + 1), bool)
        lesions[:, :-1, :-1] = scores.masks & scores.brains
        self._lesions_before = np.concatenate([[0], np.cumsum(lesions.reshape(-1), dtype=np.int32)])
        groups = scores.by_unit()
        self._unit_of_slice = np.empty(slices, np.int64)
        for unit, rows in enumerate(groups.values()):
            self._unit_of_slice[rows] = unit
        self._units = len(groups)
        self._slice_pixels = (height + 1) * (width + 1)
        self._lesion = self._by_unit(scores.lesion_px)
        self._brain = self._by_unit(scores.brains.sum((1, 2)))

    def at(self, threshold: float, min_pixels: int = 0) -> Counts:
        """The counts where brain pixels that score at least `threshold` are detected.

        Args:
            threshold: in the maps' units.
            min_pixels: components with fewer pixels are dropped; 0 or 1 keeps all.

        Raises:
            BadInput: the threshold is NaN.
        """
        if np.isnan(threshold):
            raise BadInput("a threshold of NaN detects nothing that could be counted.", field="threshold")
        # A float32 threshold is compared in float32: the smallest one that is not below the given number.
        limit = np.float32(threshold)
        if limit < threshold:
            limit = np.nextafter(limit, np.float32(np.inf))
        inside = self._maps >= limit
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        if inside[0]:
            edges = np.concatenate([[0], edges])
        starts, ends = edges[::2], edges[1::2]  # ends are exclusive: the last pixel of all is padding
        length = ends - starts
        lesion = (self._lesions_before[ends] - self._lesions_before[starts]).astype(np.int64)
        unit = self._unit_of_slice[starts // self._slice_pixels]
        count, label = connected_components(self._touching(starts, ends), directed=False)
        size = np.bincount(label, length, minlength=count)
        true = np.bincount(label, lesion, minlength=count) > 0
        large = size >= max(min_pixels, 1)
        kept = large[label]
        first = np.zeros(count, np.int64)
        first[label] = unit  # a component lies in one slice, so in one unit
        tp = np.bincount(unit[kept], lesion[kept], minlength=self._units).astype(np.int64)
        detected = np.bincount(unit[kept], length[kept], minlength=self._units).astype(np.int64)
        return Counts(
            tp=tp,
            fp=detected - tp,
            lesion=self._lesion,
            brain=self._brain,
            components=np.bincount(first[large], minlength=self._units),
            false=np.bincount(first[large & ~true], minlength=self._units),
        )

    def _touching(self, starts: np.ndarray, ends: np.ndarray) -> coo_matrix:
        """The graph of runs: an edge where a run overlaps one of the next row, shifted by at most one pixel."""
        first = np.searchsorted(ends, starts + self._width - 1, "right")
        last = np.searchsorted(starts, ends + self._width, "right")
        many = np.maximum(last - first, 0)
        above = np.repeat(np.arange(len(starts)), many)
        below = np.arange(len(above)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
        return coo_matrix((np.ones(len(above), np.int8), (above, below)), shape=(len(starts), len(starts)))

    def _by_unit(self, per_slice: np.ndarray) -> np.ndarray:
        return np.bincount(self._unit_of_slice, per_slice, minlength=self._units).astype(np.int64)
