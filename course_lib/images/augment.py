"""Random deformation, bias field and coarse noise for batches of slices.

All work on a whole batch at once: small random numbers, brought to full size by two small matrix products, and one
pass over the images. All take a `torch.Generator`, so that one seed gives one result; without it torch's global
generator is used, which `training.fit` seeds in every step.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.errors import BadInput


def elastic(
    images: Tensor,
    masks: Tensor | None = None,
    *,
    amplitude: float = 5.0,
    control_points: int = 7,
    generator: torch.Generator | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Bend each image smoothly and at random, and its mask with it; the image's border stays where it is.

    Each of `control_points x control_points` places is displaced by a uniform number of pixels in
    [-amplitude, amplitude] along either axis, and cubic splines join them. The two outer rings of places are fixed.

    Args:
        images: `(B, C, H, W)` float, or `(C, H, W)` of one image. Sampled bilinearly.
        masks: `(B, H, W)` or `(B, C, H, W)`, of any type; sampled at the nearest pixel.
        amplitude: in pixels. The displacement between places stays within about 1.3 times this.
        control_points: along each axis, at least 5.
        generator: on the CPU.

    Returns:
        The bent images; with `masks`, a pair.
    """
    field = random_displacement(
        len(images), images.shape[-2:], amplitude=amplitude, control_points=control_points, generator=generator
    )
    if masks is None:
        return warp(images, field)
    return warp(images, field), warp_masks(masks, field)


def random_displacement(
    batch: int,
    shape: tuple[int, int],
    *,
    amplitude: float,
    control_points: int = 7,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Smooth random displacements in pixels, `(B, H, W, 2)`: to the right, then down; 0 at the border.

    Raises:
        BadInput: fewer than 5 control points, which leaves none that moves.
    """
    if control_points < 5:
        raise BadInput(f"{control_points} control points leave none that moves.", field="control_points")
    inner = control_points - 4
    coarse = torch.rand(2, batch, inner, inner, generator=generator).mul_(2 * amplitude).sub_(amplitude)
    rows, columns = (_splines(size, control_points)[:, 2:-2] for size in shape)
    fine = rows @ coarse.to(rows.dtype) @ columns.T  # (2, B, H, W)
    return fine.permute(1, 2, 3, 0)


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """The image whose pixel p shows what was at p + displacement: `(B, C, H, W)`, bilinear, the border repeated."""
    grid = _sampling_grid(displacement).to(images.device)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp_masks(masks: Tensor, displacement: Tensor) -> Tensor:
    """As `warp`, at the nearest pixel, for labels: `(B, H, W)` or `(B, C, H, W)` of any type, to the same."""
    values = (masks[:, None] if masks.ndim == 3 else masks).to(displacement.dtype)
    grid = _sampling_grid(displacement).to(masks.device)
    bent = F.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=True)
    return bent.view_as(masks).to(masks.dtype)


def bias_field(
    images: Tensor, *, strength: float = 0.3, control_points: int = 4, generator: torch.Generator | None = None
) -> Tensor:
    """Multiply each image by a smooth random field exp(g), as a receive coil does: `(B, C, H, W)` to the same.

    g is a cubic spline through `control_points x control_points` uniform numbers in [-strength, strength].
    """
    coarse = torch.rand(len(images), 1, control_points, control_points, generator=generator)
    coarse = coarse.mul_(2 * strength).sub_(strength)
    rows, columns = (_splines(size, control_points) for size in images.shape[-2:])
    return images * (rows @ coarse @ columns.T).exp().to(images.device)


def coarse_noise(
    images: Tensor, *, sd: float = 0.2, cells: int = 16, generator: torch.Generator | None = None
) -> Tensor:
    """Add Gaussian noise that is smooth within about `H / cells` pixels: `(B, C, H, W)` to the same.

    The corruption of denoising auto-encoders (Kascenas, Pugeault, O'Neil, MIDL 2022): `cells x cells` numbers of
    standard deviation `sd`, brought to full size bilinearly, and rolled by a random shift.
    """
    height, width = images.shape[-2:]
    coarse = torch.randn(len(images), 1, cells, cells, generator=generator) * sd
    fine = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    shift = torch.randint(max(height, width), (2,), generator=generator).tolist()
    return images + torch.roll(fine, shift, dims=(-2, -1)).to(images.device)


def _sampling_grid(displacement: Tensor) -> Tensor:
    """Where to sample, in `grid_sample`'s units: -1 and 1 are the centres of the border's pixels. `(B, H, W, 2)`."""
    height, width = displacement.shape[1:3]
    identity, unit = _identity(height, width)
    return torch.addcmul(identity, displacement, unit)


@lru_cache(maxsize=16)
def _identity(height: int, width: int) -> tuple[Tensor, Tensor]:
    down, right = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    grid = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1)  # (H, W, 2): x, y
    return grid, torch.tensor([2 / (width - 1), 2 / (height - 1)])


@lru_cache(maxsize=16)
def _splines(size: int, control_points: int) -> Tensor:
    """The matrix `(size, control_points)` of cubic interpolation along one axis, ends on the outermost places."""
    one_each = torch.eye(control_points)[None, None]  # (1, 1, points, points)
    wide = F.interpolate(one_each, size=(size, control_points), mode="bicubic", align_corners=True)
    return wide[0, 0].contiguous()
