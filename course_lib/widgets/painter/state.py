"""The anomaly painter's state: a healthy slice, a lesion with its settings, and what each detector says of the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from course_lib import maps as map_filters
from course_lib.detectors.base import Detector
from course_lib.errors import BadInput
from course_lib.evaluation import predict
from course_lib.images.pathology import PARAMETERS, Insertion, estimate_tissue, place
from course_lib.images.slices import SliceSet
from course_lib.metrics.overlap import dice
from course_lib.metrics.thresholds import HealthyFPR
from course_lib.widgets.forward import asking, remembering

KINDS = {"spot": "ms", "stroke": "stroke", "tumour": "tumour", "texture": "texture", "resection": "resection"}
SETTINGS = {"size": "radius_mm", "intensity": "intensity", "texture": "texture"}  # the painter's word, pathology's
BRIGHTEST = 99.9  # percentile of healthy validation pixels at which a map's colours end


@dataclass(frozen=True)
class Answer:
    """What a detector says of one slice.

    Attributes:
        anomaly: (H, W) float32, after post-processing; outside the brain the lowest value inside it.
        rebuilt: (H, W) float32, the pseudo-healthy image; None for a detector that makes none.
        flagged: (H, W) bool, brain pixels that reach the threshold.
        score: of the whole slice, by the detector's own rule.
        percentile: share of healthy validation slices that score less, in percent.
    """

    anomaly: np.ndarray
    rebuilt: np.ndarray | None
    flagged: np.ndarray
    score: float
    percentile: float


@dataclass(frozen=True)
class Numbers:
    """An answer compared with a lesion.

    Attributes:
        found, false, missed: pixels.
        dice: of the flagged pixels with the lesion's; NaN where there is no lesion.
        share: of the lesion that is flagged; NaN where there is no lesion.
        inside, outside: mean of the map over the lesion, and over the rest of the brain.
        score, percentile: of `Answer`.
    """

    found: int
    false: int
    missed: int
    dice: float
    share: float
    inside: float
    outside: float
    score: float
    percentile: float

    @property
    def times(self) -> float:
        """How many times as bright the map is inside as outside; NaN where the map is not positive outside."""
        return self.inside / self.outside if self.outside > 0 else float("nan")


@dataclass(frozen=True)
class Reading:
    """One detector on the painted slice, and on the same slice before.

    Attributes:
        detector: its name.
        threshold: in the map's units.
        limits: where the map's colours begin and end, the same for all slices.
        before, after: its answers to the healthy and to the painted slice.
        healthy, painted: their numbers. Both count the lesion's pixels, so `healthy` says what would be flagged there
            without a lesion.
    """

    detector: str
    threshold: float
    limits: tuple[float, float]
    before: Answer
    after: Answer
    healthy: Numbers
    painted: Numbers


class PainterState:
    """Healthy slices, trained detectors, and a lesion that is painted on one slice.

    The lesion is drawn from a fixed seed, so a setting that moves leaves the others as they were: another place,
    intensity or texture keeps the shape. Another size draws the outline on another grid, and it may change.

    Args:
        slices: healthy slices to paint on.
        detectors: trained detectors by name.
        validation: healthy slices of the validation split, from which thresholds, colour scales and percentiles come.
        fpr: the share of healthy validation pixels that may be flagged.
        steps: post-processing of the maps, e.g. `[("median", 3)]`; see `course_lib.maps.postprocess`.

    Attributes:
        subject, height: whose slice is painted on, and which of that person's slices, from 0.
        kind: one of `KINDS`.
        across_mm: place of the lesion right of the pixel in the middle of this slice's brain; negative is left.
        front_mm: the same towards the front; negative is towards the back.
        seed: of everything that has no control: outline, grain, the parameters that are not set.

    Raises:
        BadInput: no detector, slices with a lesion or without a brain, slices of different sizes, validation slices
            that are not healthy ones of the validation split.
    """

    def __init__(
        self,
        slices: SliceSet,
        detectors: Mapping[str, Detector],
        validation: SliceSet,
        *,
        fpr: float = 0.01,
        steps: map_filters.Steps = (),
    ):
        _check(slices, detectors, validation)
        self.slices, self.steps, self.fpr = slices, list(steps), float(fpr)
        self.judges = {name: Judge(name, detector, validation, fpr, steps) for name, detector in detectors.items()}
        self.kind, self.seed = "spot", 0
        self._values = {kind: _typical(kind) for kind in KINDS}
        self._rows = slices.table.groupby("subject", sort=False).indices
        self._hosts: dict[int, Host] = {}
        self._before: dict[tuple[int, str], Answer] = {}
        self._painted: tuple[tuple, Insertion] | None = None
        self.across_mm, self.front_mm = 30.0, 10.0
        self.choose_subject(slices.subjects[0])

    # ---- settings ---------------------------------------------------------------------------------------------------

    def choose_subject(self, subject: str) -> None:
        """Change the person; the middle slice is shown."""
        if subject not in self._rows:
            raise BadInput(f"there is no subject {subject!r}.", field="subject")
        self.subject, self.height = subject, len(self._rows[subject]) // 2

    def choose_height(self, height: int) -> None:
        """Change the slice; a number beyond the person's slices is moved to the nearest."""
        self.height = int(np.clip(height, 0, self.heights - 1))

    def choose_kind(self, kind: str) -> None:
        """Change the kind; each kind remembers its own size, intensity and texture."""
        if kind not in KINDS:
            raise BadInput(f"there is no kind {kind!r}.", field="kind", remedy=f"One of {list(KINDS)}.")
        self.kind = kind

    def set(self, setting: str, value: float) -> None:
        """Set "size" (mm), "intensity" or "texture" (robust s.d.); beyond the kind's range it is moved to the end.

        Raises:
            BadInput: this kind has no such setting, or the value is no number.
        """
        low, high = self.range_of(setting)
        if not np.isfinite(value):
            raise BadInput(f"{value!r} is not a number.", field=setting)
        self._values[self.kind][setting] = float(np.clip(value, low, high))

    def move(self, across_mm: float, front_mm: float) -> None:
        """Put the lesion so far to the right and to the front of the middle; see `centre` for places outside."""
        if not (np.isfinite(across_mm) and np.isfinite(front_mm)):
            raise BadInput(f"({across_mm!r}, {front_mm!r}) is no place.", field="place")
        self.across_mm, self.front_mm = float(across_mm), float(front_mm)

    def draw_again(self) -> None:
        """Another lesion with the same settings."""
        self.seed += 1

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def heights(self) -> int:
        """How many slices the person has."""
        return len(self._rows[self.subject])

    @property
    def row(self) -> int:
        """The row of the slice that is painted on."""
        return int(self._rows[self.subject][self.height])

    @property
    def z_mm(self) -> float:
        """Its height."""
        return float(self.slices.table["z_mm"].iloc[self.row])

    @property
    def settings(self) -> dict[str, float]:
        """The kind's settings, by name, only those that it has."""
        return dict(self._values[self.kind])

    def range_of(self, setting: str) -> tuple[float, float]:
        """The ends of a setting for the present kind.

        Raises:
            BadInput: this kind has no such setting.
        """
        if setting not in self._values[self.kind]:
            raise BadInput(f"{self.kind} has no {setting}.", field=setting)
        limits = PARAMETERS[KINDS[self.kind]][SETTINGS[setting]]
        return limits.low, limits.high

    @cached_property
    def reach_mm(self) -> tuple[float, float]:
        """How far from the middle a place can be, to a side and to the front or back, in the largest brain."""
        reach = np.zeros(2)
        for brain in self.slices.brains:
            pixels = np.argwhere(brain)
            reach = np.maximum(reach, np.abs(pixels - pixels.mean(0)).max(0))
        front, across = np.floor(reach) * self.slices.spacing_mm
        return float(across), float(front)

    @cached_property
    def window(self) -> tuple[slice, slice]:
        """The part of the picture that holds every brain, with two pixels around it."""
        rows, columns = np.nonzero(self.slices.brains.any(0))
        sides = zip((rows, columns), self.slices.image_shape, strict=True)
        return tuple(slice(max(int(i.min()) - 2, 0), min(int(i.max()) + 3, n)) for i, n in sides)

    @property
    def host(self) -> Host:
        """The slice that is painted on; remembered."""
        if self.row not in self._hosts:
            images, brains = self.slices.images, self.slices.brains
            self._hosts[self.row] = Host(images[self.row], brains[self.row], self.slices.spacing_mm)
        return self._hosts[self.row]

    # ---- painting ---------------------------------------------------------------------------------------------------

    @property
    def centre(self) -> tuple[int, int]:
        """The pixel (row, column) where the lesion lies: the asked-for one, or the nearest in the brain."""
        return self.host.nearest(self._asked)

    @property
    def moved_mm(self) -> float:
        """How far the lesion was moved to lie in the brain; 0 where the asked-for place does."""
        apart = np.subtract(self.centre, np.rint(self._asked))
        return float(np.hypot(*apart) * self.slices.spacing_mm)

    @property
    def _asked(self) -> np.ndarray:
        return self.host.middle + np.array([-self.front_mm, self.across_mm]) / self.slices.spacing_mm

    @property
    def painted(self) -> Insertion:
        """The slice with the lesion, and the lesion's exact mask; the last one is remembered."""
        key = (self.row, self.kind, self.centre, self.seed, *self.settings.values())
        if self._painted is None or self._painted[0] != key:
            given = {SETTINGS[name]: value for name, value in self.settings.items()}
            self._painted = key, self.host.paint(self.kind, self.centre, self.seed, given)
        return self._painted[1]

    @property
    def lesion_mm2(self) -> float:
        """The lesion's area."""
        return float(self.painted.mask.sum() * self.slices.spacing_mm**2)

    @property
    def note(self) -> str:
        """What the student should know about this lesion, in words; empty if there is nothing to say."""
        said = []
        if self.moved_mm:
            said.append(f"That place is outside the brain: the lesion was moved {self.moved_mm:.0f} mm, to the rim.")
        if not self.painted.mask.any():
            said.append("Nothing was painted: this kind lies in tissue, neither in fluid nor across the midline.")
        return " ".join(said)

    # ---- detectors --------------------------------------------------------------------------------------------------

    def reading(self, detector: str) -> Reading:
        """What one detector says of the painted slice, and of the slice before."""
        judge = self.judges.get(detector)
        if judge is None:
            raise BadInput(f"there is no detector {detector!r}.", field="detector", remedy=f"One of {[*self.judges]}.")
        host, painted = self.host, self.painted
        if (self.row, detector) not in self._before:
            self._before[self.row, detector] = judge.answer(host.image, host.brain)
        before, after = self._before[self.row, detector], judge.answer(painted.image, host.brain)
        return Reading(
            detector=detector,
            threshold=judge.threshold,
            limits=judge.limits,
            before=before,
            after=after,
            healthy=compare(before, painted.mask, host.brain),
            painted=compare(after, painted.mask, host.brain),
        )


