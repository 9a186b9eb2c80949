"""Kernel density estimation: an image is anomalous where healthy images are rare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.detectors.kernels import KernelDetector


class KernelDensity(KernelDetector):
    """The negative log density under a mixture with one Gaussian at every kept training image.

        s(x) = -log (1/n) sum_i exp(-gamma ||x - x_i||^2),    gamma = 1 / (2 h^2) for the bandwidth h.

    The density's normalising constant, the same for every x, is left out. The sum is a log-sum-exp: far from all
    images its terms underflow, its logarithm does not. Source: Ruff et al., A unifying review of deep and shallow
    anomaly detection, Proc. IEEE 109 (2021): the density method with a kernel.

    Args:
        image_shape, pool, kept, gamma: as for `course_lib.detectors.kernels.KernelDetector`.
    """

    def fit(self, images: Tensor) -> KernelDensity:
        """Keep healthy images `(N, 1, H, W)` and set gamma: there is nothing else to learn."""
        self.keep(images)
        return self

    def anomaly_score(self, images: Tensor) -> Tensor:
        """s: `(B, 1, H, W)` to `(B,)`, from 0 (on top of all training images) upwards."""
        return (math.log(int(self.used.sum())) - torch.logsumexp(self.log_kernel(images), 1)).float()

    def anomaly_map(self, images: Tensor) -> Tensor:
        """gamma sum_i w_i (x_p - x_ip)^2, w_i the share of the i-th term in the sum: to `(B, H, W)`.

        Over all pixels it sums to s minus the Kullback-Leibler divergence of w from the uniform distribution.
        """
        return self.soft_minimum_relevance(images, self.log_kernel(images))
