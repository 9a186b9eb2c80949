"""Toy brains: ellipses of three sizes, the sizes standing for slice heights, with a texture that each shares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

SHAPE = (32, 32)


def toy_brains(count: int, seed: int = 0) -> Tensor:
    """`(count, 1, 32, 32)`: 0 outside, around 0.5 inside; image i has size i modulo 3."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    anatomy = 0.5 + 0.12 * torch.sin(4 * x) * torch.cos(3 * y)  # (32, 32)
    radii = torch.tensor([0.6, 0.75, 0.9])[torch.arange(count) % 3]
    radii = radii + 0.02 * torch.randn(count, generator=generator)
    inside = (x**2 + y**2) < radii[:, None, None] ** 2
    gain = 1 + 0.05 * torch.randn(count, 1, 1, generator=generator)
    noise = 0.03 * torch.randn(count, 32, 32, generator=generator)
    return (((anatomy * gain + noise).clamp(0.01, 2)) * inside)[:, None]


@pytest.fixture
def brains() -> Tensor:
    """120 healthy toy brains."""
    return toy_brains(120)


@pytest.fixture
def unseen() -> Tensor:
    """30 more, not used for training."""
    return toy_brains(30, seed=1)
