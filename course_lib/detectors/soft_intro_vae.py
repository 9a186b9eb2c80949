"""Soft-IntroVAE: a variational auto-encoder that is its own critic.

Daniel and Tamar, Soft-IntroVAE: analyzing and improving the introspective variational autoencoder, CVPR 2021. The
order of the updates, the factors and what is detached are those of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from course_lib.detectors.vae import CHANNELS, VAE, kl_per_dimension, misfit, sample

GROUPS = 4  # of GroupNorm


class SoftIntroVAE(VAE):
    """A VAE whose encoder holds the ELBO of real images high and pushes that of the decoder's own images down.

    No discriminator is needed. E is the encoder, D the decoder, x a real image, z a sample of q(z | x), e of N(0, I);
    r = D(z) and f = D(e) are the fakes, and r', f' what comes out when they are encoded, sampled and decoded again.
    L_r is the squared error summed over pixels, KL that of the code from N(0, I), s = 1 / HW. Each step minimises two
    losses, one after the other:

        L_E = s [beta_rec L_r(x, r) + beta_kl KL(x)]
              + 1/4 exp(-2 s [beta_rec L_r(r, r') + beta_neg KL(r)])
              + 1/4 exp(-2 s [beta_rec L_r(f, f') + beta_neg KL(f)])            over E, with r and f held constant;
        L_D = s [beta_rec L_r(x, r) + 1/2 beta_kl (KL(r) + KL(f))
              + 1/2 gamma_r beta_rec (L_r(r, r') + L_r(f, f'))]                 over D, with z, and the left r, f and
                                                                                the codes of r', f', held constant.

    The exponential is taken of each image, then averaged. It fades out by itself once a fake is far away: `kl_star`
    says where. In the units of `VAE`, beta_rec is 1 / (2 v): beta_rec = beta_kl = 1 is a VAE with v = 0.005 and
    beta = 100.

    Args:
        image_shape: height and width in pixels.
        latent: numbers in the code.
        beta_rec, beta_kl: weights of the ELBO of real images.
        beta_neg: weight of the KL in the exponent. **Larger is a weaker push**: see `kl_star`, 17 nats for 96 x 96.
        gamma_r: weight of the fakes' own reconstruction. The authors have 1e-8; 0 leaves out two passes of the decoder.
        adversarial: weight of all terms of the fakes. 1 is the paper; 0 is a plain VAE, and costs no more than one.
        warm_up: first steps that are a plain VAE's, both updates at once.
        depth, channels: encoder and decoder, as those of `VAE`.

    Raises:
        BadInput: a side cannot be halved `depth` times.
        ValueError: a weight is out of its range.

    Differences from the authors' code: GroupNorm for BatchNorm, whose running statistics would mix real images with
    fakes; plain convolutions for residual blocks; in L_E the left r of L_r(r, r') is constant too (there it is not).
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 32,
        beta_rec: float = 1.0,
        beta_kl: float = 1.0,
        beta_neg: float = 2048.0,
        gamma_r: float = 0.0,
        adversarial: float = 1.0,
        warm_up: int = 100,
        depth: int = 4,
        channels: tuple[int, ...] = CHANNELS,
    ):
        if min(beta_rec, beta_kl, beta_neg) <= 0:
            raise ValueError(f"beta_rec, beta_kl and beta_neg are above 0, not {beta_rec}, {beta_kl}, {beta_neg}.")
        if min(gamma_r, adversarial, warm_up) < 0:
            raise ValueError(f"gamma_r, adversarial, warm_up are 0 or more, not {gamma_r}, {adversarial}, {warm_up}.")
        super().__init__(image_shape, latent, beta_kl, 1 / (2 * beta_rec), depth, channels)
        self.beta_rec, self.beta_kl, self.beta_neg, self.gamma_r = beta_rec, beta_kl, beta_neg, gamma_r
        self.adversarial, self.warm_up = adversarial, warm_up
        group_normalise(self)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def kl_star(self) -> float:
        """KL* = ln(beta_neg / beta_kl) HW / (2 beta_neg), in nats: where the pull on x outweighs the push on fakes.

        The derivative of L_E by the KL of a real image is s beta_kl; by that of r and f together, when both have the
        same KL and rebuild well, -s beta_neg exp(-2 s beta_neg KL). They balance at KL*. It should lie a little above
        the KL of real images: below it the encoder never tells fakes (then lower beta_neg), and far above it the
        decoder cannot follow (raise it). This rule is the course's, not the paper's.
        """
        return math.log(self.beta_neg / self.beta_kl) * math.prod(self.image_shape) / (2 * self.beta_neg)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """The plain VAE's: `reconstruction`, s beta_rec L_r(x, r), and `kl`, s beta_kl KL(x), means over the batch."""
        losses, _, _ = self._real_losses(images)
        return losses

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step; the fakes' losses are reported as 0 while they are not used."""
        self.step += 1
        if self.adversarial == 0 or self.step <= self.warm_up:
            return self.vae_step(images, optimizers)
        return self.adversarial_step(images, optimizers)

    def vae_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """Encoder and decoder together, one step down the plain VAE's losses."""
        losses = self.training_losses(images)
        descend(losses, *optimizers)
        unused = dict.fromkeys(("exp_r", "exp_f", "kl_r", "kl_f", "again"), images.new_zeros(()))
        return {name: loss.detach() for name, loss in losses.items()} | unused

    def adversarial_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """The encoder's update, then the decoder's, with the same e and with z from before the encoder moved."""
        encoder_optimizer, decoder_optimizer = optimizers
        encoder_losses, z, e = self.encoder_losses(images)
        descend(encoder_losses, encoder_optimizer)
        decoder_losses = self.decoder_losses(images, z, e)
        descend(decoder_losses, decoder_optimizer)
        losses = decoder_losses | encoder_losses  # the reconstruction of the two is the same number
        return {name: loss.detach() for name, loss in losses.items()}

    def encoder_losses(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The terms of L_E, whose gradient passes through D but not into it; and z and e, each `(B, latent)`.

        `reconstruction`, `kl`: of real images. `exp_r`, `exp_f`: the exponentials with their 1/4, means over the batch.
        """
        with frozen(self.decoder_parameters()):
            losses, z, r = self._real_losses(images)
            e = torch.randn_like(z)
            f = self._image(e)  # (B, 1, H, W), as r
            losses["exp_r"] = 0.25 * self.adversarial * self.exponentiated_elbo(r.detach()).mean()
            losses["exp_f"] = 0.25 * self.adversarial * self.exponentiated_elbo(f.detach()).mean()
        return losses, z.detach(), e

    def decoder_losses(self, images: Tensor, z: Tensor, e: Tensor) -> dict[str, Tensor]:
        """The terms of L_D, whose gradient passes through E but not into it.

        `reconstruction`: of real images. `kl_r`, `kl_f`: s beta_kl KL / 2 of the fakes. `again`: how well the fakes
        are rebuilt, 0 if gamma_r is.

        Args:
            images: x, `(B, 1, H, W)`.
            z: codes of x, held constant, `(B, latent)`.
            e: standard normal numbers, `(B, latent)`.
        """
        s = 1 / images[0].numel()
        with frozen(self.encoder_parameters()):
            r, f = self._image(z.detach()), self._image(e)  # (B, 1, H, W)
            posterior_r, posterior_f = self.posterior(r), self.posterior(f)
            losses = {
                "reconstruction": s * misfit(images, r, self.variance).mean(),
                "kl_r": 0.5 * self.adversarial * s * self.beta_kl * kl_per_dimension(*posterior_r).sum(1).mean(),
                "kl_f": 0.5 * self.adversarial * s * self.beta_kl * kl_per_dimension(*posterior_f).sum(1).mean(),
                "again": images.new_zeros(()),
            }
            if self.gamma_r:
                rr, ff = self._image(sample(*posterior_r).detach()), self._image(sample(*posterior_f).detach())
                again = misfit(r.detach(), rr, self.variance) + misfit(f.detach(), ff, self.variance)  # (B,)
                losses["again"] = 0.5 * self.adversarial * s * self.gamma_r * again.mean()
        return losses

    def exponentiated_elbo(self, fakes: Tensor) -> Tensor:
        """exp(-2 s [beta_rec L_r(y, y') + beta_neg KL(y)]) of images y, `(B,)`, between 0 and 1."""
        mu, logvar = self.posterior(fakes)
        rebuilt = self._image(sample(mu, logvar))
        kl = kl_per_dimension(mu, logvar).sum(1)
        return exponentiate(misfit(fakes, rebuilt, self.variance), self.beta_neg * kl, 1 / fakes[0].numel())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Two Adams, the encoder's and the decoder's; 1e-3 for the paper's 2e-4, as we take hundreds of steps."""
        sides = (self.encoder_parameters(), self.decoder_parameters())
        return [torch.optim.Adam(parameters, lr=1e-3, fused=True) for parameters in sides]

    def encoder_parameters(self) -> list[nn.Parameter]:
        """All weights of E."""
        return [p for module in (self.encoder, self.to_mu, self.to_logvar) for p in module.parameters()]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """All weights of D."""
        return [p for module in (self.from_code, self.decoder) for p in module.parameters()]

    @torch.no_grad()
    def energy(self, images: Tensor) -> Tensor:
        """beta_rec L_r(x, D(mu)) + beta_kl KL(x), `(B,)`: the negative ELBO that was trained, less its constant."""
        mu, logvar = self.posterior(images)
        kl = kl_per_dimension(mu, logvar).sum(1)
        return misfit(images, self._image(mu), self.variance) + self.beta_kl * kl

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """The energy: `(B, 1, H, W)` to `(B,)`. `kl_score` is the half of it that the push is about."""
        return self.energy(images)

    def _real_losses(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The VAE's two losses of real images, z `(B, latent)`, and r `(B, 1, H, W)`."""
        s = 1 / images[0].numel()
        mu, logvar = self.posterior(images)
        z = sample(mu, logvar)
        r = self._image(z)
        losses = {
            "reconstruction": s * misfit(images, r, self.variance).mean(),
            "kl": s * self.beta_kl * kl_per_dimension(mu, logvar).sum(1).mean(),
        }
        return losses, z, r

    def _image(self, code: Tensor) -> Tensor:
        """D(code), `(B, 1, H, W)`, in float32 also under autocast: the losses are small differences of it."""
        return self.decode(code).to(code.dtype)


def exponentiate(beta_rec_error: Tensor, beta_neg_kl: Tensor, s: float) -> Tensor:
    """exp(-2 s (beta_rec L_r + beta_neg KL)) of each image, `(B,)`.

    Both terms are 0 or more, so that it lies between 0 and 1 and cannot overflow. Of a fake that is far away it is 0,
    and so is its gradient: that one is no longer pushed.
    """
    return (-2 * s * (beta_rec_error + beta_neg_kl)).exp()


def descend(losses: dict[str, Tensor], *optimizers: torch.optim.Optimizer) -> None:
    """One step of each optimizer down the sum of the losses."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    total = sum(losses.values())
    with torch.autocast(total.device.type, enabled=False):  # autocast is for the forward pass alone
        total.backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.clear_autocast_cache()  # it holds bfloat16 copies of weights that have just moved


@contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """What is computed within gives these parameters no gradient; gradients still pass through them to what is before.

    `torch.no_grad` would stop both.
    """
    trainable = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(was)


def group_normalise(network: nn.Module) -> None:
    """Put a GroupNorm in the place of each BatchNorm2d, in the network itself.

    Real images and fakes pass the encoder in batches of their own. Each batch would be normalised by its own
    statistics in training, and by one mixture of all when scoring.
    """
    for name, layer in network.named_children():
        if isinstance(layer, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(math.gcd(GROUPS, layer.num_features), layer.num_features))
        else:
            group_normalise(layer)
