"""Layers that several detectors share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from course_lib.errors import BadInput

SLOPE = 0.2  # of LeakyReLU


class Down(nn.Sequential):
    """Halve the map: convolution 4 x 4, stride 2; batch normalisation; LeakyReLU.

    `(B, c, H, W)` to `(B, d, H/2, W/2)`.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False),  # the batch norm has the bias
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class Up(nn.Sequential):
    """Double the map: transposed convolution 4 x 4, stride 2; batch normalisation; LeakyReLU.

    `(B, c, H, W)` to `(B, d, 2H, 2W)`. The kernel is a multiple of the stride, so that every output pixel gets the
    same number of terms: no chequerboard.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(
            nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class Encoder(nn.Sequential):
    """A stack of `Down`, one for each of `channels`: `(B, 1, H, W)` to `(B, channels[-1], H / 2^n, W / 2^n)`."""

    def __init__(self, channels: Sequence[int]):
        super().__init__(*(Down(c, d) for c, d in zip((1, *channels), channels, strict=False)))


class Decoder(nn.Sequential):
    """The mirror of `Encoder`, then a 1 x 1 convolution to one channel with no activation."""

    def __init__(self, channels: Sequence[int]):
        wide_to_narrow = tuple(reversed(channels))
        outputs = (*wide_to_narrow[1:], wide_to_narrow[-1])
        super().__init__(
            *(Up(c, d) for c, d in zip(wide_to_narrow, outputs, strict=True)), nn.Conv2d(outputs[-1], 1, 1)
        )


def code_shape(image_shape: Sequence[int], depth: int) -> tuple[int, int]:
    """Height and width after `depth` halvings.

    Raises:
        BadInput: a side is not a multiple of `2^depth`.
    """
    height, width = image_shape
    if height % 2**depth or width % 2**depth:
        raise BadInput(
            f"{depth} halvings need sides that are multiples of {2**depth}, not {height} x {width}.",
            field="image_shape",
            remedy="Pad or crop the images, or choose a smaller depth.",
        )
    return height // 2**depth, width // 2**depth
