"""The one-class support vector machine: a boundary around most of the healthy images."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.kernels import KernelDetector
from course_lib.errors import BadInput


class OneClassSVM(KernelDetector):
    """Separate the images, in the kernel's feature space, from the origin by a plane as far away as possible.

        min 0.5 ||w||^2 - rho + 1/(nu n) sum_i xi_i   with   <w, phi(x_i)> >= rho - xi_i,  xi_i >= 0;
        s(x) = rho - <w, phi(x)> = rho - sum_i alpha_i k(x, x_i).

    At most a share nu of the training images lies outside (s > 0), at least a share nu are support vectors
    (alpha_i > 0). As k(x, x) is constant, support vector data description (the smallest ball in feature space)
    has the same alpha and ranks alike. alpha and rho are in libsvm's units, where the alpha sum to nu n. Source:
    Schölkopf et al., Neural Computation 13 (2001); Tax and Duin, Machine Learning 54 (2004).

    Args:
        image_shape, pool, kept, gamma: as for `course_lib.detectors.kernels.KernelDetector`.
        nu: in (0, 1); at 1 all alpha are equal and rho is not determined.
        tolerance: of the solver.
    """

    alpha: Tensor
    rho: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int],
        pool: int = 1,
        kept: int = 1000,
        gamma: float | None = None,
        nu: float = 0.05,
        tolerance: float = 1e-6,
    ):
        super().__init__(image_shape, pool, kept, gamma)
        if not 0 < nu < 1:
            raise BadInput(f"nu is {nu}.", field="nu", remedy="Choose it above 0 and below 1 (1 is KernelDensity).")
        self.nu, self.tolerance = nu, tolerance
        self.register_buffer("alpha", torch.zeros(kept, dtype=torch.float64))
        self.register_buffer("rho", torch.zeros((), dtype=torch.float64))

    def fit(self, images: Tensor) -> OneClassSVM:
        """Find alpha and rho from healthy images `(N, 1, H, W)`, with scikit-learn (libsvm)."""
        # Imported where it is used: it takes a second.
        from sklearn.svm import OneClassSVM as Machine

        vectors = self.keep(images)
        machine = Machine(kernel="rbf", gamma=float(self.width), nu=self.nu, tol=self.tolerance).fit(vectors.numpy())
        self.alpha.zero_()
        self.alpha[torch.from_numpy(machine.support_).long()] = torch.from_numpy(machine.dual_coef_[0]).double()
        self.rho.fill_(-float(machine.intercept_[0]))
        return self

    def anomaly_score(self, images: Tensor) -> Tensor:
        """s: `(B, 1, H, W)` to `(B,)`; above 0 is outside. It never exceeds rho: far away, all images score alike."""
        return (self.rho - self.log_kernel(images).exp() @ self.alpha).float()

    def anomaly_map(self, images: Tensor) -> Tensor:
        """gamma sum_i w_i (x_p - x_ip)^2 with w_i proportional to alpha_i k(x, x_i): to `(B, H, W)`."""
        return self.soft_minimum_relevance(images, self.log_kernel(images) + self.alpha.clamp(min=0).log())
