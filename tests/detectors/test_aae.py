"""The adversarial auto-encoder: what each phase moves and means, and that the codes come to look like the prior."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from course_lib.detectors.aae import AAE, ImageDiscriminator, bce, descend
from course_lib.detectors.autoencoder import DenseAE
from course_lib.errors import BadInput
from course_lib.store import load, save
from course_lib.training import fit

SHAPE = (32, 32)
SMALL = (8, 16, 16, 16)
PHASES = ("reconstruction", "discriminator", "regularisation")


def small(**settings) -> AAE:
    torch.manual_seed(0)
    return AAE(SHAPE, **({"latent": 8, "channels": SMALL} | settings))


def moved_by(model, step) -> set[str]:
    """The networks whose every parameter has a gradient other than 0 after `step()`; the others must have none."""
    model.zero_grad(set_to_none=True)
    step()
    reached = {}
    for name, parameter in model.named_parameters():
        has = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        reached.setdefault(name.partition(".")[0], set()).add(has)
    assert all(len(found) == 1 for found in reached.values()), "a network is reached in part"
    return {name for name, found in reached.items() if found == {True}}


def test_each_phase_moves_its_own_networks_and_leaves_the_others_without_a_gradient(brains):
    model, images = small().train(), brains[:8]
    autoencoder, discriminator, encoder = model.configure_optimizers()
    assert moved_by(model, lambda: model.reconstruction_step(images, autoencoder)) == {"encoder", "decoder"}
    assert moved_by(model, lambda: model.discriminator_step(images, discriminator)) == {"D"}
    assert moved_by(model, lambda: model.regularisation_step(images, encoder)) == {"encoder"}


def test_a_step_has_the_phases_in_the_papers_order(brains):
    called = []

    class Spy(AAE):
        def reconstruction_step(self, images, optimizer):
            called.append("reconstruction")
            return super().reconstruction_step(images, optimizer)

        def discriminator_step(self, images, optimizer):
            called.append("discriminator")
            return super().discriminator_step(images, optimizer)

        def regularisation_step(self, images, optimizer):
            called.append("regularisation")
            return super().regularisation_step(images, optimizer)

    model = Spy(SHAPE, channels=SMALL)
    losses = model.training_step(brains[:8], model.configure_optimizers())
    assert tuple(called) == PHASES == tuple(losses)
    assert not any(loss.requires_grad for loss in losses.values())


def test_the_cross_entropy_is_that_of_probabilities_and_stays_finite():
    torch.manual_seed(0)
    logits = torch.randn(9)
    for label in (0, 1):
        reference = F.binary_cross_entropy(logits.sigmoid(), torch.full((9,), float(label)))
        torch.testing.assert_close(bce(logits, label), reference)
    assert bce(torch.tensor([1e4]), 0).item() == 1e4
    assert bce(torch.zeros(2, dtype=torch.bfloat16), 1).dtype == torch.float32


def test_draws_are_real_and_codes_are_fake(brains):
    """The signs of both phases: D's verdict on draws rises and on codes falls; the encoder then raises the latter."""
    model, images = small().train(), brains[:32]
    _, discriminator, encoder = model.configure_optimizers()
    for _ in range(40):
        model.discriminator_step(images, discriminator)
    codes, draws = model.encode(images).detach(), torch.randn(200, 8)
    assert model.D(draws).mean() > 0.5 and model.D(codes).mean() < -0.5
    before = model.D(codes).mean()
    for _ in range(20):
        model.regularisation_step(images, encoder)
    assert model.D(model.encode(images)).mean() > before + 0.1


def test_without_its_third_phase_it_is_the_dense_auto_encoder(brains):
    model, plain = small(regularisation_rate=0.0), DenseAE(SHAPE, latent=8, channels=SMALL)
    parts = {"encoder": [plain.encoder, plain.to_code], "decoder": [plain.from_code, plain.decoder]}
    for name, modules in parts.items():
        values = [value for module in modules for value in module.state_dict().values()]
        own = getattr(model, name).state_dict()
        getattr(model, name).load_state_dict(dict(zip(own, values, strict=True)))
    histories = [fit(detector, brains, steps=5, batch_size=16, progress=False) for detector in (model, plain)]
    expected = torch.tensor(histories[1]["reconstruction"].to_numpy())
    torch.testing.assert_close(torch.tensor(histories[0]["reconstruction"].to_numpy()), expected, rtol=1e-3, atol=1e-5)


