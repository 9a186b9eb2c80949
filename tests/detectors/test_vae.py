"""The VAE: its KL against torch's, its bound against probabilistic PCA, its gradients, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Normal, kl_divergence

from course_lib.detectors.vae import VAE, kl_per_dimension, misfit, sample
from course_lib.errors import BadInput
from course_lib.training import fit

SHAPE = (32, 32)
SMALL = (8, 16, 16, 16)
PIXELS, LATENT = (3, 4), 2


def small(**settings) -> VAE:
    torch.manual_seed(0)
    return VAE(SHAPE, **({"latent": 8, "channels": SMALL} | settings))


class LinearVAE(VAE):
    """The same losses around one linear layer down and one up: probabilistic PCA, if the bound is right."""

    def __init__(self, variance: float):
        super().__init__((16, 16), latent=LATENT, variance=variance)
        pixels = PIXELS[0] * PIXELS[1]
        self.encoder, self.decoder = nn.Flatten(), nn.Unflatten(1, (1, *PIXELS))
        self.to_mu, self.to_logvar = nn.Linear(pixels, LATENT), nn.Linear(pixels, LATENT)
        self.from_code = nn.Linear(LATENT, pixels)


def test_the_kl_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mu, logvar = torch.randn(7, 5), torch.randn(7, 5)
    reference = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_per_dimension(mu, logvar), reference)


def test_the_misfit_is_a_gaussian_log_likelihood_without_its_constant():
    torch.manual_seed(0)
    images, rebuilt = torch.randn(4, 1, 5, 6), torch.randn(4, 1, 5, 6)
    density = Normal(rebuilt, 0.3**0.5)
    reference = (density.log_prob(rebuilt) - density.log_prob(images)).sum((1, 2, 3))
    torch.testing.assert_close(misfit(images, rebuilt, 0.3), reference)


def test_samples_have_the_stated_mean_and_width():
    torch.manual_seed(0)
    mu, logvar = torch.full((200_000, 1), 1.5), torch.full((200_000, 1), -2.0)
    codes = sample(mu, logvar)
    assert codes.mean().item() == pytest.approx(1.5, abs=0.01)
    assert codes.std().item() == pytest.approx(np.exp(-1), abs=0.01)


def probabilistic_pca(data: np.ndarray) -> tuple[float, float]:
    """The noise variance and the mean log likelihood of the maximum (Tipping and Bishop 1999, equation 8)."""
    values, vectors = np.linalg.eigh(np.cov(data.T, bias=True))
    variance = values[:-LATENT].mean()
    weights = vectors[:, -LATENT:] * np.sqrt(values[-LATENT:] - variance)
    model = weights @ weights.T + variance * np.eye(len(values))
    return variance, multivariate_normal(data.mean(0), model).logpdf(data).mean()


def test_the_bound_of_a_linear_vae_reaches_probabilistic_pca_and_never_passes_it():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(LATENT, 12)) * [[1.5], [0.8]]
    data = rng.normal(size=(400, LATENT)) @ mixing + 0.3 * rng.normal(size=(400, 12)) + 0.5
    variance, closed = probabilistic_pca(data)
    assert closed == pytest.approx(PCA(LATENT).fit(data).score(data), abs=0.01)  # scikit-learn divides by n - 1

    torch.manual_seed(0)
    model = LinearVAE(variance).double()
    images = torch.from_numpy(data).view(400, 1, *PIXELS)
    # For a linear decoder the mean over these points is the exact mean over the normal noise (a cubature rule).
    points = torch.cat([torch.eye(LATENT), -torch.eye(LATENT)]).double() * LATENT**0.5

    def bound():
        return torch.stack([model.elbo(images, point.expand(400, LATENT)) for point in points]).mean()

    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    course = []

    def closure():
        optimizer.zero_grad()
        loss = -bound()
        loss.backward()
        course.append(-loss.item())
        return loss

    for _ in range(40):
        optimizer.step(closure)
    assert max(course) <= closed + 1e-9
    assert course[0] < closed - 1
    assert course[-1] == pytest.approx(closed, abs=2e-3)


def test_the_losses_are_the_negative_elbo_in_other_units():
    model = small(beta=3.0).eval()
    images = torch.rand(4, 1, *SHAPE)
    torch.manual_seed(1)
    losses = model.training_losses(images)
    torch.manual_seed(1)
    noise = torch.randn(4, 8)
    kl = model.kl_score(images).mean()
    constant = 0.5 * 1024 * np.log(2 * np.pi * model.variance)
    nats = -model.elbo(images, noise).mean() - constant + 2 * kl  # the bound has beta = 1
    torch.testing.assert_close(sum(losses.values()) * 1024 / (2 * model.variance), nats, rtol=1e-4, atol=1e-2)
    rebuilt = model.decode(sample(*model.posterior(images), noise))
    torch.testing.assert_close(losses["reconstruction"], (images - rebuilt).square().mean())


def test_the_kl_is_float32_under_autocast_and_the_log_variance_bounded():
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        mu, logvar = model.posterior(torch.full((2, 1, *SHAPE), 1e4))
        losses = model.training_losses(torch.rand(2, 1, *SHAPE))
    assert mu.dtype == logvar.dtype == losses["kl"].dtype == torch.float32
    nn.init.constant_(model.to_logvar.bias, 1e3)
    assert model.posterior(torch.rand(2, 1, *SHAPE))[1].max() == 5


def test_a_heavy_kl_empties_the_code_and_a_light_one_does_not(brains):
    light, heavy = small(beta=1.0), small(beta=1e4)
    for model in (light, heavy):
        fit(model, brains, steps=150, batch_size=16, progress=False)
    assert heavy.active_units(brains) == 0 < light.active_units(brains)
    torch.testing.assert_close(light.code_nats(brains).sum(), light.kl_score(brains).mean())
    assert heavy(brains).std(0).mean() < 0.3 * light(brains).std(0).mean()  # one image for all


@pytest.mark.parametrize("of", ["kl", "elbo"])
def test_gradient_maps_are_finite_differences(of, brains):
    model = small().double().eval()
    images = brains[:2].double()
    anomaly = model.gradient_map(images, of)
    row, column, step = 16, 14, 1e-5
    moved = images.clone(), images.clone()
    moved[0][:, 0, row, column] += step
    moved[1][:, 0, row, column] -= step
    nats = [(model.elbo(x) if of == "elbo" else model.kl_score(x)).detach() for x in moved]
    expected = ((nats[0] - nats[1]) / (2 * step)).abs()
    torch.testing.assert_close(anomaly[:, row, column], expected, rtol=1e-2, atol=1e-3)
    assert (anomaly[images[:, 0] == 0] == 0).all()


def test_gradient_maps_work_in_inference_mode_even_on_weights_made_there(brains):
    expected = small().eval().gradient_map(brains[:2])
    with torch.inference_mode():
        torch.testing.assert_close(small().eval().gradient_map(brains[:2].clone()), expected)
    with pytest.raises(ValueError, match="'kl' or 'elbo'"):
        small().gradient_map(brains[:2], of="residual")


def test_the_scores_tell_a_bright_square_from_health(brains, unseen):
    model = small()
    fit(model, brains, steps=150, batch_size=16, progress=False)
    ill = unseen.clone()
    ill[:, :, 12:18, 14:20] = 1.3
    assert (model.negative_elbo(ill) > model.negative_elbo(unseen)).all()
    assert (
        model.anomaly_map(ill)[:, 12:18, 14:20].mean() > 2 * model.anomaly_map(unseen)[:, 12:18, 14:20].mean()
    ).all()
    torch.testing.assert_close(model.anomaly_map(ill), model.anomaly_map(ill), rtol=0, atol=0)  # mu: no chance in it


def test_gradients_reach_every_parameter_and_one_batch_can_be_learned_by_heart(brains):
    model, images = small(beta=0.01), brains[:8]
    sum(model.training_losses(images).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    history = fit(model, images, steps=250, batch_size=8, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.1 * images.var()


def test_impossible_shapes_are_refused():
    with pytest.raises(BadInput, match="multiples of 16, not 96 x 90"):
        VAE((96, 90))
    with pytest.raises(ValueError, match="levels 1 to 4"):
        VAE(SHAPE, depth=5)
