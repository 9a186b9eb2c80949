"""The denoising auto-encoder: its noise, its loss, and that it learns."""

from __future__ import annotations

import time

import pytest
import torch

from course_lib.detectors.autoencoder import DenseAE
from course_lib.detectors.dae import DenoisingAE
from course_lib.training import fit

SHAPE = (96, 96)


def noise_of(cells, sd: float = 0.2) -> torch.Tensor:
    """Noise fields `(400, 96, 96)` on images that are brain everywhere."""
    torch.manual_seed(0)
    images = torch.full((400, 1, *SHAPE), 0.5)
    return (DenoisingAE(SHAPE, noise_cells=cells, noise_sd=sd).corrupt(images) - images)[:, 0]


def correlation(noise: torch.Tensor, pixels: int) -> float:
    """Between pixels so far apart along a row."""
    return float((noise[..., :-pixels] * noise[..., pixels:]).mean() / noise.square().mean())


def test_coarse_noise_has_the_stated_width_and_blob_size():
    noise = noise_of(12)
    assert noise.mean().abs() < 0.005
    assert noise.std().item() == pytest.approx(0.2 * 2 / 3, rel=0.03)  # bilinear: (2/3)^2 of the variance in the mean
    assert correlation(noise, 1) > 0.95
    assert 0.3 < correlation(noise, 5) < 0.75  # a blob of 8 to 9 pixels
    assert abs(correlation(noise, 20)) < 0.05


def test_as_many_cells_as_pixels_is_pixel_noise_and_none_is_none():
    noise = noise_of(96)
    assert noise.std().item() == pytest.approx(0.2, rel=0.01)
    assert abs(correlation(noise, 1)) < 0.01
    assert (noise_of(None) == 0).all() and (noise_of(0) == 0).all()


def test_noise_stays_in_the_brain_and_out_of_the_test(brains):
    detector = DenoisingAE((32, 32), noise_cells=4)
    noisy = detector.corrupt(brains)
    assert (noisy[brains == 0] == 0).all()
    assert (noisy[brains > 0] != brains[brains > 0]).float().mean() > 0.99
    detector.eval()
    assert torch.equal(detector.anomaly_map(brains), detector.anomaly_map(brains))
    assert (detector.anomaly_map(brains)[brains[:, 0] == 0] == 0).all()
    assert (detector.pseudo_healthy(brains)[brains == 0] == 0).all()


def test_the_loss_is_the_masked_square_over_all_pixels(brains):
    torch.manual_seed(0)
    detector = DenoisingAE((32, 32), noise_cells=None)
    expected = ((detector(brains) - brains) ** 2)[brains > 0].sum() / brains.numel()
    torch.testing.assert_close(detector.training_losses(brains)["denoising"], expected)


def test_one_batch_can_be_learned_by_heart_and_every_parameter_changes(brains):
    torch.manual_seed(0)
    detector, images = DenoisingAE((32, 32), noise_cells=4, noise_sd=0.1), brains[:8]
    before = {name: value.clone() for name, value in detector.named_parameters()}
    history = fit(detector, images, steps=200, batch_size=8, progress=False)
    untouched = (detector.corrupt(images) - images).square().mean()  # the loss of a network that copies
    assert history["denoising"].tail(10).mean() < 0.5 * untouched
    assert history["denoising"].tail(10).mean() < 0.03 * history["denoising"].iloc[0]
    for name, value in detector.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_it_takes_off_coarse_blobs_that_a_network_trained_without_noise_keeps(brains, unseen):
    blob = torch.zeros_like(unseen)
    blob[:, :, 12:20, 12:20] = 0.25
    found = {}
    for cells in (0, 4):
        torch.manual_seed(0)
        detector = DenoisingAE((32, 32), noise_cells=cells)
        fit(detector, brains, steps=200, batch_size=16, progress=False)
        found[cells] = detector.anomaly_map(unseen + blob)[:, 12:20, 12:20].mean()
    assert found[4] > 1.5 * found[0]


def test_a_step_costs_a_few_times_that_of_an_auto_encoder():
    """About 4 times by the clock, 10 by multiplications; the bound is loose, as other programs share the machine."""
    images, seconds = torch.rand(32, 1, *SHAPE), {}
    for name, detector in {"AE": DenseAE(SHAPE, latent=16), "DAE": DenoisingAE(SHAPE)}.items():
        optimizers = detector.configure_optimizers()
        detector.training_step(images[:16], optimizers)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            detector.training_step(images[:16], optimizers)
            times.append(time.perf_counter() - started)
        seconds[name] = min(times)
    assert 1 < seconds["DAE"] / seconds["AE"] < 20