class Host:
    """A healthy slice with what painting on it needs: computed once, used at each step.

    Args:
        image: (H, W) intensities.
        brain: (H, W) bool.
        spacing_mm: the size of a pixel.
    """

    def __init__(self, image: np.ndarray, brain: np.ndarray, spacing_mm: float):
        self.image, self.brain, self.spacing_mm = image, brain, spacing_mm
        self.tissue = estimate_tissue(image, brain, spacing_mm=spacing_mm)
        self._pixels = np.argwhere(brain)  # (P, 2)
        self.middle = np.rint(self._pixels.mean(0))  # (row, column); whole, so that all steps are of one pixel

    def nearest(self, at: np.ndarray) -> tuple[int, int]:
        """The brain's pixel that is nearest to a place (row, column)."""
        pixel = tuple(int(x) for x in np.rint(at))
        if all(0 <= x < n for x, n in zip(pixel, self.brain.shape, strict=True)) and self.brain[pixel]:
            return pixel
        distance = np.square(self._pixels - np.array(pixel)).sum(1)
        row, column = self._pixels[distance.argmin()]
        return int(row), int(column)

    def paint(self, kind: str, centre: tuple[int, int], seed: int, given: Mapping[str, float]) -> Insertion:
        """A lesion of a kind on this slice; see `course_lib.images.pathology.place`.

        The slice is framed by background first. A lesion is drawn in a box around it, and a box that the picture's
        border cuts would have other random numbers: the shape would change as the lesion nears the border.
        """
        frame = int(np.ceil((2.2 * given["radius_mm"] + 21) / self.spacing_mm))  # no family's box reaches further
        inner = tuple(slice(frame, frame + n) for n in self.image.shape)
        tissue = dict(self.tissue)
        if kind == "spot":
            tissue["wm"] = self.brain.astype(np.float32)  # `ms` is of white matter; a plain spot may lie anywhere
        done = place(
            np.pad(self.image, frame),
            KINDS[kind],
            np.random.default_rng(seed),
            brain=np.pad(self.brain, frame),
            tissue={name: np.pad(value, frame) for name, value in tissue.items()},
            spacing_mm=self.spacing_mm,
            centre=(centre[0] + frame, centre[1] + frame),
            **given,
        )
        displacement = None if done.displacement_mm is None else done.displacement_mm[inner]
        return Insertion(done.image[inner].copy(), done.mask[inner].copy(), displacement, done.parameters)


