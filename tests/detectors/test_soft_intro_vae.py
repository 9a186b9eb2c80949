"""Soft-IntroVAE: both objectives against the paper's formulas, who gets which gradient, and that fakes are pushed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.detectors.base import Detector
from course_lib.detectors.soft_intro_vae import SoftIntroVAE, exponentiate, frozen, group_normalise
from course_lib.detectors.vae import VAE, kl_per_dimension, sample
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (16, 16)
S = 1 / 256
WEIGHTS = {"beta_rec": 2.0, "beta_kl": 0.3, "beta_neg": 40.0, "gamma_r": 0.7}  # all different from 1


def small(**settings) -> SoftIntroVAE:
    torch.manual_seed(0)
    return SoftIntroVAE(SHAPE, **({"latent": 6, "depth": 2, "channels": (4, 8), "warm_up": 0} | settings))


@pytest.fixture
def images(brains) -> Tensor:
    """120 toy brains of 16 x 16."""
    return F.avg_pool2d(brains, 2)


def squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([((a - b) ** 2).sum() for a, b in zip(x, y, strict=True)])  # (B,)


def kl(model: VAE, x: Tensor) -> Tensor:
    return kl_per_dimension(*model.posterior(x)).sum(1)


def gradients(parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return [parameter.grad for parameter in parameters]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- the equations --------------------------------------------------------------------------------------------------


def test_the_exponentiated_elbo_of_hand_made_numbers():
    error, weighted_kl = torch.tensor([0.0, 2.0, 10.0]), torch.tensor([0.0, 3.0, 0.0])
    expected = torch.tensor([1.0, math.exp(-1), math.exp(-2)])
    torch.testing.assert_close(exponentiate(error, weighted_kl, 0.1), expected)


def test_the_exponential_of_a_huge_elbo_and_its_gradient_are_finite():
    nats = torch.tensor([0.0, 1e4, 1e30], requires_grad=True)
    values = exponentiate(nats, nats, 1.0)
    values.sum().backward()
    assert values.tolist() == [1, 0, 0] and nats.grad.tolist() == [-4, 0, 0]
    model = small(beta_neg=1e6)
    with torch.autocast("cpu", torch.bfloat16):
        losses, z, e = model.encoder_losses(torch.full((2, 1, *SHAPE), 1e4))
        losses |= model.decoder_losses(torch.full((2, 1, *SHAPE), 1e4), z, e)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())


def test_the_encoders_loss_is_that_of_the_paper(images):
    model, x = small(**WEIGHTS).double(), images[:5].double()
    torch.manual_seed(3)
    losses, z, e = model.encoder_losses(x)
    torch.manual_seed(3)
    torch.testing.assert_close(z, sample(*model.posterior(x)))
    torch.testing.assert_close(e, torch.randn_like(z))
    r, f = model.decode(z), model.decode(e)
    rr, ff = (model.decode(sample(*model.posterior(fake))) for fake in (r, f))
    real = S * (2.0 * squares(x, r) + 0.3 * kl(model, x)).mean()
    exp_r = (-2 * S * (2.0 * squares(r, rr) + 40.0 * kl(model, r))).exp().mean()
    exp_f = (-2 * S * (2.0 * squares(f, ff) + 40.0 * kl(model, f))).exp().mean()
    torch.testing.assert_close(losses["exp_f"], exp_f / 4)
    torch.testing.assert_close(sum(losses.values()), real + 0.25 * (exp_r + exp_f))
    assert 0.01 < exp_f.item() < 0.99  # the numbers tell something


def test_the_decoders_loss_is_that_of_the_paper(images):
    model, x = small(**WEIGHTS).double(), images[:5].double()
    z, e = torch.randn(2, 5, 6).double()
    torch.manual_seed(3)
    losses = model.decoder_losses(x, z, e)
    torch.manual_seed(3)
    r, f = model.decode(z), model.decode(e)
    rr, ff = (model.decode(sample(*model.posterior(fake))) for fake in (r, f))
    expected = (2.0 * squares(x, r) + 0.5 * 0.3 * (kl(model, r) + kl(model, f))).mean()
    expected = expected + 0.5 * 0.7 * 2.0 * (squares(r, rr) + squares(f, ff)).mean()
    torch.testing.assert_close(sum(losses.values()), S * expected)
    model.gamma_r = 0.0
    assert model.decoder_losses(x, z, e)["again"] == 0


def test_pull_and_push_balance_at_kl_star():
    model = small(beta_kl=0.3, beta_neg=40.0)
    nats = torch.tensor(model.kl_star, dtype=torch.float64, requires_grad=True)
    push = 0.25 * (exponentiate(0.0, 40.0 * nats, S) + exponentiate(0.0, 40.0 * nats, S))  # of r and of f
    push.backward()
    assert nats.grad.item() == pytest.approx(-S * 0.3)
    assert SoftIntroVAE((64, 64), beta_neg=1024).kl_star == pytest.approx(14, abs=0.2)


def test_the_energy_is_the_weighted_negative_elbo_and_the_score(images):
    model, x = small(**WEIGHTS).eval(), images[:5]
    expected = 2.0 * squares(x, model(x)) + 0.3 * kl(model, x)
    torch.testing.assert_close(model.anomaly_score(x), expected)
    torch.testing.assert_close(torch.cat([model.anomaly_score(image[None]) for image in x]), model.anomaly_score(x))


# ---- the gradients --------------------------------------------------------------------------------------------------


def test_the_encoders_loss_moves_the_whole_encoder_and_nothing_else(images):
    model = small(**WEIGHTS)
    losses, z, e = model.encoder_losses(images[:5])
    assert not z.requires_grad and not e.requires_grad
    sum(losses.values()).backward()
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model.encoder_parameters()))
    assert gradients(model.decoder_parameters()) == [None] * len(model.decoder_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())  # thawed


@pytest.mark.parametrize("term", ["reconstruction", "kl_r", "kl_f", "again"])
def test_each_of_the_decoders_terms_moves_the_decoder_and_nothing_else(term, images):
    model = small(**WEIGHTS)
    z = torch.randn(5, 6, requires_grad=True)
    model.decoder_losses(images[:5], z, torch.randn(5, 6))[term].backward()
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model.decoder_parameters()))
    assert gradients(model.encoder_parameters()) == [None] * len(model.encoder_parameters())
    assert z.grad is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_two_lists_hold_every_parameter_once():
    model = small()
    both = [*model.encoder_parameters(), *model.decoder_parameters()]
    assert {id(p) for p in both} == {id(p) for p in model.parameters()} and len(both) == len(list(model.parameters()))


def exp_r_gradient(model: SoftIntroVAE, x: Tensor, *, constant: bool, through_decoder: bool) -> Tensor:
    """By hand: the gradient of exp_r by the encoder's weights."""
    torch.manual_seed(3)
    r = model.decode(sample(*model.posterior(x)))
    torch.randn(5, 6, dtype=x.dtype)  # e
    r = r.detach() if constant else r
    mu, logvar = model.posterior(r)
    codes = sample(mu, logvar)
    rr = model.decode(codes if through_decoder else codes.detach())
    exponent = 2.0 * squares(r, rr) + 40.0 * kl_per_dimension(mu, logvar).sum(1)
    loss = 0.25 * (-2 * S * exponent).exp().mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.encoder_parameters())])


