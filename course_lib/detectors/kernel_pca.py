"""Kernel principal components: what is left over after a projection in the kernel's feature space."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.kernels import KernelDetector, squared_distances
from course_lib.errors import BadInput


class KernelPCA(KernelDetector):
    """The squared distance, in feature space, from the first `components` principal directions of healthy images.

        s(x) = k~(x, x) - sum_j <phi~(x), v_j>^2,      phi~ = phi - mean_i phi(x_i),
        k~(x, x) = 1 - 2 mean_i k(x, x_i) + mean_ij k(x_i, x_j).

    The test kernel is centred with the training images' means; without that, s is not a distance. Source: Hoffmann,
    Kernel PCA for novelty detection, Pattern Recognition 40 (2007).

    Args:
        image_shape, pool, kept, gamma: as for `course_lib.detectors.kernels.KernelDetector`.
        components: k, fewer than the images.
    """

    directions: Tensor
    row_means: Tensor
    total_mean: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int],
        pool: int = 1,
        kept: int = 1000,
        gamma: float | None = None,
        components: int = 20,
    ):
        super().__init__(image_shape, pool, kept, gamma)
        self.components = components
        self.register_buffer("directions", torch.zeros(kept, components, dtype=torch.float64))
        self.register_buffer("row_means", torch.zeros(kept, dtype=torch.float64))
        self.register_buffer("total_mean", torch.zeros((), dtype=torch.float64))

    def fit(self, images: Tensor) -> KernelPCA:
        """Find the directions from healthy images `(N, 1, H, W)`, with scikit-learn.

        Raises:
            BadInput: there are not more kept images than components.
        """
        # Imported where it is used: it takes a second.
        from sklearn.decomposition import KernelPCA as Decomposition

        if min(len(images), self.kept) <= self.components:
            raise BadInput(
                f"{self.components} components need more than {min(len(images), self.kept)} kept images.",
                field="components",
                remedy="Ask for fewer components.",
            )
        vectors = self.keep(images)
        kernel = (-self.width * squared_distances(vectors, vectors)).exp()  # (n, n)
        fitted = Decomposition(self.components, kernel="precomputed", eigen_solver="dense").fit(kernel.numpy())
        scale = torch.from_numpy(fitted.eigenvalues_).clamp(min=1e-12).sqrt()  # unit length in feature space
        self.directions.zero_()
        self.row_means.zero_()
        self.directions[: len(vectors)] = torch.from_numpy(fitted.eigenvectors_) / scale
        self.row_means[: len(vectors)] = kernel.mean(0)
        self.total_mean.copy_(kernel.mean())
        return self

    def project(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """<phi~(x), v_j> and k~(x, x): `(B, 1, H, W)` to `(B, components)` and `(B,)`."""
        kernel = self.log_kernel(images).exp()  # (B, kept), 0 where nothing is kept
        mean = kernel.sum(1, keepdim=True) / self.used.sum()
        centred = (kernel - mean - self.row_means + self.total_mean) * self.used
        return centred @ self.directions, (1 - 2 * mean + self.total_mean)[:, 0]

    def anomaly_score(self, images: Tensor) -> Tensor:
        """s: `(B, 1, H, W)` to `(B,)`, at least 0."""
        projection, length = self.project(images)
        return (length - projection.square().sum(1)).clamp(min=0).float()

    def anomaly_map(self, images: Tensor) -> Tensor:
        """gamma sum_i w_i (x_p - x_ip)^2: to `(B, H, W)`.

        The projection is the combination sum_i c_i phi(x_i) of training images, c = V <phi~(x), v> + 1/n. The
        weights w_i are proportional to max(c_i, 0) k(x, x_i), as in the first step of the search for a pre-image by
        Mika et al., NIPS 11 (1999), but for the negative ones. Unlike the score, a map cannot be had exactly.
        """
        projection, _ = self.project(images)
        combination = projection @ self.directions.T + self.used / self.used.sum()  # (B, kept)
        return self.soft_minimum_relevance(images, self.log_kernel(images) + combination.clamp(min=1e-12).log())
