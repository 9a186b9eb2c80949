"""Two numbers about a latent space: how far its codes are from a prior, and how far its pictures are from slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

UNIT = 1 / 8  # one robust standard deviation of the brain, in intensity
CHUNK = 256  # pictures that are compared at a time


def ks_distance(
    codes: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray], weights: np.ndarray | None = None
) -> np.ndarray:
    """The Kolmogorov-Smirnov distance of each number of the code from a prior: `sup_t |F_N(t) - F(t)|`.

    F_N is the share of codes up to t, F the prior's distribution function. 0 is the same distribution, 1 none in
    common; N draws from the prior itself are about `0.87 / sqrt(N)` away from it. Marginals alone are compared: codes
    can pass that fill no more than a curve.

    Args:
        codes: `(N, D)`.
        cdf: F, of numbers in an array, such as `scipy.special.ndtr` for N(0, 1).
        weights: `(R, N)`, R weightings of the codes, as a bootstrap makes them; default: each counts once.

    Returns:
        `(D,)`, or with weights `(R, D)`.
    """
    codes = np.asarray(codes, float)
    rows = np.ones((1, len(codes))) if weights is None else np.asarray(weights, float)
    distances = np.empty((len(rows), codes.shape[1]))
    for d, numbers in enumerate(codes.T):
        order = np.argsort(numbers, kind="stable")
        share = rows[:, order] / rows.sum(1, keepdims=True)  # (R, N)
        above = share.cumsum(1)  # F_N at each code; just below it, it is less by the code's own share
        prior = cdf(numbers[order])
        distances[:, d] = np.maximum(np.abs(above - prior), np.abs(above - share - prior)).max(1)
    return distances[0] if weights is None else distances


def nearest_distance(pictures: np.ndarray, slices: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """How far each picture is from the nearest of some slices, `(N,)`, in robust standard deviations of the brain.

    The root mean square difference over the pixels of `brain`, as in the latent explorer. Decoded pictures are smooth,
    and so nearer to any slice than slices are to each other: compare them with other decoded pictures.

    Args:
        pictures: `(N, H, W)`.
        slices: `(M, H, W)`, such as all training slices.
        brain: `(H, W)` bool, such as where any slice has brain.
    """
    flat = [
        torch.from_numpy(np.ascontiguousarray(stack[:, brain], np.float32) / (UNIT * np.sqrt(brain.sum())))
        for stack in (np.asarray(pictures), np.asarray(slices))
    ]  # (N, P), (M, P)
    parts = [torch.cdist(part, flat[1]).amin(1) for part in flat[0].split(CHUNK)]
    return torch.cat(parts).numpy()