def test_the_fakes_are_constants_of_the_encoders_loss_but_its_gradient_passes_the_decoder(images):
    model, x = small(**WEIGHTS).double(), images[:5].double()
    torch.manual_seed(3)
    losses, _, _ = model.encoder_losses(x)
    found = torch.autograd.grad(losses["exp_r"], model.encoder_parameters())
    found = torch.cat([gradient.flatten() for gradient in found])
    torch.testing.assert_close(found, exp_r_gradient(model, x, constant=True, through_decoder=True))
    for wrong in ({"constant": False, "through_decoder": True}, {"constant": True, "through_decoder": False}):
        assert (found - exp_r_gradient(model, x, **wrong)).norm() > 1e-3 * found.norm()


def test_the_decoder_learns_to_rebuild_fakes_from_constant_codes_to_constant_targets(images):
    model, x = small(**WEIGHTS).double(), images[:5].double()
    z, e = torch.randn(2, 5, 6).double()
    torch.manual_seed(3)
    found = torch.autograd.grad(model.decoder_losses(x, z, e)["again"], model.decoder_parameters())
    torch.manual_seed(3)
    r, f = model.decode(z).detach(), model.decode(e).detach()
    codes_r, codes_f = (sample(*model.posterior(fake)).detach() for fake in (r, f))
    loss = squares(r, model.decode(codes_r)) + squares(f, model.decode(codes_f))
    expected = torch.autograd.grad(S * 0.5 * 0.7 * 2.0 * loss.mean(), model.decoder_parameters())
    torch.testing.assert_close(found, expected)


