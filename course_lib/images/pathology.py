"""Pathology with exact ground truth, put into a volume or into one slice.

Seven families that fail in different ways:

    ms            2-8 small bright lesions in white matter, most of them near the ventricles
    stroke        one dark, softly textured wedge from deep white matter to the cortex
    tumour        pushes the anatomy outward; bright heterogeneous core, oedema in the white matter around it
    texture       the texture changes, the mean intensity does not
    atrophy       ventricles and sulci are wider; nothing else changes
    resection     a cavity filled with fluid, with a thin bright rim
    midlineshift  the midline is pushed to one side

Intensities are stated in robust standard deviations of the brain (`unit`: 1/8 in the normalised convention), relative
to the tissue at that place. Changes are added, so noise and texture of the image stay. A lesion's mask holds the
pixels where at least half of its effect is present; its soft edge reaches a few millimetres further. For `atrophy`
and `midlineshift` the mask holds the brain's pixels that moved by at least `MOVED_MM`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images.fields import sample, smooth_noise
from course_lib.images.parameters import SD, Range, check_image, draw

FAMILIES = ("ms", "stroke", "tumour", "texture", "atrophy", "resection", "midlineshift")
DEFORMING = ("tumour", "atrophy", "midlineshift")
MOVED_MM = 2.0  # one voxel of the course's grid
_FLOOR = 1 / 255  # brain stays above the background, which is exactly 0


PARAMETERS: dict[str, dict[str, Range]] = {
    "ms": {
        "count": Range(1, 20, 2, 8, "lesions", "number of lesions"),
        "radius_mm": Range(1.5, 15, 4.0, 6.5, "mm", "mean radius of a lesion; each one's is 0.7 to 1.3 times that"),
        "intensity": Range(-8, 8, 3.8, 5.5, SD, "brightness relative to the tissue"),
        "texture": Range(0, 4, 0.2, 0.5, SD, "spread of the brightness within the lesion"),
    },
    "stroke": {
        "radius_mm": Range(4, 40, 15, 24, "mm", "half the length of the wedge"),
        "angle_deg": Range(10, 60, 24, 36, "degrees", "half the opening of the wedge"),
        "intensity": Range(-8, 8, -2.2, -1.4, SD, "brightness relative to the tissue"),
        "texture": Range(0, 4, 0.4, 0.8, SD, "spread of the brightness within the territory"),
    },
    "tumour": {
        "radius_mm": Range(3, 35, 8, 14, "mm", "mean radius of the core"),
        "intensity": Range(-8, 8, 3.3, 5.0, SD, "brightness of the core relative to the tissue"),
        "texture": Range(0, 4, 0.5, 1.1, SD, "spread of the brightness within the core"),
        "oedema_mm": Range(0, 30, 7, 13, "mm", "reach of the oedema beyond the core"),
        "push_mm": Range(0, 12, 2.5, 6, "mm", "largest displacement, at the core's surface"),
        "necrosis": Range(0, 0.9, 0.0, 0.5, "1", "radius of the dark centre as a share of the core's"),
    },
    "texture": {
        "radius_mm": Range(3, 40, 9, 16, "mm", "mean radius"),
        "texture": Range(0, 4, 0.9, 1.4, SD, "spread of the added texture"),
        "grain_mm": Range(2, 12, 3.5, 6, "mm", "size of its grains"),
    },
    "atrophy": {
        "ventricles_mm": Range(0, 10, 3.5, 7, "mm", "displacement of the ventricles' wall"),
        "sulci_mm": Range(0, 3, 0.6, 1.4, "mm", "displacement of the sulci's walls"),
    },
    "resection": {
        "radius_mm": Range(3, 35, 9, 16, "mm", "mean radius of the cavity"),
        "intensity": Range(-8, 8, -6, -4.5, SD, "brightness of the cavity relative to the brain's median"),
        "rim": Range(-8, 8, 0.8, 2.2, SD, "brightness of the rim relative to the tissue"),
    },
    "midlineshift": {
        "shift_mm": Range(-15, 15, 5, 10, "mm", "largest displacement, to the patient's right if positive"),
    },
}


@dataclass(frozen=True)
class Insertion:
    """What `place` returns: the changed image, the exact mask, how far each pixel moved (mm, or None), parameters."""

    image: np.ndarray
    mask: np.ndarray
    displacement_mm: np.ndarray | None
    parameters: dict[str, float]


@dataclass(frozen=True)
class _Scene:
    """An image with what the families need to know about it."""

    image: np.ndarray
    brain: np.ndarray
    tissue: Mapping[str, np.ndarray]
    rng: np.random.Generator
    unit: float
    spacing: float
    where: np.ndarray | None
    centre: tuple[float, ...] | None
    drawn: dict[str, float] = field(default_factory=dict)

    @property
    def stride(self) -> int:
        return 2 if self.image.ndim == 3 else 1

    @property
    def side_axis(self) -> int:
        """The axis from the patient's left to right: x of a volume, the columns of a picture."""
        return 0 if self.image.ndim == 3 else 1

    @cached_property
    def low(self) -> tuple[slice, ...]:
        return (slice(None, None, self.stride),) * self.image.ndim

    @cached_property
    def depth_mm(self) -> np.ndarray:
        """Distance to the brain's surface, on every `stride`-th voxel."""
        padded = np.pad(self.brain[self.low], 1)
        distance = ndimage.distance_transform_edt(padded, sampling=self.spacing * self.stride)
        return distance[(slice(1, -1),) * self.image.ndim].astype(np.float32)

    @cached_property
    def median(self) -> float:
        return float(np.median(self.image[self.brain]))

    @cached_property
    def middle(self) -> np.ndarray:
        """Centre of the brain, in voxels."""
        return np.array([c.mean() for c in np.nonzero(self.brain[self.low])]) * self.stride


