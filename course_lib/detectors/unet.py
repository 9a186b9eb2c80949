"""A small U-Net.

Ronneberger, Fischer, Brox, U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015; group
normalisation: Wu and He, ECCV 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.detectors.blocks import code_shape


class UNet(nn.Module):
    """Images in, images out, with *skip connections*: each level of the way down hands its map to the way up.

    Each level has two 3 x 3 convolutions, each followed by group normalisation and SiLU; average pooling leads down,
    a transposed 2 x 2 convolution up. With width 8 and depth 4 it has 121 thousand weights.

    Args:
        image_shape: height and width in pixels, multiples of 2^(depth - 1).
        width: channels of the first level; each further one has twice as many.
        depth: levels.
        channels_in, channels_out: of the images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        width: int = 8,
        depth: int = 4,
        channels_in: int = 1,
        channels_out: int = 1,
    ):
        super().__init__()
        code_shape(image_shape, depth - 1)  # refuses sides that cannot be halved
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(_level(c, d) for c, d in zip([channels_in, *widths], widths, strict=False))
        self.pool = nn.AvgPool2d(2)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * d, d, 2, stride=2) for d in widths[-2::-1])
        self.up = nn.ModuleList(_level(2 * d, d) for d in widths[-2::-1])
        self.out = nn.Conv2d(width, channels_out, 1)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, channels_in, H, W)` to `(B, channels_out, H, W)`, not limited to a range."""
        skips, features = [], images
        for level, down in enumerate(self.down):
            features = down(self.pool(features) if level else features)  # (B, w 2^level, H / 2^level, W / 2^level)
            skips.append(features)
        for grow, up, skip in zip(self.grow, self.up, skips[-2::-1], strict=True):
            features = up(torch.cat([skip, grow(features)], 1))
        return self.out(features)


def _level(channels_in: int, channels_out: int) -> nn.Sequential:
    layers = []
    for c in (channels_in, channels_out):
        layers += [
            nn.Conv2d(c, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(4, channels_out),
            nn.SiLU(inplace=True),
        ]
    return nn.Sequential(*layers)