def test_the_push_on_the_encoder_raises_the_kl_of_fakes_and_the_decoder_lowers_it(images):
    model, x = small(beta_neg=40.0), images[:16]
    sides = (model.encoder_parameters(), model.decoder_parameters())
    encoder, decoder = (torch.optim.SGD(side, lr=0.1) for side in sides)
    losses, z, e = model.encoder_losses(x)
    fakes = model.decode(e).detach()
    before = kl(model, fakes).mean()
    losses["exp_f"].backward()
    encoder.step()
    assert kl(model, fakes).mean() > before
    before = kl(model, model.decode(e)).mean()
    model.decoder_losses(x, z, e)["kl_f"].backward()
    decoder.step()
    assert kl(model, model.decode(e)).mean() < before


def test_frozen_weights_let_gradients_through_and_thaw_after_an_error():
    layer, inputs = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    layer.bias.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(list(layer.parameters())):
        layer(inputs).sum().backward()
        raise RuntimeError
    assert inputs.grad.abs().sum() > 0 and layer.weight.grad is None
    assert layer.weight.requires_grad and not layer.bias.requires_grad  # as they were


# ---- the step -------------------------------------------------------------------------------------------------------


def test_without_the_adversarial_terms_both_kinds_of_step_are_the_vaes(images):
    settings = {"latent": 6, "depth": 2, "channels": (4, 8)}
    ours, updates = small(beta_kl=0.3, adversarial=0.0), small(beta_kl=0.3, adversarial=0.0)
    plain = VAE(SHAPE, beta=0.3, variance=0.5, **settings)
    group_normalise(plain)
    plain.load_state_dict({name: value for name, value in ours.state_dict().items() if name != "step"})
    start = weights(ours)
    steps = (
        (ours, ours.training_step),
        (updates, updates.adversarial_step),
        (plain, lambda *given: Detector.training_step(plain, *given)),
    )
    found = []
    for model, step in steps:
        optimizers = model.configure_optimizers()
        for number in range(3):
            torch.manual_seed(number)
            losses = step(images[:8], optimizers)
        found.append((weights(model), losses["reconstruction"] + losses["kl"]))
    assert (found[0][0] - start).abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_the_decoders_update_uses_the_moved_encoder_and_the_codes_from_before(images, monkeypatch):
    model, x = small(beta_neg=40.0), images[:8]
    first, seen = weights(model.encoder), {}
    original = model.decoder_losses

    def spy(given, z, e):
        seen.update(z=z, e=e, encoder=weights(model.encoder), decoder=weights(model.decoder))
        return original(given, z, e)

    monkeypatch.setattr(model, "decoder_losses", spy)
    torch.manual_seed(3)
    z = sample(*model.posterior(x)).detach()
    e, decoder = torch.randn_like(z), weights(model.decoder)
    torch.manual_seed(3)
    losses = model.adversarial_step(x, model.configure_optimizers())
    assert torch.equal(seen["z"], z) and torch.equal(seen["e"], e)
    assert not torch.equal(seen["encoder"], first) and torch.equal(seen["decoder"], decoder)
    assert not torch.equal(weights(model.decoder), decoder) and torch.equal(weights(model.encoder), seen["encoder"])
    assert not any(loss.requires_grad for loss in losses.values())


