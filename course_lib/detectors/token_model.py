"""What all detectors share that judge the tokens of a VQ-VAE, replace the improbable ones, and look what changed.

Pinaya et al., Medical Image Analysis 2022. The tail of the likelihood: Naval Marimont and Tarroni, Anomaly detection
through latent space restoration using vector quantized variational autoencoders, ISBI 2021.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.base import Detector
from course_lib.detectors.positional_gaussian import gaussian_blur
from course_lib.detectors.transformer import Transformer
from course_lib.detectors.vq_vae import VQVAE
from course_lib.errors import BadInput

RATE = 6e-3  # learning rate after the warm-up: small transformers and short trainings bear, and need, a high one
WARM_UP = 50  # steps
LOWEST_RATE = 0.05  # of RATE, where the cosine ends
SMOOTHING = 0.75  # sigma of the spatial mask, in sides of a token's square
SOFTEST = 1e-2  # added to a standard deviation before division, in intensity units


class Healing(NamedTuple):
    """What `TokenModel.restore` found: all on the grid but the image."""

    tokens: Tensor  # s, (B, h, w)
    surprise: Tensor  # -log p of each token, (B, h, w), nats
    marked: Tensor  # M, (B, h, w) bool
    healed: Tensor  # s', (B, h, w)
    image: Tensor  # x' = Dec(s'), (B, 1, H, W)


class TokenModel(Detector):
    """A model of healthy token grids on top of a trained VQ-VAE, which stays as it is.

    A token whose probability is below tau is marked (M = 1) and drawn anew by the transformer: *healing*. The healed
    grid decodes to x', and

        A = |x - x'| * blur(M).

    blur(M) is M brought to the pixels, smoothed, and 1 from the centre of a lone marked token upwards; where nothing is
    marked it is 0, and so is the map. tau is one number for all images: `calibrate` sets it on healthy ones. Tokens
    without brain are never marked. The image score is the *tail*: the sum of all surprises beyond a limit, in nats.

    Subclasses say how surprising a token is (`surprise`), how it is drawn anew (`heal`), and what they minimise.

    Args:
        vqvae: a trained VQ-VAE. It is shared, not copied, and never trained here.
        width, layers, heads: of the transformer.
        schedule: steps over which the learning rate falls along a cosine, after a short warm-up.
    """

    causal: bool

    def __init__(self, vqvae: VQVAE, width: int = 64, layers: int = 3, heads: int = 4, schedule: int = 800):
        super().__init__()
        self.vqvae, self.width, self.layers, self.heads, self.schedule = vqvae, width, layers, heads, schedule
        length = math.prod(vqvae.grid)
        self.transformer = Transformer(vqvae.codes, length, self.causal, width, layers, heads)
        self.register_buffer("log_tau", torch.tensor(math.log(0.005)))
        self.register_buffer("tail", torch.tensor(7.0))  # nats; both as published, until `calibrate` is called
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.vqvae.eval()

    def train(self, mode: bool = True):
        """As torch's, but the VQ-VAE stays in evaluation mode."""
        super().train(mode)
        self.vqvae.eval()
        return self

    def surprise(self, tokens: Tensor) -> Tensor:
        """-log p of each token, `(B, h, w)` to `(B, h, w)`, in nats."""
        raise NotImplementedError(f"{type(self).__name__} defines no surprise.")

    def heal(self, tokens: Tensor, marked: Tensor, chance: Tensor | None = None) -> Tensor:
        """The grid with its marked tokens drawn anew.

        Args:
            tokens: `(B, h, w)`.
            marked: `(B, h, w)` bool.
            chance: one uniform number for each place of the raster, `(h w,)`, to draw with; None takes the most
                probable token. The same numbers serve all images, so an image's result does not depend on its batch.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no heal.")

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW over the transformer's weights alone."""
        return [torch.optim.AdamW(self.transformer.parameters(), lr=RATE, fused=True)]

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step at the schedule's learning rate."""
        step = int(self.step)
        progress = min(1.0, step / self.schedule)
        rate = RATE * max(LOWEST_RATE, (1 + math.cos(math.pi * progress)) / 2) * min(1.0, (step + 1) / WARM_UP)
        for group in optimizers[0].param_groups:
            group["lr"] = rate
        self.step += 1
        return super().training_step(images, optimizers)

    @torch.no_grad()
    def calibrate(self, images: Tensor, share: float = 0.02) -> TokenModel:
        """Set tau and the tail's limit so that `share` of the tokens of healthy *validation* images lie beyond.

        Args:
            images: `(N, 1, H, W)`, healthy, not those that trained the model.
            share: of the tokens with brain.

        Returns:
            The detector.

        Raises:
            BadInput: there is no brain in the images.
        """
        found = [self.surprise(self.vqvae.encode(part))[self.with_brain(part)] for part in images.split(64)]
        values = torch.cat(found) if found else images.new_zeros(0)
        if not len(values):
            raise BadInput("there is no brain in these images to set a threshold on.", field="images")
        limit = values.quantile(1 - share)
        self.log_tau.copy_(-limit)
        self.tail.copy_(limit)
        return self

    def with_brain(self, images: Tensor) -> Tensor:
        """Which tokens have brain in their square, `(B, 1, H, W)` to `(B, h, w)` bool."""
        return F.max_pool2d((images > 0).float(), self.vqvae.factor)[:, 0] > 0

    @torch.no_grad()
    def restore(self, images: Tensor, chance: Tensor | None = None) -> Healing:
        """Encode, judge, mark, heal and decode images `(B, 1, H, W)`; `chance` as for `heal`."""
        tokens = self.vqvae.encode(images)
        surprise = self.surprise(tokens)
        marked = (surprise > -self.log_tau) & self.with_brain(images)
        healed = self.heal(tokens, marked, chance)
        return Healing(tokens, surprise, marked, healed, self.vqvae.decode(healed))

    @torch.no_grad()
    def pseudo_healthy(self, images: Tensor) -> Tensor:
        """The image of the healed grid, 0 outside the brain."""
        return self.restore(images).image * (images > 0)

    @torch.no_grad()
    def anomaly_map(self, images: Tensor) -> Tensor:
        """|x - x'| blur(M) in the brain, 0 outside: `(B, 1, H, W)` to `(B, H, W)`, in intensity units."""
        return self.rungs(images)["healed x likelihood"]

    @torch.no_grad()
    def rungs(self, images: Tensor) -> dict[str, Tensor]:
        """The map and the steps that lead to it, each `(B, H, W)`, 0 outside the brain.

        `residual` |x - x_hat| of the VQ-VAE, `likelihood` the surprise at each pixel in nats, `healed` |x - x'|,
        `healed change` |x_hat - x'|, and `healed x likelihood`.
        """
        found = self.restore(images)
        rebuilt = self.vqvae.decode(found.tokens)
        maps = {
            "residual": images - rebuilt,
            "likelihood": self.to_pixels(found.surprise)[:, None],
            "healed": images - found.image,
            "healed change": rebuilt - found.image,
            "healed x likelihood": (images - found.image) * self.spatial_mask(found.marked)[:, None],
        }
        return {name: (values.abs() * (images > 0))[:, 0] for name, values in maps.items()}

    @torch.no_grad()
    def uncertainty_map(self, images: Tensor, draws: int = 8) -> Tensor:
        """|x - mu| / (blur(sigma) + 0.01), mu and sigma over several healings that draw: `(B, 1, H, W)` to `(B, H, W)`.

        It discounts places where the healings disagree. All images are healed with the same `draws` rows of random
        numbers. Source: the follow-up of Patel et al., MELBA 2023.
        """
        numbers = torch.rand(draws, math.prod(self.vqvae.grid), generator=torch.Generator().manual_seed(0))
        drawn = torch.stack([self.restore(images, chance.to(images.device)).image for chance in numbers])
        mu, sigma = drawn.mean(0), drawn.std(0)  # (B, 1, H, W)
        doubt = gaussian_blur(sigma, SMOOTHING * self.vqvae.factor) + SOFTEST
        return ((images - mu).abs() / doubt * (images > 0))[:, 0]

    def spatial_mask(self, marked: Tensor) -> Tensor:
        """blur(M), `(B, h, w)` bool to `(B, H, W)` from 0 to 1."""
        sigma = SMOOTHING * self.vqvae.factor
        peak = math.erf(self.vqvae.factor / 2 / (sigma * math.sqrt(2))) ** 2  # of a lone token's blurred square
        return (gaussian_blur(self.to_pixels(marked.float()), sigma) / peak).clamp(max=1)

    def to_pixels(self, grid: Tensor) -> Tensor:
        """Each token's value on its square of pixels: `(B, h, w)` to `(B, H, W)`."""
        return grid.repeat_interleave(self.vqvae.factor, 1).repeat_interleave(self.vqvae.factor, 2)

    @torch.no_grad()
    def anomaly_score(self, images: Tensor) -> Tensor:
        """The tail: the sum of surprises beyond the limit, over tokens with brain; `(B, 1, H, W)` to `(B,)`, nats."""
        surprise = self.surprise(self.vqvae.encode(images))
        beyond = (surprise > self.tail) & self.with_brain(images)
        return (surprise * beyond).sum((1, 2))


def choose(logits: Tensor, chance: Tensor | None) -> Tensor:
    """A token from logits `(..., K)`: the most probable, or, with uniform numbers `(...)`, one drawn by them."""
    if chance is None:
        return logits.argmax(-1)
    cumulative = logits.softmax(-1).cumsum(-1)  # (..., K)
    return (cumulative < chance[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)
