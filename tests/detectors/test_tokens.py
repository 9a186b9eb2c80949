"""Detectors on tokens: the chain rule by counting, healing, thresholds from healthy images, orders and ensembles."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.ensemble import Ensemble
from course_lib.detectors.masked_tokens import MaskedTokens
from course_lib.detectors.positional_gaussian import gaussian_blur
from course_lib.detectors.token_model import LOWEST_RATE, RATE, WARM_UP, choose
from course_lib.detectors.vq_vae import VQVAE
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit
from tests.detectors.conftest import toy_brains

SHAPE = (32, 32)
SIZES = {"width": 16, "layers": 2, "heads": 2, "schedule": 100}


@pytest.fixture(scope="module")
def vqvae():
    torch.manual_seed(0)
    model = VQVAE(SHAPE, halvings=2, codes=16, dimensions=8, channels=(8, 16))
    fit(model, toy_brains(120), steps=60, batch_size=16, progress=False)
    return model


@pytest.fixture(scope="module")
def causal(vqvae):
    return [trained(CausalTokens(vqvae, order=number, **SIZES)) for number in (0, 3)]


@pytest.fixture(scope="module")
def masked(vqvae):
    return trained(MaskedTokens(vqvae, **SIZES))


def trained(model):
    fit(model, toy_brains(120), steps=60, batch_size=16, progress=False)
    return model.calibrate(toy_brains(40, seed=2))


@pytest.fixture
def ill(unseen):
    changed = unseen.clone()
    changed[:, :, 12:18, 14:20] = 1.3
    return changed


def lively(model):
    """Weights at random that make answers differ."""
    for parameter in model.transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tiny(maker=CausalTokens, codes=3, **settings):
    """A model of 2 x 2 tokens."""
    torch.manual_seed(0)
    grid = VQVAE((8, 8), halvings=2, codes=codes, dimensions=4, channels=(4, 4))
    return lively(maker(grid, width=8, layers=1, heads=2, **settings))


# ---- the likelihood -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(8))
def test_the_probabilities_of_all_grids_sum_to_one(number):
    model = tiny(order=number)
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)  # all 81
    total = (-model.surprise(grids).double().sum((1, 2))).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("number", range(8))
def test_a_token_is_judged_by_those_before_it_in_the_order(number):
    model = tiny(codes=5, order=number)
    tokens = torch.randint(5, (6, 2, 2))
    before = model.surprise(tokens).flatten(1)
    for t, place in enumerate(model.pi.tolist()):
        changed = tokens.flatten(1).clone()
        changed[:, place] = (changed[:, place] + 1) % 5
        after = model.surprise(changed.view(-1, 2, 2)).flatten(1)
        earlier, later = model.pi[:t], model.pi[t:]
        torch.testing.assert_close(after[:, earlier], before[:, earlier])
        assert ((after - before)[:, later].abs() > 1e-6).any(0).all()


def test_the_loss_is_the_mean_surprise(causal, unseen):
    for model in causal:
        loss = model.training_losses(unseen)["tokens"]
        torch.testing.assert_close(loss, model.surprise(model.vqvae.encode(unseen)).mean())
        nll = model.negative_log_likelihood(unseen)
        torch.testing.assert_close(nll.mean() / 64, loss)


def test_a_constant_grid_costs_nothing_after_training(vqvae, brains):
    """And one token that breaks the rule costs much: the shift is right, as a model that sees its target would not."""
    model = CausalTokens(vqvae, **{**SIZES, "schedule": 300})
    one = brains[:1].expand(4, 1, 32, 32)
    fit(model, one, steps=300, batch_size=4, progress=False)
    tokens = vqvae.encode(one[:1])
    assert model.surprise(tokens).max() < 0.2
    broken = tokens.clone()
    broken[0, 4, 4] = (broken[0, 4, 4] + 1) % 16
    assert model.surprise(broken)[0, 4, 4] > 3


def test_a_batch_is_its_rows(causal, masked, unseen):
    for model in (*causal, masked):
        tokens = model.vqvae.encode(unseen)
        alone = torch.cat([model.surprise(one[None]) for one in tokens])
        torch.testing.assert_close(model.surprise(tokens), alone, rtol=1e-4, atol=1e-4)


def test_a_hidden_token_is_judged_without_itself_and_its_block(masked, vqvae, unseen):
    tokens = vqvae.encode(unseen)
    before = masked.surprise(tokens)
    labels = masked.sets.int().argmax(0).view(8, 8)
    assert torch.equal(masked.sets.sum(0), torch.ones(64, dtype=torch.long))  # disjoint, and all
    assert masked.sets.sum(1).max() - masked.sets.sum(1).min() <= 4  # of equal size, to a block
    assert all(bool((labels[i : i + 2, j : j + 2] == labels[i, j]).all()) for i in (0, 2, 4, 6) for j in (0, 2, 4, 6))
    changed = tokens.clone()
    changed[:, 2, 2] = (changed[:, 2, 2] + 1) % 16
    moved = (masked.surprise(changed) - before).abs() > 1e-6
    same_set = labels == labels[2, 2]
    same_set[2, 2] = False
    assert not moved[:, same_set].any()  # hidden together: they cannot see the change
    assert moved[:, labels != labels[2, 2]].any()


def test_hidden_tokens_follow_the_schedule_and_alone_are_paid_for(vqvae, unseen):
    seen = []

    class Spy(MaskedTokens):
        def logits(self, tokens, hidden):
            seen.append(hidden)
            return super().logits(tokens, hidden)

    torch.manual_seed(0)
    model = lively(Spy(vqvae, **SIZES))
    torch.manual_seed(5)
    loss = model.training_losses(unseen)["tokens"]
    hidden = seen.pop()
    torch.manual_seed(5)
    shares = torch.cos(math.pi / 2 * torch.rand(30, 1))
    assert torch.equal(hidden.sum(1, keepdim=True), (64 * shares).ceil().long())
    tokens = vqvae.encode(unseen).flatten(1)
    expected = F.cross_entropy(model.logits(tokens, hidden)[hidden], tokens[hidden])
    torch.testing.assert_close(loss, expected)


# ---- healing --------------------------------------------------------------------------------------------------------


def every(causal, masked):
    return [*causal, masked]


def test_with_a_threshold_of_zero_nothing_is_touched(causal, masked, ill):
    for model in every(causal, masked):
        kept = model.log_tau.clone()
        model.log_tau.fill_(-math.inf)
        found = model.restore(ill)
        assert not found.marked.any() and torch.equal(found.healed, found.tokens)
        assert (model.anomaly_map(ill) == 0).all()
        model.log_tau.copy_(kept)


def test_only_marked_tokens_change_and_rows_without_one_are_left_out(causal, unseen):
    for model in causal:
        tokens = model.vqvae.encode(unseen)
        marked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.2
        marked[::3] = False
        healed = model.heal(tokens, marked)
        assert torch.equal(healed[~marked], tokens[~marked])
        assert (healed != tokens).any()


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("drawing", [False, True])
def test_the_cached_walk_is_the_plain_one(number, drawing):
    """Token by token along the order, each from a whole pass over the healed prefix."""
    model = tiny(codes=9, order=number)
    tokens = torch.randint(9, (12, 2, 2))
    marked = torch.rand(12, 2, 2) < 0.5
    chance = torch.rand(4) if drawing else None
    plain = model.read(tokens).clone()
    for t in range(4):
        drawn = choose(model.logits(plain)[:, t], chance if chance is None else chance[model.pi][t])
        plain[:, t] = torch.where(model.read(marked)[:, t], drawn, plain[:, t])
    assert torch.equal(model.heal(tokens, marked, chance), plain[:, model.back].view(12, 2, 2))


def test_masked_healing_fills_the_marked_and_their_neighbours_only(masked, unseen):
    tokens = masked.vqvae.encode(unseen)
    marked = torch.zeros(tokens.shape, dtype=torch.bool)
    marked[1:, 3, 3] = True
    healed = masked.heal(tokens, marked)
    around = torch.zeros_like(marked)
    around[1:, 2:5, 2:5] = True
    assert torch.equal(healed[~around], tokens[~around]) and healed.max() < 16  # no mask symbol is left


def test_one_round_is_one_look(vqvae, unseen):
    torch.manual_seed(0)
    model = lively(MaskedTokens(vqvae, rounds=1, grow=0, **SIZES))
    tokens = vqvae.encode(unseen)
    marked = torch.rand(tokens.shape) < 0.3
    expected = model.logits(tokens.flatten(1), marked.flatten(1)).argmax(-1).view(tokens.shape)
    assert torch.equal(model.heal(tokens, marked), torch.where(marked, expected, tokens))


def test_more_rounds_fill_the_most_certain_first(vqvae, unseen):
    torch.manual_seed(0)
    model = lively(MaskedTokens(vqvae, rounds=2, grow=0, **SIZES))
    tokens = vqvae.encode(unseen[:1]).flatten(1)
    hidden = torch.rand(tokens.shape) < 0.3
    count = int(hidden.sum())
    first = model.logits(tokens, hidden)
    certainty = first.log_softmax(-1).max(-1).values[0]
    order = [int(t) for t in certainty.argsort(descending=True) if hidden[0, t]]
    early = order[: count - int(count * math.cos(math.pi / 4))]
    expected, still = tokens.clone(), hidden.clone()
    expected[0, early], still[0, early] = first.argmax(-1)[0, early], False
    second = model.logits(expected, still).argmax(-1)
    expected = torch.where(still, second, expected)
    assert torch.equal(model.heal(tokens.view(1, 8, 8), hidden.view(1, 8, 8)).flatten(1), expected)


def test_drawing_follows_the_probabilities():
    logits = torch.tensor([0.5, 0.2, 0.3]).log()
    chance = torch.linspace(0, 1, 10001)[:-1] + 5e-5
    drawn = choose(logits.expand(10000, 3), chance)
    assert torch.bincount(drawn).tolist() == [5000, 2000, 3000]
    assert int(choose(logits, None)) == 0
    assert int(choose(logits, torch.tensor(1.0))) == 2


def test_samples_are_drawn_from_the_model():
    model = tiny(codes=2)
    grids = model.sample(4000, torch.Generator().manual_seed(0))
    all_grids = torch.tensor(list(itertools.product(range(2), repeat=4))).view(-1, 2, 2)
    p = (-model.surprise(all_grids).sum((1, 2))).exp()
    number = (grids.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1)
    frequency = torch.bincount(number, minlength=16) / 4000
    assert (frequency - p).abs().max() < 4 * (p * (1 - p) / 4000).sqrt().max()
    assert torch.equal(grids, model.sample(4000, torch.Generator().manual_seed(0)))


# ---- thresholds, maps, scores ---------------------------------------------------------------------------------------


def test_the_threshold_marks_the_share_that_was_asked_for(causal, masked):
    healthy = toy_brains(40, seed=2)
    for model in every(causal, masked):
        model.calibrate(healthy, share=0.1)
        found = model.restore(healthy)
        share = found.marked.sum() / model.with_brain(healthy).sum()
        assert float(share) == pytest.approx(0.1, abs=0.003)
        assert float(model.tail) == pytest.approx(-float(model.log_tau))
        model.calibrate(healthy)


def test_no_image_moves_the_threshold_of_another(causal, ill, unseen):
    model = causal[0]
    alone = model.anomaly_map(unseen[:4])
    together = model.anomaly_map(torch.cat([unseen[:4], ill]))[:4]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_a_threshold_needs_a_brain(causal):
    with pytest.raises(BadInput, match="no brain"):
        causal[0].calibrate(torch.zeros(2, 1, 32, 32))


def test_the_rungs_are_what_they_say(causal, ill):
    model = causal[0]
    found, rungs = model.restore(ill), model.rungs(ill)
    brain = (ill > 0)[:, 0]
    x_hat, x_healed = model.vqvae(ill), model.vqvae.decode(found.healed)
    torch.testing.assert_close(rungs["residual"], ((ill - x_hat).abs() * (ill > 0))[:, 0])
    torch.testing.assert_close(rungs["healed"], ((ill - x_healed).abs() * (ill > 0))[:, 0])
    torch.testing.assert_close(rungs["healed change"], ((x_hat - x_healed).abs() * (ill > 0))[:, 0])
    wide = F.interpolate(found.surprise[:, None], scale_factor=4, mode="nearest")[:, 0]
    torch.testing.assert_close(rungs["likelihood"], wide * brain)
    torch.testing.assert_close(rungs["healed x likelihood"], rungs["healed"] * model.spatial_mask(found.marked))
    assert torch.equal(model.anomaly_map(ill), rungs["healed x likelihood"])


def test_background_in_the_middle_of_a_head_is_marked_and_healed(causal, masked, unseen):
    """Planted in the grid: a VQ-VAE of so few steps paints a planted lesion away by itself."""
    for model in every(causal, masked):
        tokens = model.vqvae.encode(unseen)
        hole = tokens.clone()
        hole[:, 3:5, 3:5] = tokens[:, :1, :1]
        surprise, before = model.surprise(hole)[:, 3:5, 3:5], model.surprise(tokens)[:, 3:5, 3:5]
        assert surprise.mean() > 2 * before.mean()
        marked = model.surprise(hole) > -model.log_tau
        healed = model.heal(hole, marked)[:, 3:5, 3:5]
        assert marked[:, 3:5, 3:5].float().mean() > 0.25
        assert (healed != hole[:, 3:5, 3:5])[marked[:, 3:5, 3:5]].float().mean() > 0.9


def test_the_spatial_mask_is_one_at_a_lone_token_and_falls_off(causal):
    model = causal[0]
    marked = torch.zeros(2, 8, 8, dtype=torch.bool)
    marked[0, 4, 3] = True
    mask = model.spatial_mask(marked)
    assert (mask[1] == 0).all() and mask.min() >= 0 and mask.max() <= 1
    assert mask[0, 16:20, 12:16].min() > 0.75 and mask[0, 17:19, 13:15].min() > 0.9
    assert mask[0, 0, 0] < 1e-3
    wide = F.interpolate(marked[:1, None].float(), scale_factor=4)[:, 0]
    blurred = gaussian_blur(wide, 3.0)
    torch.testing.assert_close(mask[:1], (mask.max() * blurred / blurred.max()), rtol=1e-4, atol=1e-5)


def test_the_tail_counts_what_lies_beyond_the_limit(causal, ill):
    model = causal[1]
    surprise = model.surprise(model.vqvae.encode(ill))
    brain = F.max_pool2d((ill > 0).float(), 4)[:, 0] > 0
    expected = torch.stack([s[(s > model.tail) & b].sum() for s, b in zip(surprise, brain, strict=True)])
    torch.testing.assert_close(model.anomaly_score(ill), expected)


def test_the_uncertain_map_is_the_formula(causal, ill):
    model = causal[0]
    numbers = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([model.restore(ill, chance).image for chance in numbers])
    doubt = gaussian_blur(drawn.std(0), 3.0) + 0.01
    expected = ((ill - drawn.mean(0)).abs() / doubt * (ill > 0))[:, 0]
    torch.testing.assert_close(model.uncertainty_map(ill, draws=3), expected)


def test_an_ensemble_is_the_mean_of_its_members(causal, ill):
    both = Ensemble(causal)
    for name in ("anomaly_map", "anomaly_score", "pseudo_healthy"):
        mean = (getattr(causal[0], name)(ill) + getattr(causal[1], name)(ill)) / 2
        torch.testing.assert_close(getattr(both, name)(ill), mean)
    with pytest.raises(ValueError, match="a member"):
        Ensemble([])


# ---- training and the store -----------------------------------------------------------------------------------------


def test_training_and_scoring_leave_the_vqvae_as_it_was(vqvae, unseen):
    before = {name: value.clone() for name, value in vqvae.state_dict().items()}
    for model in (CausalTokens(vqvae, **SIZES), MaskedTokens(vqvae, **SIZES)):
        model.train()
        assert not vqvae.training and model.transformer.training
        fit(model, unseen, steps=3, batch_size=8, progress=False)
        model.calibrate(unseen)
        model.anomaly_map(unseen)
    assert all(torch.equal(value, before[name]) for name, value in vqvae.state_dict().items())


def test_the_learning_rate_warms_up_and_falls(vqvae, unseen):
    model = CausalTokens(vqvae, **SIZES)
    optimizers = model.configure_optimizers()
    rates = []
    for _ in range(110):
        model.training_step(unseen[:2], optimizers)
        rates.append(optimizers[0].param_groups[0]["lr"])
    assert rates[0] == pytest.approx(RATE / WARM_UP) and max(rates) < RATE
    assert rates[49] == pytest.approx(RATE * (1 + math.cos(math.pi * 0.49)) / 2)
    assert rates[-1] == pytest.approx(LOWEST_RATE * RATE)


def test_the_store_tells_vqvaes_apart(vqvae, brains, tmp_path):
    options = {"steps": 3, "batch_size": 8, "progress": False, "folder": tmp_path}
    first, _ = load_or_train(CausalTokens(vqvae, **SIZES), brains, **options)
    again, _ = load_or_train(CausalTokens(vqvae, **SIZES), brains, **options)
    assert len(list(tmp_path.glob("*/meta.json"))) == 1
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    copy = VQVAE(**vqvae.hyperparameters())
    copy.load_state_dict(vqvae.state_dict())
    load_or_train(CausalTokens(copy, **SIZES), brains, **options)  # the same weights in another object
    assert len(list(tmp_path.glob("*/meta.json"))) == 1
    copy.quantiser.codebook[0, 0] += 0.1
    load_or_train(CausalTokens(copy, **SIZES), brains, **options)
    assert len(list(tmp_path.glob("*/meta.json"))) == 2
