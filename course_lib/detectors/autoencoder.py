"""Auto-encoders with a spatial and with a dense bottleneck.

Baur et al., Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative study, Medical Image
Analysis 69 (2021): the same encoder and decoder, and only the bottleneck differs. Ours is a quarter as wide, has 4 x 4
kernels for their 5 x 5, and no dropout.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.blocks import Decoder, Encoder, code_shape
from course_lib.detectors.reconstruction import Reconstruction

CHANNELS = (8, 16, 32, 64)


class _AutoEncoder(Reconstruction):
    """What the two have in common: encode, decode, and the squared error."""

    def encode(self, images: Tensor) -> Tensor:
        """The code of each image; the subclass says of which shape."""
        raise NotImplementedError

    def decode(self, code: Tensor) -> Tensor:
        """The image of each code, `(B, 1, H, W)`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction x_hat = decode(encode(x)), `(B, 1, H, W)`, not limited to a range."""
        return self.decode(self.encode(images))

    def training_losses(self, images: Tensor) -> dict[str, Tensor]:
        """`reconstruction`: the mean over all pixels of (x - x_hat)^2.

        All reconstruction methods of the course use this loss: residuals of different losses are not comparable.
        """
        return {"reconstruction": F.mse_loss(self(images).float(), images)}


class SpatialAE(_AutoEncoder):
    """An auto-encoder whose code is a small picture: `code_channels` numbers at each of the coarse positions.

    Args:
        image_shape: height and width in pixels.
        depth: how often the image is halved. 4 takes 96 x 96 to a code of 6 x 6; 2 leaves 24 x 24, which copies.
        code_channels: numbers at each position of the code.
        channels: the width of each level; the first `depth` are used.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        depth: int = 4,
        code_channels: int = 16,
        channels: tuple[int, ...] = CHANNELS,
    ):
        super().__init__()
        self.image_shape, self.depth, self.code_channels, self.channels = image_shape, depth, code_channels, channels
        widths = _widths(channels, depth)
        code_shape(image_shape, depth)  # refuses sides that cannot be halved
        self.encoder, self.decoder = Encoder(widths), Decoder(widths)
        self.to_code = nn.Conv2d(widths[-1], code_channels, 1)
        self.from_code = nn.Conv2d(code_channels, widths[-1], 1)

    def encode(self, images: Tensor) -> Tensor:
        """`(B, 1, H, W)` to `(B, code_channels, H / 2^depth, W / 2^depth)`."""
        return self.to_code(self.encoder(images))

    def decode(self, code: Tensor) -> Tensor:
        """`(B, code_channels, H / 2^depth, W / 2^depth)` to `(B, 1, H, W)`."""
        return self.decoder(self.from_code(code))


class DenseAE(_AutoEncoder):
    """An auto-encoder whose code is one vector that sees the whole image.

    Args:
        image_shape: height and width in pixels.
        latent: numbers in the code.
        depth: how often the image is halved before the vector.
        channels: the width of each level; the first `depth` are used.
    """

    def __init__(
        self, image_shape: tuple[int, int], latent: int = 128, depth: int = 4, channels: tuple[int, ...] = CHANNELS
    ):
        super().__init__()
        self.image_shape, self.latent, self.depth, self.channels = image_shape, latent, depth, channels
        widths = _widths(channels, depth)
        height, width = code_shape(image_shape, depth)
        squeezed = 16  # channels before the vector, as in the paper: most weights are in the two linear layers
        self.encoder = nn.Sequential(Encoder(widths), nn.Conv2d(widths[-1], squeezed, 1), nn.Flatten())
        self.to_code = nn.Linear(squeezed * height * width, latent)
        self.from_code = nn.Sequential(
            nn.Linear(latent, squeezed * height * width),
            nn.Unflatten(1, (squeezed, height, width)),
            nn.Conv2d(squeezed, widths[-1], 1),
        )
        self.decoder = Decoder(widths)

    def encode(self, images: Tensor) -> Tensor:
        """`(B, 1, H, W)` to `(B, latent)`."""
        return self.to_code(self.encoder(images))

    def decode(self, code: Tensor) -> Tensor:
        """`(B, latent)` to `(B, 1, H, W)`."""
        return self.decoder(self.from_code(code))


def _widths(channels: tuple[int, ...], depth: int) -> tuple[int, ...]:
    if not 1 <= depth <= len(channels):
        raise ValueError(f"depth is {depth}, but channels gives the widths of levels 1 to {len(channels)}.")
    return tuple(channels[:depth])
