"""Restoration: move the image itself, by gradient steps, to where a trained VAE finds it likely.

You et al., Unsupervised lesion detection via image restoration with a normative prior, MIDL 2019; Chen et al., Medical
Image Analysis 64 (2020); Baur et al., Medical Image Analysis 69 (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.vae import VAE, differentiable, kl_per_dimension


class Restoration(Detector):
    """The residual between an image y and its restoration x_T by a trained VAE, which stays as it is.

    From x_0 = y, `x <- x - a d/dx [ |x - decode(mu(x))|_1 + b KL(x) + lambda TV(y - x) ]`, in the brain alone. The
    last term ties x to the *input*. (A widely used implementation ties x to its own reconstruction instead.) The
    bracket is b times a negative ELBO with a Laplace likelihood of scale b; `b = sqrt(v / 2)` gives that the variance
    v of the VAE's Gaussian. The L1 norm is the papers'; its gradient has one size wherever the fit is off.

    Without the tie no pixel moves by much more than T a, or 0.2: the map saturates there. The gradient of L1 and TV
    has no small values, so the loop ends swinging by up to (1 + 4 lambda) a: a floor under every map, and a reason
    not to take lambda much above 1 at this step size.

    Args:
        vae: trained.
        steps: T.
        step_size: a, in intensity units.
        tv: lambda.
        through_network: False is the *control*: R = decode(mu(y)) stays fixed, no KL, no gradient through the
            network, and the same loop on `|x - R|_1 + lambda TV(y - x)`. That smooths the plain residual and nothing
            more.
    """

    def __init__(
        self, vae: VAE, steps: int = 100, step_size: float = 2e-3, tv: float = 1.0, through_network: bool = True
    ):
        super().__init__()
        self.vae, self.steps, self.step_size, self.tv, self.through_network = vae, steps, step_size, tv, through_network

    def objective(self, images: Tensor, inputs: Tensor, fixed: Tensor | None = None) -> Tensor:
        """The bracket for each image x, `(B,)`, in intensity units times pixels; inputs is y.

        Args:
            fixed: R of the control, `(B, 1, H, W)`; None sends x through the VAE.
        """
        tie = self.tv * total_variation(inputs - images) if self.tv else 0.0
        if fixed is not None:
            return (images - fixed).abs().flatten(1).sum(1) + tie
        vae, brain = differentiable(self.vae), inputs > 0
        mu, logvar = vae.posterior(images)
        misfit = ((images - vae.decode(mu)).abs() * brain).flatten(1).sum(1)
        scale = (vae.variance / 2) ** 0.5  # b
        return misfit + scale * kl_per_dimension(mu, logvar).sum(1) + tie

    def restore(self, images: Tensor) -> Tensor:
        """x_T of each image y, `(B, 1, H, W)`; works in inference mode."""
        with torch.inference_mode(False), torch.enable_grad():
            inputs = images.detach().clone()
            brain = (inputs > 0).to(inputs.dtype)
            with torch.no_grad():
                fixed = None if self.through_network else differentiable(self.vae)(inputs) * brain
            restored = inputs.clone()
            for _ in range(self.steps):
                restored.requires_grad_()
                (gradient,) = torch.autograd.grad(self.objective(restored, inputs, fixed).sum(), restored)
                restored = restored.detach() - self.step_size * gradient * brain
        return restored

    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """The restored image, 0 outside the brain."""
        return self.restore(images)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """|y - x_T| in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`, in intensity units."""
        return (images - self.restore(images)).abs()[:, 0]


def total_variation(images: Tensor) -> Tensor:
    """The sum of absolute differences of neighbours, down and to the right: `(B, 1, H, W)` to `(B,)`."""
    down, right = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    return down.flatten(1).sum(1) + right.flatten(1).sum(1)
