"""Smooth random fields, and sampling of volumes at moved points: what bends and shades a synthetic brain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], spacing: float, channels: int = 1) -> torch.Tensor:
    """Gaussian noise on a coarse grid, up-sampled by cubic B-splines: smooth to the second derivative.

    The field has mean 0 and standard deviation 1 over the ensemble.

    Args:
        rng: random stream.
        shape: (X, Y, Z) of the result, or (X, Y).
        spacing: distance of the coarse grid's nodes, in samples of the result.
        channels: number of independent fields.

    Returns:
        float32 tensor (channels, X, Y, Z).
    """
    bases = [_spline_basis(n, float(spacing)) for n in shape]
    noise = rng.standard_normal((channels, *(basis.shape[1] for basis in bases)), dtype=np.float32)
    field = torch.from_numpy(noise)
    for basis in bases:  # contract the first axis after the channels; it comes back as the last
        field = torch.tensordot(field, basis, dims=([1], [1]))
    return field


def sample(volumes: torch.Tensor, points: torch.Tensor, step: float = 1.0) -> torch.Tensor:
    """Linear samples of `volumes` at `points`; outside: the nearest edge.

    Args:
        volumes: float32 tensor (C, X, Y, Z) or (C, X, Y).
        points: float32 tensor (N, 3) or (N, 2), in voxels of a grid `step` times finer than that of `volumes`.
        step: voxels between two nodes of `volumes`.

    Returns:
        float32 tensor (C, N).
    """
    size = torch.tensor(volumes.shape[1:], dtype=torch.float32)
    grid = (points * (2.0 / (step * (size - 1))) - 1.0).flip(-1)  # grid_sample wants the last axis first, in [-1, 1]
    grid = grid.reshape(1, *[1] * (size.numel() - 1), -1, size.numel())
    values = F.grid_sample(volumes[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return values.reshape(volumes.shape[0], -1)


@lru_cache(maxsize=64)
def _spline_basis(samples: int, spacing: float) -> torch.Tensor:
    """Cubic B-spline weights (samples, nodes), scaled so that unit noise stays unit noise on average."""
    position = np.arange(samples) / spacing
    nodes = np.arange(-1, int(np.ceil(position[-1])) + 3)
    t = np.abs(position[:, None] - nodes[None])
    weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))
    weights /= np.sqrt((weights**2).sum(axis=1).mean())
    return torch.from_numpy(weights.astype(np.float32))
