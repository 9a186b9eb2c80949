"""MorphAEus: an auto-encoder with a narrow code, whose output may be bent to fit the image, but not repainted.

Bercea, Rueckert, Schnabel, What do AEs learn? Challenging common assumptions in unsupervised anomaly detection, MICCAI
2023 (arXiv 2206.03698).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.blocks import code_shape
from course_lib.detectors.deformation import integrate, lncc, roughness, warp
from course_lib.detectors.reconstruction import Reconstruction

CHANNELS = (16, 32, 64, 64, 64)
LEVELS = 3  # resolutions that the deformer sees: 1/8, 1/4 and 1/2
SMALLEST_BETA = 1e-3
STILL = 1e-5  # standard deviation of the first weights that make the velocity: the warp begins as the identity


class Convolution(nn.Module):
    """A convolution; batch normalisation and Swish come after it, by a second call: the deformer sees the raw map."""

    def __init__(self, convolution: nn.Module):
        super().__init__()
        self.convolution, self.norm = convolution, nn.BatchNorm2d(convolution.out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The raw map and the finished one, both `(B, d, H', W')`."""
        raw = self.convolution(x)
        return raw, F.silu(self.norm(raw))


class Deformer(nn.Module):
    """The velocity from what encoder and decoder saw at three resolutions. It never sees an image.

    Each level takes both maps of its resolution, and what the level below made of its own, and doubles it: transposed
    convolution 3 x 3, batch normalisation, Swish.

    Args:
        channels: of the maps of the encoder, and of the decoder, at 1/2, 1/4 and 1/8 of the image.
        width: channels inside.
    """

    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        inputs = [2 * c + (width if level else 0) for level, c in enumerate(reversed(channels))]
        up = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
        self.levels = nn.ModuleList(Convolution(nn.ConvTranspose2d(c, width, **up)) for c in inputs)
        self.to_velocity = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.normal_(self.to_velocity.weight, std=STILL)
        nn.init.zeros_(self.to_velocity.bias)

    def forward(self, encoded: list[Tensor], decoded: list[Tensor]) -> Tensor:
        """v `(B, 2, H, W)` in pixels, from both nets' raw maps, 1/8 of the image first; float32 also under autocast."""
        features: list[Tensor] = []
        for level, maps in zip(self.levels, zip(encoded, decoded, strict=True), strict=True):
            features = [level(torch.cat([*maps, *features], 1))[1]]
        velocity = self.to_velocity(features[0])
        return velocity.to(torch.promote_types(velocity.dtype, torch.float32))