def insert(image: np.ndarray, family: str, rng: np.random.Generator | None = None, **options):
    """Put one case of `family` into a volume or a slice; see `place` for the options.

    Returns:
        changed: float32 image of the same shape. mask: bool, exact.
    """
    done = place(image, family, rng, **options)
    return done.image, done.mask


def place(
    image: np.ndarray,
    family: str,
    rng: np.random.Generator | None = None,
    *,
    brain: np.ndarray | None = None,
    tissue: Mapping[str, np.ndarray] | None = None,
    unit: float = 1 / 8,
    spacing_mm: float = 2.0,
    centre: tuple[float, ...] | None = None,
    where: np.ndarray | None = None,
    **parameters: float,
) -> Insertion:
    """Put one case of `family` into a volume (X, Y, Z; RAS+) or a slice (rows, columns; anterior on top, left on left).

    Args:
        image: float; background 0. Normalised, or any other scale with `unit` given.
        family: one of `FAMILIES`.
        rng: random stream for all that is not given; a fresh one when not given.
        brain: bool, same shape; `image > 0` when not given.
        tissue: "gm", "wm", "csf" in 0..1 and "ventricle_mm", as `Subject.tissue`; guessed from the image (see
            `estimate_tissue`) when not given.
        unit: one robust standard deviation of the brain, in the image's units.
        spacing_mm: voxel size.
        centre: where the lesion lies, in voxels (not for `atrophy` and `midlineshift`); in the brain. With `ms` and
            no `count`, one lesion.
        where: bool, same shape; a centre that is not given is drawn from here.
        parameters: by name, as in `PARAMETERS[family]`; drawn when not given.

    Returns:
        The changed image, mask, displacement and all parameters.

    Raises:
        BadInput: unknown family or parameter, a value out of its limits, shapes that differ, an empty brain, a centre
            outside the brain, or no room for this family in this image.
    """
    check_image(image, unit, spacing_mm)
    if family not in _FAMILY:
        raise BadInput(f"{family!r} is not a family.", field="family", remedy=f"Take one of {', '.join(FAMILIES)}.")
    image = np.ascontiguousarray(image, dtype=np.float32)
    brain = image > 0 if brain is None else np.asarray(brain, dtype=bool)
    _check_shapes(image, brain, tissue, where)
    rng = np.random.default_rng() if rng is None else rng
    if centre is not None and family == "ms":
        parameters = {"count": 1, **parameters}
    drawn = draw(PARAMETERS[family], rng, parameters)
    if "push_mm" in drawn and "push_mm" not in parameters:
        drawn["push_mm"] = min(drawn["push_mm"], 0.6 * drawn["radius_mm"])  # more would fold the anatomy
    _check_centre(centre, brain, family)
    tissue = estimate_tissue(image, brain, unit, spacing_mm) if tissue is None else tissue
    scene = _Scene(image, brain, tissue, rng, unit, spacing_mm, where, centre, drawn)
    done = _FAMILY[family](scene, drawn)
    changed = np.where(brain, np.maximum(done.image, _FLOOR), image).astype(np.float32)
    return replace(done, image=changed, mask=done.mask & brain)


