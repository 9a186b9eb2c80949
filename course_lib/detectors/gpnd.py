"""GPND: the likelihood of an image, in two factors: along the decoder's manifold and away from it.

Pidhorskyi, Almohsen, Adjeroh and Doretto, Generative probabilistic novelty detection with adversarial autoencoders,
NeurIPS 2018 (arXiv:1807.02588); code: github.com/podgorskiy/GPND.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from course_lib.detectors.aae import (
    BETAS,
    CodeDiscriminator,
    DenseDecoder,
    DenseEncoder,
    ImageDiscriminator,
    bce,
    descend,
    uncached_autocast,
)
from course_lib.detectors.autoencoder import CHANNELS
from course_lib.detectors.reconstruction import Reconstruction
from course_lib.detectors.vae import differentiable

TANGENTS = 64  # images times columns of the Jacobian at a time
LARGEST_BETA = 8.0  # above, a generalised Gaussian is all but a box, outside of which log p is -inf


class GPND(Reconstruction):
    """Healthy images lie near the manifold of all f(z); an image's likelihood is that of its code, and of its distance.

    Encoder g: R^m -> R^n, decoder f: R^n -> R^m, z = g(x), r = ||x - f(z)||, J = df/dz at z, d = m - n:

        log p(x) =   sum_j log p_j(z_j)                                            code
                   - log det(J^T J) / 2                                            volume
                   + log p_r(r)                                                    norm
                   + log Gamma(d/2) - log 2 - d/2 log pi - (d - 1) log r           sphere

    The first two are the density along the manifold, where f turns volumes of codes into volumes of images. The last
    two are the density across it: that of the distance, shared among all directions of a sphere in d dimensions. Both
    together are a density in R^m, in nats. m counts all pixels, those outside the brain too.

    **Balance.** (d - 1) log r has a spread of about d times the relative spread of r: with d near 9000, hundreds of
    nats, where the code has a few. The full likelihood then ranks images as r alone does. `mul` puts mul * d for d:
    no density any more, but a score in which the code counts. `terms` shows each term, `balance` finds the `mul` that
    gives both factors one spread on healthy images.

    **Phases,** by the buffer `step`. For `adversarial` steps an adversarial auto-encoder is trained, with a
    discriminator Dz of codes and one Dx of images. Then nothing moves any more, and each step takes its batch into a
    sample of codes and distances; when that holds `sample` images, p_j and p_r are fitted. So train for at least
    `adversarial` + `sample` / batch size steps.

    Args:
        image_shape: height and width in pixels.
        latent: n.
        weight: of the squared error, summed over pixels, against the adversarial loss.
        mul: 1 is the density; the authors' code has 0.2.
        adversarial: steps of training.
        sample: images that p_j and p_r are fitted to.
        depth, channels: encoder and decoder, as those of `autoencoder.DenseAE`.

    Raises:
        BadInput: a side is not a multiple of 2^depth, or of 8.
        ValueError: mul or weight is not positive, adversarial is negative, sample is below 2; or the depth.

    Differences from the authors' code: the volume is the decoder's, with a minus, where theirs has the encoder's with
    a minus; p_r is a kernel estimate, with no ties where a histogram has no count; the squared error; logits.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 16,
        weight: float = 0.1,
        mul: float = 1.0,
        adversarial: int = 600,
        sample: int = 512,
        depth: int = 4,
        channels: tuple[int, ...] = CHANNELS,
    ):
        super().__init__()
        self.image_shape, self.latent, self.weight, self.mul = image_shape, latent, weight, mul
        self.adversarial, self.sample, self.depth, self.channels = adversarial, sample, depth, channels
        for name, least in (("mul", 1e-9), ("weight", 1e-9), ("adversarial", 0), ("sample", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least {least:g}.")
        self.g = DenseEncoder(image_shape, latent, depth, channels)
        self.f = DenseDecoder(image_shape, latent, depth, channels)
        self.Dz, self.Dx = CodeDiscriminator(latent), ImageDiscriminator(image_shape)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # images in the sample
        self.register_buffer("codes", torch.zeros(sample, latent))
        self.register_buffer("norms", torch.zeros(sample))
        self.register_buffer("bandwidth", torch.ones(()))  # of p_r, in intensity units
        for name in ("beta", "loc", "scale"):  # of p_j
            self.register_buffer(name, torch.zeros(latent))

    def encode(self, images: Tensor) -> Tensor:
        """z = g(x), `(B, 1, H, W)` to `(B, latent)`."""
        return self.g(images)

    def decode(self, code: Tensor) -> Tensor:
        """f(z), `(B, latent)` to `(B, 1, H, W)`, not limited to a range."""
        return self.f(code)

    def forward(self, images: Tensor) -> Tensor:
        """f(g(x)), the point of the manifold for each image, `(B, 1, H, W)`."""
        return self.decode(self.encode(images))

    # ---- training -----------------------------------------------------------------------------------------------

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """The four updates of the authors' code, in its order; after `adversarial` steps, the sample instead."""
        learning = self.step < self.adversarial
        self.step += 1
        if not learning:
            return self._collect_step(images)
        of_dx, of_f, of_dz, of_both = optimizers
        with uncached_autocast(images):
            losses = {
                "image_discriminator": self.image_discriminator_step(images, of_dx),
                "decoder": self.decoder_step(images, of_f),
                "code_discriminator": self.code_discriminator_step(images, of_dz),
            }
            return losses | self.autoencoder_step(images, of_both)

    def image_discriminator_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """bce(Dx(x), 1) + bce(Dx(f(e)), 0), e from N(0, I); moves Dx. It never sees a reconstruction."""
        with torch.no_grad():
            drawn = self.decode(self._draws(images))  # (B, 1, H, W)
        return descend(bce(self.Dx(images), 1) + bce(self.Dx(drawn), 0), optimizer)

    def decoder_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """bce(Dx(f(e)), 1), with other e; moves f."""
        return descend(bce(self.Dx(self.decode(self._draws(images))), 1), optimizer)

    def code_discriminator_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """bce(Dz(e), 1) + bce(Dz(g(x)), 0); moves Dz."""
        with torch.no_grad():
            codes = self.encode(images)  # (B, latent)
        return descend(bce(self.Dz(self._draws(images)), 1) + bce(self.Dz(codes), 0), optimizer)

    def autoencoder_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """weight * sum_p (x - f(z))^2 + bce(Dz(z), 1), z = g(x); moves f and g. Returns the mean square and the bce."""
        losses = self._autoencoder_losses(images)
        descend(self.weight * images[0].numel() * losses["reconstruction"] + losses["encoder"], optimizer)
        return {name: loss.detach() for name, loss in losses.items()}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for Dx, for f, for Dz, and for f and g together: two of them move f."""
        rates = [(2e-4, [self.Dx]), (2e-4, [self.f]), (1e-3, [self.Dz]), (1e-3, [self.f, self.g])]
        parameters = [[p for network in networks for p in network.parameters()] for _, networks in rates]
        return [
            torch.optim.Adam(own, lr=rate, betas=BETAS, fused=True)
            for (rate, _), own in zip(rates, parameters, strict=True)
        ]

    def _draws(self, images: Tensor) -> Tensor:
        """e from N(0, I), one for each image, `(B, latent)`."""
        return torch.randn(len(images), self.latent, device=images.device, dtype=images.dtype)

    def _autoencoder_losses(self, images: Tensor) -> dict[str, Tensor]:
        codes = self.encode(images)  # (B, latent)
        squares = (self.decode(codes).to(images.dtype) - images).square()
        return {"reconstruction": squares.mean(), "encoder": bce(self.Dz(codes), 1)}

    # ---- the distributions of codes and distances -------------------------------------------------------------------

    @torch.no_grad()
    def _collect_step(self, images: Tensor) -> dict[str, Tensor]:
        """Take a batch into the sample, in evaluation mode and full precision; returns the losses as they stand."""
        training = self.training
        self.eval()
        with torch.autocast(images.device.type, enabled=False):
            self.collect(images)
            drawn = self.decode(self._draws(images))
            losses = {
                "image_discriminator": bce(self.Dx(images), 1) + bce(self.Dx(drawn), 0),
                "decoder": bce(self.Dx(drawn), 1),
                "code_discriminator": bce(self.Dz(self._draws(images)), 1) + bce(self.Dz(self.encode(images)), 0),
            } | self._autoencoder_losses(images)
        self.train(training)
        return losses

    @torch.no_grad()
    def collect(self, images: Tensor) -> None:
        """Take images `(B, 1, H, W)` into the sample; when it is full, fit p_j and p_r, and take no more."""
        start = int(self.seen)
        if start == self.sample:
            return
        images = images[: self.sample - start]
        codes = self.encode(images)  # (B, latent)
        self.codes[start : start + len(images)] = codes
        self.norms[start : start + len(images)] = residual_norm(images, self.decode(codes))
        self.seen += len(images)
        if self.seen == self.sample:
            fitted = [fit_generalised_gaussian(column) for column in self.codes.double().cpu().numpy().T]
            for buffer, values in zip((self.beta, self.loc, self.scale), zip(*fitted, strict=True), strict=True):
                buffer.copy_(torch.tensor(values))
            self.bandwidth.copy_(scott(self.norms))

    # ---- the likelihood -----------------------------------------------------------------------------------------

    def terms(self, images: Tensor, mul: float | None = None) -> dict[str, Tensor]:
        """The four terms of log p, each `(B,)`, float64, in nats; works in inference mode.

        Args:
            images: `(B, 1, H, W)`.
            mul: default: the detector's own.

        Raises:
            RuntimeError: the sample is not full, so that there are no p_j and p_r.
        """
        if self.seen < self.sample:
            raise RuntimeError(
                f"GPND has {int(self.seen)} of the {self.sample} images that its densities are fitted to. Train for "
                f"at least {self.adversarial} steps (adversarial), and then for {self.sample} images (sample) more."
            )
        with torch.inference_mode(False), torch.no_grad():
            network = differentiable(self)
            images = images.detach().clone()
            codes = network.encode(images)  # (B, n)
            r = residual_norm(images, network.decode(codes)).double()  # (B,)
            volume = log_volume(jacobian(network.decode, codes))
        d = (self.mul if mul is None else mul) * (images[0].numel() - self.latent)
        return {
            "code": log_generalised_gaussian(codes.double(), self.beta, self.loc, self.scale).sum(1),
            "volume": -volume,
            "norm": self.log_p_norm(r),
            "sphere": math.lgamma(d / 2) - math.log(2) - d / 2 * math.log(math.pi) - (d - 1) * r.log(),
        }

    def log_p_norm(self, r: Tensor) -> Tensor:
        """log p_r of distances `(B,)`, in nats: a Gaussian kernel estimate from the sample, with Scott's bandwidth."""
        h = self.bandwidth.double()
        exponents = -0.5 * ((r[:, None] - self.norms.double()) / h).square()  # (B, sample)
        return exponents.logsumexp(1) - math.log(self.sample) - h.log() - 0.5 * math.log(2 * math.pi)

    def log_density(self, images: Tensor, mul: float | None = None) -> Tensor:
        """log p(x), `(B,)`, float64, in nats: the sum of `terms`."""
        return sum(self.terms(images, mul).values())

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """-log p(x): `(B, 1, H, W)` to `(B,)`, in nats. The map remains the residual: a likelihood has no pixels."""
        return -self.log_density(images).to(images.dtype)

    def balance(self, images: Tensor) -> float:
        """The `mul` with which both factors of p have the same standard deviation over healthy images `(B, 1, H, W)`.

        With k = mul d - 1 the second factor varies as log p_r - k log r, so its variance is a parabola in k. Of two
        solutions the larger is taken; where there is none, the k with the smallest variance; never k below 0. Use
        images of a validation split: on test anomalies it would be chosen to suit them.
        """
        terms = self.terms(images, mul=1.0)
        d = images[0].numel() - self.latent
        norm = terms["norm"].cpu().numpy()
        log_r = (terms["sphere"] / (1 - d)).cpu().numpy()  # up to a constant
        wanted = np.var((terms["code"] + terms["volume"]).cpu().numpy(), ddof=1)
        (a, b), (_, c) = np.cov(norm, log_r)
        k = (b + math.sqrt(max(b * b - c * (a - wanted), 0.0))) / c
        return (max(k, 0.0) + 1) / d


def residual_norm(images: Tensor, rebuilt: Tensor) -> Tensor:
    """r = ||x - x_hat|| over all pixels: `(B, 1, H, W)` twice to `(B,)`, in intensity units."""
    return torch.linalg.vector_norm((images - rebuilt).flatten(1), dim=1)


def jacobian(decode: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """J = df/dz at each code, `(B, n)` to `(B, m, n)`, in forward mode.

    A forward pass with the tangent e_j gives column j for the whole batch at once: n passes, where backward mode needs
    m. Rows of the batch must not depend on each other, as with batch normalisation in evaluation mode.
    """

    def column(direction: Tensor) -> Tensor:  # (n,) to (B, m)
        return torch.func.jvp(decode, (codes,), (direction.expand_as(codes),))[1].flatten(1)

    directions = torch.eye(codes.shape[1], device=codes.device, dtype=codes.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # torch's own, on its first jvp
        return torch.vmap(column, out_dims=2, chunk_size=max(1, TANGENTS // len(codes)))(directions)


def log_volume(jacobians: Tensor) -> Tensor:
    """log det(J^T J) / 2 = the sum of the logs of J's singular values: `(B, m, n)` to `(B,)`, float64.

    It is -inf where the decoder ignores a direction of the code: the manifold has fewer dimensions than it claims.
    """
    precise = jacobians.double()
    return 0.5 * torch.linalg.slogdet(precise.mT @ precise)[1]


def log_generalised_gaussian(x: Tensor, beta: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log of beta / (2 scale Gamma(1/beta)) exp(-|(x - loc) / scale|^beta), float64, the arguments broadcast.

    beta = 2 is a Gaussian with standard deviation scale / sqrt(2), beta = 1 a Laplace density; a large one is a box.
    """
    beta, loc, scale = beta.double(), loc.double(), scale.double()
    constant = beta.log() - (2 * scale).log() - torch.lgamma(1 / beta)
    return constant - ((x - loc) / scale).abs().pow(beta)


def fit_generalised_gaussian(values: np.ndarray) -> tuple[float, float, float]:
    """beta (at most 8), loc and scale of the largest likelihood of values `(N,)`, by scipy, from a Gaussian's.

    Raises:
        ValueError: the values are all the same: an encoder that gives every image one code.
    """
    from scipy.stats import gennorm  # imported where it is used: it takes a second

    spread = values.std()
    if not spread > 1e-8 * max(1.0, abs(values.mean())):
        raise ValueError(f"a number of the code is {values.mean():.3g} for every image: the encoder has collapsed.")
    start = {"loc": values.mean(), "scale": math.sqrt(2) * spread}
    fitted = gennorm.fit(values, 2.0, **start)
    if fitted[0] > LARGEST_BETA:
        fitted = gennorm.fit(values, f0=LARGEST_BETA, **start)
    return tuple(float(value) for value in fitted)


def scott(values: Tensor) -> Tensor:
    """Scott's bandwidth of a kernel estimate from values `(N,)`: standard deviation times N^(-1/5), in their unit."""
    return values.std() * len(values) ** -0.2
