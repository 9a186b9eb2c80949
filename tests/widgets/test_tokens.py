"""The token explorer against `TokenModel.restore` and `anomaly_map`, and against counts made by hand."""

from __future__ import annotations

import io
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from course_lib.detectors.causal_tokens import CausalTokens
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.masked_tokens import MaskedTokens
from course_lib.detectors.vq_vae import VQVAE
from course_lib.errors import BadInput
from course_lib.images.slices import SliceSet
from course_lib.metrics.curves import rank_metrics
from course_lib.training import fit
from course_lib.widgets import driver
from course_lib.widgets.tokens import TokenExplorer, TokenState, tokens_figure
from course_lib.widgets.tokens.figure import CURVES, EVERY, LESION, REST, WHITE, panels, slice_shares, token_panel, zoom
from course_lib.widgets.tokens.odds import log_probabilities
from course_lib.widgets.tokens.state import LEAST, limit
from course_lib.widgets.tokens.view import DRAWN, PROBABLE, numbers_table, people, tau_stops
from tests.detectors.conftest import toy_brains

SHAPE = (32, 32)
SIZES = {"width": 16, "layers": 2, "heads": 2, "schedule": 60}


def toys(split: str, persons: int, seed: int, family: str = "healthy", heights: int = 3) -> SliceSet:
    """Toy brains; a bright square in those that are not healthy, but for the first slice of each person."""
    images = toy_brains(persons * heights, seed=seed)[:, 0].numpy()  # (N, H, W)
    masks = np.zeros(images.shape, bool)
    rng = np.random.default_rng(seed)
    if family != "healthy":
        for k in range(len(images)):
            top, left = rng.integers(8, 18, 2)
            masks[k, top : top + 6, left : left + 5] = k % heights > 0
        masks &= images > 0
    images = np.where(masks, images + 0.5, images).astype(np.float32)
    rows = [
        {"subject": f"{split}-{family}{p}", "slice": z, "z_mm": 4.0 * z, "split": split, "family": family}
        for p in range(persons)
        for z in range(heights)
    ]
    return SliceSet(images, masks, images > 0, pd.DataFrame(rows))


def joined(*parts: SliceSet) -> SliceSet:
    """Several sets as one."""
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "masks", "brains"))
    return SliceSet(*arrays, pd.concat([part.table for part in parts]))


@pytest.fixture(scope="module")
def models() -> dict:
    torch.manual_seed(0)
    train = toy_brains(120)
    vqvae = VQVAE(SHAPE, halvings=2, codes=16, dimensions=8, channels=(8, 16))
    fit(vqvae, train, steps=60, batch_size=16, progress=False)
    made = {
        "causal 0": CausalTokens(vqvae, order=0, **SIZES),
        "causal 3": CausalTokens(vqvae, order=3, **SIZES),
        "masked": MaskedTokens(vqvae, **SIZES),
    }
    for model in made.values():
        fit(model, train, steps=60, batch_size=16, progress=False)
        model.calibrate(toy_brains(40, seed=5))
    return made


@pytest.fixture(scope="module")
def slices() -> SliceSet:
    return joined(toys("test", 2, 2), toys("test", 3, 3, "ms"), toys("test", 2, 4, "stroke"))


@pytest.fixture(scope="module")
def validation() -> SliceSet:
    return toys("val", 10, 1)


@pytest.fixture
def state(models, slices, validation) -> TokenState:
    return TokenState(models, slices, validation)


@pytest.fixture
def explorer(state) -> TokenExplorer:
    return TokenExplorer(state)


def set_all(state: TokenState, rng: np.random.Generator) -> None:
    """Every setting at random."""
    state.choose_model(str(rng.choice(list(state.models))))
    state.choose_row(int(rng.integers(len(state.slices))))
    low, high = state.tau_ends
    state.set_tau(float(np.exp(rng.uniform(np.log(max(low, 0.02)), np.log(high)))))
    state.heal_by(None if rng.random() < 0.5 else int(rng.integers(4)))


