"""One Gaussian for whole images: the Mahalanobis distance, and the sphere."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.kernels import PooledDetector
from course_lib.errors import BadInput

SMALLEST_VARIANCE = 1e-6  # added to the diagonal where pixels never vary; (1/1000)^2, far below any noise


class Gaussian(PooledDetector):
    """The squared Mahalanobis distance s(x) = (x - mu)^T Sigma^-1 (x - mu) of a whole image.

    There are more pixels than images, so that the sample covariance has no inverse: it is drawn towards a multiple of
    the identity by the formula of Ledoit and Wolf, Journal of Multivariate Analysis 88 (2004). `"spherical"` draws it
    all the way: level sets are spheres around the mean, the plain one-class model (support vector data description
    without a kernel, nu -> 1).

    Args:
        image_shape, pool: as for `course_lib.detectors.kernels.PooledDetector`.
        covariance: "ledoit-wolf" or "spherical".
    """

    mean: Tensor
    precision: Tensor

    def __init__(self, image_shape: tuple[int, int], pool: int = 1, covariance: str = "ledoit-wolf"):
        super().__init__(image_shape, pool)
        if covariance not in ("ledoit-wolf", "spherical"):
            raise BadInput(f"no covariance {covariance!r}.", field="covariance", remedy="ledoit-wolf or spherical.")
        self.covariance = covariance
        self.register_buffer("mean", torch.zeros(self.dimensions, dtype=torch.float64))
        self.register_buffer("precision", torch.zeros(self.dimensions, self.dimensions, dtype=torch.float64))

    def fit(self, images: Tensor) -> Gaussian:
        """Find mu and Sigma^-1 from healthy images `(N, 1, H, W)`, Sigma with scikit-learn's Ledoit-Wolf."""
        # Imported where it is used: it takes a second.
        from sklearn.covariance import LedoitWolf

        x = self.vectors(images)
        self.mean.copy_(x.mean(0))
        if self.covariance == "spherical":
            sigma = x.var(0, correction=0).mean() * torch.eye(self.dimensions, dtype=torch.float64)
        else:
            sigma = torch.from_numpy(LedoitWolf(store_precision=False).fit(x.numpy()).covariance_)
        sigma = sigma + SMALLEST_VARIANCE * torch.eye(self.dimensions, dtype=torch.float64)
        self.precision.copy_(torch.cholesky_inverse(torch.linalg.cholesky(sigma)))
        return self

    def contributions(self, images: Tensor) -> Tensor:
        """(x - mu)_p (Sigma^-1 (x - mu))_p: `(B, 1, H, W)` to `(B, D)`; each row sums to s."""
        offset = self.vectors(images) - self.mean
        return offset * (offset @ self.precision)

    def anomaly_score(self, images: Tensor) -> Tensor:
        """s: `(B, 1, H, W)` to `(B,)`."""
        return self.contributions(images).sum(1).float()

    def anomaly_map(self, images: Tensor) -> Tensor:
        """The contributions as a map `(B, H, W)`; a single pixel's may be negative."""
        return self.to_map(self.contributions(images), images)
