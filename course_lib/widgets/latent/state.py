"""The latent explorer's state: the codes of healthy slices, a point among them, its picture, and what is near."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.errors import BadInput
from course_lib.images.slices import SliceSet
from course_lib.widgets.forward import asking

MODES = ("interpolate", "walk")
T_ENDS = (-0.5, 1.5)
STEP_ENDS = (-4.0, 4.0)  # s.d. of a direction
UNIT = 1 / 8  # one robust standard deviation of the brain, in intensity
LIMIT = 1000  # slices that are coded
DIRECTIONS = 8  # that can be walked along
PROBES = 300  # slices whose own nearest neighbours make the yardstick
LIVELY = 0.01  # a code number whose s.d. is a smaller share of the largest one's says nothing: a VAE has such


@dataclass(frozen=True)
class Near:
    """What lies nearest to a point, in one of the two spaces.

    Attributes:
        row, distance: of the nearest coded slice, in the space's unit.
        other_row, other_distance: of the nearest slice of a person whose slices the point was not made from.
        percentile: share of healthy training slices whose own nearest slice of another person is nearer than
            `other_distance`, in percent. 50 is as near as usual, 100 farther than any.
    """

    row: int
    distance: float
    other_row: int
    other_distance: float
    percentile: float


@dataclass(frozen=True)
class Point:
    """A point of the latent space.

    Attributes:
        code: (D,) float32, flattened.
        place: (2,) where it lies along the first two principal directions, in s.d.
        picture: (H, W) float32, decoded, as the decoder gives it: also outside the brain.
        in_code: what is nearest among the codes.
        in_picture: what is nearest to the decoded picture among the slices.
        faded: (H, W), the cross-fade (1 - t) A + t B of the two pictures; None when walking.
        in_faded: what is nearest to the cross-fade; None when walking.
    """

    code: np.ndarray
    place: np.ndarray
    picture: np.ndarray
    in_code: Near
    in_picture: Near
    faded: np.ndarray | None
    in_faded: Near | None


class LatentState:
    """A detector with a code, healthy training slices, and a point that moves among their codes.

    There are two distances. Between codes: the root mean square over the code's numbers, each divided by its s.d.
    over the coded slices; numbers that hardly vary (`LIVELY`) are left out. Between pictures: the root mean square
    over the pixels where any of the slices has brain, in robust s.d. of the brain (1/8).

    "Far" is said beside a yardstick: how far healthy slices are from the nearest slice of another person. Decoded
    pictures are smooth, and so nearer to any slice than slices are to each other. Their yardstick is therefore that
    of decoded training slices; the cross-fade, which is no decoder's, is measured by that of the slices themselves.

    Args:
        detector: has `encode(images (B, 1, H, W)) -> code (B, ...)` and `decode(code) -> (B, 1, H, W)`. A variational
            auto-encoder's `encode` gives the mean code.
        slices: healthy training slices of at least three persons.
        limit: so many are coded at most, spread evenly over persons and each person's heights; at least three.
        batch_size: images at a time.

    Attributes:
        rows: (N,) the coded rows of `slices`; `a`, `b` and the rows of `Near` count within them.
        codes: (N, D) float32.
        mode: "interpolate" (from A to B) or "walk" (from A along a principal direction).
        a, b: which coded slices the two ends are.
        t: how far from A to B; below 0 and above 1 is beyond them.
        direction: which principal direction is walked along, from 0.
        step: how far, in s.d. of that direction.

    Raises:
        BadInput: the detector has no encode or decode, or they do not fit together; slices with a lesion; fewer than
            three persons; codes that are all the same.
    """

    def __init__(self, detector: Detector, slices: SliceSet, *, limit: int = LIMIT, batch_size: int = 64):
        for name in ("encode", "decode"):
            if not callable(getattr(detector, name, None)):
                raise BadInput(
                    f"{type(detector).__name__} has no {name}, and so no latent space to walk in.",
                    field="detector",
                    remedy="Take an auto-encoder or another method with encode and decode.",
                )
        _check_slices(slices, limit)
        self.detector, self.slices, self._batch_size = detector, slices, batch_size
        self.rows = spread(slices.table["subject"].to_numpy(), limit)
        self.images = slices.images[self.rows]  # (N, H, W)
        self.subjects = slices.table["subject"].to_numpy()[self.rows]  # (N,)
        self.heights = slices.table["z_mm"].to_numpy(float)[self.rows]  # (N,)
        self.codes, self._shape = self._encode()
        self._spread = self.codes.std(0)  # (D,)
        if not self._spread.max() > 0:
            raise BadInput("all slices have the same code.", field="detector", remedy="Train it first.")
        self.lively = self._spread > LIVELY * self._spread.max()  # (D,)
        self.mode, self.t, self.direction, self.step = "interpolate", 0.5, 0, 0.0
        people = list(dict.fromkeys(self.subjects))
        self.choose_a(int(self.rows_of(people[0])[len(self.rows_of(people[0])) // 2]))
        self.choose_b(int(self.rows_of(people[-1])[len(self.rows_of(people[-1])) // 2]))
        self._point: tuple[tuple, Point] | None = None

    # ---- settings ---------------------------------------------------------------------------------------------------

    def choose_mode(self, mode: str) -> None:
        """Interpolate from A to B, or walk from A."""
        if mode not in MODES:
            raise BadInput(f"there is no mode {mode!r}.", field="mode", remedy=f"One of {list(MODES)}.")
        self.mode = mode

    def choose_a(self, row: int) -> None:
        """Change the slice A, from which all paths start."""
        self.a = self._known(row)

    def choose_b(self, row: int) -> None:
        """Change the slice B, to which an interpolation leads."""
        self.b = self._known(row)

    def choose_direction(self, direction: int) -> None:
        """Change the principal direction that is walked along, from 0."""
        if not 0 <= direction < len(self.deviations):
            count = len(self.deviations)
            raise BadInput(f"there is no direction {direction}.", field="direction", remedy=f"There are {count}.")
        self.direction = int(direction)

    def set_t(self, t: float) -> None:
        """Go so far from A to B; beyond `T_ENDS` is moved to the end."""
        self.t = _clipped("t", t, T_ENDS)

    def set_step(self, step: float) -> None:
        """Walk so many s.d. from A; beyond `STEP_ENDS` is moved to the end."""
        self.step = _clipped("step", step, STEP_ENDS)

    # ---- what there is ----------------------------------------------------------------------------------------------

    def rows_of(self, subject: str) -> np.ndarray:
        """The coded slices of a person."""
        rows = np.flatnonzero(self.subjects == subject)
        if not len(rows):
            raise BadInput(f"there is no subject {subject!r}.", field="subject")
        return rows

    def name_of(self, row: int) -> str:
        """A coded slice in words."""
        number = list(dict.fromkeys(self.subjects)).index(self.subjects[row]) + 1
        return f"person {number}, z = {self.heights[row]:g} mm"

    def rebuilt(self, row: int) -> np.ndarray:
        """A coded slice's reconstruction (H, W), as the decoder gives it; the last ones are remembered."""
        if row not in self._rebuilt:
            if len(self._rebuilt) >= 16:
                self._rebuilt.pop(next(iter(self._rebuilt)))
            self._rebuilt[row] = self.decode(self.codes[row][None])[0]
        return self._rebuilt[row]

    @cached_property
    def _rebuilt(self) -> dict[int, np.ndarray]:
        return {}

    # ---- principal directions ---------------------------------------------------------------------------------------

    @cached_property
    def _decomposition(self):
        from sklearn.decomposition import PCA  # here: it takes a second to import

        return PCA(min(DIRECTIONS, len(self.codes) - 1, self.codes.shape[1]), random_state=0).fit(self.codes)

    @property
    def directions(self) -> np.ndarray:
        """(K, D), the principal directions of the codes, orthonormal."""
        return self._decomposition.components_

    @property
    def deviations(self) -> np.ndarray:
        """(K,), the s.d. of the codes along each direction."""
        return np.sqrt(self._decomposition.explained_variance_)

    @property
    def explained(self) -> np.ndarray:
        """(K,), each direction's share of the codes' variance."""
        return self._decomposition.explained_variance_ratio_

    def places(self, codes: np.ndarray) -> np.ndarray:
        """Where codes (N, D) lie along the first two directions, (N, 2), in s.d.; 0 along a second that is missing."""
        along = (codes - self._decomposition.mean_) @ self.directions[:2].T
        along = along / np.maximum(self.deviations[:2], 1e-12)
        return np.pad(along, ((0, 0), (0, 2 - along.shape[1])))

    # ---- the point --------------------------------------------------------------------------------------------------

    def code_at(self, position: float) -> np.ndarray:
        """The code (D,) at a position of the present path: t when interpolating, s.d. when walking."""
        start = self.codes[self.a]
        if self.mode == "interpolate":
            return start + np.float32(position) * (self.codes[self.b] - start)
        length = position * self.deviations[self.direction]
        return start + np.float32(length) * self.directions[self.direction]

    def point(self) -> Point:
        """Everything about the point at the present settings; the last one is remembered."""
        position = self.t if self.mode == "interpolate" else self.step
        key = (self.mode, self.a, self.b, self.direction, position)
        if self._point is None or self._point[0] != key:
            self._point = key, self._at(position)
        return self._point[1]

    def _at(self, position: float) -> Point:
        code = self.code_at(position)
        picture = self.decode(code[None])[0]
        made_from = [self.a, self.b] if self.mode == "interpolate" else [self.a]
        own = np.isin(self.subjects, self.subjects[made_from])  # (N,)
        faded = in_faded = None
        if self.mode == "interpolate":
            faded = (1 - position) * self.images[self.a] + position * self.images[self.b]
            in_faded = _nearest(self._pictures, self._flat(faded), own, self._yardsticks["slices"])
        return Point(
            code=code,
            place=self.places(code[None])[0],
            picture=picture,
            in_code=_nearest(self._scaled, self._scale(code), own, self._yardsticks["codes"]),
            in_picture=_nearest(self._pictures, self._flat(picture), own, self._yardsticks["decoded"]),
            faded=faded,
            in_faded=in_faded,
        )

    # ---- the detector -----------------------------------------------------------------------------------------------

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The pictures (B, H, W) of flattened codes (B, D), as the decoder gives them."""
        pieces = []
        with asking(self.detector) as device:
            for start in range(0, len(codes), self._batch_size):
                code = torch.from_numpy(np.array(codes[start : start + self._batch_size], np.float32))
                decoded = self.detector.decode(code.reshape(-1, *self._shape).to(device))  # (B, 1, H, W)
                if decoded.shape != (len(code), 1, *self.slices.image_shape):
                    raise BadInput(
                        f"decode gives {tuple(decoded.shape)} for {len(code)} codes.",
                        field="detector",
                        remedy=f"It has to give (B, 1, {self.slices.image_shape[0]}, {self.slices.image_shape[1]}).",
                    )
                pieces.append(decoded[:, 0].float().cpu().numpy())
        return np.concatenate(pieces)

    def _encode(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The codes of all rows, flattened (N, D), and the shape of one."""
        pieces = []
        with asking(self.detector) as device:
            for start in range(0, len(self.rows), self._batch_size):
                images = self.slices.batch(self.rows[start : start + self._batch_size]).to(device)  # (B, 1, H, W)
                code = self.detector.encode(images)
                if not isinstance(code, Tensor) or len(code) != len(images) or not torch.isfinite(code).all():
                    raise BadInput(
                        "encode does not give one finite code an image.",
                        field="detector",
                        remedy="It has to return one tensor (B, ...): of a distribution, its mean.",
                    )
                pieces.append(code.float().cpu())
        codes = torch.cat(pieces)
        return codes.flatten(1).numpy(), tuple(codes.shape[1:])

    # ---- distances --------------------------------------------------------------------------------------------------

    @cached_property
    def brain(self) -> np.ndarray:
        """(H, W) bool, where any of the coded slices has brain: the pixels over which pictures are compared."""
        return self.slices.brains[self.rows].any(0)

    def _scale(self, codes: np.ndarray) -> Tensor:
        """Codes (..., D) so that Euclidean distance is the one between codes."""
        scaled = codes[..., self.lively] / self._spread[self.lively] / np.sqrt(self.lively.sum())
        return torch.from_numpy(np.ascontiguousarray(scaled, np.float32))

    def _flat(self, pictures: np.ndarray) -> Tensor:
        """Pictures (..., H, W) so that Euclidean distance is the one between pictures."""
        flat = pictures[..., self.brain] / (UNIT * np.sqrt(self.brain.sum()))
        return torch.from_numpy(np.ascontiguousarray(flat, np.float32))

    @cached_property
    def _scaled(self) -> Tensor:
        return self._scale(self.codes)

    @cached_property
    def _pictures(self) -> Tensor:
        return self._flat(self.images)

    @cached_property
    def _yardsticks(self) -> dict[str, np.ndarray]:
        """For each space, the sorted distances of up to `PROBES` slices to the nearest slice of another person."""
        probes = spread(self.subjects, PROBES)
        same = torch.from_numpy(self.subjects[probes][:, None] == self.subjects[None])  # (P, N)
        spaces = {
            "codes": (self._scaled[probes], self._scaled),
            "slices": (self._pictures[probes], self._pictures),
            "decoded": (self._flat(self.decode(self.codes[probes])), self._pictures),
        }
        return {
            name: np.sort(torch.cdist(some, everyone).masked_fill(same, float("inf")).amin(1).numpy())
            for name, (some, everyone) in spaces.items()
        }

    @property
    def usual(self) -> dict[str, float]:
        """The median yardstick of "codes", "decoded" pictures and "slices", in each one's unit."""
        return {name: float(np.median(distances)) for name, distances in self._yardsticks.items()}

    def _known(self, row: int) -> int:
        if not 0 <= row < len(self.rows):
            raise BadInput(f"there is no coded slice {row}.", field="slice", remedy=f"There are {len(self.rows)}.")
        return int(row)