def by_the_detector(state: TokenState):
    """Healing and map by the detector's own methods, at the state's settings."""
    model = state.models[state.model]
    images = state.slices.batch([state.row])
    chance = None
    if state.draw is not None:
        chance = torch.rand(math.prod(model.vqvae.grid), generator=torch.Generator().manual_seed(state.draw))
    before = model.log_tau.clone()
    model.log_tau.fill_(math.log(state.tau) if state.tau else -math.inf)
    found = model.restore(images, chance)
    anomaly = model.rungs(images)["healed x likelihood"][0] if chance is None else None
    model.log_tau.copy_(before)
    return found, model.with_brain(images)[0].numpy(), None if anomaly is None else anomaly.numpy()


def test_every_number_is_the_detectors_own(state):
    """One state for all positions: it starts each healing where the marks differ from the latest."""
    rng, some, changed = np.random.default_rng(0), 0, 0
    for _ in range(40):
        set_all(state, rng)
        for factor in (1.0, 1.3):  # and a neighbouring threshold of the same slice
            state.set_tau(min(state.tau * factor, 0.9))
            found, brain, anomaly = by_the_detector(state)
            reading = state.reading()
            np.testing.assert_array_equal(reading.marked, found.marked[0].numpy())
            np.testing.assert_array_equal(reading.changed, (found.healed != found.tokens)[0].numpy())
            np.testing.assert_array_equal(reading.surprise, found.surprise[0].numpy())
            np.testing.assert_array_equal(reading.brain, brain)
            image = found.image[0, 0].numpy() * (state.image > 0)
            np.testing.assert_allclose(reading.healed, image, atol=1e-6)
            if anomaly is not None:
                np.testing.assert_allclose(reading.anomaly, anomaly, atol=1e-6)
            some, changed = some + reading.marked.any(), changed + reading.changed.any()
    assert some > 30 and changed > 20


@pytest.mark.parametrize("name", ["causal 0", "causal 3", "masked"])
@pytest.mark.parametrize("draw", [None, 2])
def test_a_walk_of_thresholds_heals_as_a_fresh_state_does(state, models, slices, validation, name, draw):
    state.choose_model(name)
    state.heal_by(draw)
    for tau in (0.02, 0.05, 0.3, 0.1, 0.0, 0.2, 0.01, 0.4):
        state.set_tau(tau)
        fresh = TokenState({name: models[name]}, slices, validation)
        fresh.heal_by(draw)
        fresh.set_tau(tau)
        fresh.choose_row(state.row)
        np.testing.assert_array_equal(state.reading().healed, fresh.reading().healed)
        np.testing.assert_array_equal(state.reading().changed, fresh.reading().changed)


@pytest.mark.parametrize("name", ["causal 0", "masked"])
def test_a_threshold_of_nothing_leaves_the_grid(state, name):
    state.choose_model(name)
    state.set_tau(0)
    reading = state.reading()
    assert not reading.marked.any() and not reading.changed.any() and not reading.anomaly.any()
    assert (reading.share, reading.healthy, reading.recall) == (0, 0, 0)
    assert math.isnan(reading.precision)
    np.testing.assert_array_equal(reading.healed, reading.rebuilt)
    assert limit(0) == math.inf


@pytest.mark.parametrize("name", ["causal 0", "causal 3", "masked"])
def test_the_share_of_healthy_tokens_is_counted(state, models, validation, name):
    model = models[name]
    images = validation.batch(range(len(validation)))
    brain = model.with_brain(images)
    surprise = model.surprise(model.vqvae.encode(images))[brain]
    state.choose_model(name)
    for tau in (0.0, 1e-3, 0.01, 0.05, 0.2):
        state.set_tau(tau)
        expected = float((surprise > limit(tau)).float().mean())
        assert state.reading().healthy == pytest.approx(expected, abs=1.5 / len(surprise))  # rounding of batches
    state.calibrate()
    assert state.tau == pytest.approx(float(model.log_tau.exp()))
    assert limit(state.tau) == -float(model.log_tau)
    low, high = state.tau_ends
    assert low == LEAST and state.healthy_share(np.array([high]))[0] == pytest.approx(0.3, abs=0.02)


