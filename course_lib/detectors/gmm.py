"""A mixture of Gaussians on principal components."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.detectors.kernels import PooledDetector
from course_lib.errors import BadInput

SMALLEST_VARIANCE = 1e-6  # added to the covariances' diagonals, as scikit-learn does


class GaussianMixture(PooledDetector):
    """The negative log density under a mixture of Gaussians of the image's first principal components.

        y = W (x - mu),    s(x) = -log sum_k pi_k N(y; m_k, Sigma_k).

    A mixture cannot be fitted to thousands of pixels; on a few components it can. The price: what lies outside the
    principal subspace is not seen at all. Source: Ruff et al., A unifying review of deep and shallow anomaly
    detection, Proc. IEEE 109 (2021): a density method.

    Args:
        image_shape, pool: as for `course_lib.detectors.kernels.PooledDetector`.
        mixtures: K, the number of Gaussians.
        features: d, the number of principal components; None: the pixels as they are, for points in the plane.
        covariance: "full", or "diag" for independent components; above some 20 features there are too many
            covariances to learn.
    """

    mean: Tensor
    directions: Tensor
    centres: Tensor
    factors: Tensor
    log_weights: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int],
        pool: int = 1,
        mixtures: int = 8,
        features: int | None = 32,
        covariance: str = "diag",
    ):
        super().__init__(image_shape, pool)
        if covariance not in ("full", "diag"):
            raise BadInput(f"no covariance {covariance!r}.", field="covariance", remedy="full or diag.")
        self.mixtures, self.features, self.covariance = mixtures, features, covariance
        size = features or self.dimensions
        self.register_buffer("mean", torch.zeros(self.dimensions, dtype=torch.float64))
        self.register_buffer("directions", torch.zeros(size, self.dimensions, dtype=torch.float64))
        self.register_buffer("centres", torch.zeros(mixtures, size, dtype=torch.float64))
        self.register_buffer("factors", torch.zeros(mixtures, size, size, dtype=torch.float64))
        self.register_buffer("log_weights", torch.zeros(mixtures, dtype=torch.float64))

    def fit(self, images: Tensor) -> GaussianMixture:
        """Find W and the mixture from healthy images `(N, 1, H, W)`, with scikit-learn.

        Raises:
            BadInput: there are not more images than features or Gaussians.
        """
        # Imported where it is used: it takes a second.
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture as Mixture

        if len(images) <= max(self.mixtures, self.features or 0):
            raise BadInput(
                f"{self.mixtures} Gaussians of {self.features or self.dimensions} features need more than "
                f"{len(images)} images.",
                field="mixtures",
            )
        x = self.vectors(images)
        self.mean.copy_(x.mean(0))
        if self.features is None:
            self.directions.copy_(torch.eye(self.dimensions))
        else:
            found = PCA(self.features, svd_solver="randomized", random_state=0).fit(x.numpy())
            self.directions.copy_(torch.from_numpy(found.components_))
        code = (x - self.mean) @ self.directions.T  # (N, d)
        mixture = Mixture(self.mixtures, covariance_type=self.covariance, reg_covar=SMALLEST_VARIANCE, random_state=0)
        mixture.fit(code.numpy())
        factors = torch.from_numpy(mixture.precisions_cholesky_)  # L with L L^T = Sigma^-1
        self.factors.copy_(factors if self.covariance == "full" else torch.diag_embed(factors))
        self.centres.copy_(torch.from_numpy(mixture.means_))
        self.log_weights.copy_(torch.from_numpy(mixture.weights_).log())
        return self

    def log_joint(self, images: Tensor) -> Tensor:
        """log pi_k N(y; m_k, Sigma_k): `(B, 1, H, W)` to `(B, K)`."""
        code = (self.vectors(images) - self.mean) @ self.directions.T  # (B, d)
        white = torch.einsum("bkd,kde->bke", code[:, None] - self.centres, self.factors)
        log_determinant = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)  # (K,)
        constant = log_determinant - 0.5 * code.shape[1] * math.log(2 * math.pi)
        return self.log_weights + constant - 0.5 * white.square().sum(2)

    def anomaly_score(self, images: Tensor) -> Tensor:
        """s: `(B, 1, H, W)` to `(B,)`; a density may exceed 1, so s may be negative."""
        return -torch.logsumexp(self.log_joint(images), 1).float()

    def anomaly_map(self, images: Tensor) -> Tensor:
        """The Mahalanobis distance of each Gaussian, weighted by its responsibility r_k, pixel by pixel: `(B, H, W)`.

        sum_k r_k (x - x_k)_p (W^T Sigma_k^-1 W (x - x_k))_p with x_k = mu + W^T m_k. Over all pixels it sums to
        sum_k r_k (y - m_k)^T Sigma_k^-1 (y - m_k); a single pixel's value may be negative.
        """
        responsibility = self.log_joint(images).softmax(1)  # (B, K)
        offset = self.vectors(images) - self.mean  # (B, D)
        code = offset @ self.directions.T
        relevance = torch.zeros_like(offset)
        for k in range(self.mixtures):
            pull = (code - self.centres[k]) @ self.factors[k] @ self.factors[k].T @ self.directions  # (B, D)
            relevance += responsibility[:, k, None] * (offset - self.centres[k] @ self.directions) * pull
        return self.to_map(relevance, images)
