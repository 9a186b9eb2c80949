"""The denoising auto-encoder with coarse noise.

Kascenas, Pugeault, O'Neil, Denoising autoencoders for unsupervised anomaly detection in brain MRI, MIDL 2022. Ours has
an eighth of the width, no weight standardisation, and one channel for their four.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.reconstruction import Reconstruction
from course_lib.detectors.unet import UNet
from course_lib.images.augment import coarse_noise


class DenoisingAE(Reconstruction):
    """A U-Net that takes noise off healthy images: no bottleneck, the corruption alone keeps it from copying.

    The loss is the mean over all pixels of `(U(x + n) - x)^2 m`, m the brain, with n drawn on a grid of `noise_cells`
    x `noise_cells`, made smooth bilinearly, shifted at random, and 0 outside the brain. At test time no noise is
    added; the residual is what the network took for it.

    Args:
        image_shape: height and width in pixels.
        noise_cells: places of the grid along each side. 12 on 96 pixels are blobs of 8 pixels, the paper's share of
            its images (16 on 128). As many as pixels is pixel noise; None or 0 is none.
        noise_sd: standard deviation at the grid's places, in intensity units; 0.2 is 1.6 robust standard deviations
            of the brain. Between the places interpolation lowers it: over a coarse field it is 2/3 of this.
        width, depth: of the U-Net.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        noise_cells: int | None = 12,
        noise_sd: float = 0.2,
        width: int = 8,
        depth: int = 4,
    ):
        super().__init__()
        self.image_shape, self.noise_cells, self.noise_sd = image_shape, noise_cells, noise_sd
        self.width, self.depth = width, depth
        self.network = UNet(image_shape, width, depth)

    def corrupt(self, images: Tensor) -> Tensor:
        """x + n, `(B, 1, H, W)`; outside the brain it stays 0."""
        if not self.noise_cells:
            return images
        noise = coarse_noise(torch.zeros_like(images), sd=self.noise_sd, cells=self.noise_cells)
        return images + noise * (images > 0)

    def forward(self, images: Tensor) -> Tensor:
        """U(x), `(B, 1, H, W)`; outside the brain it means nothing, as no loss was taken there."""
        return self.network(images)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`denoising`: the mean over all pixels of the squared error in the brain."""
        error = (self(self.corrupt(images)).float() - images) * (images > 0)
        return {"denoising": error.square().mean()}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam with the paper's AMSGrad; 2e-3 for its 1e-4, as we take hundreds of steps where it took 67 thousand."""
        return [torch.optim.Adam(self.parameters(), lr=2e-3, amsgrad=True, fused=True)]
