"""The adversarial auto-encoder: a discriminator makes the codes of all healthy images together look like the prior.

Makhzani et al., Adversarial autoencoders, 2015 (arXiv:1511.05644); as a detector: Chen and Konukoglu, MIDL 2018
(arXiv:1806.04972); Baur et al., Medical Image Analysis 69 (2021). The parts that GPND and OCGAN need as well are here.
"""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.autoencoder import CHANNELS
from course_lib.detectors.blocks import SLOPE, Decoder, Encoder, code_shape
from course_lib.detectors.reconstruction import Reconstruction

BETAS = (0.5, 0.999)  # of Adam in a game of two networks: little momentum, for the other side moves too
SQUEEZED = 16  # channels before the vector, as in DenseAE
WIDTH = 128  # hidden units of a discriminator of codes


class AAE(Reconstruction):
    """An auto-encoder z = encode(x), x_hat = decode(z) whose codes a discriminator D compares with draws from N(0, I).

    A VAE asks every single posterior to be near the prior; here only the *aggregate* of all codes has to match. A step
    has the paper's phases, in its order. Draws e from N(0, I) are "real", codes are "fake":

        1. reconstruction   minimise mean (x - x_hat)^2                   moves encoder and decoder
        2. discriminator    minimise bce(D(e), 1) + bce(D(encode(x)), 0)  moves D
        3. regularisation   minimise bce(D(encode(x)), 1)                 moves the encoder

    Each phase has an Adam of its own. Adam divides by the size of the gradient, so a weight before a loss would change
    nothing: the *learning rates* of phases 1 and 3 are the balance between them.

    Args:
        image_shape: height and width in pixels.
        latent: numbers in the code.
        regularisation_rate: learning rate of phase 3; that of phase 1 is 1e-3, as for `DenseAE`. 0 leaves an ordinary
            auto-encoder.
        depth, channels: encoder and decoder, as those of `autoencoder.DenseAE`.

    Raises:
        BadInput: a side is not a multiple of 2^depth.
        ValueError: depth is not that of any of the channels; the rate is negative.

    Differences from the paper: Adam for SGD; convolutions; the squared error, as all auto-encoders of the course.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 16,
        regularisation_rate: float = 2e-4,
        depth: int = 4,
        channels: tuple[int, ...] = CHANNELS,
    ):
        super().__init__()
        self.image_shape, self.latent, self.regularisation_rate = image_shape, latent, regularisation_rate
        self.depth, self.channels = depth, channels
        if regularisation_rate < 0:
            raise ValueError(f"regularisation_rate is {regularisation_rate}, but a learning rate is 0 or more.")
        self.encoder = DenseEncoder(image_shape, latent, depth, channels)
        self.decoder = DenseDecoder(image_shape, latent, depth, channels)
        self.D = CodeDiscriminator(latent)

    def encode(self, images: Tensor) -> Tensor:
        """z, `(B, 1, H, W)` to `(B, latent)`."""
        return self.encoder(images)

    def decode(self, code: Tensor) -> Tensor:
        """`(B, latent)` to `(B, 1, H, W)`, not limited to a range."""
        return self.decoder(code)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction x_hat = decode(encode(x)), `(B, 1, H, W)`."""
        return self.decode(self.encode(images))

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """The three phases, in order; `discriminator` is 2 log 2 = 1.39 where D cannot tell codes from draws."""
        autoencoder, discriminator, encoder = optimizers
        with uncached_autocast(images):
            return {
                "reconstruction": self.reconstruction_step(images, autoencoder),
                "discriminator": self.discriminator_step(images, discriminator),
                "regularisation": self.regularisation_step(images, encoder),
            }

    def reconstruction_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Phase 1; returns the mean over all pixels of (x - x_hat)^2."""
        return descend(F.mse_loss(self(images).float(), images), optimizer)

    def discriminator_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Phase 2; returns bce(D(e), 1) + bce(D(encode(x)), 0), in nats. The codes are constants here."""
        with torch.no_grad():
            codes = self.encode(images)  # (B, latent)
        return descend(bce(self.D(torch.randn_like(codes)), 1) + bce(self.D(codes), 0), optimizer)

    def regularisation_step(self, images: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Phase 3; returns bce(D(encode(x)), 1), in nats. The decoder has no part in it."""
        return descend(bce(self.D(self.encode(images)), 1), optimizer)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for phase 1 (encoder and decoder, as DenseAE), for phase 2 (D) and for phase 3 (the encoder alone)."""
        both = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [
            torch.optim.Adam(both, lr=1e-3, fused=True),
            torch.optim.Adam(self.D.parameters(), lr=1e-3, betas=BETAS, fused=True),
            torch.optim.Adam(self.encoder.parameters(), lr=self.regularisation_rate, betas=BETAS, fused=True),
        ]

    @torch.no_grad()
    def latent_nll(self, images: Tensor) -> Tensor:
        """-log N(z; 0, I) of each image's code, `(B,)`, in nats: how unlikely the prior finds it, an image score."""
        return 0.5 * self.encode(images).square().sum(1) + 0.5 * self.latent * math.log(2 * math.pi)


class DenseEncoder(nn.Sequential):
    """The encoder of `autoencoder.DenseAE`: `(B, 1, H, W)` to `(B, latent)`."""

    def __init__(self, image_shape: tuple[int, int], latent: int, depth: int, channels: tuple[int, ...]):
        widths, (height, width) = _levels(image_shape, depth, channels)
        to_code = nn.Linear(SQUEEZED * height * width, latent)
        super().__init__(Encoder(widths), nn.Conv2d(widths[-1], SQUEEZED, 1), nn.Flatten(), to_code)


class DenseDecoder(nn.Sequential):
    """The decoder of `autoencoder.DenseAE`: `(B, latent)` to `(B, 1, H, W)`."""

    def __init__(self, image_shape: tuple[int, int], latent: int, depth: int, channels: tuple[int, ...]):
        widths, (height, width) = _levels(image_shape, depth, channels)
        super().__init__(
            nn.Linear(latent, SQUEEZED * height * width),
            nn.Unflatten(1, (SQUEEZED, height, width)),
            nn.Conv2d(SQUEEZED, widths[-1], 1),
            Decoder(widths),
        )


class CodeDiscriminator(nn.Sequential):
    """Judge codes by three linear layers: `(B, latent)` to logits `(B,)`, positive where a code passes for a draw."""

    def __init__(self, latent: int):
        hidden = [nn.Linear(latent, WIDTH), nn.LeakyReLU(SLOPE), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(SLOPE)]
        super().__init__(*hidden, nn.Linear(WIDTH, 1), nn.Flatten(0))


class ImageDiscriminator(nn.Sequential):
    """Judge images by convolutions 4 x 4, stride 2: `(B, 1, H, W)` to logits `(B,)`, positive for real ones.

    It has no batch normalisation: its verdict on an image does not depend on the others of the batch.
    """

    def __init__(self, image_shape: tuple[int, int], channels: tuple[int, ...] = (8, 16, 32)):
        height, width = code_shape(image_shape, len(channels))
        layers: list[nn.Module] = []
        for c, d in zip((1, *channels), channels, strict=False):
            layers += [nn.Conv2d(c, d, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, 1), nn.Flatten(0))


def bce(logits: Tensor, label: int) -> Tensor:
    """-log sigmoid(logit) for label 1, -log(1 - sigmoid(logit)) for label 0; the mean over `(B,)`, in nats."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(precise, torch.full_like(precise, label))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """One step down the loss for the optimizer's own parameters; no other gets a gradient. Returns it, detached."""
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(loss.device.type, enabled=False):  # autocast is for the forward pass alone
        loss.backward(inputs=own)
        optimizer.step()
    return loss.detach()


def uncached_autocast(images: Tensor) -> contextlib.AbstractContextManager:
    """Autocast as it is, on or off, but without its memory of weights.

    Autocast keeps the bfloat16 copy of a weight until its context ends. A step with several updates would then use
    the weights from before the first one, and those first met without gradients would never get any.
    """
    kind = images.device.type
    return torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)


def _levels(image_shape, depth, channels) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The channels of each level, and height and width after the last."""
    if not 1 <= depth <= len(channels):
        raise ValueError(f"depth is {depth}, but channels gives the widths of levels 1 to {len(channels)}.")
    return tuple(channels[:depth]), code_shape(image_shape, depth)
