"""The VQ-VAE: an auto-encoder whose code is a small grid of integers.

Van den Oord, Vinyals, Kavukcuoglu, NeurIPS 2017, in the form of Pinaya et al., Unsupervised brain imaging 3D anomaly
detection and segmentation with transformers, Medical Image Analysis 2022 (first MIDL 2021), much smaller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.blocks import code_shape
from course_lib.detectors.quantiser import Quantiser, perplexity
from course_lib.detectors.reconstruction import Reconstruction

CHANNELS = (16, 32, 64)


class VQVAE(Reconstruction):
    """Encode to vectors z, replace each by the nearest of K codes, decode: a slice is then h w integers, its *tokens*.

        L = mean |x - x_hat| + beta mean (z - sg[e_k])^2

    The codebook follows by moving averages (`Quantiser`). The whole information that may pass is h w log2(K) bits: the
    grid and the codebook are the bottleneck. The map is the residual |x - x_hat|.

    Args:
        image_shape: height and width in pixels, multiples of 2^halvings.
        halvings: the grid is `image_shape` / 2^halvings: 3 makes 12 x 12 tokens of 96 x 96 pixels.
        codes: K.
        dimensions: D of a code.
        channels: of each level; the first `halvings` of them count.
        residuals: residual blocks at each level.
        beta: weight of the commitment.
        decay, restart: of the codebook, as for `Quantiser`. Hundreds of steps are too few for the usual decay of 0.99.

    Raises:
        BadInput: a side cannot be halved that often.
        ValueError: there are fewer channels than halvings, or fewer than 2 codes.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        halvings: int = 3,
        codes: int = 128,
        dimensions: int = 16,
        channels: tuple[int, ...] = CHANNELS,
        residuals: int = 1,
        beta: float = 0.25,
        decay: float = 0.95,
        restart: float = 0.5,
    ):
        super().__init__()
        if len(channels) < halvings or codes < 2:
            raise ValueError(f"{halvings} halvings need as many channels, not {channels}; and 2 codes, not {codes}.")
        self.image_shape, self.halvings, self.codes, self.dimensions = image_shape, halvings, codes, dimensions
        self.channels, self.residuals, self.beta, self.decay, self.restart = channels, residuals, beta, decay, restart
        self.grid = code_shape(image_shape, halvings)  # (h, w)
        widths = channels[:halvings]
        down = [layer for c, d in zip((1, *widths), widths, strict=False) for layer in _down(c, d, residuals)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], dimensions, 3, padding=1))
        self.quantiser = Quantiser(codes, dimensions, decay, restart)
        narrower = (*widths[-2::-1], 1)
        up = [layer for c, d in zip(widths[::-1], narrower, strict=True) for layer in _up(c, d, residuals)]
        self.decoder = nn.Sequential(nn.Conv2d(dimensions, widths[-1], 3, padding=1), *up[:-1])  # no last ReLU

    @property
    def factor(self) -> int:
        """Pixels along each side of a token's square."""
        return 2**self.halvings

    def forward(self, images: Tensor) -> Tensor:
        """x_hat, `(B, 1, H, W)`: any real number, as nothing limits the output."""
        codes, _, _ = self.quantiser(self.encoder(images))
        return self.decoder(codes).float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens of images: `(B, 1, H, W)` to `(B, h, w)`, integers from 0 to K - 1. It never changes the codebook."""
        z = self.encoder(images).float()  # (B, D, h, w)
        return self.quantiser.nearest(z.movedim(1, -1).flatten(0, -2)).view(len(z), *self.grid)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """The image of tokens: `(B, h, w)` to `(B, 1, H, W)`."""
        return self.decoder(self.quantiser.lookup(tokens)).float()

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`reconstruction`, mean |x - x_hat|, and `commitment`, beta times the mean squared distance to the codes."""
        codes, tokens, commitment = self.quantiser(self.encoder(images))
        self.last_tokens = tokens
        rebuilt = self.decoder(codes).float()
        return {"reconstruction": F.l1_loss(rebuilt, images), "commitment": self.beta * commitment}

    def training_step(self, images: Tensor, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step; the record also holds the batch's `perplexity`, from 1 to K, which is no loss."""
        losses = super().training_step(images, optimizers)
        return losses | {"perplexity": perplexity(self.last_tokens, self.codes)}


class ResidualBlock(nn.Module):
    """ReLU(f + conv(ReLU(conv(f)))), both 3 x 3: `(B, c, H, W)` to the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, c, H, W)` to the same."""
        return F.relu_(features + self.second(F.relu_(self.first(features))))


def _down(channels_in: int, channels_out: int, residuals: int) -> list[nn.Module]:
    """Halve the map, then work on it: `(B, c, H, W)` to `(B, d, H/2, W/2)`."""
    halve = [nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1), nn.ReLU()]
    return halve + [ResidualBlock(channels_out) for _ in range(residuals)]


def _up(channels_in: int, channels_out: int, residuals: int) -> list[nn.Module]:
    """The mirror of `_down`; the kernel is a multiple of the stride, so that no chequerboard comes."""
    double = [nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1), nn.ReLU()]
    return [ResidualBlock(channels_in) for _ in range(residuals)] + double
