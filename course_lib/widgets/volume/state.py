"""The volume viewer's state: a subject in 3-D, a cursor, a threshold; three planes and what is detected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images import lattice
from course_lib.images.slices import SliceSet
from course_lib.metrics.curves import as_binary
from course_lib.metrics.scores import Scores
from course_lib.plots import OUTLINE
from course_lib.widgets import pictures

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # axes: across, up, fixed
LONGEST = 460  # pixels that the longest side of a plane may take
TRUTH = tuple(bytes.fromhex(OUTLINE[1:]))  # RGB of the lesion's outline
_CUBE = np.ones((3, 3, 3), bool)  # 26 neighbours


@dataclass(frozen=True)
class Reading:
    """What is detected in the volume, and what lies under the cursor.

    Attributes:
        threshold: in the map's units.
        voxels, detected_ml: what is detected, in voxels and in millilitres.
        lesion_ml: the lesion inside the brain; NaN where the truth is not known.
        dice: 2 |D and L| / (|D| + |L|) of the voxels; NaN where the truth is not known, or both are empty.
        pieces: detected pieces (26 neighbours).
        found, missed: lesion pieces with and without a detected voxel; None where the truth is not known.
        false: detected pieces without a lesion voxel; None where the truth is not known.
        cursor_mm: (x, y, z) of the voxel under the cursor.
        image, anomaly: the values there.
        marked, inside: whether the voxel is detected, and whether it is in the brain.
        lesion: whether the voxel is lesion; None where the truth is not known.
    """

    threshold: float
    voxels: int
    detected_ml: float
    lesion_ml: float
    dice: float
    pieces: int
    found: int | None
    missed: int | None
    false: int | None
    cursor_mm: tuple[float, float, float]
    image: float
    anomaly: float
    marked: bool
    inside: bool
    lesion: bool | None


class VolumeState:
    """A volume with its anomaly map, and the settings of the viewer.

    Args:
        image: (X, Y, Z) intensities, RAS+ (x to the patient's right, y to the front, z up), normalised as the course's
            images are (`course_lib.images.volumes.normalise`).
        anomaly: (X, Y, Z) anomaly map, higher is more anomalous.
        lesion: (X, Y, Z) bool, the truth; None where it is not known. What lies outside the brain does not count.
        brain: (X, Y, Z) bool, where voxels can be detected; default: where the image is not 0.
        affine: 4 x 4, voxel to mm, positive and without rotation. Voxels may be longer in one direction.
        threshold: what scores at least so much is detected; default: the map's 99th percentile in the brain.
        ends: where a threshold makes sense; default: the map's median in the brain and its highest value. The map's
            colours go from 0, or from the first if that is negative, to the second.
        name: of the subject, for captions.

    Attributes:
        cursor: [i, j, k], the voxel under the cursor; at first in the largest lesion, else at the highest score.
        threshold: in the map's units; `set_threshold` changes it.
        overlay: whether the map is shown where it is detected. opacity: of the map, 0 to 1.
        outline: whether the truth is outlined.
        min_voxels: detected pieces with fewer voxels are dropped.
        spacing_mm: (3,) the voxel's size.

    Raises:
        BadInput: shapes differ, an axis has a single voxel, the grid is turned or flipped, the brain is empty, a value
            in it is not finite, the lesion is not binary, the ends are no range.
    """

    def __init__(
        self,
        image: np.ndarray,
        anomaly: np.ndarray,
        *,
        lesion: np.ndarray | None = None,
        brain: np.ndarray | None = None,
        affine: np.ndarray,
        threshold: float | None = None,
        ends: tuple[float, float] | None = None,
        name: str = "",
    ):
        self.image, self.anomaly = np.asarray(image, np.float32), np.asarray(anomaly, np.float32)
        self.brain = self.image != 0 if brain is None else as_binary(brain, "brain")
        self.lesion = None if lesion is None else as_binary(lesion, "lesion")
        self.affine, self.name = np.asarray(affine, float), name
        self._check()
        if self.lesion is not None:
            self.lesion = self.lesion & self.brain
        self.spacing_mm, self.origin_mm = np.diag(self.affine)[:3], self.affine[:3, 3]
        self.voxel_ml = float(self.spacing_mm.prod()) / 1000
        self._crop()
        self.ends = self._ends(ends)
        self.overlay, self.outline, self.opacity, self.min_voxels = True, True, 0.8, 0
        self._marked: tuple = (None, None)
        self._labels: tuple = (None, None)
        self.set_threshold(float(np.quantile(self.anomaly[self.brain], 0.99)) if threshold is None else threshold)
        self.cursor = np.zeros(3, int)
        if self.lesion is not None and self.lesion.any():
            self.jump_to_lesion()
        else:
            self.jump_to_highest()

    @classmethod
    def from_scores(cls, slices: SliceSet, scores: Scores, subject: str, **options) -> VolumeState:
        """Stack the axial slices of one subject and their maps.

        A slice stands for the distance to the next one (4 mm on the course's heights): what lies between two slices
        is not known. Heights that were left out between the first and the last are empty.

        Args:
            slices: the images; on the course's lattice (`course_lib.images.lattice`).
            scores: the maps, masks and brains, of the same slices or of some of them.
            subject: an id in the column `subject` of both tables.
            options: `threshold`, `ends`, `name`; the name's default is the subject's id.

        Raises:
            BadInput: the subject is not in both, it has fewer than two slices or heights that are not on one grid, the
                slices are not on the lattice.
        """
        if slices.image_shape != lattice.SHAPE or slices.spacing_mm != lattice.SPACING_MM:
            raise BadInput(
                f"{slices.image_shape} pixels of {slices.spacing_mm:g} mm are not the course's lattice.",
                field="slices",
                remedy="Make the state from volumes and their affine.",
            )
        scored, pictured, heights = _rows_of(slices, scores, subject)
        places, affine = _grid(heights)
        if slices.images[pictured].shape != scores.maps[scored].shape:
            raise BadInput("the maps have another shape than the slices.", field="scores")
        arrays = {
            "image": slices.images[pictured],
            "anomaly": scores.maps[scored],
            "lesion": scores.masks[scored],
            "brain": scores.brains[scored],
        }
        volumes = {key: _stacked(array, places) for key, array in arrays.items()}
        return cls(**volumes, affine=affine, **({"name": subject} | options))

    # ---- settings ---------------------------------------------------------------------------------------------------

    def set_threshold(self, threshold: float) -> None:
        """Set what a voxel has to score at least."""
        if not np.isfinite(threshold):
            raise BadInput(f"a threshold of {threshold}.", field="threshold")
        self.threshold = float(threshold)

    def set_cursor(self, mm: Sequence[float]) -> None:
        """Put the cursor on the voxel nearest to (x, y, z) in mm."""
        mm = np.asarray(mm, float)
        if mm.shape != (3,) or not np.isfinite(mm).all():
            raise BadInput(f"{mm.tolist()} is no place (x, y, z) in mm.", field="cursor")
        voxel = np.rint((mm - self.origin_mm) / self.spacing_mm).astype(int)
        if (voxel < 0).any() or (voxel >= self.image.shape).any():
            raise BadInput(f"{mm.tolist()} mm lies outside the volume.", field="cursor")
        self.cursor = voxel

    def set_place(self, axis: int, mm: float) -> None:
        """Move the cursor along one axis: 0 for x, 1 for y, 2 for z."""
        place = self.cursor_mm
        place[axis] = mm
        self.set_cursor(place)

    def jump_to_highest(self) -> None:
        """Put the cursor on the brain's highest score."""
        best = np.unravel_index(np.argmax(self._scores), self._scores.shape)
        self.cursor = np.array(best) + self._start

    def jump_to_lesion(self) -> None:
        """Put the cursor in the largest lesion (26 neighbours), on its voxel nearest to its centre of mass."""
        if not self._lesions:
            raise BadInput("there is no lesion in this volume.", field="lesion")
        largest = 1 + int(np.argmax(np.bincount(self._lesion_labels)[1:]))
        own = self._lesion_places[self._lesion_labels == largest]
        voxels = np.stack(np.unravel_index(own, self._scores.shape), axis=1)  # (n, 3)
        away = ((voxels - voxels.mean(0)) * self.spacing_mm) ** 2
        self.cursor = voxels[np.argmin(away.sum(1))] + self._start

    # ---- where ------------------------------------------------------------------------------------------------------

    @property
    def cursor_mm(self) -> np.ndarray:
        """(x, y, z) of the cursor in mm."""
        return self.origin_mm + self.cursor * self.spacing_mm

    def places_mm(self, axis: int) -> np.ndarray:
        """The centres of the voxels along an axis, in mm."""
        return self.origin_mm[axis] + np.arange(self.image.shape[axis]) * self.spacing_mm[axis]

    @property
    def scale(self) -> float:
        """Pixels of a picture per mm: the same in all planes, a whole number of pixels for the smallest voxel edge."""
        size = self.spacing_mm.min()
        longest = float((np.array(self.image.shape) * self.spacing_mm).max())
        return max(1, int(LONGEST * size / longest)) / float(size)

    def pixels(self, plane: str) -> tuple[int, int]:
        """Width and height of a plane's picture."""
        across, up, _ = PLANES[plane]
        return self._extent(across), self._extent(up)

    def cursor_pixel(self, plane: str) -> tuple[float, float]:
        """Column and row of the cursor in a plane's picture."""
        across, up, _ = PLANES[plane]
        share = (self.cursor + 0.5) / self.image.shape
        return share[across] * self._extent(across), (1 - share[up]) * self._extent(up)

    # ---- what is seen -----------------------------------------------------------------------------------------------

    def cut(self, volume: np.ndarray, plane: str) -> np.ndarray:
        """The plane of a volume through the cursor, (rows, columns): up is at the top, right or front on the right."""
        _, _, fixed = PLANES[plane]
        return np.moveaxis(volume, fixed, 0)[self.cursor[fixed]].T[::-1]  # a view, which np.take would copy

    def coloured(self, plane: str) -> np.ndarray:
        """A plane's voxels, (rows, columns, 3) uint8: the image, and the map where it is detected."""
        drawn = pictures.grey(self.cut(self.image, plane))
        if self.overlay:
            marked = self.cut(self.detected(), plane)
            low, high = self.colours
            colour = pictures.heat(self.cut(self.anomaly, plane) - low, high - low)[marked]
            drawn[marked] = np.rint(drawn[marked] + self.opacity * (colour - drawn[marked].astype(float)))
        return drawn

    def truth(self, plane: str) -> np.ndarray | None:
        """The lesion as pixels of a plane's picture, (rows, columns) bool; None where none is known or wanted."""
        if self.lesion is None or not self.outline:
            return None
        return self._enlarged(self.cut(self.lesion, plane), plane)

    def picture(self, plane: str) -> np.ndarray:
        """A plane as it is shown, without cursor and letters: image, map where it is detected, outline of the truth.

        No value is interpolated: each pixel shows the voxel that it lies in, and millimetres are equally long in both
        directions.

        Returns:
            (rows, columns, 3) uint8, `pixels(plane)` large.
        """
        drawn, truth = self._enlarged(self.coloured(plane), plane), self.truth(plane)
        return drawn if truth is None else pictures.outline(drawn, truth, TRUTH, 1)

    def _enlarged(self, cut: np.ndarray, plane: str) -> np.ndarray:
        """A plane's voxels (rows, columns, ...) as its picture's pixels."""
        across, up, _ = PLANES[plane]
        return cut[:, self._voxels(across)][self._voxels(up)]

    @property
    def colours(self) -> tuple[float, float]:
        """The scores at the dark and at the bright end of the map's colours."""
        return min(0.0, self.ends[0]), self.ends[1]

    # ---- what is detected -------------------------------------------------------------------------------------------

    def detected(self) -> np.ndarray:
        """(X, Y, Z) bool: brain voxels that score at least the threshold, without the pieces that are too small."""
        key = (self.threshold, self.min_voxels)
        if self._marked[0] != key:
            labels, sizes = self._pieces()
            marked = np.zeros(self.image.shape, bool)
            # where all pieces are kept, none need be looked up, which is slow
            marked[self._box] = self._kept(sizes)[labels] if self.min_voxels > 1 else labels > 0
            self._marked = (key, marked)
        return self._marked[1]

    def reading(self) -> Reading:
        """Every number at the present settings."""
        _, sizes = self._pieces()
        keep = self._kept(sizes)
        voxels = int(sizes[keep].sum())
        at = tuple(self.cursor)
        return Reading(
            threshold=self.threshold,
            voxels=voxels,
            detected_ml=voxels * self.voxel_ml,
            pieces=int(keep.sum()),
            cursor_mm=tuple(float(x) for x in self.cursor_mm),
            image=float(self.image[at]),
            anomaly=float(self.anomaly[at]),
            marked=bool(self.detected()[at]),
            inside=bool(self.brain[at]),
            lesion=None if self.lesion is None else bool(self.lesion[at]),
            **self._against_truth(keep, voxels),
        )

    def _against_truth(self, keep: np.ndarray, voxels: int) -> dict:
        if self.lesion is None:
            return {"lesion_ml": np.nan, "dice": np.nan, "found": None, "missed": None, "false": None}
        labels, _ = self._pieces()
        under = labels.ravel()[self._lesion_places]  # the detected piece at each lesion voxel, 0 for none
        hit = keep[under]
        lesion, both = len(under), int(hit.sum())
        found = len(np.unique(self._lesion_labels[hit]))
        return {
            "lesion_ml": lesion * self.voxel_ml,
            "dice": 2 * both / (voxels + lesion) if voxels + lesion else np.nan,
            "found": found,
            "missed": self._lesions - found,
            "false": int(keep.sum()) - len(np.unique(under[hit])),
        }

    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbered pieces in the brain's box at the threshold, and their sizes; number 0 is what is not detected."""
        if self._labels[0] != self.threshold:
            # in float64, as `Scores.detections`: a threshold that is a score stays one
            labels, count = ndimage.label(self._scores >= np.float64(self.threshold), _CUBE)
            sizes = np.bincount(labels.ravel(), minlength=count + 1)
            self._labels = (self.threshold, (labels, sizes))
        return self._labels[1]

    def _kept(self, sizes: np.ndarray) -> np.ndarray:
        keep = sizes >= max(self.min_voxels, 1)
        keep[0] = False
        return keep

    # ---- made once --------------------------------------------------------------------------------------------------

    def _crop(self) -> None:
        """The brain's box: the map in it, -inf outside the brain, and the lesions as lists of voxels."""
        self._box = ndimage.find_objects(self.brain.astype(np.int8))[0]
        self._start = np.array([part.start for part in self._box])
        self._scores = np.where(self.brain, self.anomaly, -np.inf)[self._box].copy()
        self._lesions, self._lesion_places, self._lesion_labels = 0, np.zeros(0, int), np.zeros(0, int)
        if self.lesion is not None:
            labels, self._lesions = ndimage.label(self.lesion[self._box], _CUBE)
            self._lesion_places = np.flatnonzero(labels)
            self._lesion_labels = labels.ravel()[self._lesion_places]

    def _ends(self, ends: tuple[float, float] | None) -> tuple[float, float]:
        values = self.anomaly[self.brain]
        low, high = (float(np.median(values)), float(values.max())) if ends is None else map(float, ends)
        if ends is None and low == high:
            high = low + 1  # a map that says nothing can be looked at all the same
        if not (np.isfinite([low, high]).all() and low < high):
            raise BadInput(f"{ends} are not two ends of a range.", field="ends")
        return low, high

    def _extent(self, axis: int) -> int:
        return max(1, round(self.image.shape[axis] * self.spacing_mm[axis] * self.scale))

    def _voxels(self, axis: int) -> np.ndarray:
        """The voxel (of a plane's row or column) that each pixel lies in."""
        pixels, voxels = self._extent(axis), self.image.shape[axis]
        return ((np.arange(pixels) + 0.5) / pixels * voxels).astype(int)

    def _check(self) -> None:
        shape, affine = self.image.shape, self.affine
        if len(shape) != 3 or min(shape) < 2:
            raise BadInput(f"an image of {shape} is no volume of two voxels or more each way.", field="image")
        for name in ("anomaly", "brain", "lesion"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise BadInput(f"the {name} has {array.shape} voxels, the image {shape}.", field=name)
        size = np.diag(affine)[:3] if affine.shape == (4, 4) else np.zeros(3)
        if not (np.isfinite(affine).all() and (size > 0).all() and _is_straight(affine)):
            raise BadInput(
                "the grid is not RAS+ along the axes.",
                field="affine",
                remedy="Turn it with `images.volumes.to_ras`; one that stands at an angle needs `resample`.",
            )
        if not self.brain.any():
            raise BadInput("the brain is empty.", field="brain")
        for name in ("image", "anomaly"):
            if not np.isfinite(getattr(self, name)[self.brain]).all():
                raise BadInput(f"the {name} has NaN or infinite voxels in the brain.", field=name)


def _is_straight(affine: np.ndarray) -> bool:
    return np.allclose(affine[:3, :3], np.diag(np.diag(affine)[:3]), atol=1e-3)


def _rows_of(slices: SliceSet, scores: Scores, subject: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a subject's slices in the scores and in the slices, from the lowest up, and their heights in mm."""
    scored = np.flatnonzero((scores.table["subject"] == subject).to_numpy())
    own = slices.table[slices.table["subject"] == subject]
    numbers = scores.table["slice"].to_numpy()[scored]
    known = dict(zip(own["slice"], own.index, strict=True))
    if not len(scored) or not set(numbers) <= set(known):
        raise BadInput(f"not all slices of {subject!r} are in the slices and in the scores.", field="subject")
    if len(set(numbers)) < len(numbers) or len(known) < len(own):
        raise BadInput(f"{subject!r} has two slices of one number.", field="slice")
    if len(scored) < 2:
        raise BadInput(f"{subject!r} has one slice: that is no volume.", field="subject")
    pictured = np.array([known[number] for number in numbers])
    heights = slices.table["z_mm"].to_numpy(float)[pictured]
    order = np.argsort(heights)
    return scored[order], pictured[order], heights[order]


def _grid(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each height (ascending, mm) on an even grid, and the affine of that grid on the lattice."""
    step = np.diff(heights).min()
    places = np.rint((heights - heights[0]) / max(step, 1e-6)).astype(int)
    if step <= 0 or not np.allclose(heights[0] + places * step, heights, atol=0.01):
        raise BadInput("the slices' heights are not multiples of one distance.", field="z_mm")
    affine = np.diag([lattice.SPACING_MM, lattice.SPACING_MM, step, 1.0])
    back = 76 - lattice.SPACING_MM * (lattice.SHAPE[0] - 1)  # y of the last row, the hindmost
    affine[:3, 3] = -96, back, heights[0]
    return places, affine


def _stacked(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Slices (n, H, W), rows from front to back, as a RAS+ volume (W, H, Z); 0 where no slice is."""
    volume = np.zeros((places[-1] + 1, *array.shape[1:]), array.dtype)
    volume[places] = array
    return np.ascontiguousarray(volume[:, ::-1].transpose(2, 1, 0))
