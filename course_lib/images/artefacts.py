"""Acquisition artefacts: anomalies that are no pathology.

    ghosting      motion in step with the phase encoding: faint copies of the head, shifted along one axis
    spike         one bad sample in k-space: stripes over the whole image
    missingslice  signal lost in one or more neighbouring axial slices (in a slice: the whole slice)

The mask holds the brain's pixels that changed by at least `CHANGED` robust standard deviations (ghosting, spike),
or the brain in the slices that lost their signal (missingslice).

Source: Heiland S. From A as in aliasing to Z as in zipper: artifacts in MRI. Clin Neuroradiol 18:25-36 (2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from course_lib.errors import BadInput
from course_lib.images.parameters import SD, Range, check_image, draw

ARTEFACTS = ("ghosting", "spike", "missingslice")
CHANGED = 0.5
_FLOOR = 1 / 255  # brain stays above the background, which is exactly 0
PARAMETERS: dict[str, dict[str, Range]] = {
    "ghosting": {
        "ghosts": Range(2, 8, 2, 4, "1", "period of the motion in phase-encoding lines; copies lie 1/ghosts apart"),
        "strength": Range(0, 1, 0.3, 0.6, "1", "share of the signal lost in each disturbed line"),
    },
    "spike": {
        "strength": Range(0, 8, 0.8, 1.6, SD, "amplitude of the stripes"),
        "wavelength_mm": Range(4, 60, 6, 16, "mm", "distance of the stripes"),
    },
    "missingslice": {
        "slices": Range(1, 10, 2, 3, "slices", "number of neighbouring slices"),
        "loss": Range(0, 1, 0.5, 0.95, "1", "share of the signal that is lost"),
    },
}


def corrupt(
    image: np.ndarray,
    artefact: str,
    rng: np.random.Generator | None = None,
    *,
    brain: np.ndarray | None = None,
    unit: float = 1 / 8,
    spacing_mm: float = 2.0,
    where: np.ndarray | None = None,
    drawn: dict[str, Any] | None = None,
    **parameters: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Put one artefact into a volume (X, Y, Z; RAS+) or a slice (rows, columns; anterior on top).

    Args:
        image: float, background 0.
        artefact: one of `ARTEFACTS`.
        rng: random stream for all that is not given.
        brain: bool, same shape; `image > 0` when not given.
        unit: one robust standard deviation of the brain, in the image's units (1/8 if normalised).
        spacing_mm: voxel size.
        where: bool, same shape; `missingslice` draws its first slice from those with a pixel here (default: brain).
        drawn: a dictionary that receives the parameters that were used.
        parameters: by name, as in `PARAMETERS[artefact]`; drawn when not given.

    Returns:
        changed: float32. mask: bool.

    Raises:
        BadInput: unknown artefact or parameter, a value out of its limits, shapes that differ, an empty brain.
    """
    check_image(image, unit, spacing_mm)
    if artefact not in ARTEFACTS:
        raise BadInput(f"{artefact!r} is not an artefact.", field="artefact", remedy=f"Take one of {ARTEFACTS}.")
    brain = image > 0 if brain is None else np.asarray(brain, dtype=bool)
    if brain.shape != image.shape or not brain.any() or (where is not None and np.shape(where) != image.shape):
        raise BadInput("the brain mask is empty, or a mask is not of the image's shape.", field="brain")
    rng = np.random.default_rng() if rng is None else rng
    p = draw(PARAMETERS[artefact], rng, parameters)
    image = np.ascontiguousarray(image, dtype=np.float32)
    if artefact == "missingslice":
        changed, mask = _missing(image, brain, brain if where is None else where & brain, rng, p)
    else:
        changed = _ghosts(image, p) if artefact == "ghosting" else _spike(image, rng, p, unit, spacing_mm)
        mask = brain & (np.abs(changed - image) >= CHANGED * unit)
    if drawn is not None:
        drawn.update(p)
    return np.where(brain, np.maximum(changed, _FLOOR), image).astype(np.float32), mask


def _ghosts(image: np.ndarray, p: dict[str, float]) -> np.ndarray:
    """Weaken every n-th phase-encoding line of k-space; the phase is encoded from front to back.

    Multiplying k-space by a comb of period n adds copies shifted by N/n, 2N/n, ...: the sum below is that product.
    """
    axis = 1 if image.ndim == 3 else 0
    n, size = int(p["ghosts"]), image.shape[1 if image.ndim == 3 else 0]
    lines = np.ones(size, dtype=np.float32)
    lines[1::n] -= p["strength"]  # not the line through the centre, which holds the mean
    lines /= 1 - p["strength"] / n  # the first copy, the head itself, keeps its brightness
    shape = [1] * image.ndim
    shape[axis] = size
    spectrum = np.fft.fft(image, axis=axis) * lines.reshape(shape)
    return np.abs(np.fft.ifft(spectrum, axis=axis)).astype(np.float32)


def _spike(image: np.ndarray, rng: np.random.Generator, p: dict[str, float], unit: float, spacing: float) -> np.ndarray:
    """Add a plane wave, which is what one bad sample of k-space becomes; mostly within the axial plane."""
    direction = rng.standard_normal(image.ndim)
    if image.ndim == 3:
        direction[2] *= 0.3
    wave = 2 * np.pi * spacing / p["wavelength_mm"] * direction / np.linalg.norm(direction)
    phase = np.float32(rng.uniform(0, 2 * np.pi))
    for axis, (step, size) in enumerate(zip(wave, image.shape, strict=True)):
        shape = [1] * image.ndim
        shape[axis] = size
        phase = phase + (np.float32(step) * np.arange(size, dtype=np.float32)).reshape(shape)
    return np.abs(image + np.float32(p["strength"] * unit) * np.cos(phase))


def _missing(image, brain, where, rng: np.random.Generator, p: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    lost = np.ones_like(brain)
    if image.ndim == 3:
        slices = np.flatnonzero(where.any(axis=(0, 1)))
        if slices.size == 0:
            raise BadInput("no slice of the brain may lose its signal.", field="where")
        first = int(rng.choice(slices))
        p["centre_z"] = float(first)
        lost[:] = False
        lost[:, :, first : first + int(p["slices"])] = True
    else:
        p["slices"] = 1.0
    changed = np.where(lost, image * np.float32(1 - p["loss"]), image)
    return changed, lost & brain