def test_the_models_threshold_marks_the_share_that_it_was_calibrated_for(models, slices, validation):
    model = models["masked"]
    before = model.log_tau.clone(), model.tail.clone()
    model.calibrate(validation.batch(range(len(validation))), 0.1)
    state = TokenState({"masked": model}, slices, validation)
    assert state.reading().healthy == pytest.approx(0.1, abs=0.01)
    model.log_tau.copy_(before[0])
    model.tail.copy_(before[1])


def test_shares_and_means_by_hand(state):
    state.choose_family("ms")
    state.set_tau(0.1)
    n, factor = state.reading(), state.factor
    lesion = np.zeros(state.grid, bool)
    for row, column in np.argwhere(state.mask):
        lesion[row // factor, column // factor] = True
    np.testing.assert_array_equal(n.lesion, lesion & n.brain)
    assert n.share == n.marked.sum() / n.brain.sum()
    assert n.precision == (n.marked & lesion).sum() / n.marked.sum()
    assert n.recall == (n.marked & lesion).sum() / n.lesion.sum()
    brain, left = state.image > 0, np.abs(state.image - n.healed)
    assert n.inside == pytest.approx(left[state.mask].mean())
    assert n.outside == pytest.approx(left[brain & ~state.mask].mean())
    assert n.ap == rank_metrics(n.anomaly, state.mask, brain).ap
    shares = state.slice_share(np.array([0.1]))
    assert shares["lesion"][0] == pytest.approx(n.recall)
    assert shares["rest"][0] == pytest.approx((n.marked & ~n.lesion).sum() / (n.brain & ~n.lesion).sum())
    assert not n.healed[~brain].any() and not n.anomaly[~brain].any()


def test_a_healthy_slice_has_no_lesion_to_compare_with(state):
    state.choose_family("healthy")
    n = state.reading()
    assert math.isnan(n.recall) and math.isnan(n.inside) and math.isnan(n.ap) and n.outside >= 0
    assert set(state.slice_share(np.array([0.1]))) == {"rest"}


def test_which_slice_is_shown(state, slices):
    state.choose_family("stroke")
    assert slices.table["lesion_px"][state.row] == slices.table.query("family == 'stroke'")["lesion_px"].max()
    assert state.subjects == ["test-stroke0", "test-stroke1"] and state.heights == 3
    state.choose_subject("test-ms1")
    assert state.family == "ms" and state.mask.any()
    state.choose_height(0)
    assert not state.mask.any() and state.z_mm == 0
    state.choose_height(9)
    assert state.height == 2 and state.z_mm == 8
    state.choose_subject("test-healthy1")
    assert state.height == 1
    state.choose_row(0)
    assert (state.subject, state.family, state.height) == ("test-healthy0", "healthy", 0)


def test_each_model_keeps_its_threshold(state, models):
    state.set_tau(0.123)
    state.choose_model("masked")
    assert state.tau == pytest.approx(float(models["masked"].log_tau.exp()))
    state.choose_model("causal 0")
    assert state.tau == 0.123


@pytest.mark.parametrize("name", ["causal 0", "causal 3", "masked"])
def test_the_odds_are_those_that_the_surprise_is_of(state, models, name):
    model, tokens = models[name], models[name].vqvae.encode(state.slices.batch([3, 8]))
    with torch.no_grad():
        log_p = log_probabilities(model, tokens)
        own = log_p.gather(-1, tokens[..., None])[..., 0]
        torch.testing.assert_close(-own, model.surprise(tokens))
        torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(tokens.shape))
        state.choose_model(name)
        state.choose_row(8)
        state.read(2, 5)
        odds, there = state.odds(), log_p[1, 2, 5]
        for code in range(model.vqvae.codes):  # whatever stands there, it is judged by the rest
            other = tokens[1:].clone()
            other[0, 2, 5] = code
            assert -model.surprise(other)[0, 2, 5].item() == pytest.approx(there[code].item(), abs=1e-4)
    assert odds.token == tokens[1, 2, 5] and odds.place == (2, 5)
    assert odds.probability == pytest.approx(there[odds.token].exp().item(), rel=1e-4)
    assert odds.rank == 1 + (there > there[odds.token]).sum()
    assert odds.rivals == tuple(there.argsort(descending=True)[:5].tolist())
    np.testing.assert_allclose(odds.chances, there.exp().sort(descending=True).values[:5].numpy(), rtol=1e-4)
    grid = tokens[1:].clone()
    grid[0, 2, 5] = odds.rivals[0]
    with torch.no_grad():
        decoded = model.vqvae.decode(grid)[0, 0].numpy()
    np.testing.assert_allclose(odds.patches[1], decoded[4:16, 16:28], atol=1e-6)


