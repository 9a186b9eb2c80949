"""Small simulated people: healthy and ill heads of a few slices, drawn in milliseconds, for exercises and tests.

They are cartoons: an ellipse with cortex, folds and ventricles. Numbers measured on them say something about code and
about evaluation, nothing about real disease. The atlas cohort (`course_lib.images.anatomy`) is the realistic one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images.bids import HEALTHY
from course_lib.images.fields import smooth_noise
from course_lib.images.slices import SliceSet
from course_lib.images.volumes import FLOOR, normalise

CONTRAST = {"bright": 0.35, "dark": -0.35, "flat": 0.0}  # added in a lesion; 1/8 is one robust standard deviation
HEIGHTS = ((0.86, 0.22), (0.92, 0.30), (0.80, 0.12))  # size of the brain and of its ventricles, from below to above
RADIUS = (0.055, 0.10)  # smallest and largest of a lesion, in sides of the picture


def small_people(
    counts: Mapping[str, int], *, split: str = "train", side: int = 32, seed: int = 0, site: str = "small"
) -> SliceSet:
    """Draw people, three slices each; person k of a family depends on (seed, split, family, k) alone.

    Of an ill person two of the three slices have a lesion, a disc of the person's own place and size: `bright` and
    `dark` ones differ from the tissue by about three robust standard deviations; a `flat` one has the tissue's own
    mean and no grain.

    Args:
        counts: how many people of each family, e.g. `{"healthy": 20, "bright": 8}`.
        split: "train", "val" or "test".
        side: height and width of a slice, in pixels.
        seed: of the whole cohort.
        site: begins the subjects' ids.

    Returns:
        The slices, person by person; 0 outside the brain, the brain's median at 0.5.

    Raises:
        BadInput: a family or split is unknown, a side is below 16.
    """
    unknown = sorted(set(counts) - {HEALTHY, *CONTRAST})
    if unknown:
        raise BadInput(f"unknown family {unknown}.", field="counts", remedy=f"Known: healthy, {', '.join(CONTRAST)}.")
    if side < 16:
        raise BadInput(f"a head does not fit into {side} pixels.", field="side")
    stacks, rows = [], []
    for family, count in counts.items():
        for k in range(count):
            stream = np.random.default_rng([seed, *f"{split} {family}".encode(), k])
            stacks.append(_person(stream, family, side))
            subject = f"{site}-{split}-{family}-{k:02d}"
            rows += [(subject, h, 10.0 * h, split, family) for h in range(len(HEIGHTS))]
    images, masks, brains = (np.concatenate(part) for part in zip(*stacks, strict=True))
    table = pd.DataFrame(rows, columns=["subject", "slice", "z_mm", "split", "family"])
    return SliceSet(images, masks, brains, table, name=f"{site} people", spacing_mm=192 / side)


def _person(rng: np.random.Generator, family: str, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, masks and brains of one person, each (3, H, W)."""
    look = {
        "size": 1 + 0.03 * rng.standard_normal(2),
        "shift": 0.03 * rng.standard_normal(2),
        "bend": 0.03 * smooth_noise(rng, (side, side), side / 3, 2).numpy(),
        "ventricles": np.exp(0.2 * rng.standard_normal()),
        "levels": (0.46 + 0.01 * rng.standard_normal(), 0.585 + 0.012 * rng.standard_normal(), 0.14),
    }
    slices = [_slice(rng, look, *height, side) for height in HEIGHTS]
    images, brains = (np.stack(part) for part in zip(*slices, strict=True))
    masks = np.zeros(images.shape, bool)
    if family != HEALTHY:
        first = int(rng.integers(2))
        masks[first : first + 2] = _disc(rng, brains[first : first + 2].all(0)) & brains[first : first + 2]
        images = np.where(masks, _lesion(images, masks, CONTRAST[family]), images).astype(np.float32)
    return images, masks, brains


def _slice(rng: np.random.Generator, look: dict, size: float, ventricle: float, side: int):
    """One slice and its brain, (H, W): white matter, a grey rim with dark folds, two ventricles, shading and noise."""
    place = np.linspace(-1, 1, side)
    y, x = (axis + bend for axis, bend in zip(np.meshgrid(place, place, indexing="ij"), look["bend"], strict=True))
    y, x = (y - look["shift"][0]) / (size * look["size"][0]), (x - look["shift"][1]) / (0.82 * size * look["size"][1])
    radius = np.hypot(y, x)
    brain = radius < 1
    folds, shading = (smooth_noise(rng, (side, side), s)[0].numpy() for s in (max(2.0, side / 14), side / 4))
    white, grey, fluid = look["levels"]
    rim = 1 / (1 + np.exp((0.78 - radius) / 0.04))
    image = white + (grey - white) * rim - 0.6 * (grey - fluid) * rim * np.exp(-((folds / 0.25) ** 2))
    wide = ventricle * look["ventricles"]
    inner = np.minimum(np.hypot((x - 0.14) / 0.5, y), np.hypot((x + 0.14) / 0.5, y)) / wide
    image = image + (fluid - image) / (1 + np.exp((inner - 1) / 0.12))
    image = image * (1 + 0.02 * shading) + 0.012 * rng.standard_normal(image.shape)
    return normalise(image, brain), brain


def _disc(rng: np.random.Generator, brain: np.ndarray) -> np.ndarray:
    """A disc whose centre lies well inside the brain, (H, W) bool."""
    depth = ndimage.distance_transform_edt(brain)
    places = np.argwhere(depth > 0.4 * depth.max())
    rows, columns = np.indices(brain.shape)
    centre = places[rng.integers(len(places))]
    radius = max(1.2, rng.uniform(*RADIUS) * len(brain))
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def _lesion(images: np.ndarray, masks: np.ndarray, contrast: float) -> np.ndarray:
    """The images with `contrast` added; without any, each slice's lesion gets its own mean, (3, H, W)."""
    if contrast:
        return np.clip(images + contrast, FLOOR, 2)
    pixels = np.maximum(masks.sum((1, 2)), 1)
    return np.broadcast_to(((images * masks).sum((1, 2)) / pixels)[:, None, None], images.shape)
