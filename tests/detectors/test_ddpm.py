"""The diffusion model: its algebra against Bayes by hand, its samplers on a known distribution, its training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from course_lib.detectors.ddpm import DDPM, TimeUNet, alpha_bars, embed
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (32, 32)
MU, SD = 0.3, 0.4  # of the toy's pixels


def small(**options) -> DDPM:
    torch.manual_seed(0)
    return DDPM(SHAPE, **{"widths": (16, 24, 32), **options})


def toy(T: int = 1000, **options) -> DDPM:
    """A model of pixels that are N(MU, SD^2) each, with the best network there is, in double precision."""
    model = small(pool=1, t_max=T, T=T, **options).eval()

    def best(x_t: Tensor, t: int) -> Tensor:
        a = float(model.alpha_bar[t])
        return math.sqrt(1 - a) * (x_t - math.sqrt(a) * MU) / (a * SD**2 + 1 - a)  # E[n | x_t]

    model.epsilon = best
    return model


# ---- the schedule and the forward process ---------------------------------------------------------------------------


def test_the_table_of_alpha_bar_is_the_product_of_linear_betas():
    table = alpha_bars(1000)
    expected = [1.0]
    for beta in np.linspace(1e-4, 0.02, 1000):
        expected.append(expected[-1] * (1 - beta))
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-12)
    assert len(table) == 1001 and table.dtype == torch.float64
    assert table[1].item() == pytest.approx(0.9999) and table[1000].item() == pytest.approx(4.04e-5, rel=0.01)
    assert torch.equal(small(t_max=50, t0=20).alpha_bar, table)  # what is trained does not change what t means


@pytest.mark.parametrize("noise", ["gaussian", "coarse"])
def test_x_t_has_the_stated_mean_and_variance(noise):
    model = small(noise=noise)
    x = torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
    for t in (1, 50, 200, 400):
        noisy = model.add_noise(x.expand(2000, -1, -1, -1), t, model.draw((2000, 1, 16, 16)))
        a = model.alpha_bar[t].item()
        residual = noisy - math.sqrt(a) * x
        assert residual.mean().abs() < 0.01
        assert residual.square().mean().item() == pytest.approx(1 - a, rel=0.02)
        if noise == "coarse":  # within each image
            power = residual.square().mean((1, 2, 3))
            torch.testing.assert_close(power, torch.full((2000,), 1 - a), rtol=1e-3, atol=1e-5)


def test_each_image_of_a_batch_has_its_own_t():
    model = small()
    x, noise = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    together = model.add_noise(x, torch.tensor([1, 100, 400]), noise)
    for k, t in enumerate((1, 100, 400)):
        torch.testing.assert_close(together[k : k + 1], model.add_noise(x[k : k + 1], t, noise[k : k + 1]))


def test_noise_in_two_strides_is_noise_in_one():
    """q(x_t | x_s) after q(x_s | x_0) has mean and variance of q(x_t | x_0)."""
    model, x = small(), torch.full((20000, 1, 2, 2), 0.7)
    half = model.add_noise(x, 100, torch.randn_like(x))
    whole = model.add_noise(half, 300, torch.randn_like(x), start=100)
    a = model.alpha_bar[300].item()
    assert whole.mean().item() == pytest.approx(0.7 * math.sqrt(a), abs=0.01)
    assert whole.var().item() == pytest.approx(1 - a, rel=0.02)


# ---- the reverse process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(1, 0), (2, 1), (200, 199), (200, 150), (400, 0)])
def test_the_posterior_is_that_of_bayes_by_hand(t, s):
    """log q(x_t | x_s) + log q(x_s | x_0), on a fine grid of x_s, normalised: its mean and variance."""
    model = small()
    abar_t, abar_s = model.alpha_bar[t].item(), model.alpha_bar[s].item()
    x_0, x_t = 0.35, -0.2
    mean, variance = model.posterior(
        torch.tensor(x_t, dtype=torch.float64), torch.tensor(x_0, dtype=torch.float64), t, s
    )
    if s == 0:
        assert mean.item() == pytest.approx(x_0, abs=1e-9) and variance == pytest.approx(0, abs=1e-12)
        return
    a = abar_t / abar_s
    grid = np.linspace(mean.item() - 8 * math.sqrt(variance), mean.item() + 8 * math.sqrt(variance), 20001)
    log_p = -((x_t - math.sqrt(a) * grid) ** 2) / (2 * (1 - a))
    log_p -= (grid - math.sqrt(abar_s) * x_0) ** 2 / (2 * (1 - abar_s))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    found = (p * grid).sum()
    assert mean.item() == pytest.approx(found, abs=1e-9)
    assert variance == pytest.approx((p * (grid - found) ** 2).sum(), rel=1e-6)


def test_the_ancestral_step_is_the_papers_formula():
    model = toy()
    x_t, t = torch.randn(4, 1, 4, 4).double(), 150
    beta = 1 - (model.alpha_bar[t] / model.alpha_bar[t - 1]).item()
    a = model.alpha_bar[t].item()
    epsilon = model.epsilon(x_t, t)
    paper = (x_t - beta / math.sqrt(1 - a) * epsilon) / math.sqrt(1 - beta)
    torch.testing.assert_close(model.ancestral_step(x_t, t, t - 1, torch.zeros_like(x_t)), paper)


def test_the_reverse_chain_gives_the_distribution_of_the_data():
    model = toy()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40000, 1, 1, 1, generator=generator).double()
    for t in range(1000, 0, -1):
        x = model.ancestral_step(x, t, t - 1, torch.randn(x.shape, generator=generator).double())
    assert x.mean().item() == pytest.approx(MU, abs=0.01)
    assert x.std().item() == pytest.approx(SD, rel=0.02)


def test_from_t0_the_reverse_chain_has_the_posterior_of_the_data_given_x_t0():
    """Mean and variance of N(MU, SD^2) given x_t0, by hand."""
    model, t0 = toy(), 200
    a = model.alpha_bar[t0].item()
    generator = torch.Generator().manual_seed(0)
    x = torch.full((20000, 1, 1, 1), 0.9).double()  # x_t0, one value
    for t in range(t0, 0, -1):
        x = model.ancestral_step(x, t, t - 1, torch.randn(x.shape, generator=generator).double())
    precision = 1 / SD**2 + a / (1 - a)
    assert x.mean().item() == pytest.approx((MU / SD**2 + math.sqrt(a) * 0.9 / (1 - a)) / precision, abs=0.01)
    assert x.std().item() == pytest.approx(precision**-0.5, rel=0.03)


def test_the_ddim_path_is_deterministic_and_keeps_the_distribution():
    model = toy(sampler_steps=1000)
    x = torch.randn(1000, 1, 2, 2).double()
    x_hat = model.denoise(x, 1000)
    assert torch.equal(x_hat, model.denoise(x, 1000))
    torch.testing.assert_close(x_hat, MU + SD * x, rtol=0, atol=0.03)  # the flow of a Gaussian is linear


def test_with_the_true_noise_ddim_walks_the_path_back_exactly():
    model = small(pool=1, sampler_steps=400).eval()
    x, noise = torch.rand(3, 1, 8, 8).double(), torch.randn(3, 1, 8, 8).double()
    model.epsilon = lambda x_t, t: noise
    for t0, calls in ((400, 400), (100, 400), (400, 10), (7, 10)):
        model.sampler_steps = calls
        torch.testing.assert_close(model.denoise(model.add_noise(x, t0, noise), t0), x, rtol=0, atol=1e-10)
    x_t = model.add_noise(x, 300, noise)
    torch.testing.assert_close(model.deterministic_step(x_t, 300, 120), model.add_noise(x, 120, noise))


def test_the_stops_of_the_sampler():
    model = small(sampler_steps=10)
    assert model.times(200) == list(range(200, -1, -20))
    assert model.times(4) == [4, 3, 2, 1, 0]
    assert model.times(0) == [0]
    assert model.times(55)[0] == 55 and len(model.times(55)) == 11


def test_the_embedding_tells_all_steps_apart():
    codes = embed(torch.arange(1, 401))
    assert codes.shape == (400, 64)
    distances = torch.cdist(codes, codes) + 10 * torch.eye(400)
    assert distances.min() > 0.3


# ---- images in, maps out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [1, 2])
def test_t0_of_0_returns_the_image(pool, brains):
    model = small(pool=pool, widths=(16, 24)).eval()
    assert torch.equal(model.pseudo_healthy(brains[:4], t0=0), brains[:4])
    assert (model.anomaly_map(brains[:4], t0=0) == 0).all()


@pytest.mark.parametrize("noise", ["gaussian", "coarse"])
def test_one_image_is_a_row_of_a_batch_and_calls_repeat(noise, brains):
    model = small(noise=noise).eval()
    state = torch.get_rng_state()
    together = model.anomaly_map(brains[:6])
    assert torch.equal(together, model.anomaly_map(brains[:6]))
    assert torch.equal(torch.get_rng_state(), state)  # no global random number was used
    alone = torch.cat([model.anomaly_map(image[None]) for image in brains[:6]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_maps_are_the_change_in_the_brain_and_zero_outside(brains):
    model = small().eval()
    images = brains[:6]
    anomaly, healthy = model.anomaly_map(images), model.pseudo_healthy(images)
    torch.testing.assert_close((images - healthy).abs()[:, 0], anomaly)
    assert (healthy[images == 0] == 0).all() and (anomaly[images[:, 0] == 0] == 0).all() and anomaly.std() > 0
    x = model.shrink(images)
    torch.testing.assert_close(x, 2 * torch.nn.functional.avg_pool2d(images, 2) - 1)
    change = torch.nn.functional.interpolate(model.restore(x) - x, scale_factor=2.0, mode="bilinear") / 2
    torch.testing.assert_close(model.change(images), change * (images > 0))


def test_another_t0_needs_no_other_network(brains):
    model = small(t0=100).eval()
    other = model.at(300)
    assert (model.t0, other.t0) == (100, 300)
    assert other.average is model.average and other.hyperparameters() == {**model.hyperparameters(), "t0": 300}
    assert torch.equal(other.anomaly_map(brains[:3]), model.anomaly_map(brains[:3], t0=300))
    assert not torch.equal(other.anomaly_map(brains[:3]), model.anomaly_map(brains[:3]))
    with pytest.raises(ValueError, match="trained for t of 0 to 400, and t0 is 500"):
        model.at(500)
    with pytest.raises(ValueError, match="t0 is 401"):
        model.anomaly_map(brains[:3], t0=401)


def test_two_trainings_have_two_noise_fields():
    a, b = (DDPM(SHAPE, widths=(16, 24)) for _ in range(2))
    x = torch.zeros(1, 1, 16, 16)
    assert not torch.equal(a.test_noise(x, 0), b.test_noise(x, 0))
    assert not torch.equal(a.test_noise(x, 0), a.test_noise(x, 1))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.test_noise(x, 0), b.test_noise(x, 0))


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_network_keeps_shapes_and_is_told_the_time():
    for patch in (1, 2, 4):
        network = TimeUNet((8, 16), patch)
        x = torch.randn(2, 1, 16, 16)
        assert network(x, torch.tensor([5, 5])).shape == x.shape
        assert not torch.allclose(network(x, torch.tensor([5, 5])), network(x, torch.tensor([5, 300])))


def test_the_loss_of_a_network_that_says_nothing_is_1_and_t_reaches_both_ends(brains):
    model, seen = small(t_max=3, t0=1), []
    model.network.forward = lambda x_t, t: (seen.append(t), torch.zeros_like(x_t))[1]
    losses = [model.training_losses(brains[:64])["noise"].item() for _ in range(5)]
    assert np.mean(losses) == pytest.approx(1, abs=0.02)
    assert set(torch.cat(seen).tolist()) == {1, 2, 3}


def test_the_average_follows_the_weights_and_is_what_evaluation_uses(brains):
    model = small(ema=0.9)
    expected = {name: value.clone() for name, value in model.network.state_dict().items()}
    optimizers = model.configure_optimizers()
    for k in range(1, 6):
        model.training_step(brains[:8], optimizers)
        decay = min(0.9, (1 + k) / (10 + k))
        for name, value in model.network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in model.average.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert model.updates == 5 and {f"average.{name}" for name in expected} <= model.state_dict().keys()
    assert not any(p.requires_grad for p in model.average.parameters())
    trained = {p for group in optimizers[0].param_groups for p in group["params"]}
    assert trained == set(model.network.parameters())
    x_t, model_eval = torch.randn(2, 1, 16, 16), model.eval()
    assert torch.equal(model_eval.epsilon(x_t, 7), model.average(x_t, torch.tensor([7, 7])))
    assert torch.equal(model.train().epsilon(x_t, 7), model.network(x_t, torch.tensor([7, 7])))


@pytest.mark.parametrize("noise", ["gaussian", "coarse"])
def test_one_batch_can_be_learned_by_heart(noise, brains):
    model = small(noise=noise)
    history = fit(model, brains[:4], steps=250, batch_size=4, progress=False)
    assert history["noise"].tail(40).mean() < (0.35 if noise == "gaussian" else 0.25) * history["noise"].iloc[0]


def test_trained_on_healthy_brains_it_paints_a_square_away(brains, unseen):
    model = small()
    fit(model, brains, steps=300, batch_size=16, progress=False)
    ill = unseen.clone()
    ill[:, :, 12:18, 14:20] = 1.2
    healed = model.pseudo_healthy(ill)
    inside = (slice(None), slice(None), slice(12, 18), slice(14, 20))
    before, after = (ill - unseen)[inside].abs().mean(), (healed - unseen)[inside].abs().mean()
    assert after < 0.6 * before
    less = (model.pseudo_healthy(ill, t0=20) - unseen)[inside].abs().mean()
    assert less > 1.2 * after  # with little noise it stays
    errors = [model.anomaly_map(unseen, t0=t0)[unseen[:, 0] > 0].mean() for t0 in (20, 100, 300)]
    assert errors[0] < errors[1] < errors[2]  # and with much the healthy tissue goes


def test_a_training_that_was_interrupted_ends_with_the_same_bits(brains, tmp_path):
    models = [small(noise="coarse") for _ in range(2)]
    options = {"batch_size": 8, "progress": False}
    fit(models[0], brains, steps=9, **options)
    fit(models[1], brains, steps=4, checkpoint=tmp_path / "c", **options)
    resumed = small(noise="coarse", ema=0.99)
    fit(resumed, brains, steps=9, checkpoint=tmp_path / "c", **options)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_stored_model_comes_back_with_the_same_maps(brains, tmp_path):
    options = {"steps": 4, "batch_size": 8, "progress": False, "folder": tmp_path}
    trained, _ = load_or_train(small(), brains, **options)
    loaded, _ = load_or_train(small(), brains, **options)
    assert loaded is not trained and loaded.updates == 4 and loaded.key == trained.key
    assert torch.equal(loaded.anomaly_map(brains[:5]), trained.anomaly_map(brains[:5]))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="noise is one of"):
        small(noise="pink")
    with pytest.raises(ValueError, match="t0 <= t_max"):
        small(t0=500)
    with pytest.raises(ValueError, match="1, 2 or 4"):
        small(patch=3)
    with pytest.raises(BadInput, match="multiples of 16, not 96 x 90"):
        DDPM((96, 90))
