"""Post-processing of anomaly maps: filters inside the brain, the rim, small components; a recorded list of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from course_lib.errors import BadInput

Steps = Sequence[tuple[str, float]]
STEPS = ("rim", "median", "smooth", "components")
_SQUARE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(bool)  # 8 neighbours, in plane
_BLOCK = 64  # slices filtered at a time, so that the working set stays in the cache


def median_filter(maps: np.ndarray, size: int = 3) -> np.ndarray:
    """The median over `size` x `size` pixels, slice by slice; edges are mirrored.

    Args:
        maps: (N, H, W) or (H, W), real.
        size: odd; 1 changes nothing.

    Returns:
        float32, same shape.

    Raises:
        BadInput: `size` is not odd and positive.
    """
    if size < 1 or size % 2 != 1:
        raise BadInput(f"a median over {size} x {size} pixels has no centre.", field="size", remedy="Take an odd size.")
    maps = np.asarray(maps, np.float32)
    if size == 3:
        return _median_of_nine(maps if maps.ndim == 3 else maps[None]).reshape(maps.shape)
    return ndimage.median_filter(maps, (1,) * (maps.ndim - 2) + (size, size), mode="reflect")


def erode_rim(maps: np.ndarray, brains: np.ndarray, pixels: int = 2) -> np.ndarray:
    """Silence the brain's rim: its pixels, and those outside, get the lowest value of their slice's brain.

    Misregistration and partial volume make the rim bright in most residual maps. The rim stays in the region that is
    scored, so a lesion in it is missed, as it is in practice: taking the rim out of the region instead would raise
    every score for free.

    Args:
        maps: (N, H, W).
        brains: (N, H, W) bool.
        pixels: width of the rim, in pixels (8 neighbours); the picture's border counts as outside.

    Returns:
        float32 (N, H, W).

    Raises:
        BadInput: shapes differ, `pixels` is negative or not whole.
    """
    maps, brains = _checked(maps, brains)
    if pixels < 0 or not float(pixels).is_integer():
        raise BadInput(f"a rim of {pixels} pixels.", field="pixels")
    inner = ndimage.binary_erosion(brains, _SQUARE, iterations=int(pixels)) if pixels else brains
    return np.where(inner, maps, lowest(maps, brains)[:, None, None])  # (N, H, W)


def smooth(maps: np.ndarray, brains: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """A Gaussian average over brain pixels only, slice by slice: (G * [map x brain]) / (G * brain).

    Args:
        maps: (N, H, W).
        brains: (N, H, W) bool.
        sigma: in pixels; 0 changes nothing.

    Returns:
        float32 (N, H, W); outside the brain the map is as it was.

    Raises:
        BadInput: shapes differ, `sigma` is negative.

    Source: Knutsson and Westin, CVPR 1993 (normalised convolution).
    """
    maps, brains = _checked(maps, brains)
    if sigma < 0:
        raise BadInput(f"a sigma of {sigma}.", field="sigma")
    if sigma == 0:
        return maps.copy()
    inside = brains.astype(np.float32)
    size = (0, sigma, sigma)
    weight = ndimage.gaussian_filter(inside, size, mode="constant")  # (N, H, W)
    total = ndimage.gaussian_filter(np.where(brains, maps, 0), size, mode="constant")  # (N, H, W)
    return np.where(brains, total / np.maximum(weight, 1e-6), maps)


def remove_small_components(binary: np.ndarray, min_pixels: int) -> np.ndarray:
    """Keep the connected components (8 neighbours, slice by slice) of at least `min_pixels` pixels.

    Slices may be millimetres apart, so components are not joined across slices.

    Args:
        binary: (N, H, W) or (H, W) bool.
        min_pixels: 0 or 1 keeps all.

    Returns:
        bool, same shape, never more than was there.
    """
    binary = np.asarray(binary, bool)
    if min_pixels <= 1:
        return binary.copy()
    labels, count = ndimage.label(binary, _SQUARE if binary.ndim == 3 else _SQUARE[1])
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_pixels
    keep[0] = False
    return keep[labels]


def postprocess(maps: np.ndarray, brains: np.ndarray, steps: Steps = ()) -> np.ndarray:
    """Apply the steps in their order.

    Args:
        maps: (N, H, W).
        brains: (N, H, W) bool.
        steps: e.g. `[("rim", 2), ("median", 3), ("smooth", 1.0)]`. `("components", 5)` works on detections, not on
            maps, and has to come last: it is left to whoever applies the threshold (`minimal_component`).

    Returns:
        float32 (N, H, W), a new array.

    Raises:
        BadInput: a step is unknown, a number of pixels is not whole, or `components` is not the last.
    """
    minimal_component(steps)  # checks the names
    maps, brains = _checked(maps, brains)
    maps = maps.copy()
    for name, value in steps:
        if name == "rim":
            maps = erode_rim(maps, brains, int(value))
        elif name == "median":
            maps = median_filter(maps, int(value))
        elif name == "smooth":
            maps = smooth(maps, brains, value)
    return maps


def minimal_component(steps: Steps) -> int:
    """The size that a last step `("components", size)` asks for, or 0.

    Raises:
        BadInput: a step is unknown, a number of pixels is not whole, or `components` is not the last.
    """
    for position, (name, value) in enumerate(steps):
        if name not in STEPS:
            raise BadInput(f"the step {name!r} is unknown.", field="steps", remedy=f"Known: {', '.join(STEPS)}.")
        if name != "smooth" and not float(value).is_integer():
            raise BadInput(f"{name} {value:g} is not a whole number of pixels.", field="steps")
        if name == "components" and position != len(steps) - 1:
            raise BadInput(
                "components are removed from detections, after the maps are done.",
                field="steps",
                remedy="Put the step last.",
            )
    return int(steps[-1][1]) if len(steps) and steps[-1][0] == "components" else 0


def describe(steps: Steps) -> str:
    """The steps as text, as results carry it: `"rim 2, median 3"`; `"none"` for no step."""
    return ", ".join(f"{name} {value:g}" for name, value in steps) or "none"


def lowest(maps: np.ndarray, brains: np.ndarray) -> np.ndarray:
    """The lowest value in each slice's brain, (N,); 0 where a slice has no brain."""
    values = np.where(brains, maps, np.inf).min((1, 2))
    return np.where(np.isfinite(values), values, 0).astype(np.float32)