def test_the_third_phase_brings_the_codes_nearer_to_the_prior(brains):
    """Codes that start far out: the mean of the batch is pulled in, and further than without the phase."""
    far = {}
    for rate in (0.0, 1e-3):
        model = small(latent=2, regularisation_rate=rate)
        with torch.no_grad():
            model.encoder[-1].bias.fill_(4.0)
        fit(model, brains, steps=80, batch_size=16, progress=False)
        far[rate] = float(model.encode(brains).detach().mean(0).norm())
    assert far[1e-3] < 0.75 * far[0.0]


def test_the_latent_score_is_the_priors_log_density(brains):
    model = small().eval()
    expected = -Normal(0.0, 1.0).log_prob(model.encode(brains)).sum(1)
    torch.testing.assert_close(model.latent_nll(brains), expected.detach())


def test_one_batch_can_be_learned_by_heart(brains):
    model, images = small(), brains[:8]
    history = fit(model, images, steps=60, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.2 * history["reconstruction"].iloc[0]


def test_every_update_under_autocast_uses_the_weights_of_the_one_before(brains):
    """Autocast remembers casts of weights; inside one step that must not happen."""
    steps = {}
    for enabled in (False, True):
        model = small(regularisation_rate=1e-3)
        optimizers = model.configure_optimizers()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = [model.training_step(brains[:16], optimizers) for _ in range(10)]
        steps[enabled] = torch.tensor([[float(loss) for loss in step.values()] for step in losses])
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    torch.testing.assert_close(steps[True], steps[False], rtol=0.1, atol=0.02)


def test_descend_gives_gradients_to_the_optimizers_parameters_alone():
    moving, still = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.5)
    data = torch.randn(5, 3)
    expected = torch.autograd.grad(still(moving(data)).sum(), moving.weight)[0]
    before = moving.weight.detach().clone()
    descend(still(moving(data)).sum(), optimizer)
    torch.testing.assert_close(moving.weight.detach(), before - 0.5 * expected)
    assert all(parameter.grad is None for parameter in still.parameters())


def test_a_verdict_on_an_image_does_not_depend_on_the_others(brains):
    torch.manual_seed(0)
    judge = ImageDiscriminator(SHAPE).train()
    torch.testing.assert_close(judge(brains[:5])[:1], judge(brains[:1]), rtol=1e-4, atol=1e-5)
    assert judge(brains[:5]).shape == (5,)


def test_it_survives_the_store_and_an_interruption(brains, tmp_path):
    budget = {"batch_size": 16, "progress": False}
    whole, resumed = small(), small()
    history = fit(whole, brains, steps=8, **budget)
    fit(small(), brains, steps=5, checkpoint=tmp_path / "c.pt", **budget)
    fit(resumed, brains, steps=8, checkpoint=tmp_path / "c.pt", **budget)
    save(whole, history, tmp_path, {})
    again = small()
    assert isinstance(load(again, tmp_path), pd.DataFrame)
    for other in (resumed, again.eval()):
        torch.testing.assert_close(other.anomaly_map(brains), whole.anomaly_map(brains), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.latent_nll(brains), whole.latent_nll(brains), rtol=1e-4, atol=1e-4)
    assert torch.equal(again.anomaly_score(brains), whole.anomaly_score(brains))


def test_maps_obey_the_contract(brains, unseen):
    model = small()
    fit(model, brains, steps=10, batch_size=16, progress=False)
    anomaly = model.anomaly_map(unseen)
    assert anomaly.shape == (30, *SHAPE) and anomaly.isfinite().all() and (anomaly[unseen[:, 0] == 0] == 0).all()
    torch.testing.assert_close(model.anomaly_map(unseen[:1]), anomaly[:1], rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(model.anomaly_map(unseen), anomaly)


def test_impossible_settings_are_refused():
    with pytest.raises(BadInput, match="multiples of 16, not 96 x 90"):
        AAE((96, 90))
    with pytest.raises(ValueError, match="levels 1 to 4"):
        AAE(SHAPE, depth=5)
    with pytest.raises(ValueError, match="regularisation_rate is -1"):
        AAE(SHAPE, regularisation_rate=-1)
