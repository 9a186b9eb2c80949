"""The course's own detector: a Gaussian, at each place, of local statistics and of what two networks say there.

Lesson 5.4 tells how it came about, and what was tried before it. The Gaussian of each position is that of
`positional_gaussian` (after PaDiM); the networks are the denoiser of lesson 2.3 and the outliner of lesson 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.positional_gaussian import PositionalGaussian, gaussian_blur
from course_lib.detectors.reconstruction import Reconstruction
from course_lib.detectors.synthetic import SyntheticAnomalies

# The networks' words in units in which healthy ones vary by some hundredths to tenths, as local statistics do: the
# Gaussian adds SMALLEST_VARIANCE to each variance, and the whole level's covariance to each place's.
RESIDUAL_UNIT, LOGIT_UNIT, LARGEST = 0.25, 4.0, 3.0
RESIDUAL_BLURS, LOGIT_BLUR = (1.0, 2.0), 1.0  # pixels


class WitnessGaussian(PositionalGaussian):
    """The Mahalanobis distance of local statistics and of two networks' opinions from what is healthy at that place.

    To the features of `PositionalGaussian` (means and standard deviations of the intensity around a pixel) come three:
    the signed residual x - x_hat of a denoiser, blurred by 1 and by 2 pixels, and the logit f(x) of a network that
    outlines made-up anomalies, cut off at +-12 and blurred by 1 pixel. With f all of them,

        d = sqrt((f - mu)^T Sigma^-1 (f - mu)),

    mu and Sigma of healthy people at the same place and height. So each witness is heard relative to how it speaks of
    healthy people *there*, and two that always speak together count once. What a network never learnt (that a dark
    hole is healthy in a ventricle only) the statistics of the place know, and the other way round.

    Args:
        image_shape: height and width in pixels.
        denoiser, outliner: trained; they stay as they are.
        levels, scales, side: as for `PositionalGaussian`. With "bright", features below their mean count as 0.

    Raises:
        TypeError: a witness is no such network.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        denoiser: Reconstruction,
        outliner: SyntheticAnomalies,
        levels: int = 17,
        scales: tuple[float, ...] = (1.0, 2.0, 4.0),
        side: str = "both",
    ):
        super().__init__(image_shape, levels, scales, side)
        if not isinstance(denoiser, Reconstruction) or not isinstance(outliner, SyntheticAnomalies):
            raise TypeError("the witnesses are a detector that rebuilds and one that outlines made-up anomalies.")
        self.denoiser, self.outliner = denoiser, outliner
        features = self.mean.shape[1] + len(RESIDUAL_BLURS) + 1
        self.register_buffer("mean", torch.zeros(levels, features, *image_shape))
        self.register_buffer("whitening", torch.zeros(levels, features, features, *image_shape))
        self._computed: tuple[Tensor, list] | None = None

    def train(self, mode: bool = True) -> WitnessGaussian:
        """The witnesses stay in evaluation mode."""
        super().train(mode)
        for witness in (self.denoiser, self.outliner):
            Detector.eval(witness)
        return self

    def fit(self, images: Tensor) -> WitnessGaussian:
        """As the parent's; the features of one level are kept, as its mean and its covariance both need them."""
        try:
            return super().fit(images)
        finally:
            self._computed = None

    def features(self, images: Tensor) -> Tensor:
        """f at each pixel: `(B, 1, H, W)` to `(B, F, H, W)`, the local statistics first."""
        return torch.cat([super().features(images), self.opinions(images).to(images.dtype)], 1)

    @torch.no_grad()
    def opinions(self, images: Tensor) -> Tensor:
        """What the networks say: `(B, 1, H, W)` to `(B, 3, H, W)`; 0 outside the brain but for the blur."""
        brain = (images > 0).float()
        residual = (images - self.denoiser.pseudo_healthy(images)) * brain / RESIDUAL_UNIT
        logit = (self.outliner(images).float() / LOGIT_UNIT).clamp(-LARGEST, LARGEST) * brain
        return torch.cat([*(gaussian_blur(residual, s) for s in RESIDUAL_BLURS), gaussian_blur(logit, LOGIT_BLUR)], 1)

    def _chunks(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if self._computed is None or self._computed[0] is not images:
            self._computed = (images, list(super()._chunks(images)))
        yield from self._computed[1]