def estimate_tissue(image: np.ndarray, brain: np.ndarray, unit: float = 1 / 8, spacing_mm: float = 2.0):
    """A rough guess of the tissue maps of a FLAIR from intensity and depth, enough to place a lesion.

    Dark is CSF; what lies deeper than 8 mm is white matter, the rest grey matter; CSF deeper than 20 mm is ventricle.

    Returns:
        "gm", "wm", "csf" (0..1) and "ventricle_mm" (distance to the ventricles, 0 inside), each like `image`.
    """
    smooth = ndimage.median_filter(image, size=3)
    level = np.median(image[brain]) - 2.2 * unit
    csf = brain / (1 + np.exp(((smooth - level) / (0.4 * unit)).clip(-30, 30)))
    depth = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=spacing_mm)[(slice(1, -1),) * image.ndim]
    deep = 1 / (1 + np.exp(-(depth - 8) / 1.5))
    ventricles = (csf > 0.5) & (depth > 20)
    far = np.full(image.shape, 60.0)
    distance = ndimage.distance_transform_edt(~ventricles, sampling=spacing_mm) if ventricles.any() else far
    maps = {"gm": (brain - csf) * (1 - deep), "wm": (brain - csf) * deep, "csf": csf, "ventricle_mm": distance}
    return {name: value.astype(np.float32) for name, value in maps.items()}


# --- the families -----------------------------------------------------------------------------------------------------


def _ms(scene: _Scene, p: dict[str, float]) -> Insertion:
    wm, near = scene.tissue["wm"][scene.low], scene.tissue["ventricle_mm"][scene.low]
    weight = (wm > 0.75) * (0.08 + np.exp(-np.maximum(near, 0) / 5.0))
    count = round(p["count"])
    centres = _centres(scene, weight, count)
    alpha = np.zeros(scene.image.shape, dtype=np.float32)
    change = np.zeros(scene.image.shape, dtype=np.float32)
    for centre in centres:
        radius = p["radius_mm"] * scene.rng.uniform(0.7, 1.3)
        box = _box(scene, centre, 2.2 * radius + 4)
        blob = _blob(scene, box, centre, radius, softness=0.8, rough=0.2)
        blob *= np.clip(2 * scene.tissue["wm"][box], 0, 1)
        grain = smooth_noise(scene.rng, blob.shape, 4 / scene.spacing)[0].numpy()
        value = (p["intensity"] + p["texture"] * grain) * blob
        change[box] = np.where(blob > alpha[box], value, change[box])
        alpha[box] = np.maximum(alpha[box], blob)
    return Insertion(scene.image + scene.unit * change, alpha >= 0.5, None, scene.drawn)


