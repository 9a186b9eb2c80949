"""GPND: its likelihood against exact Gaussians, its parts against other libraries, and what each update moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi, gaussian_kde, gennorm, multivariate_normal
from torch import nn
from torch.distributions import Normal

from course_lib.detectors.aae import bce
from course_lib.detectors.gpnd import (
    GPND,
    fit_generalised_gaussian,
    jacobian,
    log_generalised_gaussian,
    log_volume,
    residual_norm,
    scott,
)
from course_lib.errors import BadInput
from course_lib.store import load, save
from course_lib.training import fit

SHAPE = (32, 32)
SMALL = (8, 16, 16, 16)
PIXELS, LATENT, SIGMA = (4, 5), 3, 0.3
PHASES = {"adversarial": 6, "sample": 40}


def small(**settings) -> GPND:
    torch.manual_seed(0)
    return GPND(SHAPE, **({"latent": 4, "channels": SMALL} | PHASES | settings))


@pytest.fixture(scope="module")
def trained():
    """A detector with 9 steps behind it: 6 of training, and 3 batches of 16 for a sample of 40."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, *SHAPE, generator=generator) * (torch.linspace(-1, 1, 32).abs() < 0.8)
    detector = small()
    history = fit(detector, images, steps=9, batch_size=16, progress=False)
    return detector, images, history


class Linear(GPND):
    """f(z) = A z + b with the pseudo-inverse for g, codes from N(0, I), and noise N(0, SIGMA^2) across the manifold."""

    def __init__(self, weights: np.ndarray, offset: np.ndarray):
        super().__init__((16, 16), latent=LATENT, sample=2)
        inverse, down, up = np.linalg.pinv(weights), nn.Linear(20, LATENT), nn.Linear(LATENT, 20)
        self.g, self.f = nn.Sequential(nn.Flatten(), down), nn.Sequential(up, nn.Unflatten(1, (1, *PIXELS)))
        self.double()
        for layer, matrix, shift in ((down, inverse, -inverse @ offset), (up, weights, offset)):
            layer.weight.data, layer.bias.data = torch.from_numpy(matrix), torch.from_numpy(shift)
        self.beta.fill_(2.0), self.scale.fill_(math.sqrt(2)), self.seen.fill_(2)

    def log_p_norm(self, r):
        return torch.from_numpy(chi(20 - LATENT, scale=SIGMA).logpdf(r.numpy()))  # exact, in place of the kernels