def spread(subjects: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` row numbers, sorted: as many of each subject, evenly over that subject's rows.

    Args:
        subjects: (N,) whose each row is.
        limit: positive. With fewer than there are subjects, one row of evenly chosen subjects.
    """
    if len(subjects) <= limit:
        return np.arange(len(subjects))
    people = list(dict.fromkeys(subjects))
    chosen = [people[i] for i in np.linspace(0, len(people) - 1, min(limit, len(people))).round().astype(int)]
    each = limit // len(chosen)
    rows = []
    for person in chosen:
        own = np.flatnonzero(subjects == person)
        middles = (np.arange(min(each, len(own))) + 0.5) * len(own) / min(each, len(own))
        rows += list(own[middles.astype(int)])
    return np.sort(np.array(rows))


def _nearest(everyone: Tensor, one: Tensor, own: np.ndarray, yardstick: np.ndarray) -> Near:
    """The row nearest to a vector (D,), and the nearest that is not one's `own` (N,), by Euclidean distance."""
    # Differences: with a matrix product, as `cdist` may use, a slice would not be at distance 0 from itself.
    distance = torch.linalg.vector_norm(everyone - one, dim=1).numpy()  # (N,)
    others = np.where(own, np.inf, distance)
    row, other = int(distance.argmin()), int(others.argmin())
    percentile = 100 * np.searchsorted(yardstick, others[other], "left") / len(yardstick)
    return Near(row, float(distance[row]), other, float(others[other]), float(percentile))


def _check_slices(slices: SliceSet, limit: int) -> None:
    if len(slices.subjects) < 3 or limit < 3:
        raise BadInput(
            f"there are slices of {len(slices.subjects)} persons, and at most {limit} slices are coded.",
            field="slices",
            remedy="Give slices of three persons or more: two are the ends, the others are what is near.",
        )
    if slices.masks.any():
        raise BadInput("a slice has a lesion.", field="slices", remedy="Give the healthy training slices.")


def _clipped(name: str, value: float, ends: tuple[float, float]) -> float:
    if not np.isfinite(value):
        raise BadInput(f"{value!r} is not a number.", field=name)
    return float(np.clip(value, *ends))