def _stroke(scene: _Scene, p: dict[str, float]) -> Insertion:
    axis, radius = scene.side_axis, p["radius_mm"]
    tissue = scene.brain[scene.low] & (scene.tissue["csf"][scene.low] < 0.3)
    sides = np.abs(_axis(scene, axis) - scene.middle[axis])[scene.low] * scene.spacing
    weight = tissue * (sides > 16) * np.exp(-(((scene.depth_mm - 0.8 * radius) / 6) ** 2))
    centre = _centres(scene, weight, 1)[0]
    direction = centre - scene.middle
    if direction.size == 3:
        direction[2] *= 0.4  # territories spread sideways more than up and down
    direction = direction / max(float(np.linalg.norm(direction)), 1e-6)
    box = _box(scene, centre, 2.2 * radius + 6)
    offset = _offsets(scene, box, centre) + radius * direction.reshape(-1, *[1] * direction.size)  # from the apex
    distance = np.sqrt((offset**2).sum(axis=0)) + 1e-3
    angle = np.arccos(np.clip(np.tensordot(direction, offset, 1) / distance, -1, 1))
    rough = smooth_noise(scene.rng, distance.shape, 14 / scene.spacing)[0].numpy()
    sideways = (np.deg2rad(p["angle_deg"]) * (1 + 0.15 * rough) - angle) * distance
    inside = np.minimum(sideways, 2 * radius - distance + 2 * rough)
    own = (_axis(scene, axis)[box] - scene.middle[axis]) * np.sign(centre[axis] - scene.middle[axis]) * scene.spacing
    alpha = _edge(np.minimum(inside, own - 3), 1.8) * (1 - scene.tissue["csf"][box]) * scene.brain[box]
    grain = smooth_noise(scene.rng, alpha.shape, 8 / scene.spacing)[0].numpy()
    return _add(scene, box, alpha, p["intensity"] + p["texture"] * grain)


def _tumour(scene: _Scene, p: dict[str, float]) -> Insertion:
    radius, oedema = p["radius_mm"], p["oedema_mm"]
    if p["push_mm"] > 0.8 * radius:
        raise BadInput(
            f"a push of {p['push_mm']:g} mm would fold the anatomy around a radius of {radius:g} mm.",
            field="push_mm",
            remedy="Take at most 0.8 times radius_mm.",
        )
    weight = (scene.tissue["wm"][scene.low] > 0.6) * (scene.depth_mm > min(0.9 * radius + 3, 20))
    centre = _centres(scene, weight, 1)[0]
    box = _box(scene, centre, max(2.2 * radius + 8, 1.2 * radius + 1.3 * oedema + 4))
    offset = _offsets(scene, box, centre)
    r = np.sqrt((offset**2).sum(axis=0))
    profile = np.where(r < radius, r / radius, np.exp(-np.maximum(r - radius, 0) / (0.9 * radius)))
    rim = np.clip(_depth_in(scene, box) / 12, 0, 1)
    reach = np.clip((2.2 * radius + 8 - r) / 8, 0, 1)
    length = p["push_mm"] * profile * rim * reach
    shift = length * offset / np.maximum(r, 1e-3)
    points = np.indices(r.shape) - shift / scene.spacing
    base = _warp(scene, points, box)
    wm = ndimage.map_coordinates(scene.tissue["wm"][box], points, order=1, mode="nearest")
    csf = ndimage.map_coordinates(scene.tissue["csf"][box], points, order=1, mode="nearest")

    rough, grain = smooth_noise(scene.rng, r.shape, max(radius * 0.9, 4) / scene.spacing, 2).numpy()
    core = _edge(radius * (1 + 0.2 * rough) - r, 1.0)
    halo = _edge(radius + oedema * (0.8 + 0.35 * grain) - r, 1.5) * np.clip(1.6 * wm, 0, 1) if oedema > 0 else 0 * core
    aside = centre + scene.rng.uniform(-0.25, 0.25, centre.size) * radius / scene.spacing
    r_dead = np.sqrt((_offsets(scene, box, aside) ** 2).sum(axis=0))
    dead = _edge(p["necrosis"] * radius * (1 + 0.4 * grain) - r_dead, 1.0) if p["necrosis"] > 0 else 0 * core
    mottle = smooth_noise(scene.rng, r.shape, 6 / scene.spacing)[0].numpy()
    inner = p["intensity"] + p["texture"] * mottle
    inner = inner + dead * (-0.6 * p["intensity"] - inner)  # as dark as the rest is bright, somewhat less
    alpha = np.maximum(core, halo) * scene.brain[box]
    filled = base + core * csf * (scene.median - base)  # the core replaces fluid
    change = core * inner + (1 - core) * halo * 0.75 * p["intensity"]
    image, mask, moved = scene.image.copy(), np.zeros_like(scene.brain), np.zeros_like(scene.image)
    image[box] = filled + scene.unit * change
    mask[box] = alpha >= 0.5
    moved[box] = length * scene.brain[box]
    return Insertion(image, mask, moved, scene.drawn)


