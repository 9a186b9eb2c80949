"""LSA: the chain rule of its estimator, what the encoder feels of it, and a score that no test image moves."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.detectors.autoencoder import DenseAE
from course_lib.detectors.lsa import LSA, Estimator, MaskedLinear, probability
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (16, 16)
PIXELS = 256


def small(**settings) -> LSA:
    torch.manual_seed(0)
    return LSA(SHAPE, **({"latent": 5, "bins": 10, "hidden": (6, 6), "depth": 2, "channels": (4, 8)} | settings))


def estimator(latent: int = 5, bins: int = 7) -> Estimator:
    torch.manual_seed(0)
    return Estimator(latent, bins, (6, 6))


@pytest.fixture
def images(brains) -> Tensor:
    """120 toy brains of 16 x 16."""
    return F.avg_pool2d(brains, 2)


def parameters_of(model: LSA, part: str) -> list[Tensor]:
    parts = {"encoder": (model.encoder, model.to_code), "decoder": (model.from_code, model.decoder)}
    return [p for module in parts.get(part, (model.estimator,)) for p in module.parameters()]


# ---- the estimator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_a_masked_layer_has_the_weights_of_mask_a_or_b(strict):
    torch.manual_seed(0)
    layer = MaskedLinear(4, 2, 3, strict)
    features = torch.randn(1, 4, 2)
    jacobian = torch.autograd.functional.jacobian(layer, features)[0, :, :, 0]  # (4, 3, 4, 2)
    for i in range(4):
        for j in range(4):
            seen = j < i if strict else j <= i
            assert bool((jacobian[i, :, j] != 0).all()) is seen and bool((jacobian[i, :, j] == 0).all()) is not seen


def test_a_masked_layer_is_the_linear_layer_of_what_it_sees():
    torch.manual_seed(0)
    layer, features = MaskedLinear(3, 2, 4, False), torch.randn(6, 3, 2)
    weight, bias = layer.weight.view(3, 4, 3, 2), layer.bias.view(3, 4)  # [i, channel out, j, channel in]
    for i in range(3):
        expected = bias[i] + torch.einsum("ojc,bjc->bo", weight[i, :, : i + 1], features[:, : i + 1])
        torch.testing.assert_close(layer(features)[:, i], expected)


def test_no_conditional_depends_on_its_own_number_or_a_later_one():
    h, codes = estimator().double(), torch.rand(1, 5).double()
    jacobian = torch.autograd.functional.jacobian(h, codes)[0, :, :, 0]  # (5 positions, 7 bins, 5 numbers)
    size = jacobian.abs().sum(1)  # [i, j]: how much the distribution of z_i depends on z_j
    assert torch.equal(size.triu(), torch.zeros_like(size))  # exact zeros
    assert (size[torch.ones(5, 5, dtype=torch.bool).tril(-1)] > 0).all()


@pytest.mark.parametrize("latent, bins", [(1, 2), (5, 7)])
def test_the_conditionals_are_distributions(latent, bins):
    log_p = estimator(latent, bins)(torch.rand(3, latent))
    assert log_p.shape == (3, latent, bins)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(3, latent))


@pytest.mark.parametrize("soft", [False, True])
def test_the_log_likelihood_is_the_chain_of_conditionals(soft):
    model = small(soft=soft).double()
    codes = torch.rand(1, 5).double()
    bins, chain = 10, 0.0
    for j in range(5):
        known = codes.clone()
        known[:, j:] = torch.rand(5 - j)  # what is not known yet, filled with anything
        p = model.estimator(known)[0, j].exp().tolist()
        place = codes[0, j].item() * bins
        if not soft:
            chain += math.log(p[int(place)])
        else:
            centres = [(b + 0.5) / bins for b in range(bins)]
            above = next((b for b in range(bins) if centres[b] > codes[0, j]), None)
            if above in (0, None):
                chain += math.log(p[0 if above == 0 else bins - 1])
            else:
                share = (codes[0, j].item() - centres[above - 1]) * bins
                chain += math.log((1 - share) * p[above - 1] + share * p[above])
    assert -model.surprise(codes).sum().item() == pytest.approx(chain, rel=1e-9)


def test_the_bin_of_a_code_number_and_the_way_between_two_bins():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    log_p = p.log().expand(1, 7, 4)
    codes = torch.tensor([[0.0, 0.24, 0.26, 0.5, 0.74, 0.999, 1.0]])
    torch.testing.assert_close(probability(codes, log_p, False)[0], p[[0, 0, 1, 2, 2, 3, 3]])
    codes = torch.tensor([[0.0, 0.125, 0.25, 0.375, 0.40625, 0.875, 1.0]])  # centres at 1/8, 3/8, 5/8, 7/8
    expected = torch.tensor([0.1, 0.1, 0.15, 0.2, 0.2125, 0.4, 0.4])
    torch.testing.assert_close(probability(codes, log_p, True)[0], expected)


@pytest.mark.parametrize("soft", [False, True])
def test_an_impossible_code_has_a_finite_surprise(soft):
    model = small(soft=soft)
    with torch.no_grad():
        model.estimator.layers[-1].bias.view(5, 10)[:, 0] = 1e4  # sure of the first bin
    surprise = model.surprise(torch.full((1, 5), 0.75, requires_grad=True))
    surprise.sum().backward()
    torch.testing.assert_close(surprise, torch.full((1, 5), -math.log(2.2e-16)))
    assert all(p.grad.isfinite().all() for p in model.estimator.parameters())


def test_a_known_distribution_is_learnt():
    """z_0 in one of two bins, evenly; z_1 follows it with 0.9; z_2 is the exclusive or of the two, always."""

    def draw(count: int) -> Tensor:
        first = torch.rand(count) < 0.5
        second = first ^ (torch.rand(count) < 0.1)
        return torch.stack([first, second, first ^ second], 1) * 0.5 + 0.25

    torch.manual_seed(0)
    h = Estimator(3, 2, (8, 8))
    optimizer = torch.optim.Adam(h.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        codes = draw(128)
        (-probability(codes, h(codes), False).log().sum(1).mean()).backward()
        optimizer.step()
    codes = draw(4000)
    nll = -probability(codes, h(codes), False).log().mean(0)
    entropy = [math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1), 0.0]
    torch.testing.assert_close(nll, torch.tensor(entropy), rtol=0, atol=0.03)


# ---- what the encoder feels -----------------------------------------------------------------------------------------


def test_the_code_is_pulled_through_the_conditions_alone_unless_it_is_soft():
    codes = torch.rand(4, 5)
    for soft in (False, True):
        leaf = codes.clone().requires_grad_()
        small(soft=soft).surprise(leaf).sum().backward()
        assert (leaf.grad[:, :-1] != 0).all()
        assert bool((leaf.grad[:, -1] == 0).all()) is not soft  # z_4 conditions nothing: only its own value is left


@pytest.mark.parametrize("soft", [False, True])
def test_the_likelihood_moves_encoder_and_estimator_and_not_the_decoder(soft, images):
    model = small(soft=soft)
    model.training_losses(images[:8])["autoregression"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters_of(model, "encoder"))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters_of(model, "estimator"))
    assert all(p.grad is None for p in parameters_of(model, "decoder"))


def test_at_lambda_0_the_encoder_is_that_of_an_auto_encoder_and_the_estimator_still_learns(images):
    model = small(lam=0.0, soft=True)
    model.training_losses(images[:8])["autoregression"].backward()
    assert all(p.grad is None for part in ("encoder", "decoder") for p in parameters_of(model, part))
    assert all(p.grad.abs().sum() > 0 for p in parameters_of(model, "estimator"))


def test_the_losses_are_those_of_the_paper_per_pixel(images):
    model, x = small(lam=0.3).eval().double(), images[:8].double()
    losses = model.training_losses(x)
    rec = torch.stack([((a - b) ** 2).sum() for a, b in zip(x, model(x), strict=True)])
    torch.testing.assert_close(rec, model.reconstruction_error(x))
    torch.testing.assert_close(losses["reconstruction"], rec.mean() / PIXELS)
    torch.testing.assert_close(losses["autoregression"], 0.3 * model.negative_log_likelihood(x).mean() / PIXELS)
    torch.testing.assert_close(losses["reconstruction"], DenseAE.training_losses(model, x)["reconstruction"].double())


def test_the_step_is_that_of_adam_down_the_papers_own_loss(images):
    ours, papers = small(lam=0.3), small(lam=0.3)
    ours.training_step(images[:8], ours.configure_optimizers())
    (256 * sum(papers.training_losses(images[:8]).values())).backward()  # REC + lambda NLL
    torch.optim.Adam(papers.parameters(), lr=1e-3).step()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, papers.get_parameter(name), rtol=0, atol=1e-6, msg=name)


def test_soft_bins_make_the_code_easier_to_predict_than_hard_ones(images):
    nll = {}
    for soft in (False, True):
        model = small(soft=soft)
        fit(model, images, steps=70, batch_size=16, progress=False)
        nll[soft] = model.negative_log_likelihood(images).mean().item()
    assert nll[True] < nll[False] - 1


# ---- the score ------------------------------------------------------------------------------------------------------


def test_the_score_is_two_minus_that_of_the_authors(images):
    model = small().eval()
    healthy, test = images[:100], images[100:]
    assert model.calibrate(healthy) is model
    llk, rec = -model.negative_log_likelihood(healthy), -model.reconstruction_error(healthy)

    def norm(values, of):
        return (values - of.min()) / (of.max() - of.min())

    authors = norm(-model.negative_log_likelihood(test), llk) + norm(-model.reconstruction_error(test), rec)
    torch.testing.assert_close(model.anomaly_score(test), 2 - authors)
    scores = model.anomaly_score(healthy)
    assert scores.min() >= -1e-5 and scores.max() <= 2 + 1e-5


def test_no_scored_image_moves_the_score_of_another(images):
    model = small()
    fit(model, images, steps=20, batch_size=8, progress=False)
    model.calibrate(images[:50])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    together = model.anomaly_score(images[50:70])
    model.anomaly_score(1e3 * images[:5])
    model.training_losses(images[:5])  # in evaluation mode
    alone = torch.cat([model.anomaly_score(image[None]) for image in images[50:70]])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_calibration_leaves_the_mode_and_asks_for_two_images(images):
    model = small().train()
    running = model.encoder[0][0][1].running_mean.clone()
    model.calibrate(images[:70])  # in two parts
    assert model.training and torch.equal(model.encoder[0][0][1].running_mean, running)
    rec = model.eval().reconstruction_error(images[:70])
    torch.testing.assert_close(model.rec_range, torch.stack([rec.min(), rec.max()]))
    with pytest.raises(BadInput, match="2 images or more, not 1"):
        model.calibrate(images[:1])


def test_without_calibration_the_ranges_follow_the_training_batches(images):
    model = small()
    lows = []
    for start in range(0, 24, 8):
        batch = images[start : start + 8]
        codes = model.encode(batch)
        lows.append((model.decode(codes) - batch).square().sum((1, 2, 3)).min().item())
        model.training_losses(batch)
    assert model.rec_range[0].item() == pytest.approx(sum(lows) / 3, rel=1e-4)  # a plain mean at first
    for _ in range(60):
        model.training_losses(images[:8])
    lowest, highest = model.rec_range.tolist()
    rec = (model(images[:8]) - images[:8]).square().sum((1, 2, 3))
    assert lowest == pytest.approx(rec.min().item(), rel=0.01) and highest == pytest.approx(rec.max().item(), rel=0.01)


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_the_code_is_float32_between_0_and_1_under_autocast(images):
    model = small(soft=True)
    with torch.autocast("cpu", torch.bfloat16):
        codes = model.encode(100 * images[:4])
        losses = model.training_losses(images[:4])
    assert codes.dtype == torch.float32 and codes.min() >= 0 and codes.max() <= 1
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("soft", [False, True])
def test_one_batch_can_be_learned_by_heart(soft, images):
    model, x = small(lam=0.1, soft=soft, latent=8, channels=(8, 16)), images[:4]
    history = fit(model, x, steps=200, batch_size=4, progress=False)
    assert history["reconstruction"].iloc[-1] < 0.1 * x.var()
    assert history["autoregression"].iloc[-1] < 0.7 * history["autoregression"].iloc[0]


def test_a_stored_detector_comes_back_with_the_same_scores_and_maps(images, tmp_path):
    options = {"steps": 4, "batch_size": 8, "progress": False, "folder": tmp_path, "fast": True}
    trained, _ = load_or_train(small(), images, **options)
    loaded, _ = load_or_train(small(), images, **options)
    assert loaded is not trained and loaded.batches == 4
    assert torch.equal(loaded.anomaly_score(images), trained.anomaly_score(images))
    again = LSA(**trained.calibrate(images[:60]).hyperparameters()).eval()
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again.anomaly_score(images), trained.anomaly_score(images))
    anomaly = trained.anomaly_map(images)
    assert torch.equal(loaded.anomaly_map(images), anomaly)
    assert anomaly.isfinite().all() and (anomaly[images[:, 0] == 0] == 0).all() and anomaly.std() > 0


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="lam is 0 or more"):
        small(lam=-0.1)
    with pytest.raises(ValueError, match="2 bins or more, not 1"):
        small(bins=1)
    with pytest.raises(BadInput, match="multiples of 16, not 96 x 90"):
        LSA((96, 90))
