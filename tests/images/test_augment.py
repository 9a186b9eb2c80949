"""Deformation, bias field and noise: exact where they can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import map_coordinates

from course_lib.errors import BadInput
from course_lib.images.augment import bias_field, coarse_noise, elastic, random_displacement, warp, warp_masks


@pytest.fixture
def images():
    return torch.rand(4, 1, 40, 56, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_no_amplitude_changes_nothing(images):
    masks = images[:, 0] > 0.5
    bent, bent_masks = elastic(images, masks, amplitude=0.0)
    torch.testing.assert_close(bent, images, atol=2e-5, rtol=0)
    assert torch.equal(bent_masks, masks)
    torch.testing.assert_close(bias_field(images, strength=0.0), images)
    assert torch.equal(coarse_noise(images, sd=0.0), images)


def test_the_border_stays_where_it_is(images):
    bent = elastic(images, amplitude=6.0, generator=seeded())
    for edge in ((..., 0, slice(None)), (..., -1, slice(None)), (..., slice(None), 0), (..., slice(None), -1)):
        torch.testing.assert_close(bent[edge], images[edge], atol=1e-5, rtol=0)
    assert (bent - images).abs().max() > 0.1


@pytest.mark.parametrize("right, down", [(3, 0), (0, -2), (1, 4)])
def test_a_known_shift_moves_the_picture_by_whole_pixels(images, right, down):
    field = torch.tensor([float(right), float(down)]).expand(4, 40, 56, 2)
    rows = (torch.arange(40) + down).clamp(0, 39)
    columns = (torch.arange(56) + right).clamp(0, 55)
    expected = images[:, :, rows][..., columns]
    torch.testing.assert_close(warp(images, field), expected, atol=1e-5, rtol=0)
    assert torch.equal(warp_masks(images[:, 0] > 0.5, field), expected[:, 0] > 0.5)


def test_warping_is_bilinear_interpolation(images):
    field = random_displacement(4, (40, 56), amplitude=4.0, generator=seeded())
    rows, columns = np.mgrid[:40, :56]
    for image, shift, bent in zip(images[:, 0].numpy(), field.numpy(), warp(images, field)[:, 0], strict=True):
        places = [rows + shift[..., 1], columns + shift[..., 0]]
        np.testing.assert_allclose(bent, map_coordinates(image, places, order=1, mode="nearest"), atol=1e-4)


def test_the_displacement_is_in_pixels_along_both_axes_and_bounded():
    field = random_displacement(200, (40, 56), amplitude=5.0, generator=seeded())
    assert field.shape == (200, 40, 56, 2)
    assert (field[:, 0] == 0).all() and (field[:, :, -1] == 0).all()
    largest = field.abs().amax((0, 1, 2))
    assert (largest > 4).all() and (largest < 1.4 * 5).all()


def test_the_field_passes_through_its_control_points():
    field = random_displacement(1, (61, 61), amplitude=5.0, generator=seeded())
    drawn = torch.rand(2, 1, 3, 3, generator=seeded()) * 10 - 5
    torch.testing.assert_close(field[0, 20:50:10, 20:50:10].permute(2, 0, 1), drawn[:, 0], atol=1e-5, rtol=0)


def test_the_field_is_smooth():
    field = random_displacement(1, (96, 96), amplitude=5.0, generator=seeded())[0].numpy()
    coarse = RectBivariateSpline(range(0, 96, 5), range(0, 96, 5), field[::5, ::5, 0])
    np.testing.assert_allclose(coarse(range(90), range(90)), field[:90, :90, 0], atol=0.25)


def test_masks_are_bent_with_their_images(images):
    masks = images[:, 0] > 0.5
    flat = torch.zeros_like(images)
    flat[:, :, 10:30, 15:40] = 1.0
    bent, bent_masks = elastic(flat, flat[:, 0] > 0.5, amplitude=6.0, generator=seeded())
    assert bent_masks.dtype == torch.bool and bent_masks.shape == (4, 40, 56)
    disagree = (bent[:, 0] > 0.5) != bent_masks
    assert disagree.float().mean() < 0.01  # half a pixel along the outline at most
    labels = masks.to(torch.uint8)[:, None] * 3
    assert elastic(images, labels, amplitude=6.0)[1].unique().tolist() == [0, 3]  # no labels in between


@pytest.mark.parametrize("function", [elastic, bias_field, coarse_noise])
def test_one_seed_gives_one_result(images, function):
    one, same = function(images, generator=seeded(1)), function(images, generator=seeded(1))
    other = function(images, generator=seeded(2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(function(images), one)  # the global generator, where none is given
    assert one.shape == images.shape and one.dtype == images.dtype


def test_images_of_a_batch_are_bent_differently():
    image = torch.rand(1, 1, 32, 32).expand(3, -1, -1, -1)
    bent = elastic(image, amplitude=5.0, generator=seeded())
    assert not torch.equal(bent[0], bent[1]) and not torch.equal(bent[1], bent[2])


def test_the_bias_field_is_smooth_positive_and_within_its_strength(images):
    field = bias_field(torch.ones_like(images), strength=0.3, generator=seeded())
    assert field.min() > np.exp(-0.3 * 1.5) and field.max() < np.exp(0.3 * 1.5)
    assert field.std() > 0.02
    assert field.diff(dim=-1).abs().max() < 0.05
    assert (bias_field(torch.zeros_like(images)) == 0).all()  # the background stays


def test_coarse_noise_has_its_standard_deviation_and_its_grain():
    noise = coarse_noise(torch.zeros(64, 1, 96, 96), sd=0.2, cells=16, generator=seeded())
    assert 0.1 < noise.std() < 0.2  # interpolation lowers it between the cells
    next_pixel = torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]
    far = torch.corrcoef(torch.stack([noise[..., 24:].flatten(), noise[..., :-24].flatten()]))[0, 1]
    assert next_pixel > 0.9 and abs(far) < 0.1


def test_too_few_control_points_are_refused(images):
    with pytest.raises(BadInput, match="leave none that moves"):
        elastic(images, control_points=4)
