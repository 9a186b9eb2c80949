"""Glow and its hierarchy: inverses, log-determinants against autograd, likelihoods that sum, and what the ratio is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.distributions import Normal

from course_lib.detectors.glow import (
    BRIGHTEST,
    GREYS,
    ActNorm,
    Coupling,
    Glow,
    InvertibleConvolution,
    Scale,
    log_normal,
)
from course_lib.detectors.glow_hierarchy import (
    PAPER_TEMPERATURE,
    PAPER_WEIGHT,
    GlowHierarchy,
    ellipses,
    general_images,
    shuffle_tiles,
    turn,
)
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (32, 32)
TINY = {"scales": 2, "steps": 2, "hidden": 8}


def small(**settings) -> Glow:
    torch.manual_seed(0)
    return Glow(SHAPE, **(TINY | settings))


def hierarchy(**settings) -> GlowHierarchy:
    torch.manual_seed(0)
    return GlowHierarchy(SHAPE, **(TINY | {"general_steps": 3} | settings))


def stirred(module: nn.Module, by: float = 0.2) -> nn.Module:
    """The module in double precision with every parameter moved away from its start: no zero layer, no rotation."""
    generator = torch.Generator().manual_seed(1)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return module


def true_logdet(function, x: torch.Tensor) -> float:
    """log |det| of the full Jacobian of a map of one image, by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda flat: function(flat.view_as(x)).flatten(), x.flatten())
    return float(torch.linalg.slogdet(jacobian)[1])


# ---- layers ---------------------------------------------------------------------------------------------------------

LAYERS = {
    "actnorm": lambda: ActNorm((4, 1, 1)),
    "prior": lambda: ActNorm((4, 2, 3)),
    "convolution": lambda: InvertibleConvolution(4),
    "coupling": lambda: Coupling(4, 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_inverts_and_its_log_determinant_is_that_of_the_jacobian(name):
    torch.manual_seed(0)
    layer, x = stirred(LAYERS[name]()), torch.randn(3, 4, 2, 3, dtype=torch.float64)
    y, logdet = layer(x)
    torch.testing.assert_close(layer.inverse(y), x, rtol=1e-10, atol=1e-10)
    assert logdet.shape[1:] == (2, 3)
    total = logdet.detach().expand(3, 2, 3).sum((1, 2))
    for i in range(3):
        expected = true_logdet(lambda z: layer(z)[0], x[i : i + 1])
        assert abs(expected) > 0.1 and float(total[i]) == pytest.approx(expected, abs=1e-9)


def test_the_coupling_shifts_before_it_scales_and_leaves_the_first_half():
    layer, x = stirred(Coupling(4, 6)), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    y, a, b = layer(x)[0], x[:, :2], x[:, 2:]
    t, log_scale = layer.shift_and_scale(a)
    assert torch.equal(y[:, :2], a) and (log_scale < 0).all()
    torch.testing.assert_close(y[:, 2:], (b + t) * log_scale.exp())
    fresh = Coupling(4, 6).eval()
    torch.testing.assert_close(fresh(x.float())[0][:, 2:], b.float() * torch.sigmoid(torch.tensor(2.0)))


def test_actnorm_is_set_by_its_first_training_batch_alone():
    torch.manual_seed(0)
    layer, x = ActNorm((3, 1, 1)), 5 + 2 * torch.randn(16, 3, 4, 4) * torch.tensor([0.1, 1, 10])[:, None, None]
    assert torch.equal(layer.eval()(x)[0], x)  # scoring sets nothing
    assert not layer.initialised
    y = layer.train()(x)[0]
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(3))
    before = layer.b.clone(), layer.s.clone()
    layer(x + 100)
    again = ActNorm((3, 1, 1)).train()
    again.load_state_dict(layer.state_dict())
    again(x - 100)
    for actnorm in (layer, again):
        assert torch.equal(actnorm.b, before[0]) and torch.equal(actnorm.s, before[1])


def test_an_actnorm_of_each_number_knows_no_variance_from_a_batch_alone():
    torch.manual_seed(0)
    layer, x = ActNorm((2, 3, 3)).train(), torch.randn(9, 2, 3, 3)
    x[:, :, 0, 0] = 0.25  # a position that never changes in this batch
    y = layer(x)[0]
    torch.testing.assert_close(y.mean(0), torch.zeros(2, 3, 3), rtol=0, atol=1e-5)
    expected = (9 * x.var(0, correction=0) + x.var((0, 2, 3), correction=0)[:, None, None]) / 10
    torch.testing.assert_close((-2 * layer.s).exp(), expected)
    assert layer.s.exp()[:, 0, 0].max() < 10


# ---- the flow -------------------------------------------------------------------------------------------------------


def test_log_p_is_the_normal_of_the_codes_and_the_jacobian_of_the_whole():
    torch.manual_seed(0)
    flow = stirred(Glow((8, 8), scales=2, steps=2, hidden=4, pool=1))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) - 0.5

    def codes(images):
        return torch.cat([z.flatten() for z in flow.encode(images)[0]])

    assert [tuple(z.shape[1:]) for z in flow.encode(x)[0]] == [(2, 4, 4), (8, 2, 2)]
    scales = flow.log_likelihoods(x).detach()
    assert scales.shape == (2, 2)
    for i in range(2):
        image = x[i : i + 1]
        density = Normal(torch.zeros(64, dtype=torch.float64), 1.0).log_prob(codes(image).detach()).sum()
        assert float(scales[i].sum()) == pytest.approx(float(density) + true_logdet(codes, image), abs=1e-8)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_trained_flow_inverts(dtype, limit, brains):
    flow = small(steps=3, scales=3)
    fit(flow, brains, steps=12, batch_size=16, progress=False)
    flow = flow.to(dtype)
    with torch.no_grad():
        x = flow.continuous(brains[:8].to(dtype))
        codes, _ = flow.encode(x)
        assert (flow.decode(codes) - x).abs().max() < limit
        assert (flow.encode(flow.decode(codes))[0][0] - codes[0]).abs().max() < 100 * limit


