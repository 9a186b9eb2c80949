"""Smooth, invertible deformations: stationary velocities, their integration, warping, and local correlation.

A field is `(B, 2, H, W)` in pixels: along the rows first (down), then along the columns (right).

Arsigny, Commowick, Pennec, Ayache, A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006 (scaling
and squaring); Dalca et al., Unsupervised learning for fast probabilistic diffeomorphic registration, MICCAI 2018;
Avants et al., Medical Image Analysis 12 (2008) (local normalised cross-correlation).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 9  # pixels along each side of the boxes of the local correlation
FLAT = 1e-5 / WINDOW**4  # below this a product of two variances is no contrast; 1e-5 of the products of sums


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """The image that shows at p what was at p + u(p): `(B, C, H, W)` and u `(B, 2, H, W)` in pixels to `(B, C, H, W)`.

    Bilinear; beyond the edge the border goes on. Under autocast it is done in the precision of the displacement.
    """
    height, width = images.shape[-2:]
    down = torch.arange(height, dtype=displacement.dtype, device=displacement.device)[:, None] + displacement[:, 0]
    right = torch.arange(width, dtype=displacement.dtype, device=displacement.device) + displacement[:, 1]
    # grid_sample's units: x before y, and -1 and 1 are the centres of the border's pixels.
    grid = torch.stack([2 * right / max(width - 1, 1) - 1, 2 * down / max(height - 1, 1) - 1], -1)  # (B, H, W, 2)
    with torch.autocast(images.device.type, enabled=False):
        images = images.to(displacement.dtype)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def integrate(velocity: Tensor, squarings: int = 7) -> Tensor:
    """The displacement u of exp(v), `(B, 2, H, W)` to the same: follow v for one unit of time.

    Scaling and squaring: id + v / 2^n is a good approximation of a 2^n-th of the way. Each squaring goes what was gone
    once more: `u <- u + u o (id + u)`. exp(-v) is the inverse of exp(v).

    Raises:
        ValueError: `squarings` is negative.
    """
    if squarings < 0:
        raise ValueError(f"squarings is {squarings}; 0 takes v itself for the displacement.")
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """det of the derivative of id + u, `(B, H - 2, W - 2)`: below 0 the field folds, 1 keeps areas.

    Central differences, in the interior.
    """
    down, right = _gradient(displacement)  # (B, 2, H - 2, W - 2), for each direction
    return (1 + down[:, 0]) * (1 + right[:, 1]) - down[:, 1] * right[:, 0]


def roughness(velocity: Tensor) -> Tensor:
    """R(v) = 1/2 mean[ (dv/dx)^2 + (dv/dy)^2 ], a scalar: central differences, in the interior."""
    down, right = _gradient(velocity)
    return 0.5 * (down.square() + right.square()).mean()


def lncc(a: Tensor, b: Tensor, inside: Tensor | None = None, window: int = WINDOW) -> Tensor:
    """The loss 1 - mean of cc^2, cc the correlation of a and b `(B, 1, H, W)` in the box around each pixel; in [0, 1].

    `cc^2 = cov(a, b)^2 / (var(a) var(b) + e)`. 0 where b is a linear function of a, also a falling one, as cc is
    squared; 1 where either is flat. Boxes at the edge have fewer pixels (others' code fills up with zeros, which
    correlate).

    Args:
        a, b: images.
        inside: bool `(B, 1, H, W)`, the pixels whose boxes count; default: all. An empty background is flat: it
            would add nothing but a constant, and its noise would pass for structure.
        window: odd, pixels along each side of the box.

    Raises:
        ValueError: `window` is not odd.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window of {window} pixels has no centre; take an odd number.")

    # Less the images' means, which changes no covariance but keeps the digits of the differences below.
    a, b = (image - image.mean((2, 3), keepdim=True) for image in (a, b))
    moments = _box_means(torch.cat([a, b, a * a, b * b, a * b], 1), window)  # (B, 5, H, W)
    mean_a, mean_b, aa, bb, ab = moments.split(1, 1)
    variances = (aa - mean_a.square()) * (bb - mean_b.square())
    squared = (ab - mean_a * mean_b).square() / (variances.clamp(min=0) + FLAT)  # (B, 1, H, W)
    if inside is None:
        return 1 - squared.mean()
    return 1 - (squared * inside).sum() / inside.sum().clamp(min=1)


def _box_means(values: Tensor, window: int) -> Tensor:
    """The mean over the part of each pixel's box that is in the image, `(B, C, H, W)`: along the rows, then columns."""
    for size in ((window, 1), (1, window)):
        padding = (size[0] // 2, size[1] // 2)
        values = F.avg_pool2d(values.contiguous(), size, stride=1, padding=padding, count_include_pad=False)
    return values


def _gradient(field: Tensor) -> tuple[Tensor, Tensor]:
    """(f(i + 1) - f(i - 1)) / 2 along the rows and along the columns, in the interior."""
    down = (field[..., 2:, 1:-1] - field[..., :-2, 1:-1]) / 2
    right = (field[..., 1:-1, 2:] - field[..., 1:-1, :-2]) / 2
    return down, right