class Judge:
    """A detector with the threshold, the colours and the scores that healthy validation slices give it.

    Attributes:
        threshold: `HealthyFPR` on the validation slices.
        limits: where a map's colours begin and end.
        scores: (M,) sorted image scores of the validation slices.

    Raises:
        BadInput: as `predict` and `HealthyFPR.fit`.
    """

    def __init__(self, name: str, detector: Detector, validation: SliceSet, fpr: float, steps: map_filters.Steps):
        self.name, self.detector, self.steps = name, detector, list(steps)
        well = predict(detector, validation, steps, name=name)
        self.threshold = HealthyFPR(fpr).fit(well).value
        self.min_pixels = well.min_component
        pixels = well.maps[well.brains]
        lowest = float(pixels.min())
        self.limits = (min(lowest, 0.0), max(float(np.percentile(pixels, BRIGHTEST)), self.threshold))
        self.scores = np.sort(well.image_scores)

    def answer(self, image: np.ndarray, brain: np.ndarray) -> Answer:
        """What the detector says of one image (H, W): the same numbers as `predict`, without a table of subjects."""
        with asking(self.detector) as device:
            images = torch.from_numpy(np.array(image, np.float32))[None, None].to(device)  # (1, 1, H, W)
            with remembering(self.detector, images):
                raw = self.detector.anomaly_map(images).float().cpu().numpy()  # (1, H, W)
                rebuilt = self._rebuilt(images)
                own = type(self.detector).anomaly_score is not Detector.anomaly_score
                score = self.detector.anomaly_score(images).item() if own else raw[0][brain].mean(dtype=np.float64)
        raw = np.where(brain, raw, map_filters.lowest(raw, brain[None])[:, None, None])
        anomaly = map_filters.postprocess(raw, brain[None], self.steps)[0]
        flagged = (anomaly.astype(np.float64) >= self.threshold) & brain
        flagged = map_filters.remove_small_components(flagged, self.min_pixels)
        score = np.float32(score)
        percentile = 100 * np.searchsorted(self.scores, score, "left") / len(self.scores)
        return Answer(anomaly, rebuilt, flagged, float(score), float(percentile))

    def _rebuilt(self, images: torch.Tensor) -> np.ndarray | None:
        try:
            return self.detector.pseudo_healthy(images)[0, 0].float().cpu().numpy()
        except NotImplementedError:
            return None


