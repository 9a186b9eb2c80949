"""Restoration: its terms by finite differences, its loop, its control, and that it leaves the network alone."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.restoration import Restoration, total_variation
from course_lib.detectors.vae import VAE
from course_lib.training import fit

SQUARE = (slice(None), slice(None), slice(12, 18), slice(14, 20))


@pytest.fixture(scope="module")
def trained():
    """The VAE of this module, trained once: brains -> VAE."""
    found = []

    def get(brains):
        if not found:
            torch.manual_seed(0)
            found.append(VAE((32, 32), latent=8, channels=(8, 16, 16, 16)))
            fit(found[0], brains, steps=150, batch_size=16, progress=False)
        return found[0]

    return get


@pytest.fixture
def vae(trained, brains):
    """A trained VAE."""
    return trained(brains)


@pytest.fixture
def ill(unseen):
    """Brains with a bright square."""
    images = unseen[:6].clone()
    images[SQUARE] += 0.15
    return images


def test_total_variation_by_hand_and_its_gradient_by_finite_differences():
    image = torch.tensor([[0.0, 1.0], [3.0, 0.0]]).view(1, 1, 2, 2)
    assert total_variation(image).item() == 3 + 1 + 1 + 3
    torch.manual_seed(0)
    images = torch.randn(2, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total_variation, images)


@pytest.mark.parametrize("through_network", [True, False])
def test_the_objective_falls(vae, ill, through_network):
    restoration = Restoration(vae, steps=60, tv=0.3, through_network=through_network)
    fixed = None if through_network else vae.pseudo_healthy(ill)
    before = restoration.objective(ill, ill, fixed).detach()
    after = restoration.objective(restoration.restore(ill), ill, fixed).detach()
    assert (after < 0.9 * before).all()


def test_the_control_without_tv_is_the_plain_residual_cut_at_the_longest_way(vae, ill):
    """Each pixel walks straight to R with steps of one size, and then swings about it by less than a step."""
    found = Restoration(vae, steps=40, step_size=2e-3, tv=0, through_network=False).anomaly_map(ill)
    torch.testing.assert_close(found, vae.anomaly_map(ill).clamp(max=40 * 2e-3), rtol=0, atol=2.001e-3)


def test_a_strong_tie_keeps_the_image(vae, ill):
    """Tied to the *input*, so more tie means less change. Tied to its own reconstruction, it would mean more."""
    change = [Restoration(vae, steps=40, tv=tv).anomaly_map(ill).mean() for tv in (0, 0.3, 1)]
    assert change[0] > 1.2 * change[1] > 1.2 * 1.2 * change[2]


def test_restoration_works_in_inference_mode_and_leaves_the_network_as_it_was(vae, ill):
    vae.zero_grad(set_to_none=True)
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    needs = [parameter.requires_grad for parameter in vae.parameters()]
    restoration = Restoration(vae, steps=5).eval()
    expected = restoration.anomaly_map(ill)
    with torch.inference_mode():
        found = restoration.anomaly_map(ill.clone())
    torch.testing.assert_close(found, expected)
    assert not expected.requires_grad and (expected[ill[:, 0] == 0] == 0).all()
    for name, value in vae.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert [parameter.requires_grad for parameter in vae.parameters()] == needs
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_a_network_made_in_inference_mode_can_restore(ill):
    with torch.inference_mode():
        model = VAE((32, 32), latent=4, channels=(8, 16, 16, 16)).eval()
        found = Restoration(model, steps=3).anomaly_map(ill)
    assert found.std() > 0


def test_the_square_stands_out_and_is_no_higher_than_the_steps_allow(vae, ill, unseen):
    restoration = Restoration(vae, steps=50, tv=0.3).eval()
    anomaly, healthy = restoration.anomaly_map(ill), restoration.anomaly_map(unseen[:6])
    inside = (SQUARE[0], *SQUARE[2:])
    assert (anomaly[inside].mean((1, 2)) > healthy[inside].mean((1, 2))).all()
    assert anomaly[inside].mean() > 2 * healthy[inside].mean()
    plain = Restoration(vae, steps=50, tv=0, through_network=False)
    assert plain.anomaly_map(ill).max() <= 50 * 2e-3 + 1e-6