def _texture(scene: _Scene, p: dict[str, float]) -> Insertion:
    tissue = scene.brain[scene.low] & (scene.tissue["csf"][scene.low] < 0.3)
    centre = _centres(scene, tissue * (scene.depth_mm > min(0.6 * p["radius_mm"], 14)), 1)[0]
    box = _box(scene, centre, 1.8 * p["radius_mm"] + 4)
    alpha = _blob(scene, box, centre, p["radius_mm"], softness=1.5, rough=0.15)
    alpha *= (1 - scene.tissue["csf"][box]) * scene.brain[box]
    grain = smooth_noise(scene.rng, alpha.shape, max(p["grain_mm"] / scene.spacing, 1))[0].numpy()
    half = alpha * (alpha >= 0.5)
    total = max(float(half.sum()), 1e-6)
    grain = grain - float((half * grain).sum()) / total  # iso-intense: the mean over the mask stays
    spread = np.sqrt(float((half * grain**2).sum()) / total)
    return _add(scene, box, alpha, p["texture"] * grain / max(spread, 1e-6))


def _resection(scene: _Scene, p: dict[str, float]) -> Insertion:
    tissue = scene.brain[scene.low] & (scene.tissue["csf"][scene.low] < 0.3)
    near = np.exp(-(((scene.depth_mm - 0.7 * p["radius_mm"]) / 4) ** 2))
    centre = _centres(scene, tissue * near, 1)[0]
    box = _box(scene, centre, 1.8 * p["radius_mm"] + 8)
    state = scene.rng.bit_generator.state
    cavity = _blob(scene, box, centre, p["radius_mm"], softness=0.6, rough=0.15)
    scene.rng.bit_generator.state = state  # the same shape again, a little larger
    outer = _blob(scene, box, centre, p["radius_mm"] + 2.5, softness=0.8, rough=0.15)
    brain = scene.brain[box]
    rim = np.clip(outer - cavity, 0, 1) * (1 - scene.tissue["csf"][box]) * brain
    cavity = cavity * brain
    image, mask = scene.image.copy(), np.zeros_like(scene.brain)
    fluid = scene.median + p["intensity"] * scene.unit
    image[box] += cavity * (fluid - image[box]) + scene.unit * p["rim"] * rim
    mask[box] = (cavity >= 0.5) | (rim >= 0.5)
    return Insertion(image, mask, None, scene.drawn)


def _atrophy(scene: _Scene, p: dict[str, float]) -> Insertion:
    ventricle, csf = scene.tissue["ventricle_mm"][scene.low], scene.tissue["csf"]
    step = scene.spacing * scene.stride
    csf = ndimage.uniform_filter(csf, scene.stride)[scene.low] if scene.stride > 1 else csf
    sulci = ndimage.gaussian_filter(csf * (ventricle > 6), 3.0 / step)
    distance = ndimage.gaussian_filter(ventricle, 2.0 / step)
    outward = _gradient(distance, step)
    outward /= np.maximum(np.sqrt((outward**2).sum(axis=0)), 1.0)  # at most 1: no jumps where the distance is cut off
    wall = outward * np.exp(-np.maximum(distance, 0) / 14.0)
    slope = _gradient(sulci, step)
    steep = np.sqrt((slope**2).sum(axis=0))
    away = -slope / (steep + 0.25 * float(steep.max()) + 1e-6)
    shift = p["ventricles_mm"] * wall + p["sulci_mm"] * away * np.clip(scene.depth_mm / 6, 0, 1)
    return _move(scene, shift)


