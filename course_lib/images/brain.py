"""Where the brain is in a scan that comes without a brain mask. Estimates: look at the contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images.volumes import Volume, resample

if TYPE_CHECKING:
    from course_lib.images.registration import Registration

EXTRACTED_ZERO = 0.4  # an image without a skull is exactly 0 in at least this share of its voxels
LITRES = (0.6, 2.1)  # volumes of brains that are believed
ALONE = 0.9  # share of all that is not 0 that must be in one piece: a brain and its scalp are two
SHELL_MM = (4.0, 14.0)  # depth under the surface where a head has its skull
DARK = 0.33  # share of dark voxels in that shell, above which there is a skull (real heads 0.7 to 1, brains to 0.23)
WORK_MM = 2.0
_REMEDY = "Give brain masks (--brains), made for instance with HD-BET or SynthStrip, and look at the contact sheet."


MOST_VOXELS = 4e7  # 2 mm voxels: 0.7 m cubed


@dataclass(frozen=True)
class Brain:
    """An estimated brain mask, how it was found, and the registration to MNI if there was one."""

    mask: np.ndarray
    how: str
    registration: Registration | None = None


def estimate_brain(data: np.ndarray, affine: np.ndarray, *, register: bool | None = None) -> tuple[np.ndarray, str]:
    """A brain mask for an image that has none, and in words how it was found.

    1. The image is exactly 0 around something of a brain's size that has no dark shell (skull) under its surface:
       it was brain-extracted already; the mask is what is not 0, closed, with holes filled.
    2. With SimpleITK: the head is registered to MNI (`course_lib.images.registration`) and the template's brain is
       carried back, without what is as dark as air. Right to about half a centimetre; it follows the template and
       not the patient's own sulci, and a large lesion or a resection at the rim can be cut off.
    3. Without it: Otsu's threshold, opened by 6 mm, thickest component, closed by 10 mm, holes filled. That is rough.
       In a T1 the scalp's fat is brighter than the brain, in a thick-sliced scan the eyes and the neck hang on to
       it: parts of them stay, parts of the brain go. Use it to try the course, not for results.

    Args:
        data: (X, Y, Z) float, RAS+.
        affine: 4 x 4, voxel -> mm.
        register: take way 2; None: if SimpleITK is installed.

    Returns:
        bool (X, Y, Z), and how it was found.

    Raises:
        BadInput: no brain was found (volume outside 0.6 to 2.1 litres); SimpleITK is asked for and missing.
    """
    found = find_brain(data, affine, register)
    return found.mask, found.how


def find_brain(data: np.ndarray, affine: np.ndarray, register: bool | None = None) -> Brain:
    """As `estimate_brain`, with the registration that was made on the way."""
    from course_lib.images.registration import has_simpleitk

    work = to_grid(Volume(data, affine))
    bare = extracted(data, work)
    if bare is not None:
        return Brain(bare, "brain mask: the image was already brain-extracted (exactly 0 outside): what is not 0")
    if has_simpleitk() if register is None else register:
        rough, how, registration = _by_registration(work)
    else:
        (rough, how), registration = _by_threshold(work), None
    litres = rough.sum() * work.voxel_ml / 1000
    if not LITRES[0] < litres < LITRES[1]:
        raise BadInput(f"no brain was found: what was found has {litres:.2f} litres.", field="brain", remedy=_REMEDY)
    mask = resample(Volume(rough, work.affine), affine, data.shape).data
    return Brain(mask, f"{how}; {litres:.2f} litres. An estimate: look at the contact sheet", registration)


def to_grid(volume: Volume, spacing: float = WORK_MM) -> Volume:
    """Bring a volume to cubic voxels along the scanner's axes, centres on multiples of `spacing`, all of it inside."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in volume.data.shape])).reshape(3, -1)
    places = (volume.affine @ np.vstack([ends, np.ones(8)]))[:3]
    low, high = np.floor(places.min(1) / spacing + 1e-3), np.ceil(places.max(1) / spacing - 1e-3)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low * spacing
    shape = tuple(int(n) for n in high - low + 1)
    if np.prod(shape, dtype=float) > MOST_VOXELS:
        raise BadInput(f"the scan covers {' x '.join(str(round(n * spacing)) for n in shape)} mm: too much for a head.")
    return resample(volume, affine, shape)


def extracted(data: np.ndarray, work: Volume) -> np.ndarray | None:
    """The brain of an image that was brain-extracted before, or None if it was not (or that cannot be told)."""
    if (data == 0).mean() < EXTRACTED_ZERO:
        return None
    bright = work.data > 0
    parts = largest(bright)
    if parts.sum() < ALONE * bright.sum():
        return None
    whole = _fill(parts)
    litres = whole.sum() * work.voxel_ml / 1000
    if not LITRES[0] < litres < LITRES[1] or dark_shell(work, whole) > DARK:
        return None
    return _fill(largest(data > 0))


