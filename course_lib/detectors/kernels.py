"""What the kernel detectors share: pooled pixels, kept training points, the Gaussian kernel, relevance of pixels.

The Gaussian kernel is k(x, y) = exp(-gamma ||x - y||^2). All of it is computed in double precision: a kernel of far
points is a tiny number, and centring subtracts numbers that are nearly equal.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.errors import BadInput


class PooledDetector(Detector):
    """A detector that sees an image as one vector, after averaging it over squares of `pool` x `pool` pixels.

    Args:
        image_shape: height and width in pixels, multiples of `pool`. Points in the plane are images of 1 x 2.
        pool: the squares' side; 1 leaves the image as it is.

    Raises:
        BadInput: `pool` does not divide the height and the width.
    """

    def __init__(self, image_shape: tuple[int, int], pool: int = 1):
        super().__init__()
        if pool < 1 or any(side % pool for side in image_shape):
            raise BadInput(
                f"squares of {pool} pixels do not tile an image of {image_shape[0]} x {image_shape[1]}.",
                field="pool",
                remedy="Choose a divisor of the height and the width.",
            )
        self.image_shape, self.pool = image_shape, pool

    @property
    def dimensions(self) -> int:
        """D, the length of the vector."""
        return (self.image_shape[0] // self.pool) * (self.image_shape[1] // self.pool)

    def vectors(self, images: Tensor) -> Tensor:
        """The pooled images in double precision: `(B, 1, H, W)` to `(B, D)`."""
        return F.avg_pool2d(images.double(), self.pool).flatten(1)

    def to_map(self, relevance: Tensor, images: Tensor) -> Tensor:
        """The relevance of the pooled pixels as a map: `(B, D)` to `(B, H, W)`, 0 outside the brain.

        The relevance of a square is spread over its pixels, so that a map without background keeps the sum; where
        `pool` is above 1 it is interpolated between the squares' centres.
        """
        height, width = (side // self.pool for side in self.image_shape)
        coarse = relevance.view(-1, 1, height, width) / self.pool**2
        if self.pool > 1:
            coarse = F.interpolate(coarse, size=self.image_shape, mode="bilinear", align_corners=False)
        return (coarse * (images > 0))[:, 0].float()


class KernelDetector(PooledDetector):
    """A detector that compares an image with kept training images by a Gaussian kernel.

    Args:
        image_shape, pool: as for `PooledDetector`.
        kept: n, the most training images that are kept. Of more images, `kept` are drawn without replacement, always
            the same ones; if there are fewer, the rest of the memory is empty.
        gamma: of the kernel. None: one over the median squared distance of a kept image from its nearest neighbour
            (images that are there twice do not count). There is no abnormal image to tune it on.
    """

    points: Tensor
    used: Tensor
    width: Tensor

    def __init__(self, image_shape: tuple[int, int], pool: int = 1, kept: int = 1000, gamma: float | None = None):
        super().__init__(image_shape, pool)
        if kept < 2 or (gamma is not None and not gamma > 0):
            raise BadInput("kept is at least 2, and gamma is positive.", field="kept" if kept < 2 else "gamma")
        self.kept, self.gamma = kept, gamma
        self.register_buffer("points", torch.zeros(kept, self.dimensions, dtype=torch.float64))
        self.register_buffer("used", torch.zeros(kept, dtype=torch.bool))
        self.register_buffer("width", torch.zeros((), dtype=torch.float64))  # the gamma that is used

    def keep(self, images: Tensor) -> Tensor:
        """Keep training images `(N, 1, H, W)` and set gamma; returns the kept vectors `(n, D)`, n <= kept.

        Raises:
            BadInput: fewer than two images, or no two different ones to take gamma from.
        """
        if len(images) < 2:
            raise BadInput(f"a kernel needs at least 2 images, not {len(images)}.", field="images")
        rows = np.arange(len(images))
        if len(images) > self.kept:
            rows = np.sort(np.random.default_rng(0).choice(len(images), self.kept, replace=False))
        vectors = self.vectors(images[torch.from_numpy(rows)])
        self.points.zero_()
        self.points[: len(rows)] = vectors
        self.used.copy_(torch.arange(self.kept) < len(rows))
        self.width.fill_(self.gamma if self.gamma is not None else neighbour_gamma(vectors))
        return vectors

    def log_kernel(self, images: Tensor) -> Tensor:
        """log k(x, x_i) = -gamma ||x - x_i||^2: `(B, 1, H, W)` to `(B, kept)`; minus infinity where nothing is kept."""
        distances = squared_distances(self.vectors(images), self.points)
        return (-self.width * distances).masked_fill(~self.used, -torch.inf)

    def soft_minimum_relevance(self, images: Tensor, log_weights: Tensor) -> Tensor:
        """gamma sum_i w_i (x_p - x_ip)^2, w the softmax of `log_weights`: images and `(B, kept)` to `(B, H, W)`.

        The small version of "neuralised" relevance: a soft minimum over distances passes its relevance to the nearest
        points (w), and a squared distance passes it to the squared differences of the pixels. Source: Kauffmann et
        al., The Clever Hans effect in anomaly detection (2020), for the concept.
        """
        weights = log_weights.softmax(1)  # (B, kept)
        x = self.vectors(images)
        differences = x.square() - 2 * x * (weights @ self.points) + weights @ self.points.square()  # (B, D)
        return self.to_map(self.width * differences.clamp(min=0), images)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_i - y_j||^2: `(B, D)` and `(n, D)` to `(B, n)`, at least 0."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def neighbour_gamma(vectors: Tensor) -> float:
    """One over the median squared distance to the nearest neighbour, of vectors `(n, D)`.

    Raises:
        BadInput: all vectors are the same.
    """
    distances = squared_distances(vectors, vectors)
    floor = 1e-12 * vectors.square().sum(1).max().clamp(min=1e-30)  # below it: the same vector, up to rounding
    nearest = distances.masked_fill(distances <= floor, torch.inf).amin(1)
    nearest = nearest[nearest.isfinite()]
    if not len(nearest):
        raise BadInput("all images are the same.", field="gamma", remedy="Give a gamma.")
    return 1.0 / float(nearest.median())