def _midlineshift(scene: _Scene, p: dict[str, float]) -> Insertion:
    axis, step = scene.side_axis, scene.spacing * scene.stride
    side = (_axis(scene, axis)[scene.low] - scene.middle[axis]) * scene.spacing
    taper = np.clip(scene.depth_mm / 26, 0, 1)
    taper = ndimage.gaussian_filter(taper**2 * (3 - 2 * taper), 6 / step)
    amount = np.exp(-((side / 38) ** 2)) * taper
    if scene.image.ndim == 3:
        height = (_axis(scene, 2)[scene.low] - scene.middle[2]) * scene.spacing
        amount = amount * np.exp(-(((height - 6) / 32) ** 2))
    shift = np.zeros((scene.image.ndim, *amount.shape), dtype=np.float32)
    shift[axis] = p["shift_mm"] * amount / max(float(amount.max()), 1e-6)
    return _move(scene, shift)


_FAMILY: dict[str, Callable[[_Scene, dict[str, float]], Insertion]] = {
    "ms": _ms,
    "stroke": _stroke,
    "tumour": _tumour,
    "texture": _texture,
    "atrophy": _atrophy,
    "resection": _resection,
    "midlineshift": _midlineshift,
}


# --- shapes, places, movement -----------------------------------------------------------------------------------------


def _add(scene: _Scene, box, alpha: np.ndarray, value: np.ndarray) -> Insertion:
    """Add `value` robust s.d. where `alpha` says."""
    image, mask = scene.image.copy(), np.zeros_like(scene.brain)
    image[box] += (scene.unit * alpha * value).astype(np.float32)
    mask[box] = alpha >= 0.5
    return Insertion(image, mask, None, scene.drawn)


def _move(scene: _Scene, shift: np.ndarray) -> Insertion:
    """Move the brain by `shift` (ndim, *low grid) in mm: the new image at x is the old one at x - shift(x)."""
    index = np.nonzero(scene.brain)
    points = np.stack(index).astype(np.float32)  # (ndim, N)
    field = torch.from_numpy(np.ascontiguousarray(shift, dtype=np.float32))
    at = sample(field, torch.from_numpy(np.ascontiguousarray(points.T)), scene.stride).numpy()
    length = np.sqrt((at**2).sum(axis=0))
    moving = length > 0.05  # mm; less is not worth the interpolation
    index = tuple(axis[moving] for axis in index)
    image, moved = scene.image.copy(), np.zeros_like(scene.image)
    image[index] = _warp(scene, points[:, moving] - at[:, moving] / scene.spacing)
    moved[index] = length[moving]
    return Insertion(image, moved >= MOVED_MM, moved, scene.drawn)


def _warp(scene: _Scene, points: np.ndarray, box: tuple[slice, ...] | None = None) -> np.ndarray:
    """The image (its `box`) at `points`, by quadratic splines. The background counts as the brain's rim: no edge rings.

    Points that leave the brain read the rim as well.
    """
    box = ndimage.find_objects(scene.brain.astype(np.int8))[0] if box is None else box
    if points.ndim == 2:  # given in voxels of the whole image
        points = points - np.array([s.start for s in box], dtype=np.float32)[:, None]
    shallow = (scene.depth_mm > 0) & (scene.depth_mm <= 2 * scene.spacing)
    rim = np.median(scene.image[scene.low][shallow]) if shallow.any() else scene.median
    filled = np.where(scene.brain[box], scene.image[box], rim)
    return ndimage.map_coordinates(filled, points, order=2, mode="nearest")


def _blob(scene: _Scene, box, centre, radius: float, softness: float, rough: float) -> np.ndarray:
    """A soft irregular ellipsoid, 1 inside and 0 outside; volume about that of a ball of `radius`."""
    stretch = np.exp(scene.rng.uniform(-0.25, 0.25, scene.image.ndim))
    stretch /= np.prod(stretch) ** (1 / stretch.size)
    offset = _offsets(scene, box, centre)
    r = np.sqrt(((offset / stretch.reshape(-1, *[1] * stretch.size)) ** 2).sum(axis=0))
    bumps = smooth_noise(scene.rng, r.shape, max(radius, 2.0) / scene.spacing)[0].numpy()
    return _edge(radius * (1 + rough * np.clip(bumps, -2, 2)) - r, softness)


