"""The U-Net: its size, its shapes, what its skips carry."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.unet import UNet
from course_lib.errors import BadInput


def test_it_has_121_thousand_weights_as_documented():
    assert round(sum(p.numel() for p in UNet((96, 96)).parameters()), -3) == 121_000


@pytest.mark.parametrize(
    "shape, depth, channels", [((32, 32), 4, (1, 1)), ((24, 40), 3, (2, 3)), ((10, 10), 1, (1, 2))]
)
def test_images_keep_their_size_and_gradients_reach_every_parameter(shape, depth, channels):
    torch.manual_seed(0)
    network = UNet(shape, depth=depth, channels_in=channels[0], channels_out=channels[1])
    images = torch.rand(2, channels[0], *shape)
    out = network(images)
    assert out.shape == (2, channels[1], *shape)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_pixel_passes_by_the_skip_with_the_deep_levels_cut():
    torch.manual_seed(0)
    network = UNet((32, 32)).eval()
    with torch.no_grad():
        for grow in network.grow:
            grow.weight.zero_()
            grow.bias.zero_()
        images = torch.rand(1, 1, 32, 32)
        other = images.clone()
        other[0, 0, 10, 20] += 1
        change = (network(other) - network(images)).abs()[0, 0]
    row, column = divmod(int(change.argmax()), 32)
    assert abs(row - 10) <= 4 and abs(column - 20) <= 4  # four 3 x 3 convolutions reach that far
    assert change.max() > 20 * change.median()  # group normalisation alone carries a little to everywhere


def test_a_batch_of_one_is_a_row_of_a_batch():
    torch.manual_seed(0)
    network, images = UNet((32, 32)), torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(BadInput, match="multiples of 8, not 96 x 90"):
        UNet((96, 90))