def test_the_most_surprising_token_of_the_brain_is_found(state):
    state.read_most_surprising()
    n = state.reading()
    assert n.surprise[state.place] == n.surprise[n.brain].max() and n.brain[state.place]
    assert state.odds().probability == pytest.approx(math.exp(-n.surprise[state.place]), rel=1e-4)
    state.read(99, -3)
    assert state.place == (7, 0) and state.odds().patches.shape[1:] == (12, 12)


def test_the_models_are_left_as_they_were(models, slices, validation):
    model = models["causal 0"]
    model.train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = TokenState({"one": model}, slices, validation)
    state.set_tau(0.2)
    state.reading()
    assert model.training and not model.vqvae.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.eval()


def test_nonsense_is_refused(state, models, slices, validation):
    other = toys("test", 1, 0, "ms")
    cut = SliceSet(*(getattr(other, name)[:, :24] for name in ("images", "masks", "brains")), other.table)
    for arguments, cause in (
        (({}, slices, validation), "no model"),
        (({"brightness": IntensityThreshold()}, slices, validation), "judges no tokens"),
        ((models, cut, validation), r"\(24, 32\)"),
        ((models, slices, cut), r"\(24, 32\)"),
        ((models, slices, slices), "not healthy"),
        ((models, slices.select([]), validation), "no slice"),
        ((models, slices, validation.select([])), "no slice"),
    ):
        with pytest.raises(BadInput, match=cause):
            TokenState(*arguments)
    for act in (
        lambda: state.choose_model("none"),
        lambda: state.choose_family("none"),
        lambda: state.choose_subject("none"),
        lambda: state.choose_row(-1),
        lambda: state.set_tau(float("nan")),
        lambda: state.set_tau(1),
        lambda: state.heal_by(-1),
        lambda: state.calibrated("none"),
    ):
        with pytest.raises(BadInput):
            act()


# ---- view and figure ------------------------------------------------------------------------------------------------


def test_every_control_can_be_walked(explorer):
    assert explorer.controls["draw"].disabled
    driver.set_control(explorer, "heal", DRAWN)
    assert not explorer.controls["draw"].disabled
    assert driver.walk(explorer, 4) > 30
    assert explorer.errors.outputs == () and explorer.said.value == ""


def test_the_view_shows_the_state(explorer, state):
    driver.set_control(explorer, "tau", 0.0)
    assert "nothing is marked" in explorer.table.value and state.tau == 0
    before = {name: panel.image.value for name, panel in explorer.panels.items()}
    driver.set_control(explorer, "tau", tau_stops(state)[-1][1])
    changed = {name for name, panel in explorer.panels.items() if panel.image.value != before[name]}
    assert changed == {"tokens", "healed", "map"}
    n = state.reading()
    assert f"{int(n.marked.sum())} of {int(n.brain.sum())}" in explorer.table.value
    assert f"{n.healthy:.2%}" in explorer.table.value
    for name, panel in panels(state, n).items():
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(explorer.panels[name].image.value)).convert("RGB")), panel
        )
        assert explorer.panels[name].says.value
    driver.set_control(explorer, "calibrated")
    assert state.tau == state.calibrated("causal 0") == explorer.controls["tau"].value
    assert "cal." in explorer.controls["tau"].label


def test_drawing_has_a_number(explorer, state):
    driver.set_control(explorer, "tau", tau_stops(state)[-1][1])
    driver.set_control(explorer, "heal", DRAWN)
    assert state.draw == 0
    driver.set_control(explorer, "draw", 7)
    assert state.draw == 7 and "drawing, number 7" in explorer.table.value
    driver.set_control(explorer, "heal", PROBABLE)
    assert state.draw is None and explorer.controls["draw"].disabled


