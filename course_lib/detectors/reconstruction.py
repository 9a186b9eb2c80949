"""What all detectors share that rebuild an image and take what they failed to rebuild for the anomaly."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.base import Detector


class Reconstruction(Detector):
    """A detector whose `forward` rebuilds images; its map is the residual."""

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction x_hat, `(B, 1, H, W)` to `(B, 1, H, W)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    @torch.no_grad()
    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """The reconstruction, 0 outside the brain."""
        return self(images) * (images > 0)

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """The residual |x - x_hat| in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`, in intensity units."""
        return (images - self.pseudo_healthy(images)).abs()[:, 0]