def dark_shell(work: Volume, whole: np.ndarray) -> float:
    """Share of voxels 4 to 14 mm under the surface, in planes, that are darker than 0.4 of the deep ones' median."""
    depth = np.stack([ndimage.distance_transform_edt(whole[:, :, k]) for k in range(whole.shape[2])], -1) * WORK_MM
    shell, deep = (depth > SHELL_MM[0]) & (depth < SHELL_MM[1]), depth > 2 * SHELL_MM[1]
    if not deep.any():
        return 0.0
    return float((work.data[shell] < 0.4 * np.median(work.data[deep])).mean())


def _by_registration(work: Volume) -> tuple[np.ndarray, str, Registration]:
    from course_lib.images.anatomy import template
    from course_lib.images.registration import register

    found = register(work.data, work.affine)
    atlas = template()
    carried = Volume(atlas.brain, np.linalg.inv(found.to_mni) @ atlas.affine)
    inside = resample(carried, work.affine, work.data.shape).data
    air = 0.25 * np.median(work.data[inside]) if inside.any() else 0
    mask = _close(largest(inside & (work.data > air)), 8.0) & inside
    return _fill(mask), f"brain mask: the template's, carried back by {found}", found


def _by_threshold(work: Volume) -> tuple[np.ndarray, str]:
    threshold = otsu(work.data)
    for share in (1.0, 0.5):  # where air is exactly 0, the cut may part brain and fat: then take half of it
        opened = ndimage.binary_opening(work.data > share * threshold, ball(6.0))
        mask = _fill(_close(_thickest(opened), 10.0))
        if LITRES[0] < mask.sum() * work.voxel_ml / 1000 < LITRES[1]:
            break
    return mask, "brain mask: by Otsu's threshold and morphology, without registration: ROUGH"


def otsu(data: np.ndarray, bins: int = 256) -> float:
    """Otsu's threshold of the voxels above 0: the cut that separates two classes' means best.

    Source: Otsu N. IEEE Trans SMC 9:62-66 (1979). The brightest 0.5 % count as the last bin.
    """
    bright = data[data > 0]
    if bright.size == 0 or bright.min() == bright.max():
        raise BadInput("nothing stands out from the background.", field="voxels", remedy="Look at the scan.")
    top = float(np.percentile(bright, 99.5))
    counts, edges = np.histogram(np.minimum(bright, top), bins, range=(0, top))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts).astype(float)
    above = below[-1] - below
    mass = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(middles[np.nanargmax(between)])


def head_mask(data: np.ndarray) -> np.ndarray:
    """The foreground: above half of Otsu's threshold, opened, largest component, holes filled slice by slice."""
    head = largest(ndimage.binary_opening(data > 0.5 * otsu(data)))
    for k in range(head.shape[2]):
        head[:, :, k] = ndimage.binary_fill_holes(head[:, :, k])
    return head


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected component (faces touch).

    Raises:
        BadInput: there is none.
    """
    parts, count = ndimage.label(mask)
    if not count:
        raise BadInput("no brain was found: nothing is left.", field="brain", remedy=_REMEDY)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _thickest(mask: np.ndarray) -> np.ndarray:
    """The component with the most voxels 6 mm or more inside: a brain, not the scalp around it."""
    parts, count = ndimage.label(mask)
    inner = np.bincount(parts[ndimage.binary_erosion(mask, ball(12.0))], minlength=2)
    return parts == 1 + np.argmax(inner[1:]) if count and inner[1:].any() else largest(mask)


def ball(diameter_mm: float, spacing: float = WORK_MM) -> np.ndarray:
    """A ball as a structuring element."""
    radius = int(diameter_mm / 2 / spacing + 0.5)
    grid = np.indices((2 * radius + 1,) * 3) - radius
    return (grid**2).sum(0) <= (diameter_mm / 2 / spacing + 0.25) ** 2


def _close(mask: np.ndarray, diameter_mm: float) -> np.ndarray:
    element = ball(diameter_mm)
    margin = element.shape[0] // 2
    wide = np.pad(mask, margin)  # else the border eats what it touches
    box = (slice(margin, -margin or None),) * 3
    return ndimage.binary_closing(wide, element)[box]


def _fill(mask: np.ndarray) -> np.ndarray:
    """Fill holes, in each plane and in 3-D."""
    filled = mask.copy()
    for k in range(mask.shape[2]):
        filled[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
    return ndimage.binary_fill_holes(filled)
