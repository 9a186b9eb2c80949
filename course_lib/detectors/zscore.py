"""The per-pixel z-score: how far from the healthy mean of this place, in healthy standard deviations."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.levels import SliceLevels

SMALLEST_SD = 1 / 32  # a quarter of the images' robust standard deviation
FEWEST = 3  # brains that have to cover a pixel before its own statistics are used


class PixelZScore(Detector):
    """|x - mu| / sigma, with mu and sigma of each pixel at each slice level from the healthy images.

    Only images whose brain covers the pixel count. A pixel that fewer than three cover gets its level's overall mean
    and standard deviation; sigma is at least 1/32.

    Args:
        image_shape: height and width in pixels.
        levels: groups of slices that get statistics of their own (`SliceLevels`); 1 for slices of one height.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, image_shape: tuple[int, int], levels: int = 17):
        super().__init__()
        self.image_shape, self.levels = image_shape, levels
        self.slice_levels = SliceLevels(levels)
        self.register_buffer("mean", torch.zeros(levels, *image_shape))
        self.register_buffer("sd", torch.ones(levels, *image_shape))

    def fit(self, images: Tensor) -> PixelZScore:
        """Learn mu and sigma from healthy images `(N, 1, H, W)`."""
        level_of = self.slice_levels.fit(images)
        for level in range(self.levels):
            self.mean[level], self.sd[level] = pixel_statistics(images[level_of == level, 0])
        return self

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """The absolute z-score: `(B, 1, H, W)` to `(B, H, W)`, in standard deviations; 0 outside the brain."""
        level = self.slice_levels(images)
        return ((images[:, 0] - self.mean[level]) / self.sd[level]).abs() * (images[:, 0] > 0)


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n - 1) of each pixel over the brains that cover it: `(N, H, W)` to two `(H, W)`."""
    brain = images > 0
    values = images.double()
    count = brain.sum(0)
    mean = (values * brain).sum(0) / count.clamp(min=1)
    variance = ((values - mean).square() * brain).sum(0) / (count - 1).clamp(min=1)
    inside = values[brain]
    rare = count < FEWEST
    mean = torch.where(rare, inside.mean(), mean)
    variance = torch.where(rare, inside.var(), variance)
    return mean.to(images.dtype), variance.sqrt().clamp(min=SMALLEST_SD).to(images.dtype)