def _edge(inside_mm: np.ndarray, softness_mm: float) -> np.ndarray:
    """1 inside, 0 outside, 0.5 at the border; exactly 0 and 1 beyond 3 times the softness."""
    t = np.clip(inside_mm / (6 * softness_mm) + 0.5, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _centres(scene: _Scene, weight: np.ndarray, count: int) -> list[np.ndarray]:
    """Draw `count` centres, in voxels, with probability proportional to `weight` on the low grid."""
    given = [] if scene.centre is None else [np.asarray(scene.centre, dtype=float)]
    if len(given) < count:
        if scene.where is not None:
            weight = weight * scene.where[scene.low]
        total = np.cumsum(weight.ravel(), dtype=np.float64)
        if not total[-1] > 0:
            raise BadInput("there is no room for this pathology in this image.", field="image", remedy="Give a centre.")
        picks = np.searchsorted(total, scene.rng.random(count - len(given)) * total[-1], side="right")
        found = np.stack(np.unravel_index(picks, weight.shape), axis=1) * float(scene.stride)
        given += list(found)
    for axis, value in zip("xyz" if scene.image.ndim == 3 else ("row", "column"), given[0], strict=True):
        scene.drawn[f"centre_{axis}"] = float(value)
    return given[:count]


def _box(scene: _Scene, centre: np.ndarray, reach_mm: float) -> tuple[slice, ...]:
    reach = int(np.ceil(reach_mm / scene.spacing))
    ends = zip(np.rint(centre).astype(int), scene.image.shape, strict=True)
    return tuple(slice(max(c - reach, 0), min(c + reach + 1, n)) for c, n in ends)


def _offsets(scene: _Scene, box, centre: np.ndarray) -> np.ndarray:
    """Position relative to `centre` in mm, (ndim, *box)."""
    axes = [(np.arange(s.start, s.stop) - c) * scene.spacing for s, c in zip(box, centre, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _depth_in(scene: _Scene, box) -> np.ndarray:
    """`depth_mm` on the full grid of a box."""
    grid = np.indices([s.stop - s.start for s in box], dtype=np.float32)
    start = np.array([s.start for s in box], dtype=np.float32).reshape(-1, *[1] * len(box))
    return ndimage.map_coordinates(scene.depth_mm, (grid + start) / scene.stride, order=1, mode="nearest")


def _axis(scene: _Scene, axis: int) -> np.ndarray:
    """The voxel number along `axis`, as a read-only view of the image's shape."""
    shape = [1] * scene.image.ndim
    shape[axis] = -1
    numbers = np.arange(scene.image.shape[axis], dtype=np.float32).reshape(shape)
    return np.broadcast_to(numbers, scene.image.shape)


def _gradient(values: np.ndarray, step: float) -> np.ndarray:
    return np.stack(np.gradient(values, step))


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_shapes(image, brain, tissue, where) -> None:
    if brain.shape != image.shape or not brain.any():
        raise BadInput(
            "the brain mask is empty or not of the image's shape.", field="brain", remedy="Give the mask of this image."
        )
    for name in ("gm", "wm", "csf", "ventricle_mm") if tissue is not None else ():
        if name not in tissue or np.shape(tissue[name]) != image.shape:
            raise BadInput("the map is missing or not of the image's shape.", field=f"tissue[{name}]")
    if where is not None and np.shape(where) != image.shape:
        raise BadInput("not of the image's shape.", field="where")


def _check_centre(centre, brain: np.ndarray, family: str) -> None:
    if centre is None:
        return
    if family in ("atrophy", "midlineshift"):
        raise BadInput(f"{family} has no centre.", field="centre", remedy="Leave it out.")
    values = np.asarray(centre, dtype=float)
    inside = values.shape == (brain.ndim,) and np.isfinite(values).all()
    inside = inside and (values >= 0).all() and (np.rint(values) < brain.shape).all()
    if not (inside and brain[tuple(np.rint(values).astype(int))]):
        raise BadInput(f"{centre!r} is not in the brain.", field="centre", remedy="Give voxels, one per axis.")
