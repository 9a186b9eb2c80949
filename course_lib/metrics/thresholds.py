"""Threshold protocols: a threshold is never a bare number, it says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from course_lib.errors import BadInput
from course_lib.metrics.curves import rank_metrics
from course_lib.metrics.scores import HEALTHY, Scores


@dataclass(frozen=True)
class Threshold:
    """A fitted threshold with its protocol.

    Attributes:
        value: a pixel that scores at least this is a detection. NaN for an oracle that has one for each subject.
        protocol: what it was fitted by; `str(threshold.protocol)` says so in tables.
        detector, postprocess: what it was fitted on; it refuses to be applied to anything else.
        by_subject: the threshold of each subject, for `OraclePatient`.
    """

    value: float
    protocol: Protocol
    detector: str = ""
    postprocess: str = ""
    by_subject: dict[str, float] = field(default_factory=dict)

    @property
    def oracle(self) -> bool:
        """Whether it was chosen with the test labels in hand."""
        return self.protocol.oracle

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.protocol})"

    def apply(self, scores: Scores) -> np.ndarray:
        """The detections (N, H, W), bool.

        Raises:
            BadInput: it was fitted for another detector, or on maps with other post-processing.
        """
        for name in ("detector", "postprocess"):
            mine, theirs = getattr(self, name), getattr(scores, name)
            if mine and mine != theirs:
                raise BadInput(
                    f"fitted with {name} {mine!r}, applied to {theirs!r}.",
                    field="threshold",
                    remedy="Fit it on the validation scores of the same pipeline.",
                )
        if not self.by_subject:
            return scores.detections(self.value)
        return scores.detections(np.array([self.by_subject[unit] for unit in scores.units]))


class Protocol:
    """How a threshold is found. `fit(scores)` gives a `Threshold`; `oracle` says whether it looks at test labels."""

    oracle = False

    def fit(self, scores: Scores) -> Threshold:
        """The threshold for these scores.

        Raises:
            BadInput: the scores are not of the kind that the protocol needs.
        """
        raise NotImplementedError

    def _threshold(self, value: float, scores: Scores, by_subject: dict[str, float] | None = None) -> Threshold:
        return Threshold(float(value), self, scores.detector, scores.postprocess, by_subject or {})


@dataclass(frozen=True)
class HealthyFPR(Protocol):
    """The lowest threshold at which at most a share `q` of healthy validation pixels are detected.

    All brain pixels of the validation split's healthy subjects are pooled. With n of them, at most floor(q n) score
    at least t; ties at the border are all left out. On new healthy subjects the rate will differ, and much more for a
    single one: evaluation reports both.

    Args:
        q: the nominal false-positive rate, in [0, 1).
        healthy: the families that count as healthy.
    """

    q: float
    healthy: tuple[str, ...] = (HEALTHY,)

    def __post_init__(self):
        if not 0 <= self.q < 1:
            raise BadInput(f"a false-positive rate of {self.q} is not in [0, 1).", field="q")

    def __str__(self) -> str:
        return f"healthy FPR {100 * self.q:g} %"

    def fit(self, scores: Scores) -> Threshold:
        """The threshold from healthy validation scores.

        Raises:
            BadInput: a slice is not of the validation split, or not of a healthy subject, or has a lesion.
        """
        _require_split(scores, self)
        ill = sorted(set(scores.families) - set(self.healthy))
        if ill:
            raise BadInput(
                f"{self} is set on healthy subjects, and these are of the families {ill}.",
                field="family",
                remedy="Slices without a lesion of an ill person are not healthy ones.",
            )
        if scores.masks.any():
            raise BadInput(f"{self} is set on healthy subjects, and there is a lesion.", field="masks")
        return self._threshold(threshold_at_fpr(scores.maps[scores.brains], self.q), scores)


@dataclass(frozen=True)
class LesionValidation(Protocol):
    """The threshold of the best Dice, pixels pooled, on **validation** subjects with lesions: not an oracle, but it
    needs annotated patients, which an unsupervised method claims to do without.
    """

    def __str__(self) -> str:
        return "lesion validation"

    def fit(self, scores: Scores) -> Threshold:
        """The threshold from validation scores with lesions.

        Raises:
            BadInput: a slice is not of the validation split, or there is no lesion.
        """
        _require_split(scores, self)
        return self._threshold(_best_threshold(scores), scores)


@dataclass(frozen=True)
class Fixed(Protocol):
    """A number known beforehand, from another study or from physics. It means nothing for another detector."""

    t: float

    def __post_init__(self):
        if not np.isfinite(self.t):
            raise BadInput(f"a threshold of {self.t}.", field="t")

    def __str__(self) -> str:
        return f"fixed {self.t:g}"

    def fit(self, scores: Scores | None = None) -> Threshold:
        """The number itself; the scores are not looked at."""
        return Threshold(float(self.t), self)


@dataclass(frozen=True)
class OracleDataset(Protocol):
    """The threshold of the best Dice on the very data that are scored. An upper bound, never a result."""

    oracle = True

    def __str__(self) -> str:
        return "oracle (dataset)"

    def fit(self, scores: Scores) -> Threshold:
        """The best threshold of these scores.

        Raises:
            BadInput: there is no lesion.
        """
        return self._threshold(_best_threshold(scores), scores)


@dataclass(frozen=True)
class OraclePatient(Protocol):
    """Each subject's own best threshold, chosen with that subject's labels. An even looser upper bound.

    A subject without a lesion has no best threshold: infinity, so that nothing is detected in it; it enters no Dice.
    """

    oracle = True

    def __str__(self) -> str:
        return "oracle (patient)"

    def fit(self, scores: Scores) -> Threshold:
        """The best thresholds of these scores.

        Raises:
            BadInput: no subject has a lesion.
        """
        inside = scores.masks & scores.brains
        if not inside.any():
            raise BadInput("there is no lesion to choose a threshold for.", field="masks")
        best = {}
        for unit, rows in scores.by_unit().items():
            found = rank_metrics(scores.maps[rows], scores.masks[rows], scores.brains[rows]).best_threshold
            best[unit] = found if inside[rows].any() else float("inf")
        return self._threshold(float("nan"), scores, best)


def threshold_at_fpr(healthy: np.ndarray, q: float) -> float:
    """The lowest number t, in the scores' dtype, with at most floor(q n) of the n healthy scores >= t.

    Raises:
        BadInput: there is no score, or one is not finite.
    """
    healthy = np.asarray(healthy).reshape(-1)
    if not healthy.size or not np.isfinite(healthy).all():
        raise BadInput("no healthy scores, or some are NaN or infinite.", field="healthy")
    if healthy.dtype.kind != "f":
        healthy = healthy.astype(np.float64)
    allowed = int(np.floor(q * healthy.size * (1 + 1e-12)))  # 0.05 x 20 is 1, not 0.9999...
    border = np.partition(healthy, healthy.size - 1 - allowed)[healthy.size - 1 - allowed]
    return float(np.nextafter(border, healthy.dtype.type(np.inf)))  # just above the first score that may not pass


def _require_split(scores: Scores, protocol: Protocol) -> None:
    if scores.splits != ["val"]:
        raise BadInput(
            f"{protocol} was given the split {scores.splits}.",
            field="split",
            remedy="Thresholds are set on the validation split; on test data they are oracles.",
        )


def _best_threshold(scores: Scores) -> float:
    best = rank_metrics(scores.maps, scores.masks, scores.brains).best_threshold
    if np.isnan(best):
        raise BadInput("there is no lesion to choose a threshold for.", field="masks")
    return best