class MorphAEus(Reconstruction):
    """x_m = x_p o exp(v): the prior x_p of a narrow auto-encoder, moved by a smooth field v; the anomaly is |x - x_m|.

    The prior has little to say but what is common to healthy brains, and puts it a little off. The deformer moves it
    by fractions of pixels and cannot paint: an intensity that the prior does not have around there stays an anomaly.

        L = mean (x - x_p)^2                                                    from the beginning
          + delta { 1/2 [ LNCC(x, x_m) + LNCC(x_p, x o exp(-v)) ] + beta R(v) }   from the step `start`

    LNCC is a loss (1 - cc^2) over the boxes of brain pixels, R the roughness of v. The weight of smoothness *grows*
    with the steps: `beta = clip(beta_max step / ramp, 1e-3, beta_max)`. Nothing is detached: the second line trains
    encoder and decoder too.

    Differences from the authors' code: no perceptual term (it needs the weights of VGG-19), so that the first loss is
    that of all auto-encoders of the course; no sigmoid, as intensities may be above 1; a linear layer to a code of one
    vector, at any image size; LNCC in the brain alone; the border goes on where their warp takes in zeros; steps where
    they count epochs (11 of 500 before `start`, beta at its top after 200); delta 0.1 for their 1, as LNCC is a
    hundred times the squared error; fewer channels.

    Args:
        image_shape: height and width in pixels.
        latent: numbers in the code.
        channels: the width of each level; each halves the image. At least 3.
        width: channels of the deformer; the paper has 32.
        start: the first step with the second line. Until then the deformer does not change.
        ramp: steps in which beta grows.
        beta_max: its largest value.
        delta: weight of the second line.
        squarings: of the integration of v.

    Raises:
        BadInput: a side is not a multiple of 2^len(channels).
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        latent: int = 32,
        channels: tuple[int, ...] = CHANNELS,
        width: int = 16,
        start: int = 200,
        ramp: int = 800,
        beta_max: float = 3.0,
        delta: float = 0.1,
        squarings: int = 7,
    ):
        super().__init__()
        self.image_shape, self.latent, self.channels, self.width = image_shape, latent, channels, width
        self.start, self.ramp, self.beta_max, self.delta = start, ramp, beta_max, delta
        self.squarings = squarings
        if len(channels) < LEVELS:
            raise ValueError(f"channels gives {len(channels)} levels; the deformer needs {LEVELS}.")
        if ramp < 1 or beta_max < SMALLEST_BETA or start < 0 or squarings < 0:
            raise ValueError(f"ramp >= 1, beta_max >= {SMALLEST_BETA}, start >= 0 and squarings >= 0 are needed.")
        height, width_ = code_shape(image_shape, len(channels))
        size = (channels[-1], height, width_)
        levels = list(zip((1, *channels), channels, strict=False))
        self.encoder = nn.ModuleList(Convolution(nn.Conv2d(c, d, 3, stride=2, padding=1)) for c, d in levels)
        self.to_code = nn.Linear(channels[-1] * height * width_, latent)
        self.from_code = nn.Sequential(nn.Linear(latent, channels[-1] * height * width_), nn.Unflatten(1, size))
        outputs = (*reversed(channels[:-1]), channels[0])
        mirror = zip(reversed(channels), outputs, strict=True)
        self.decoder = nn.ModuleList(Convolution(nn.Conv2d(c, d, 3, padding=1)) for c, d in mirror)
        self.to_image = nn.Conv2d(channels[0], 1, 1)
        self.deformer = Deformer(channels[:LEVELS], width)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The code `(B, latent)`, and the raw maps that the deformer sees, 1/8 of the image first."""
        maps, x = [], images
        for level in self.encoder:
            raw, x = level(x)
            maps.append(raw)
        return self.to_code(x.flatten(1)), maps[LEVELS - 1 :: -1]

    def decode(self, code: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x_p `(B, 1, H, W)`, and the raw maps that the deformer sees, 1/8 of the image first."""
        maps, x = [], self.from_code(code)
        for level in self.decoder:
            raw, x = level(F.interpolate(x, scale_factor=2.0, mode="bilinear"))
            maps.append(raw)
        return self.to_image(x), maps[-LEVELS - 1 : -1]

    def prior_and_velocity(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """x_p `(B, 1, H, W)` and v `(B, 2, H, W)` in pixels, in float32 also under autocast."""
        code, encoded = self.encode(images)
        prior, decoded = self.decode(code)
        return prior.to(images.dtype), self.deformer(encoded, decoded)

    def prior(self, images: Tensor) -> Tensor:
        """x_p, what the auto-encoder alone rebuilds: `(B, 1, H, W)` to the same."""
        return self.decode(self.encode(images)[0])[0]

    def displacement(self, images: Tensor) -> Tensor:
        """exp(v) - id, `(B, 2, H, W)`, in pixels, down and right: x_m shows at p what x_p has at p + this."""
        return integrate(self.prior_and_velocity(images)[1], self.squarings)

    def forward(self, images: Tensor) -> Tensor:
        """x_m = x_p o exp(v), `(B, 1, H, W)`."""
        prior, velocity = self.prior_and_velocity(images)
        return warp(prior, integrate(velocity, self.squarings))

    def beta(self) -> float:
        """The weight of smoothness at this step."""
        return min(max(self.beta_max * int(self.step) / self.ramp, SMALLEST_BETA), self.beta_max)

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`reconstruction`, the mean of (x - x_p)^2; `lncc` and `roughness` with their weights, 0 before `start`."""
        if self.step < self.start:
            none = images.new_zeros(())
            error = F.mse_loss(self.prior(images).to(images.dtype), images)
            return {"reconstruction": error, "lncc": none, "roughness": none}
        prior, velocity = self.prior_and_velocity(images)
        return {"reconstruction": F.mse_loss(prior, images)} | self.morph_losses(images, prior, velocity)

    def morph_losses(self, images: Tensor, prior: Tensor, velocity: Tensor) -> dict[str, Tensor]:
        """`lncc`: delta / 2 [LNCC(x, x_p o exp(v)) + LNCC(x_p, x o exp(-v))]; `roughness`: delta beta R(v)."""
        both = integrate(torch.cat([velocity, -velocity]), self.squarings)  # there and back, (2B, 2, H, W)
        morphed, moved = warp(torch.cat([prior, images]), both).chunk(2)
        brain = images > 0
        correlation = 0.5 * (lncc(images, morphed, brain) + lncc(prior, moved, brain))
        return {"lncc": self.delta * correlation, "roughness": self.delta * self.beta() * roughness(velocity)}

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step of both lines by one optimizer, then the schedule's counter."""
        losses = super().training_step(images, optimizers)
        self.step += 1
        return losses

    @torch.no_grad()
    def prior_map(self, images: Tensor) -> Tensor:
        """|x - x_p| in the brain, 0 outside, `(B, H, W)`: the map without the deformer, to compare with."""
        return ((images - self.prior(images)).abs() * (images > 0))[:, 0]
