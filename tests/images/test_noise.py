"""Noise fields: unit variance within each image, and where their power lies."""

from __future__ import annotations

import pytest
import torch

from course_lib.images.noise import octave_noise, white_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def low_share(fields: torch.Tensor, cycles: int) -> float:
    """The share of the power at no more than so many cycles along the image, in both directions."""
    power = torch.fft.fft2(fields).abs().square().mean((0, 1))  # (H, W)
    frequency = torch.fft.fftfreq(fields.shape[-1], d=1 / fields.shape[-1]).abs()
    low = torch.maximum(frequency[:, None], frequency[None]) <= cycles
    return float(power[low].sum() / power.sum())


@pytest.mark.parametrize("options", [{}, {"octaves": 1}, {"octaves": 6, "persistence": 0.5}, {"base": 0.6}])
def test_each_image_of_coarse_noise_has_mean_0_and_variance_1(options):
    fields = octave_noise((50, 1, 48, 48), generator=generator(), **options)
    assert fields.shape == (50, 1, 48, 48) and fields.dtype == torch.float32
    torch.testing.assert_close(fields.mean((2, 3)), torch.zeros(50, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(fields.var((2, 3), correction=0), torch.ones(50, 1), atol=1e-4, rtol=0)


def test_white_noise_has_unit_variance_over_the_ensemble_and_a_flat_spectrum():
    fields = white_noise((200, 1, 48, 48), generator=generator())
    assert fields.var().item() == pytest.approx(1, abs=0.01)
    assert low_share(fields, 6) == pytest.approx((13 / 48) ** 2, rel=0.05)


def test_coarse_noise_has_most_of_its_power_at_low_frequencies():
    coarse = octave_noise((200, 1, 48, 48), generator=generator())
    assert low_share(coarse, 6) > 5 * (13 / 48) ** 2
    one = octave_noise((200, 1, 48, 48), octaves=1, generator=generator())
    assert low_share(one, 6) > 0.95  # a period of 12 pixels: four cycles
    rough = octave_noise((200, 1, 48, 48), octaves=4, persistence=2.0, generator=generator())
    assert low_share(rough, 6) < low_share(coarse, 6) < low_share(one, 6)


def test_it_looks_the_same_at_every_size():
    small, large = (octave_noise((200, 1, n, n), octaves=3, generator=generator()) for n in (32, 64))
    for cycles in (3, 6, 10):
        assert low_share(small, cycles) == pytest.approx(low_share(large, cycles), abs=0.04)


def test_no_place_is_quieter_than_another_and_images_differ():
    fields = octave_noise((3000, 1, 24, 24), generator=generator())
    spread = fields.std((0, 1))
    assert spread.min() > 0.85 and spread.max() < 1.15
    assert (fields[0] - fields[1]).abs().mean() > 0.5
    again = octave_noise((3000, 1, 24, 24), generator=generator())
    assert torch.equal(fields, again) and not torch.equal(
        fields, octave_noise((3000, 1, 24, 24), generator=generator(1))
    )


def test_a_slice_that_is_not_square_and_several_channels():
    fields = octave_noise((2, 3, 16, 40), generator=generator())
    assert fields.shape == (2, 3, 16, 40)
    torch.testing.assert_close(fields.var((2, 3), correction=0), torch.ones(2, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"octaves": 0}, {"base": 0.0}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="octaves is 1 or more"):
        octave_noise((1, 1, 8, 8), **options)
