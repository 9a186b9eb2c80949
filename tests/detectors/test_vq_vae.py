"""The VQ-VAE: shapes of its grid, losses by hand, a batch learned by heart, no change while it scores."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.vq_vae import VQVAE
from course_lib.errors import BadInput
from course_lib.training import fit

SMALL = {"channels": (8, 16), "halvings": 2, "codes": 16, "dimensions": 8}


def made(**settings) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE((32, 32), **{**SMALL, **settings})


@pytest.mark.parametrize(("halvings", "grid"), [(1, (16, 16)), (2, (8, 8)), (3, (4, 4))])
def test_the_grid_is_the_image_halved(halvings, grid, brains):
    model = made(halvings=halvings, channels=(4, 8, 8)).eval()
    tokens = model.encode(brains[:3])
    assert model.grid == grid and tokens.shape == (3, *grid) and model.factor == 2**halvings
    assert model.decode(tokens).shape == (3, 1, 32, 32)
    assert tokens.dtype == torch.long and tokens.min() >= 0 and tokens.max() < 16


def test_the_reconstruction_is_the_decoded_tokens(brains):
    model = made().eval()
    torch.testing.assert_close(model(brains[:4]), model.decode(model.encode(brains[:4])))


def test_the_losses_are_those_of_the_equation(brains):
    model = made(beta=0.5)
    model.training_losses(brains)  # starts the codebook
    model.eval()
    z, x_hat = model.encoder(brains), model(brains)
    e = model.quantiser.lookup(model.encode(brains))
    losses = model.training_losses(brains)
    torch.testing.assert_close(losses["reconstruction"], (brains - x_hat).abs().mean())
    torch.testing.assert_close(losses["commitment"], 0.5 * (z - e).square().mean())
    assert set(losses) == {"reconstruction", "commitment"}


def test_the_decoder_learns_from_the_reconstruction_alone(brains):
    model = made()
    losses = model.training_losses(brains)
    reached = torch.autograd.grad(losses["commitment"], list(model.decoder.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in reached)
    for part in (model.encoder, model.decoder):
        gradients = torch.autograd.grad(losses["reconstruction"], list(part.parameters()), retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_it_learns_a_batch_by_heart(brains):
    model = made(codes=64)
    history = fit(model, brains[:8], steps=250, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.25 * history["reconstruction"].iloc[0]
    assert 1 <= history["perplexity"].min() and history["perplexity"].max() <= 64


def test_scoring_changes_no_bit_of_the_codebook(brains, unseen):
    model = made()
    fit(model, brains, steps=10, batch_size=16, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()  # even in training mode encoding looks, and does not touch
    model.encode(unseen)
    model.eval()
    model.anomaly_map(unseen)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_killed_training_goes_on_with_the_same_bits(brains, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, halves = made(), made()
    fit(whole, brains, steps=8, batch_size=8, progress=False)
    for steps in (4, 8):
        fit(halves, brains, steps=steps, batch_size=8, checkpoint=tmp_path / "c.pt", progress=False)
    torch.set_num_threads(threads)
    for one, other in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_sides_and_settings_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="multiples of 8"):
        VQVAE((36, 36))
    with pytest.raises(ValueError, match="as many channels"):
        VQVAE((32, 32), halvings=4)
    with pytest.raises(ValueError, match="2 codes"):
        VQVAE((32, 32), codes=1)
