"""The threshold explorer's state: scores, a threshold, a prevalence; counts, rates, intervals and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from course_lib import maps as map_filters
from course_lib.errors import BadInput
from course_lib.metrics.curves import precision_recall, rank_metrics, roc
from course_lib.metrics.intervals import MINIMAL_SUBJECTS, Interval, bootstrap
from course_lib.metrics.runs import Counts, PixelRuns
from course_lib.metrics.scores import HEALTHY, Scores
from course_lib.metrics.screening import Clinic, clinic
from course_lib.metrics.statistics import Ratio
from course_lib.metrics.thresholds import HealthyFPR

RESAMPLES = 400  # of the live intervals
BINS = 60
POINTS = 300  # of each curve
_KEPT = 12  # rankings that are remembered


@dataclass(frozen=True)
class Reading:
    """What one detector does at one threshold, on the persons of one family.

    Attributes:
        detector: its name.
        threshold: in the map's units.
        fpr: the share of healthy validation pixels that score at least as much.
        source: where the threshold comes from, in words.
        counts: of the family's persons; `tp`, `fp`, `fn`, `tn` in pixels.
        dice, sensitivity, ppv: of pooled pixels, with 95 % intervals over the family's persons.
        false_per_scan: detected components without a lesion pixel, per scan of the family.
        false_per_healthy_scan: the same in scans of healthy test persons; NaN without any.
        clinic: what it means in a clinic: a person is recalled if anything is detected. None without healthy persons.
    """

    detector: str
    threshold: float
    fpr: float
    source: str
    counts: Counts
    dice: Interval
    sensitivity: Interval
    ppv: Interval
    false_per_scan: Interval
    false_per_healthy_scan: Interval
    clinic: Clinic | None


class ThresholdState:
    """Detectors, their scores, and the settings of the explorer.

    Args:
        scores: test scores by the detector's name, all of the same slices; healthy persons among them make the
            clinic.
        validation: scores of healthy validation persons for each detector, from which false-positive rates come.
        images: (N, H, W), the slices that were scored.
        unit: of the maps, by detector, e.g. `{"brightness": "intensity"}`; default "score".

    Attributes:
        detector: whose maps are looked at.
        beside: a second detector at the same healthy false-positive rate, or None.
        family: whose lesions are counted.
        scan: the subject whose slice is shown.
        place: which of the scan's slices is shown, from 0.
        min_pixels: detected components with fewer pixels are dropped.
        median: the maps are median filtered over so many pixels squared; 1 leaves them.
        prevalence: share of ill persons among those screened.
        miss_cost: what a missed person costs, in false alarms.

    Raises:
        BadInput: detectors without validation scores, scores of different slices, no family with a lesion.
    """

    def __init__(
        self,
        scores: Mapping[str, Scores],
        validation: Mapping[str, Scores],
        images: np.ndarray,
        *,
        unit: Mapping[str, str] | None = None,
    ):
        if not scores:
            raise BadInput("there are no scores to explore.", field="scores")
        missing = [name for name in scores if name not in validation]
        if missing:
            raise BadInput(f"{missing[0]} has no healthy validation scores.", field="validation")
        self.scores, self.validation, self.images = dict(scores), dict(validation), images
        self.unit = dict(unit or {})
        first = next(iter(scores.values()))
        for name, one in scores.items():
            if one.maps.shape != images.shape or not one.table["subject"].equals(first.table["subject"]):
                raise BadInput(f"{name} was not scored on these slices.", field="scores")
        ill = first.table.loc[first.lesion_px > 0, "family"]
        self.families = [family for family in first.families if family in set(ill)]
        if not self.families:
            raise BadInput("no slice has a lesion.", field="masks")
        self._table = first.table
        self._rows = self._table.groupby("subject", sort=False).indices
        self._subjects = self._table.groupby("family", sort=False)["subject"].unique().to_dict()
        self._ends: dict[tuple, tuple[float, float]] = {}
        self._filtered: dict[tuple, Scores] = {}
        self._sorted: dict[tuple, np.ndarray] = {}
        self._rankings: dict[tuple, Ranking] = {}
        self._measurements: dict[tuple, tuple] = {}
        self.detector, self.beside = next(iter(scores)), None
        self.min_pixels, self.median = 0, 1
        self.prevalence, self.miss_cost = 0.01, 10.0
        self._mode, self._value = "healthy FPR", 0.01
        self.family = self.families[0]
        self.choose_family(self.family)

    # ---- settings ---------------------------------------------------------------------------------------------------

    def set_fpr(self, q: float) -> None:
        """Set the threshold at which a share `q` of healthy validation pixels is detected."""
        if not 0 <= q < 1:
            raise BadInput(f"a false-positive rate of {q} is not in [0, 1).", field="fpr")
        self._mode, self._value = "healthy FPR", float(q)

    def set_score(self, threshold: float) -> None:
        """Set the threshold itself, in units of the first detector's map."""
        if not np.isfinite(threshold):
            raise BadInput(f"a threshold of {threshold}.", field="threshold")
        self._mode, self._value = "score", float(threshold)

    def set_oracle(self) -> None:
        """Take the threshold of the best Dice on the family's own lesions: no clinic could know it."""
        self._mode, self._value = "oracle", float("nan")

    def choose_detector(self, name: str) -> None:
        """Change the first detector; a threshold set in score units is carried over by its false-positive rate."""
        self._known(name)
        if self._mode == "score":
            self.set_fpr(self.fpr(self.detector, self._value))
        self.detector = name

    def choose_beside(self, name: str | None) -> None:
        """Put a second detector beside the first, or none."""
        if name is not None:
            self._known(name)
        self.beside = name

    def choose_median(self, size: int) -> None:
        """Filter the maps, of validation and test persons alike; a threshold in score units keeps its FPR."""
        q = self.fpr(self.detector, self._value) if self._mode == "score" else None
        self.median = int(size)
        if q is not None:
            self.set_fpr(q)

    def choose_family(self, family: str) -> None:
        """Change the family; its scan with the largest lesion is shown."""
        if family not in self.families:
            raise BadInput(f"no slice of {family!r} has a lesion.", field="family", remedy=f"One of {self.families}.")
        self.family = family
        own = self._table["family"] == family
        self.choose_scan(self._table["subject"][(self._lesion_px * own).idxmax()])

    def choose_scan(self, subject: str) -> None:
        """Change the scan; its slice with the largest lesion, else the middle one, is shown."""
        rows = self.rows_of(subject)
        self.scan = subject
        sizes = self._lesion_px.iloc[rows]
        self.place = int(sizes.to_numpy().argmax()) if sizes.max() > 0 else len(rows) // 2

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def detectors(self) -> list[str]:
        """The detectors that are looked at: one or two."""
        return [self.detector] + ([self.beside] if self.beside is not None else [])

    @property
    def scans(self) -> dict[str, str]:
        """The family's scans and the healthy ones, as label -> subject."""
        found = {}
        for family in (self.family, HEALTHY):
            subjects = self._subjects.get(family, ())
            found |= {f"{family} {number}": subject for number, subject in enumerate(subjects, 1)}
        return found

    def rows_of(self, subject: str) -> np.ndarray:
        """The rows of a scan's slices."""
        if subject not in self._rows:
            raise BadInput(f"there is no scan {subject!r}.", field="scan")
        return self._rows[subject]

    @property
    def row(self) -> int:
        """The row of the slice that is shown."""
        rows = self.rows_of(self.scan)
        return int(rows[min(self.place, len(rows) - 1)])

    @cached_property
    def _lesion_px(self) -> pd.Series:
        return pd.Series(next(iter(self.scores.values())).lesion_px)

    # ---- thresholds -------------------------------------------------------------------------------------------------

    def threshold(self, detector: str | None = None) -> float:
        """The threshold of a detector: the first one's as it was set, a second one's at the same healthy FPR."""
        detector = detector or self.detector
        if detector == self.detector and self._mode == "score":
            return self._value
        if detector == self.detector and self._mode == "oracle":
            return self.ranking(detector).best_threshold
        if self._mode == "healthy FPR":
            return self.threshold_at(detector, self._value)
        return self.threshold_at(detector, self.fpr(self.detector, self.threshold()))

    def threshold_at(self, detector: str, q: float) -> float:
        """The lowest threshold that at most a share `q` of healthy validation pixels reaches (as `HealthyFPR`)."""
        ascending = self._healthy(detector)
        allowed = int(np.floor(q * len(ascending) * (1 + 1e-12)))
        return float(np.nextafter(ascending[len(ascending) - 1 - allowed], np.float32(np.inf)))

    def fpr(self, detector: str, threshold: float) -> float:
        """The share of healthy validation pixels that score at least the threshold."""
        ascending = self._healthy(detector)
        return float((len(ascending) - np.searchsorted(ascending, threshold, "left")) / len(ascending))

    def score_ends(self, detector: str) -> tuple[float, float]:
        """Where a threshold makes sense: from the median healthy pixel to the highest score of all."""
        key = (detector, self.median)
        if key not in self._ends:
            ascending, scores = self._healthy(detector), self.filtered(detector)
            highest = max(ascending[-1], scores.maps[scores.brains].max())
            self._ends[key] = float(ascending[len(ascending) // 2]), float(highest)
        return self._ends[key]

    @property
    def source(self) -> str:
        """Where the threshold comes from, in words."""
        if self._mode == "oracle":
            return "oracle: best Dice on these very lesions"
        return "healthy validation persons" if self._mode == "healthy FPR" else "set by hand"

    # ---- readings ---------------------------------------------------------------------------------------------------

    def reading(self, detector: str | None = None) -> Reading:
        """Everything about one detector at the present settings."""
        detector = detector or self.detector
        threshold = self.threshold(detector)
        ill, well, intervals = self._measured(detector, threshold)
        lesioned = ill.lesion > 0
        return Reading(
            detector=detector,
            threshold=threshold,
            fpr=self.fpr(detector, threshold),
            source=self.source if detector == self.detector else "same healthy FPR",
            counts=ill,
            **intervals,
            clinic=clinic(
                int((ill.components > 0)[lesioned].sum()),
                int(lesioned.sum()),
                int((well.components > 0).sum()),
                len(well.components),
                self.prevalence,
                self.miss_cost,
            )
            if well is not None
            else None,
        )

    def _measured(self, detector: str, threshold: float) -> tuple[Counts, Counts | None, dict[str, Interval]]:
        """What does not depend on prevalence and cost; the last ones are remembered."""
        key = (detector, self.median, self.family, self.min_pixels, threshold)
        if key not in self._measurements:
            ranking = self.ranking(detector)
            ill = ranking.ill.at(threshold, self.min_pixels)
            well = ranking.well.at(threshold, self.min_pixels) if ranking.well is not None else None
            intervals = {
                "dice": _ratio(2 * ill.tp, ill.tp + ill.fp + ill.lesion),
                "sensitivity": _ratio(ill.tp, ill.lesion),
                "ppv": _ratio(ill.tp, ill.tp + ill.fp),
                "false_per_scan": _ratio(ill.false, ranking.ill_scans),
                "false_per_healthy_scan": _ratio(well.false, ranking.well_scans) if well is not None else _NOTHING,
            }
            if len(self._measurements) >= _KEPT:
                self._measurements.pop(next(iter(self._measurements)))
            self._measurements[key] = ill, well, intervals
        return self._measurements[key]

    def detected(self, detector: str | None = None) -> np.ndarray:
        """(H, W) bool: what is detected in the slice that is shown."""
        detector = detector or self.detector
        scores, row = self.filtered(detector), self.row
        at_least = scores.maps[row].astype(np.float64) >= self.threshold(detector)
        return map_filters.remove_small_components(at_least & scores.brains[row], self.min_pixels)

    def lesion(self) -> np.ndarray:
        """(H, W) bool: the truth in the slice that is shown, inside the brain."""
        scores = self.scores[self.detector]
        return scores.masks[self.row] & scores.brains[self.row]

    def ranking(self, detector: str) -> Ranking:
        """The curves of a detector on the present family; remembered."""
        key = (detector, self.median, self.family)
        if key not in self._rankings:
            if len(self._rankings) >= _KEPT:
                self._rankings.pop(next(iter(self._rankings)))
            self._rankings[key] = Ranking(self.filtered(detector), self.family, self.score_ends(detector))
        return self._rankings[key]

    def filtered(self, detector: str) -> Scores:
        """A detector's test scores with the present median filter."""
        return self._with_median("test", detector, self.scores[detector])

    def _healthy(self, detector: str) -> np.ndarray:
        """The sorted scores of healthy validation pixels."""
        key = (detector, self.median)
        if key not in self._sorted:
            well = self._with_median("validation", detector, self.validation[detector])
            HealthyFPR(0.5).fit(well)  # refuses ill persons and other splits
            self._sorted[key] = np.sort(well.maps[well.brains])
        return self._sorted[key]

    def _with_median(self, part: str, detector: str, scores: Scores) -> Scores:
        if self.median == 1:
            return scores
        key = (part, detector, self.median)
        if key not in self._filtered:
            maps = map_filters.median_filter(scores.maps, self.median)
            self._filtered[key] = Scores(maps, scores.masks, scores.brains, scores.table, detector=detector)
        return self._filtered[key]

    def _known(self, name: str) -> None:
        if name not in self.scores:
            raise BadInput(f"there is no detector {name!r}.", field="detector", remedy=f"One of {list(self.scores)}.")


class Ranking:
    """What one detector's maps say about one family at every threshold: computed once, read at each step.

    Attributes:
        ill, well: runs of the family's and of the healthy persons' maps (`well` is None without any).
        ill_scans, well_scans: how many scans each person has.
        roc, precision_recall: points of the curves, over the brain pixels of the family's persons.
        ap, auroc, best_dice, best_threshold, prevalence: of the same pixels; the best Dice is an oracle's.
        bins: (BINS + 1,) borders; healthy, lesion: (BINS,) shares of healthy persons' and of lesion pixels.
    """

    def __init__(self, scores: Scores, family: str, ends: tuple[float, float]):
        ill, well = scores.family(family), scores.family(HEALTHY)
        self.ill, self.well = PixelRuns(ill), PixelRuns(well) if well is not None else None
        self.ill_scans, self.well_scans = _scans(ill), _scans(well) if well is not None else None
        given = (ill.maps, ill.masks, ill.brains)
        found = rank_metrics(*given)
        self.ap, self.auroc, self.best_dice = found.ap, found.auroc, found.best_dice
        self.best_threshold, self.prevalence = found.best_threshold, found.prevalence
        self.roc, self.precision_recall = roc(*given, points=POINTS), precision_recall(*given, points=POINTS)
        low = min(ends[0], float(ill.maps[ill.brains].min()))
        self.bins = np.linspace(low, ends[1], BINS + 1)
        rest = well or ill
        self.healthy = _shares(rest.maps[rest.brains & ~rest.masks], self.bins)
        self.lesion = _shares(ill.maps[ill.masks & ill.brains], self.bins)


_NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """The pooled ratio over persons with its interval; no interval below `MINIMAL_SUBJECTS` persons."""
    statistic, persons = Ratio(numerator, denominator), len(numerator)
    if persons < MINIMAL_SUBJECTS:
        return Interval(float(statistic(np.ones((1, persons)))[0]), float("nan"), float("nan"), persons)
    return bootstrap(statistic, persons, resamples=RESAMPLES, method="percentile")


def _scans(scores: Scores) -> np.ndarray:
    """(U,): scans of each person."""
    return np.array([scores.table["subject"].iloc[rows].nunique() for rows in scores.by_unit().values()])


def _shares(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The share of the values in each bin; those beyond the ends count in the last ones."""
    counts, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins)
    return counts / max(len(values), 1)
