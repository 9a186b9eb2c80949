"""The positional Gaussian: at each place, what do healthy local statistics look like?

The humble baseline of the course. The idea is that of PaDiM (Defard et al., ICPR Workshops 2021), a Gaussian for each
position, with hand-made local features in place of a network's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.levels import SliceLevels

CHUNK = 64  # images whose features are in memory at once
BLUR = 2.0  # pixels; the healthy covariance varies smoothly over the brain
PRIOR = 5.0  # the weight of the smoothed statistics, in images
SMALLEST_VARIANCE = 1e-4  # added to the covariance's diagonal: 0.01 squared, a twelfth of the images' robust s.d.


class PositionalGaussian(Detector):
    """The Mahalanobis distance of local features from their healthy Gaussian at the same place and slice level.

    The features f of a pixel are the mean and the standard deviation of the intensity around it, in Gaussian windows
    of several widths that see the brain only. At each pixel and slice level, healthy images give their mean mu and
    their covariance Sigma, which is blurred over neighbouring pixels and drawn a little to the whole level's. The
    map is

        d = sqrt((f - mu)^T Sigma^-1 (f - mu)).

    Args:
        image_shape: height and width in pixels.
        levels: groups of slices that get a Gaussian of their own (`SliceLevels`); 1 for slices of one height.
        scales: the windows' standard deviations in pixels.
        side: "both", or "bright" for what is brighter than healthy: then f is the local means alone, and where
            f < mu the difference counts as 0.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int],
        levels: int = 17,
        scales: tuple[float, ...] = (1.0, 2.0, 4.0),
        side: str = "both",
    ):
        super().__init__()
        if side not in ("both", "bright"):
            raise ValueError(f"side is {side!r}, but has to be 'both' or 'bright'.")
        self.image_shape, self.levels, self.scales, self.side = image_shape, levels, scales, side
        self.slice_levels = SliceLevels(levels)
        features = len(scales) * (2 if side == "both" else 1)
        self.register_buffer("mean", torch.zeros(levels, features, *image_shape))
        self.register_buffer("whitening", torch.zeros(levels, features, features, *image_shape))

    def fit(self, images: Tensor) -> PositionalGaussian:
        """Learn mu and Sigma from healthy images `(N, 1, H, W)`. Memory: the features of 64 images at once."""
        level_of = self.slice_levels.fit(images)
        for level in range(self.levels):
            healthy = images[level_of == level]
            mean, count = self._mean(healthy)
            self.mean[level], self.whitening[level] = mean, whiten(self._covariance(healthy, mean, count))
        return self

    def features(self, images: Tensor) -> Tensor:
        """f at each pixel: `(B, 1, H, W)` to `(B, F, H, W)`."""
        means, sds = local_statistics(images, self.scales)
        return torch.cat([means, sds], 1) if self.side == "both" else means

    def _mean(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """mu `(F, H, W)`, and the number of brains that cover each pixel `(1, H, W)`, in double precision."""
        total, count = 0.0, 0.0
        for features, brain in self._chunks(images):
            total, count = total + (features * brain).sum(0), count + brain.sum(0)
        around = gaussian_blur(total, BLUR) / gaussian_blur(count, BLUR).clamp(min=1e-6)  # for the brain's rim
        return (total + PRIOR * around) / (count + PRIOR), count

    def _covariance(self, images: Tensor, mean: Tensor, count: Tensor) -> Tensor:
        """Sigma `(F, F, H, W)`, in double precision."""
        scatter = 0.0
        for features, brain in self._chunks(images):
            offset = (features - mean) * brain  # (n, F, H, W)
            scatter = scatter + torch.einsum("nihw,njhw->ijhw", offset, offset)
        whole = scatter.sum((2, 3), keepdim=True) / count.sum()  # (F, F, 1, 1)
        covariance = (gaussian_blur(scatter, BLUR) + PRIOR * whole) / (gaussian_blur(count, BLUR) + PRIOR)
        return covariance + SMALLEST_VARIANCE * torch.eye(len(mean))[..., None, None]

    def _chunks(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features `(n, F, H, W)` and brains `(n, 1, H, W)` of 64 images at a time, in double precision."""
        for chunk in images.split(CHUNK):
            yield self.features(chunk).double(), (chunk > 0).double()

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """The Mahalanobis distance: `(B, 1, H, W)` to `(B, H, W)`, about sqrt(F) where healthy; 0 outside the brain."""
        features, level_of = self.features(images), self.slice_levels(images)
        distance = torch.zeros_like(images[:, 0])
        for level in level_of.unique():
            here = level_of == level
            offset = features[here] - self.mean[level]  # (n, F, H, W)
            if self.side == "bright":
                offset = offset.clamp(min=0)
            white = [(row * offset).sum(1) for row in self.whitening[level]]  # F times (n, H, W)
            distance[here] = torch.stack(white).square().sum(0).sqrt()
        return distance * (images[:, 0] > 0)


def local_statistics(images: Tensor, scales: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Local means and local standard deviations: `(B, 1, H, W)` to twice `(B, len(scales), H, W)`.

    Gaussian windows of the given standard deviations in pixels; the brain's pixels only, their weights made to sum
    to 1. Outside the brain the values mean nothing.
    """
    brain = (images > 0).to(images.dtype)
    shifted = images - 0.5 * brain  # the squares of values around 0 lose fewer digits
    moments = torch.cat([brain, shifted, shifted.square()], 1)  # (B, 3, H, W)
    means, sds = [], []
    for scale in scales:
        weight, first, second = gaussian_blur(moments, scale).unbind(1)
        weight = weight.clamp(min=1e-6)
        mean = first / weight
        means.append(mean + 0.5)
        sds.append((second / weight - mean.square()).clamp(min=0).sqrt())
    return torch.stack(means, 1), torch.stack(sds, 1)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur the last two axes by a Gaussian of `sigma` pixels, zeros beyond the border.

    A blur along an axis is a product with a banded matrix, which on small images is the fastest way to do it.
    """
    rows, columns = (_band(size, sigma, images) for size in images.shape[-2:])
    return rows @ images @ columns


def whiten(covariance: Tensor) -> Tensor:
    """W with W^T W = Sigma^-1, lower triangular, at each pixel: `(F, F, H, W)` to the same. Then d = |W (f - mu)|."""
    factor = torch.linalg.cholesky(covariance.permute(2, 3, 0, 1))  # (H, W, F, F)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype)
    return torch.linalg.solve_triangular(factor, identity, upper=False).permute(2, 3, 0, 1)


def _band(size: int, sigma: float, like: Tensor) -> Tensor:
    """The symmetric matrix `(size, size)` of a Gaussian blur, cut off at four sigma."""
    place = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = (place[:, None] - place).abs()
    reach = torch.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1, dtype=like.dtype, device=like.device)
    total = torch.exp(-0.5 * (reach / sigma) ** 2).sum()
    return torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= reach[-1]) / total