def _checked(maps: np.ndarray, brains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps, brains = np.asarray(maps, np.float32), np.asarray(brains, bool)
    if maps.ndim != 3 or maps.shape != brains.shape:
        raise BadInput(f"maps {maps.shape} and brains {brains.shape} are not two equal (N, H, W).", field="maps")
    return maps, brains


def _median_of_nine(maps: np.ndarray) -> np.ndarray:
    """The 3 x 3 median by 19 exchanges of whole pictures, an order of magnitude faster than sorting each window.

    Source: Paeth, Graphics Gems (1990); the network is Devillard's opt_med9.
    """
    out = np.empty_like(maps)
    exchanges = "12 45 78 01 34 67 12 45 78 03 58 47 36 14 25 47 42 64 42".split()
    for start in range(0, len(maps), _BLOCK):
        block = np.pad(maps[start : start + _BLOCK], ((0, 0), (1, 1), (1, 1)), mode="symmetric")
        height, width = maps.shape[1:]
        p = [block[:, i : i + height, j : j + width].copy() for i in range(3) for j in range(3)]  # 9 x (n, H, W)
        for a, b in exchanges:
            a, b = int(a), int(b)
            p[a], p[b] = np.minimum(p[a], p[b]), np.maximum(p[a], p[b])
        out[start : start + _BLOCK] = p[4]
    return out