def test_persons_follow_the_family(explorer, state):
    driver.set_control(explorer, "family", "stroke")
    assert [subject for _, subject in explorer.controls["subject"].options] == ["test-stroke0", "test-stroke1"]
    assert people(state)[0][0] == "stroke 1" and explorer.controls["subject"].value == state.subject
    driver.set_control(explorer, "height", 0)
    assert "not defined" in explorer.table.value


def test_one_slice_a_person_leaves_nothing_to_slide(models, slices, validation):
    explorer = TokenExplorer(TokenState(models, slices.select([1, 7, 16]), validation))
    height = explorer.controls["height"]
    assert height.disabled and (height.min, height.value, height.max) == (0, 0, 1)
    driver.walk(explorer, 3)
    assert explorer.errors.outputs == () and explorer.said.value == ""


def test_a_token_is_read(explorer, state):
    driver.set_control(explorer, "row", 3)
    driver.set_control(explorer, "column", 6)
    assert state.place == (2, 5)
    assert f"Row 3, column 6: code {state.odds().token} " in explorer.rivals.says.value
    driver.set_control(explorer, "worst")
    assert explorer.controls["row"].value == state.place[0] + 1


def test_marked_tokens_are_framed_where_they_are(state):
    state.choose_family("healthy")  # the lesion's line would cross the frames
    state.set_tau(tau_stops(state)[-1][1])
    n, side = state.reading(), zoom(state) * state.factor
    squares = token_panel(state, n).reshape(state.grid[0], side, state.grid[1], side, 3).swapaxes(1, 2)
    framed = (squares[:, :, 0] == WHITE).all((2, 3))  # the upper edge of each
    assert framed.any()
    np.testing.assert_array_equal(framed, n.marked)


def test_the_curves_lie_where_their_shares_do(explorer, state):
    state.set_tau(0)  # its line stands at the left end
    drawn = np.asarray(explorer._moved_shares(state.reading()))
    place = explorer._plates["causal 0"][1]
    taus, shares = slice_shares(state)
    assert set(shares) == {LESION, REST}
    for k in range(EVERY, len(taus), EVERY):
        column, row = place(taus[k], shares[REST][k])  # drawn last
        np.testing.assert_allclose(drawn[round(row), round(column)] / 255, CURVES[REST][0], atol=0.01)


def test_stops_hold_nothing_and_the_calibrated_threshold(state):
    stops = tau_stops(state)
    values = [value for _, value in stops]
    assert values[0] == 0 and values == sorted(values) and len(set(values)) == len(values)
    assert [text for text, value in stops if value == state.calibrated("causal 0")][0].endswith("cal.")


def test_a_move_that_changes_no_mark_sends_no_picture(explorer, state, monkeypatch):
    driver.set_control(explorer, "tau", 0.0)
    sent = []
    for name in ("slice", "tokens", "healed", "map"):
        monkeypatch.setattr(explorer.panels[name], "put", lambda *_, name=name: sent.append(name))
    driver.set_control(explorer, "tau", LEAST)
    assert sent == []


def test_what_is_refused_is_said(explorer, state, monkeypatch):
    def refuse(*_):
        raise BadInput("not <today>.")

    monkeypatch.setattr(state, "set_tau", refuse)
    driver.set_control(explorer, "tau", 0.0)
    assert "not &lt;today&gt;." in explorer.said.value


@pytest.mark.parametrize("family", ["healthy", "ms"])
def test_the_figure_names_what_it_shows(state, family):
    state.choose_family(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = tokens_figure(state)
        fig.canvas.draw()
    labels = {ax.get_xlabel() for ax in fig.axes}
    assert "threshold tau (probability)" in labels
    assert any(label.startswith("surprise -log p (nats)") for label in labels)
    assert any(label.startswith("|x - x'| blur(M)") for label in labels)
    curves = next(ax for ax in fig.axes if ax.get_xlabel().startswith("threshold"))
    names = [text.get_text() for text in curves.get_legend().get_texts()]
    assert ("this slice, lesion" in names) == (family == "ms")
    plt.close(fig)


def test_the_numbers_are_read_aloud(state):
    assert 'aria-live="polite"' in numbers_table(state, state.reading())
