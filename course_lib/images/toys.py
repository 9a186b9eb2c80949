"""Points in the plane with a known density, as images of one row and two pixels: what one can draw, one can check."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

NOISE = 0.07
#         share, radius, centre, first angle, last angle
MOONS = (
    (0.8, 1.0, (0.0, -0.3), 0.0, np.pi),  # the big one, open below
    (0.2, 0.4, (0.2, -0.3), np.pi, 2 * np.pi),  # the small one in its mouth, open above
)
SQUARE = 1.6  # half the side of the square around the moons


def sample_moons(count: int, seed: int = 0) -> np.ndarray:
    """Draw `(count, 2)` points from the big moon and the small moon.

    Four in five lie along a half-circle of radius 1, the others along one of radius 0.4; both with Gaussian noise of
    standard deviation 0.07. Source: the toy data "Big Moon, Small Moon" of Ruff et al., A unifying review of deep and
    shallow anomaly detection, Proc. IEEE 109 (2021), Fig. 7; radii, shares and noise are the course's own.
    """
    rng = np.random.default_rng(seed)
    which = rng.choice(len(MOONS), size=count, p=[moon[0] for moon in MOONS])
    points = np.stack([_arc(moon, rng.uniform(moon[3], moon[4], count)) for moon in MOONS])  # (2, count, 2)
    return points[which, np.arange(count)] + NOISE * rng.standard_normal((count, 2))


def moons_density(points: np.ndarray) -> np.ndarray:
    """p+ of the moons at points `(N, 2)`: `(N,)`, by the midpoint rule over the angle."""
    density = np.zeros(len(points))
    for moon in MOONS:
        steps = 256
        angles = moon[3] + (moon[4] - moon[3]) * (np.arange(steps) + 0.5) / steps
        for centre in _arc(moon, angles):
            density += moon[0] / steps * np.exp(-0.5 * ((points - centre) ** 2).sum(1) / NOISE**2)
    return density / (2 * np.pi * NOISE**2)


@lru_cache(maxsize=8)
def moons_level(share: float = 0.97) -> float:
    """tau for which the level set {p+ > tau} holds this share of the points (from 50,000 draws)."""
    return float(np.quantile(moons_density(sample_moons(50_000, seed=1_000_003)), 1 - share))


def plane(size: int = 120) -> np.ndarray:
    """The centres of `size` x `size` cells of the square: `(size^2, 2)`, row by row from below."""
    middle = (np.arange(size) + 0.5) / size * 2 * SQUARE - SQUARE
    x, y = np.meshgrid(middle, middle)
    return np.stack([x.ravel(), y.ravel()], 1)


def as_images(points: np.ndarray) -> Tensor:
    """Points `(N, 2)` as images `(N, 1, 1, 2)`, so that any detector of the course can take them."""
    return torch.from_numpy(np.asarray(points, np.float32))[:, None, None]


def _arc(moon: tuple, angles: np.ndarray) -> np.ndarray:
    _, radius, centre, _, _ = moon
    return np.asarray(centre) + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