def test_no_stale_copy_of_a_moved_weight_is_used_under_autocast(images):
    model, x = small(beta_neg=40.0), images[:8]
    sides = (model.encoder_parameters(), model.decoder_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        model.adversarial_step(x, [torch.optim.SGD(side, lr=1.0) for side in sides])
        within = model.encode(x), model.decode(torch.ones(2, 6))
    with torch.autocast("cpu", torch.bfloat16):
        after = model.encode(x), model.decode(torch.ones(2, 6))
    assert torch.equal(within[0], after[0]) and torch.equal(within[1], after[1])


def test_the_warm_up_ends_on_time_and_is_remembered(images):
    model = small(warm_up=3, beta_neg=40.0)
    history = fit(model, images, steps=6, batch_size=8, progress=False)
    for name in ("exp_r", "exp_f", "kl_r", "kl_f"):
        assert (history[name][:3] == 0).all() and (history[name][3:] > 0).all()
    again = SoftIntroVAE(**model.hyperparameters())
    again.load_state_dict(model.state_dict())
    assert again.step == 6


def test_training_and_evaluation_mode_are_the_same(images):
    model = small()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert torch.equal(model.train()(images[:4]), model.eval()(images[:4]))


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_the_encoder_comes_to_tell_its_own_fakes_from_real_images(images):
    gaps = []
    for adversarial in (0.0, 1.0):
        model = small(beta_kl=0.05, beta_neg=60.0, adversarial=adversarial, warm_up=40)
        fit(model, images, steps=130, batch_size=16, progress=False)
        fakes = model.decode(torch.randn(200, 6, generator=torch.Generator().manual_seed(5)))
        gaps.append((model.kl_score(fakes).mean() - model.kl_score(images).mean()).item())
    assert gaps[0] < 0 < gaps[1]


def test_one_batch_can_be_learned_by_heart(images):
    model, x = small(beta_kl=0.01, beta_neg=60.0, warm_up=40, channels=(8, 16)), images[:4]
    history = fit(model, x, steps=150, batch_size=4, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.1 * x.var()


def test_a_stored_detector_comes_back_with_the_same_scores_and_maps(images, tmp_path):
    options = {"steps": 4, "batch_size": 8, "progress": False, "folder": tmp_path, "fast": True}
    trained, _ = load_or_train(small(beta_neg=40.0, warm_up=2), images, **options)
    loaded, _ = load_or_train(small(beta_neg=40.0, warm_up=2), images, **options)
    assert loaded is not trained and loaded.step == 4
    assert torch.equal(loaded.anomaly_score(images), trained.anomaly_score(images))
    anomaly = trained.anomaly_map(images)
    assert torch.equal(loaded.anomaly_map(images), anomaly)
    assert anomaly.isfinite().all() and (anomaly[images[:, 0] == 0] == 0).all() and anomaly.std() > 0


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beta_neg are above 0, not 1.0, 1.0, 0"):
        small(beta_neg=0)
    with pytest.raises(ValueError, match="warm_up are 0 or more"):
        small(warm_up=-1)
    with pytest.raises(BadInput, match="multiples of 16, not 96 x 90"):
        SoftIntroVAE((96, 90))
    with pytest.raises(ValueError, match="levels 1 to 2"):
        small(depth=3)
