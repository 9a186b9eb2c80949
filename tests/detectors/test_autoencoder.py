"""The auto-encoders: shapes, gradients, and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from course_lib.detectors.autoencoder import DenseAE, SpatialAE
from course_lib.detectors.base import Detector
from course_lib.detectors.pca import PCA
from course_lib.errors import BadInput
from course_lib.training import fit

SHAPE = (32, 32)
SMALL = (8, 16, 16, 16)
MAKERS = {
    "spatial": lambda: SpatialAE(SHAPE, channels=SMALL),
    "shallow": lambda: SpatialAE(SHAPE, depth=2, channels=SMALL),
    "dense": lambda: DenseAE(SHAPE, latent=32, channels=SMALL),
}


@pytest.mark.parametrize(
    "detector, code",
    [
        (SpatialAE((96, 96)), (16, 6, 6)),
        (SpatialAE((96, 96), depth=2), (16, 24, 24)),
        (SpatialAE((96, 64), depth=3, code_channels=4), (4, 12, 8)),
        (DenseAE((96, 96)), (128,)),
        (DenseAE((64, 96), latent=8, depth=3), (8,)),
    ],
)
def test_codes_have_the_stated_shapes(detector, code):
    images = torch.rand(2, 1, *detector.image_shape)
    assert detector.encode(images).shape == (2, *code)
    assert detector(images).shape == images.shape


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_reach_every_parameter(name, brains):
    torch.manual_seed(0)
    detector = MAKERS[name]()
    sum(detector.training_losses(brains[:8]).values()).backward()
    for parameter_name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", MAKERS)
def test_training_lowers_the_loss_and_changes_every_parameter(name, brains):
    torch.manual_seed(0)
    detector = MAKERS[name]()
    before = {key: value.clone() for key, value in detector.named_parameters()}
    history = fit(detector, brains, steps=40, batch_size=16, progress=False)
    assert history["reconstruction"].tail(5).mean() < 0.3 * history["reconstruction"].iloc[0]
    for key, value in detector.named_parameters():
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", MAKERS)
def test_one_batch_can_be_learned_by_heart(name, brains):
    torch.manual_seed(0)
    detector = MAKERS[name]()
    images = brains[:8]
    history = fit(detector, images, steps=200, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.1 * images.var()


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(BadInput, match="multiples of 16, not 96 x 90"):
        DenseAE((96, 90))


@pytest.mark.parametrize("depth", [0, 5])
def test_a_depth_without_widths_is_refused(depth):
    with pytest.raises(ValueError, match="levels 1 to 4"):
        SpatialAE(SHAPE, depth=depth)


class LinearAE(Detector):
    """One linear layer down and one up, as a student would write it."""

    def __init__(self, pixels: int, latent: int):
        super().__init__()
        self.pixels, self.latent = pixels, latent
        self.down, self.up = nn.Linear(pixels, latent), nn.Linear(latent, pixels)

    def reconstruct(self, images):
        return self.up(self.down(images.flatten(1))).view_as(images)

    def training_losses(self, images):
        return {"squares": (images - self.reconstruct(images)).square().mean()}

    def configure_optimizers(self):
        return [torch.optim.Adam(self.parameters(), lr=1e-2)]


def test_a_linear_auto_encoder_finds_the_principal_subspace():
    """Ruff et al. 2021: the same projection, though not the same axes."""
    torch.manual_seed(0)
    spread = torch.tensor([3.0, 2.0, 1.5] + [0.1] * 33)
    basis = torch.linalg.qr(torch.randn(36, 36)).Q
    images = ((torch.randn(200, 36) * spread) @ basis.T + 0.5).view(200, 1, 6, 6)
    linear = LinearAE(36, 3)
    fit(linear, images, steps=1500, batch_size=200, progress=False)
    closed = PCA((6, 6), components=3).fit(images)
    projection = (linear.up.weight @ linear.down.weight).detach()
    torch.testing.assert_close(projection, closed.directions.T @ closed.directions, atol=0.02, rtol=0)
