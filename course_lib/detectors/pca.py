"""Principal components: the linear auto-encoder, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.errors import BadInput


class PCA(Detector):
    """Project on the first `components` directions of the healthy images; what is left over is anomalous.

    x_hat = mu + W^T W (x - mu), the rows of W orthonormal. Ruff et al., A unifying review of deep and shallow anomaly
    detection, Proc. IEEE 109 (2021): the plain reconstruction method. A linear auto-encoder with squared loss learns
    the same subspace.

    Args:
        image_shape: height and width in pixels.
        components: k, the dimension of the subspace; smaller than the number of images.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, image_shape: tuple[int, int], components: int = 64):
        super().__init__()
        self.image_shape, self.components = image_shape, components
        pixels = image_shape[0] * image_shape[1]
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("directions", torch.zeros(components, pixels))

    def fit(self, images: Tensor) -> PCA:
        """Find mu and W from healthy images `(N, 1, H, W)`, by scikit-learn's randomised SVD.

        Raises:
            BadInput: there are not more images than components.
        """
        if len(images) <= self.components:
            raise BadInput(
                f"{self.components} components need more than {len(images)} images.",
                field="components",
                remedy="Ask for fewer components.",
            )
        # Imported where it is used: it takes a second.
        from sklearn.decomposition import PCA as Decomposition

        fitted = Decomposition(self.components, svd_solver="randomized", random_state=0).fit(images.flatten(1).numpy())
        self.mean.copy_(torch.from_numpy(fitted.mean_))
        self.directions.copy_(torch.from_numpy(fitted.components_))
        return self

    def reconstruct(self, images: Tensor) -> Tensor:
        """x_hat, the nearest point of the subspace: `(B, 1, H, W)` to `(B, 1, H, W)`."""
        code = (images.flatten(1) - self.mean) @ self.directions.T  # (B, components)
        return (self.mean + code @ self.directions).view_as(images)

    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """x_hat, 0 outside the brain."""
        return self.reconstruct(images) * (images > 0)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """The residual |x - x_hat| in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`, in intensity units."""
        return (images - self.pseudo_healthy(images)).abs()[:, 0]