def test_shares_of_scales_and_of_pixels_sum_to_the_whole(brains):
    flow = stirred(small(scales=3), by=0.05)
    images = brains[:5].double()
    score = flow.anomaly_score(images)
    torch.testing.assert_close(flow.scale_bits(images).sum(1), score)
    torch.testing.assert_close(flow.bits_map(images).mean((1, 2)), score)
    torch.testing.assert_close(flow.last_scale(images), flow.scale_bits(images)[:, 2])
    nats = -flow.log_likelihoods(flow.continuous(images)).sum(1) + 256 * math.log(256)  # 16 x 16 numbers, 8 bits each
    torch.testing.assert_close(score, nats / (256 * math.log(2)))


def test_each_scale_has_its_own_terms_alone(brains):
    """Another prior of the last scale changes nothing in the first scale's share; a first flow's change does."""
    flow = stirred(small(), by=0.05)
    images = brains[:4].double()
    before = flow.scale_bits(images)
    with torch.no_grad():
        flow.flow[1].prior.s += 0.3
    after = flow.scale_bits(images)
    assert torch.equal(before[:, 0], after[:, 0]) and not torch.allclose(before[:, 1], after[:, 1])


def test_a_linear_flow_reaches_the_likelihood_of_a_gaussian():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    data = rng.normal(size=(500, 4)) @ mixing + rng.normal(size=4)
    closed = multivariate_normal(data.mean(0), np.cov(data.T, bias=True)).logpdf(data).mean()
    torch.manual_seed(0)
    layers = nn.ModuleList([ActNorm((4, 1, 1)), InvertibleConvolution(4)]).double()
    x, course = torch.from_numpy(data)[:, :, None, None], []
    optimizer = torch.optim.LBFGS(layers.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        y, nats = x, 0.0
        for layer in layers:
            y, logdet = layer(y)
            nats = nats + logdet
        loss = -(nats + log_normal(y).sum(1)).mean()
        loss.backward()
        course.append(-loss.item())
        return loss

    for _ in range(10):
        optimizer.step(closure)
    assert course[0] < closed - 0.1 and max(course) <= closed + 1e-9
    assert course[-1] == pytest.approx(closed, abs=1e-5)


def test_pixels_of_uniform_grey_values_cost_eight_bits():
    """The flow that does nothing, on x uniform in [-1/2, 1/2): N(x; 0, 1) is all there is."""
    flow = Glow((4, 4), scales=1, steps=1, hidden=2, pool=1).double()
    with torch.no_grad():
        flow.flow[0].layers[1].w.copy_(torch.eye(4))
        flow.flow[0].prior.s.fill_(0.5)
        flow.flow[0].layers[2].last.bias[1::2] = 40.0  # sigmoid = 1
    x = flow.eval().continuous(BRIGHTEST * torch.rand(2000, 1, 4, 4, dtype=torch.float64), 0.5)
    width = torch.tensor(-0.5, dtype=torch.float64).exp()  # the prior's s.d. is exp(-s)
    density = Normal(torch.zeros_like(width), width).log_prob(x).mean()
    assert flow.bits(x).mean().item() == pytest.approx(8 - float(density) / math.log(2), abs=1e-9)


def test_quantisation_is_bounded_and_its_noise_stays_within_a_grey_value():
    torch.manual_seed(0)
    flow = small(pool=1)
    images = BRIGHTEST * torch.rand(4, 1, *SHAPE)
    images[0] = 0
    images[1, :, 0] = 7.0  # brighter than the brightest grey value
    noise = torch.rand_like(images)
    middle, low, top, drawn = (flow.continuous(images, u) for u in (0.5, 0.0, 1 - 1e-4, noise))
    assert (middle[0] == -0.5 + 1 / 512).all()  # empty: the middle of the first value
    assert low.min() == -0.5 and top.max() < 0.5
    assert ((drawn >= low) & (drawn < top + 1e-4 / GREYS)).all()
    inside = images < BRIGHTEST
    assert (middle + 0.5 - images / BRIGHTEST)[inside].abs().max() <= 1 / 512 + 1e-7
    assert torch.equal(flow.continuous(images), middle)  # no chance when scoring
    pooled = small(pool=4).continuous(images)
    assert pooled.shape == (4, 1, 8, 8)


def test_under_autocast_likelihoods_are_float32_and_nearly_the_same(brains):
    flow = small()
    fit(flow, brains, steps=10, batch_size=16, progress=False)
    x = flow.continuous(brains[:8])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        codes, nats = flow.encode(x)
        losses = flow.train().training_losses(brains[:8])
    assert all(z.dtype == n.dtype == torch.float32 for z, n in zip(codes, nats, strict=True))
    assert losses["bits"].dtype == torch.float32
    torch.testing.assert_close(sum(n.sum((1, 2)) for n in nats), flow.log_likelihoods(x).sum(1), rtol=0.02, atol=1)


@pytest.mark.parametrize("make", [small, lambda: hierarchy(general_steps=1)])
def test_gradient_maps_are_finite_differences_and_work_in_inference_mode(make, brains):
    model = stirred(make(), by=0.05)
    flow = model if isinstance(model, Glow) else model.inner
    if flow is not model:
        model.step.fill_(2)
    images = brains[:2].double()
    anomaly = model.gradient_map(images)
    x, step = flow.continuous(images), 1e-6
    moved = x.clone(), x.clone()
    moved[0][:, 0, 8, 7] += step
    moved[1][:, 0, 8, 7] -= step
    score = flow.bits if flow is model else model.ratio
    slope = (score(moved[0]) - score(moved[1])) / (2 * step) / BRIGHTEST  # of a mean over 4 pixels
    torch.testing.assert_close(4 * anomaly[:, 16, 14], slope.abs().detach(), rtol=1e-4, atol=1e-9)
    assert (anomaly[images[:, 0] == 0] == 0).all()
    with torch.inference_mode():
        torch.testing.assert_close(model.gradient_map(images.clone()), anomaly)


def test_gradients_reach_every_parameter_and_one_batch_can_be_learned_by_heart(brains):
    flow, images = small(hidden=16), brains[:8]
    with torch.no_grad():
        for scale in flow.flow:
            for layer in scale.layers:
                if isinstance(layer, Coupling):
                    layer.last.weight.normal_(std=0.01)  # at zero, nothing before it gets a gradient
    flow.train().training_losses(images)["bits"].backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    history = fit(flow, images, steps=100, batch_size=8, progress=False)
    assert history["bits"].iloc[-10:].mean() < history["bits"].iloc[:3].mean() - 0.8
    assert float(flow.anomaly_score(images).mean()) < float(flow.anomaly_score(brains[8:]).mean()) - 0.1


def test_samples_are_images_with_a_brain_in_the_middle(brains):
    flow = small()
    fit(flow, brains, steps=30, batch_size=16, progress=False)
    pictures = flow.sample(8, temperature=0.7, generator=torch.Generator().manual_seed(0))
    assert pictures.shape == (8, 1, *SHAPE) and pictures.min() >= 0 and pictures.max() <= BRIGHTEST
    assert torch.equal(pictures, flow.sample(8, temperature=0.7, generator=torch.Generator().manual_seed(0)))
    assert pictures[:, :, 14:18, 14:18].mean() > pictures[:, :, :2, :2].mean() + 0.2


@pytest.mark.parametrize("make", [small, hierarchy])
def test_a_stored_flow_scores_the_same_and_goes_on_from_its_state(make, brains, tmp_path):
    options = {"steps": 6, "batch_size": 16, "progress": False, "folder": tmp_path}
    trained, _ = load_or_train(make(), brains, **options)
    loaded, _ = load_or_train(make(), brains, **options)
    assert loaded is not trained
    for function in ("anomaly_score", "anomaly_map", "last_scale"):
        assert torch.equal(getattr(trained, function)(brains), getattr(loaded, function)(brains))
    states = [{name: value for name, value in model.named_buffers()} for model in (trained, loaded)]
    assert all(value.all() for name, value in states[1].items() if name.endswith("initialised"))
    assert states[0].keys() == states[1].keys()


def test_killed_and_resumed_in_either_phase_is_as_never_killed(brains, tmp_path):
    straight = hierarchy()
    fit(straight, brains, steps=6, batch_size=8, progress=False)
    for stop in (2, 3, 4):
        model, file = hierarchy(), tmp_path / f"{stop}.pt"
        fit(model, brains, steps=stop, batch_size=8, progress=False, checkpoint=file)
        model = hierarchy()
        fit(model, brains, steps=6, batch_size=8, progress=False, checkpoint=file)
        assert all(
            torch.equal(a, b) for a, b in zip(straight.state_dict().values(), model.state_dict().values(), strict=True)
        )


# ---- the hierarchy of distributions ---------------------------------------------------------------------------------


def test_the_ratio_of_a_flow_with_itself_is_zero(brains):
    model = hierarchy()
    fit(model, brains, steps=4, batch_size=16, progress=False)
    model.inner.load_state_dict(model.general.state_dict())
    assert (model.anomaly_score(brains) == 0).all() and (model.anomaly_map(brains) == 0).all()
    assert (model.scale_ratios(brains) == 0).all()


def test_p_in_starts_as_a_copy_and_p_gen_never_moves_again(brains):
    states = {}
    for steps in (3, 4, 8):
        model = hierarchy(outlier_weight=1.0)
        fit(model, brains, steps=steps, batch_size=8, progress=False)
        states[steps] = model
    parts = [{name: value.clone() for name, value in states[n].general.state_dict().items()} for n in (3, 4, 8)]
    for later in parts[1:]:
        assert all(torch.equal(parts[0][name], later[name]) for name in later)
    ahead = [
        (a - b).abs().max() for a, b in zip(states[4].inner.parameters(), states[4].general.parameters(), strict=True)
    ]
    assert 0 < max(ahead) <= 5.1e-4  # one step of Adam away from the copy


def test_the_outlier_loss_is_the_tempered_cross_entropy_and_moves_p_in_alone(brains):
    model = stirred(hierarchy(outlier_weight=2.0, temperature=0.3), by=0.05).float().train()
    model.step.fill_(3)
    for actnorm in (module for module in model.modules() if isinstance(module, ActNorm)):
        actnorm.initialised.fill_(True)
    torch.manual_seed(5)
    losses = model.training_losses(brains[:8])
    torch.manual_seed(5)
    outliers = model.general_batch(brains[:8])
    x = model.inner.continuous(outliers, torch.rand(8, 1, 16, 16))
    logit = (model.general.bits(x) - model.inner.bits(x)) / 0.3
    expected = nn.functional.binary_cross_entropy_with_logits(logit, torch.zeros(8))
    torch.testing.assert_close(losses["outlier"], 2.0 * expected)
    losses["outlier"].backward()
    assert all(parameter.grad is None for parameter in model.general.parameters())
    assert any(parameter.grad is not None for parameter in model.inner.parameters())


def test_without_a_weight_there_is_no_outlier_term_and_the_paper_s_numbers_are_per_bit(brains):
    model = hierarchy()
    history = fit(model, brains, steps=5, batch_size=8, progress=False)
    assert (history["outlier"] == 0).all()
    assert PAPER_WEIGHT == pytest.approx(2.818, abs=1e-3) and PAPER_TEMPERATURE == pytest.approx(0.4696, abs=1e-4)
    assert PAPER_WEIGHT / PAPER_TEMPERATURE == pytest.approx(6)  # the pull on an outlier, against 1 on a healthy image


@pytest.fixture(scope="module")
def pair():
    """The plain ratio, and the one with the paper's outlier loss, trained alike, once for this module: by weight."""
    models = {}

    def get(brains):
        for weight in () if models else (0.0, PAPER_WEIGHT):
            models[weight] = hierarchy(general_steps=30, outlier_weight=weight)
            fit(models[weight], brains, steps=70, batch_size=8, progress=False)
        return models

    return get


def test_the_outlier_loss_pushes_general_images_away_from_healthy_ones(pair, brains, unseen):
    torch.manual_seed(1)
    general, margin = general_images(unseen), {}
    for weight, model in pair(brains).items():
        margin[weight] = float(model.anomaly_score(general).mean() - model.anomaly_score(unseen).mean())
    assert margin[PAPER_WEIGHT] > margin[0.0] > 0


def test_the_ratio_tells_a_bright_square_from_health_and_blanks_better_than_the_likelihood(pair, brains, unseen):
    model = pair(brains)[0.0]
    ill, blank = unseen.clone(), 0.5 * (unseen > 0)
    ill[:, :, 12:18, 14:20] = 1.3
    ratio, likelihood = (score(blank) - score(unseen) for score in (model.anomaly_score, model.likelihood))
    assert (model.anomaly_score(ill) > model.anomaly_score(unseen)).all()
    assert ratio.mean() > likelihood.mean()  # that smooth images are likely is in both flows, and cancels


def test_far_out_and_empty_images_have_finite_scores_and_maps(pair, brains):
    torch.manual_seed(0)
    noise, bright = torch.rand(1, 1, *SHAPE), torch.full((1, 1, *SHAPE), 9.0)
    images = torch.cat([noise, bright, torch.zeros_like(noise), brains[:1]])
    model = pair(brains)[0.0]
    for scorer in (model, model.inner):
        assert scorer.anomaly_score(images).isfinite().all() and scorer.anomaly_map(images).isfinite().all()
        assert (scorer.anomaly_map(images)[2] == 0).all()
        assert (scorer.anomaly_score(images)[:2] > scorer.anomaly_score(images)[3]).all()
        torch.testing.assert_close(scorer.anomaly_score(images[3:]), scorer.anomaly_score(images)[3:])


def test_general_images_are_drawings_and_shuffled_slices(brains):
    torch.manual_seed(0)
    general = general_images(brains)
    assert general.shape == brains.shape and general.min() >= 0 and general.isfinite().all()
    drawn = ellipses(50, (24, 32))
    assert drawn.shape == (50, 1, 24, 32) and (drawn > 0).float().mean(dim=(1, 2, 3)).min() > 0.02
    for change in (shuffle_tiles, turn):
        changed = change(brains)
        assert torch.equal(changed.flatten(1).sort(1)[0], brains.flatten(1).sort(1)[0])  # the same pixels elsewhere
        assert not torch.equal(changed, brains)
    assert turn(torch.rand(2, 1, 8, 12)).shape == (2, 1, 8, 12)
    tiles = torch.arange(16.0).repeat_interleave(4).view(1, 1, 4, 4, 2, 2).transpose(3, 4).reshape(1, 1, 8, 8)
    whole = (
        shuffle_tiles(tiles).reshape(4, 2, 4, 2).transpose(1, 2).flatten(2)
    )  # (4, 4, 4): each tile stays in one piece
    assert (whole == whole[..., :1]).all()


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused():
    with pytest.raises(BadInput, match="multiples of 16"):
        Glow((96, 90))
    with pytest.raises(ValueError, match="at least 1"):
        Glow(SHAPE, steps=0)
    with pytest.raises(ValueError, match="temperature > 0"):
        GlowHierarchy(SHAPE, temperature=0)
    with pytest.raises(ValueError, match="general_steps >= 1"):
        GlowHierarchy(SHAPE, general_steps=0)
    with pytest.raises(BadInput, match="0 steps were taken, and the first 3"):
        hierarchy().anomaly_score(torch.zeros(1, 1, *SHAPE))
    with pytest.raises(BadInput, match="tiles"):
        shuffle_tiles(torch.zeros(1, 1, 10, 12))


def test_a_scale_halves_the_channels_unless_it_is_the_last():
    for last, kept in ((False, 4), (True, 8)):
        scale = Scale(2, 8, 8, steps=1, hidden=4, last=last).eval()
        z, rest, nats = scale(torch.rand(3, 2, 8, 8))
        assert z.shape == (3, kept, 4, 4) and rest.shape == (3, 8 - kept, 4, 4) and nats.shape == (3, 4, 4)
