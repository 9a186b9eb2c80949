"""Slice levels: which height of the head a slice comes from, judged by the slice alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.errors import BadInput

SIDE = 12  # of the small copies, in pixels


class SliceLevels(nn.Module):
    """Sort slices into `levels` groups that look alike, by k-means on small copies of them.

    A stack mixes slices of many heights, and statistics at a pixel make sense only within one height. A copy of
    12 x 12 pixels still shows the height (on the atlas cohort the groups are good to 4 mm), and hardly a lesion.
    """

    centroids: Tensor

    def __init__(self, levels: int):
        super().__init__()
        self.levels = levels
        self.register_buffer("centroids", torch.zeros(levels, SIDE * SIDE))

    def fit(self, images: Tensor) -> Tensor:
        """Find the groups of healthy slices `(N, 1, H, W)`; returns the level of each, `(N,)`.

        Raises:
            BadInput: there are fewer slices than levels.
        """
        if len(images) < self.levels:
            raise BadInput(
                f"{len(images)} slices cannot make {self.levels} levels.",
                field="levels",
                remedy="Ask for fewer levels.",
            )
        copies = small_copies(images)
        if self.levels == 1:
            self.centroids.copy_(copies.mean(0, keepdim=True))
        else:
            # Imported where it is used: it takes a second.
            from sklearn.cluster import KMeans

            means = KMeans(self.levels, n_init=4, random_state=0).fit(copies.numpy()).cluster_centers_
            self.centroids.copy_(torch.from_numpy(means))
        return self(images)

    def forward(self, images: Tensor) -> Tensor:
        """The nearest level of each slice: `(B, 1, H, W)` to `(B,)`, integers from 0."""
        offsets = small_copies(images)[:, None] - self.centroids  # (B, levels, SIDE^2)
        return offsets.square().sum(2).argmin(1)


def small_copies(images: Tensor) -> Tensor:
    """Each image averaged down to 12 x 12, the very bright cut off: `(B, 1, H, W)` to `(B, 144)`."""
    return F.adaptive_avg_pool2d(images.clamp(max=1), SIDE).flatten(1)