def compare(answer: Answer, lesion: np.ndarray, brain: np.ndarray) -> Numbers:
    """The numbers of an answer, given the lesion and the brain, (H, W) bool each."""
    flagged, rest = answer.flagged, brain & ~lesion
    found = int((flagged & lesion).sum())
    nothing = float("nan")
    return Numbers(
        found=found,
        false=int((flagged & rest).sum()),
        missed=int((lesion & ~flagged).sum()),
        dice=dice(flagged, lesion),
        share=found / int(lesion.sum()) if lesion.any() else nothing,
        inside=float(answer.anomaly[lesion].mean()) if lesion.any() else nothing,
        outside=float(answer.anomaly[rest].mean()) if rest.any() else nothing,
        score=answer.score,
        percentile=answer.percentile,
    )


def _typical(kind: str) -> dict[str, float]:
    """A kind's settings in the middle of the range from which the cohort draws them, rounded as sliders are."""
    known = PARAMETERS[KINDS[kind]]
    middles = {s: (known[p].draw_low + known[p].draw_high) / 2 for s, p in SETTINGS.items() if p in known}
    return {
        setting: round(2 * value) / 2 if setting == "size" else round(value, 1) for setting, value in middles.items()
    }


def _check(slices: SliceSet, detectors: Mapping[str, Detector], validation: SliceSet) -> None:
    if not detectors:
        raise BadInput("there is no detector to look at.", field="detectors")
    if not len(slices) or not len(validation):
        raise BadInput("there is no slice.", field="slices" if not len(slices) else "validation")
    if slices.masks.any():
        raise BadInput("a slice has a lesion already.", field="slices", remedy="Paint on healthy slices.")
    if not slices.brains.any((1, 2)).all():
        raise BadInput("a slice has no brain.", field="slices")
    if slices.image_shape != validation.image_shape:
        raise BadInput(f"{slices.image_shape} and {validation.image_shape} differ.", field="validation")