def linear_case(orthogonal: bool):
    """A, b, the exact Gaussian of x, and images: 30 that follow it and 10 that are far away."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(20, LATENT)) * [0.5, 1.0, 2.0]  # A, neither orthogonal nor of one length
    if orthogonal:
        weights = 0.7 * np.linalg.qr(weights)[0]
    offset = rng.normal(size=20)
    across = np.eye(20) - weights @ np.linalg.pinv(weights)
    exact = multivariate_normal(offset, weights @ weights.T + SIGMA**2 * across)
    data = np.concatenate([exact.rvs(30, random_state=1), offset + 3 * rng.normal(size=(10, 20))])
    return weights, offset, exact.logpdf(data), torch.from_numpy(data).view(-1, 1, *PIXELS)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_for_a_linear_decoder_it_is_the_exact_gaussian(orthogonal):
    weights, offset, expected, images = linear_case(orthogonal)
    model = Linear(weights, offset)
    np.testing.assert_allclose(model.log_density(images), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.anomaly_score(images), -expected, rtol=0, atol=1e-6)
    volume = -np.log(np.linalg.svd(weights)[1]).sum()
    np.testing.assert_allclose(model.terms(images)["volume"], volume, atol=1e-9)


def test_the_fitted_densities_come_near_the_exact_ones():
    """With codes and distances of 4000 images in place of the truth: a few tenths of a nat."""
    weights, offset, expected, images = linear_case(orthogonal=True)
    rng = np.random.default_rng(2)
    across = np.eye(20) - weights @ np.linalg.pinv(weights)
    data = offset + rng.normal(size=(4000, LATENT)) @ weights.T + SIGMA * rng.normal(size=(4000, 20)) @ across
    model = Linear(weights, offset)
    model.sample, model.codes, model.norms = 4000, torch.zeros(4000, LATENT).double(), torch.zeros(4000).double()
    model.seen.zero_()
    for part in torch.from_numpy(data).view(-1, 1, *PIXELS).split(1000):
        model.collect(part)
    model.log_p_norm = lambda r: GPND.log_p_norm(model, r)  # the kernels
    error = model.log_density(images).numpy()[:30] - expected[:30]
    assert np.abs(error).max() < 0.6 and np.abs(error).mean() < 0.15


def test_the_jacobian_is_that_of_backward_mode_in_double_precision():
    model = small().double().eval()
    codes = torch.randn(2, 4, dtype=torch.float64)
    for batch in (codes, codes[:1]):
        columns = jacobian(model.decode, batch)  # (B, m, n)
        for code, own in zip(batch, columns, strict=True):
            reference = torch.autograd.functional.jacobian(lambda z: model.decode(z[None]).flatten(), code)
            torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-12)
            singular = torch.linalg.svdvals(reference)
            torch.testing.assert_close(log_volume(own[None])[0], singular.log().sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", [0.8, 1.0, 2.0, 5.0])
def test_the_generalised_gaussian_is_scipys(beta):
    values = gennorm(beta, loc=0.4, scale=1.7).rvs(4000, random_state=0)
    fitted = fit_generalised_gaussian(values)
    np.testing.assert_allclose(fitted[0], beta, rtol=0.15)
    np.testing.assert_allclose(fitted[1:], [0.4, 1.7], atol=0.1)
    assert gennorm.logpdf(values, *fitted).sum() >= gennorm.logpdf(values, beta, 0.4, 1.7).sum()
    ours = log_generalised_gaussian(torch.from_numpy(values), *torch.tensor(fitted, dtype=torch.float64))
    np.testing.assert_allclose(ours, gennorm.logpdf(values, *fitted), rtol=1e-9)


def test_codes_that_fill_a_box_get_no_infinite_verdict_and_constant_ones_are_refused():
    beta, loc, scale = fit_generalised_gaussian(np.random.default_rng(0).uniform(-1, 1, 500))
    assert beta == 8 and abs(loc) < 0.1 and scale == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="0.25 for every image: the encoder has collapsed"):
        fit_generalised_gaussian(np.full(50, 0.25))


def test_the_density_of_distances_is_scipys_kernel_estimate():
    model = small()
    model.norms.copy_(torch.rand(40) + 2)
    model.bandwidth.copy_(scott(model.norms))
    r = torch.linspace(1.8, 3.2, 9).double()
    np.testing.assert_allclose(model.log_p_norm(r), gaussian_kde(model.norms.numpy()).logpdf(r.numpy()), rtol=1e-5)
    far = model.log_p_norm(torch.tensor([50.0, 60.0]).double())
    assert far.isfinite().all() and far[0] > far[1]  # no floor, so no ties


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


def test_each_update_moves_its_own_networks_and_leaves_the_others_without_a_gradient(brains):
    model, images = small().train(), brains[:8]
    of_dx, of_f, of_dz, of_both = model.configure_optimizers()
    assert moved_by(model, lambda: model.image_discriminator_step(images, of_dx)) == {"Dx"}
    assert moved_by(model, lambda: model.decoder_step(images, of_f)) == {"f"}
    assert moved_by(model, lambda: model.code_discriminator_step(images, of_dz)) == {"Dz"}
    assert moved_by(model, lambda: model.autoencoder_step(images, of_both)) == {"f", "g"}


def test_the_adversarial_part_of_the_last_update_reaches_the_encoder_alone(brains):
    model = small().train()
    losses = model._autoencoder_losses(brains[:8])
    parameters = [*model.g.parameters(), *model.f.parameters()]
    gradients = torch.autograd.grad(losses["encoder"], parameters, allow_unused=True)
    count = len(list(model.g.parameters()))
    assert all(gradient is not None for gradient in gradients[:count])
    assert all(gradient is None for gradient in gradients[count:])


def test_the_losses_are_their_formulas(brains):
    model, images = small().eval(), brains[:8]
    codes = model.encode(images)
    squares = torch.stack([((model.decode(z[None])[0] - x) ** 2).sum() for z, x in zip(codes, images, strict=True)])
    optimizer = torch.optim.SGD(model.g.parameters(), lr=1.0)
    before = model.g[-1].bias.detach().clone()
    total = 0.1 * squares.mean() + bce(model.Dz(codes), 1)
    (gradient,) = torch.autograd.grad(total, model.g[-1].bias)
    losses = model.autoencoder_step(images, optimizer)
    torch.testing.assert_close(losses["reconstruction"], squares.detach().mean() / 1024)
    torch.testing.assert_close(model.g[-1].bias.detach(), before - gradient, rtol=1e-4, atol=1e-6)


def test_draws_and_their_images_are_judged_with_the_stated_signs(brains):
    model, images = small().eval(), brains[:8]
    still = torch.optim.SGD([*model.Dx.parameters(), *model.f.parameters(), *model.Dz.parameters()], lr=0.0)

    def found(step):
        torch.manual_seed(1)  # one e for all
        return step(images, still)

    torch.manual_seed(1)
    draws = model._draws(images)
    drawn, codes = model.decode(draws), model.encode(images)
    real, fake = (lambda logits: -logits.sigmoid().log().mean()), (lambda logits: -(1 - logits.sigmoid()).log().mean())
    torch.testing.assert_close(found(model.image_discriminator_step), real(model.Dx(images)) + fake(model.Dx(drawn)))
    torch.testing.assert_close(found(model.decoder_step), real(model.Dx(drawn)))
    torch.testing.assert_close(found(model.code_discriminator_step), real(model.Dz(draws)) + fake(model.Dz(codes)))


def test_the_updates_have_the_order_of_the_authors_code(brains):
    called = []
    names = ("image_discriminator_step", "decoder_step", "code_discriminator_step", "autoencoder_step")
    model = small().train()
    for name in names:

        def spy(images, optimizer, name=name):
            called.append(name)
            return getattr(GPND, name)(model, images, optimizer)

        setattr(model, name, spy)
    losses = model.training_step(brains[:8], model.configure_optimizers())
    assert tuple(called) == names
    expected = ["image_discriminator", "decoder", "code_discriminator", "reconstruction", "encoder"]
    assert list(losses) == expected and not any(loss.requires_grad for loss in losses.values())


def test_after_the_training_nothing_moves_and_the_sample_is_that_of_the_final_weights(trained):
    detector, images, history = trained
    only_trained = small()
    fit(only_trained, images, steps=6, batch_size=16, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), only_trained.parameters(), strict=True))
    statistics = [name for name in detector.state_dict() if "running" in name]
    assert all(torch.equal(detector.state_dict()[name], only_trained.state_dict()[name]) for name in statistics)
    assert int(detector.seen) == 40 and len(history) == 9 and history.notna().all().all()
    distances = torch.cdist(detector.codes, detector.encode(images).detach())  # each is the code of an image
    assert distances.min(1)[0].max() < 1e-4
    for column, *fitted in zip(detector.codes.T, detector.beta, detector.loc, detector.scale, strict=True):
        np.testing.assert_allclose(fitted, fit_generalised_gaussian(column.double().numpy()), rtol=1e-4, atol=1e-5)


def test_without_its_sample_it_has_no_likelihood_and_says_what_to_do(brains):
    detector = small()
    fit(detector, brains, steps=8, batch_size=16, progress=False)
    with pytest.raises(RuntimeError, match="has 32 of the 40 images .* at least 6 steps"):
        detector.anomaly_score(brains)
    assert detector.anomaly_map(brains).isfinite().all()  # the map needs none


def test_the_balance_gives_both_factors_one_spread(trained):
    detector, images, _ = trained
    mul = detector.balance(images)
    terms = detector.terms(images, mul)
    along, across = terms["code"] + terms["volume"], terms["norm"] + terms["sphere"]
    assert float(across.std()) == pytest.approx(float(along.std()), rel=1e-6)
    whole = detector.terms(images)
    assert float((whole["norm"] + whole["sphere"]).std()) > float((whole["code"] + whole["volume"]).std())
    assert 0 < mul < 1


def test_the_full_likelihood_ranks_as_the_distance_alone(brains, unseen):
    """The pitfall that `mul` exists for."""
    detector = small(adversarial=20)
    fit(detector, brains, steps=23, batch_size=16, progress=False)
    r = residual_norm(unseen, detector(unseen).detach())
    rank = [values.argsort().argsort().float() for values in (r, detector.anomaly_score(unseen))]
    assert torch.corrcoef(torch.stack(rank))[0, 1] > 0.99


def test_one_batch_can_be_learned_by_heart(brains):
    model = small(adversarial=40, latent=8)
    history = fit(model, brains[:8], steps=40, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.15 * history["reconstruction"].iloc[0]


def test_it_survives_the_store_and_an_interruption_in_either_phase(trained, tmp_path):
    detector, images, history = trained
    for stop in (4, 7):
        resumed, path = small(), tmp_path / f"{stop}.pt"
        fit(small(), images, steps=stop, batch_size=16, checkpoint=path, progress=False)
        fit(resumed, images, steps=9, batch_size=16, checkpoint=path, progress=False)
        torch.testing.assert_close(resumed.anomaly_score(images), detector.anomaly_score(images), rtol=1e-4, atol=1e-2)
    save(detector, history, tmp_path, {})
    again = small()
    load(again, tmp_path)
    assert torch.equal(again.eval().anomaly_score(images), detector.anomaly_score(images))


def test_scores_obey_the_contract(trained):
    detector, images, _ = trained
    scores, anomaly = detector.anomaly_score(images), detector.anomaly_map(images)
    assert scores.shape == (60,) and scores.isfinite().all() and scores.dtype == torch.float32
    assert torch.equal(scores, detector.anomaly_score(images)) and not scores.requires_grad
    torch.testing.assert_close(detector.anomaly_score(images[:1]), scores[:1], rtol=1e-4, atol=1e-2)
    assert anomaly.isfinite().all() and (anomaly[images[:, 0] == 0] == 0).all()
    with torch.inference_mode():
        torch.testing.assert_close(detector.anomaly_score(images.clone()), scores)
        again = small()
        again.load_state_dict(detector.state_dict())
        torch.testing.assert_close(again.eval().anomaly_score(images), scores)  # of weights made there


def test_it_trains_under_autocast(brains):
    model = small(adversarial=3)
    optimizers = model.train().configure_optimizers()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model.training_step(brains[:16], optimizers) for _ in range(6)]
    assert all(loss.isfinite() and loss.dtype == torch.float32 for step in losses for loss in step.values())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.dim() > 1)
    exact = model.eval().encode(brains[:16]).detach()  # the sample is in full precision, also under autocast
    torch.testing.assert_close(model.codes[:16], exact, rtol=1e-4, atol=1e-5)


def test_draws_come_from_the_standard_normal(brains):
    torch.manual_seed(0)
    draws = small(latent=64)._draws(brains)
    assert abs(float(Normal(0.0, 1.0).cdf(draws).mean()) - 0.5) < 0.02 and abs(float(draws.std()) - 1) < 0.03


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"image_shape": (96, 90)}, BadInput, "multiples of 16, not 96 x 90"),
        ({"depth": 5}, ValueError, "levels 1 to 4"),
        ({"mul": 0.0}, ValueError, "mul is 0.0"),
        ({"weight": -1.0}, ValueError, "weight is -1.0"),
        ({"sample": 1}, ValueError, "sample is 1; it has to be at least 2"),
        ({"adversarial": -1}, ValueError, "adversarial is -1"),
    ],
)
def test_impossible_settings_are_refused(settings, error, text):
    with pytest.raises(error, match=text):
        GPND(**({"image_shape": SHAPE} | settings))
