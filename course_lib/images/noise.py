"""Noise fields of unit variance, white or coarse, for networks that learn to take noise off.

The coarse family stands in for the simplex noise of Wyatt, Leach, Schmon, Willcocks, AnoDDPM, CVPR workshops 2022. It
is *not* simplex noise: each octave is a cubic spline through random numbers (value noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-6  # standard deviation that a field is divided by


def white_noise(shape: tuple[int, int, int, int], *, generator: torch.Generator | None = None) -> Tensor:
    """Independent N(0, 1) in each pixel, `(B, C, H, W)`, on the CPU."""
    return torch.randn(shape, generator=generator)


def octave_noise(
    shape: tuple[int, int, int, int],
    *,
    octaves: int = 4,
    persistence: float = 0.8,
    base: float = 0.25,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Noise with most of its power at low frequencies, `(B, C, H, W)`, mean 0 and variance 1 *within each image*.

    `n = (f - mean f) / s.d. f` with `f = sum_o persistence^o f_o`. The field f_o is a cubic B-spline through random
    numbers that stand `base / 2^o` of the image's longer side apart; their lattice has a random offset in each image.

    Without the division sqrt(abar) and sqrt(1 - abar) would not say how much signal and noise an image x_t holds.

    Args:
        shape: of the result, on the CPU.
        octaves: how many fields are added. At 48 pixels the fourth has a period of 1.5.
        persistence: amplitude of an octave over that of the one before; the paper's 0.8.
        base: period of the first octave over the longer side; the paper's 64 of 256 pixels. A share, so that the noise
            means the same at every image size.
        generator: on the CPU; default: torch's global one.

    Raises:
        ValueError: no octave, or a base that is not positive.
    """
    if octaves < 1 or base <= 0:
        raise ValueError(f"octaves is 1 or more and base above 0, not {octaves} and {base}.")
    batch, channels, height, width = shape
    field = torch.zeros(shape)
    for octave in range(octaves):
        period = max(height, width) * base / 2**octave  # in pixels
        phases = torch.rand(2, batch * channels, generator=generator)
        rows, columns = (_spline_rows(size, period, phase) for size, phase in zip((height, width), phases, strict=True))
        nodes = torch.randn(batch * channels, rows.shape[2], columns.shape[2], generator=generator)
        field += persistence**octave * (rows @ nodes @ columns.transpose(1, 2)).view(shape)  # (B, C, H, W)
    deviation, mean = torch.std_mean(field, (2, 3), correction=0, keepdim=True)
    return (field - mean) / deviation.clamp(min=SMALLEST)


def _spline_rows(size: int, period: float, phases: Tensor) -> Tensor:
    """Cubic B-spline weights `(N, size, nodes)`; each row has unit norm, so that unit numbers give a unit field."""
    place = torch.arange(size) / period + phases[:, None]  # (N, size), in nodes
    nodes = torch.arange(-1, int(size / period) + 4)
    t = (place[:, :, None] - nodes).abs()  # (N, size, nodes)
    weights = torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)
    return weights / weights.norm(dim=2, keepdim=True)
