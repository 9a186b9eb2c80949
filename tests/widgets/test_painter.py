"""The anomaly painter against pathology's `place`, the library's `predict`, and counts made by hand."""

from __future__ import annotations

import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from ipywidgets import Widget
from PIL import Image

from course_lib.detectors.autoencoder import SpatialAE
from course_lib.detectors.base import Detector
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.errors import BadInput
from course_lib.evaluation import predict
from course_lib.images.pathology import PARAMETERS, place
from course_lib.images.slices import SliceSet
from course_lib.metrics.overlap import dice
from course_lib.metrics.thresholds import HealthyFPR
from course_lib.widgets import driver, pictures
from course_lib.widgets.painter import PainterExplorer, PainterState
from course_lib.widgets.painter.figure import flagged_panel, painter_figure
from course_lib.widgets.painter.state import KINDS, SETTINGS

SHAPE = (64, 56)
STEPS = [("rim", 1), ("median", 3)]


class Blur(Detector):
    """What a blur leaves over; its image score is a rule of its own, the map's largest value."""

    def pseudo_healthy(self, images):
        return F.avg_pool2d(images, 5, stride=1, padding=2) * (images > 0)

    def anomaly_map(self, images):
        return (images - self.pseudo_healthy(images)).abs()[:, 0]

    def anomaly_score(self, images):
        return self.anomaly_map(images).amax((1, 2))


def ellipses(split: str, subjects: int, heights: int = 2, seed: int = 0) -> SliceSet:
    """Textured ellipses with a dark middle, as far from each other as brains are."""
    rng = np.random.default_rng([seed, len(split)])
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    images, rows = [], []
    for s in range(subjects):
        for z in range(heights):
            brain = (x / rng.uniform(0.75, 0.85)) ** 2 + (y / rng.uniform(0.8, 0.9)) ** 2 < 1
            dark = (x / 0.2) ** 2 + (y / 0.15) ** 2 < 1
            image = 0.5 + 0.1 * np.sin(5 * x + s) * np.cos(4 * y + z) - 0.35 * dark
            image = np.clip(image + 0.05 * rng.standard_normal(SHAPE), 0.05, 2) * brain
            images.append(image.astype(np.float32))
            rows.append({"subject": f"{split}{s}", "slice": z, "z_mm": 4.0 * z, "split": split, "family": "healthy"})
    images = np.stack(images)
    return SliceSet(images, np.zeros(images.shape, bool), images > 0, pd.DataFrame(rows))


@pytest.fixture(scope="module")
def slices() -> SliceSet:
    return ellipses("test", 3)


@pytest.fixture(scope="module")
def validation() -> SliceSet:
    return ellipses("val", 8, seed=1)


@pytest.fixture
def state(slices, validation) -> PainterState:
    torch.manual_seed(0)
    network = SpatialAE(SHAPE, depth=2, channels=(4, 8), code_channels=4)
    detectors = {"brightness": IntensityThreshold(), "blur": Blur(), "network": network}
    return PainterState(slices, detectors, validation, fpr=0.02, steps=STEPS)


@pytest.fixture
def explorer(state) -> PainterExplorer:
    yield PainterExplorer(state)
    Widget.close_all()


def set_all(state: PainterState, rng: np.random.Generator) -> None:
    """Every setting at random."""
    state.choose_kind(str(rng.choice(list(KINDS))))
    for name in state.settings:
        low, high = state.range_of(name)
        high = min(high, 20) if name == "size" else high
        state.set(name, float(rng.uniform(low, high)))
    state.move(*rng.uniform(-40, 40, 2))
    state.choose_subject(str(rng.choice(state.slices.subjects)))
    state.choose_height(int(rng.integers(2)))
    state.seed = int(rng.integers(5))


def by_hand(state: PainterState, frame: int):
    """The lesion by `place` itself, on the slice with background around it."""
    host, inner = state.host, (slice(frame, frame + SHAPE[0]), slice(frame, frame + SHAPE[1]))
    tissue = {name: np.pad(value, frame) for name, value in host.tissue.items()}
    if state.kind == "spot":
        tissue["wm"] = np.pad(host.brain, frame).astype(np.float32)
    row, column = state.centre
    done = place(
        np.pad(host.image, frame),
        KINDS[state.kind],
        np.random.default_rng(state.seed),
        brain=np.pad(host.brain, frame),
        tissue=tissue,
        centre=(row + frame, column + frame),
        **{SETTINGS[name]: value for name, value in state.settings.items()},
    )
    return done.image[inner], done.mask[inner]


def test_twenty_positions_of_the_sliders_are_pathologys_place(state):
    rng = np.random.default_rng(0)
    for _ in range(20):
        set_all(state, rng)
        image, mask = by_hand(state, frame=60)
        np.testing.assert_allclose(state.painted.image, image, atol=1e-6)
        np.testing.assert_array_equal(state.painted.mask, mask)


def test_a_lesion_far_from_the_pictures_border_needs_no_frame(state):
    state.move(10, 10)
    image, mask = by_hand(state, frame=0)
    np.testing.assert_array_equal(state.painted.image, image)
    np.testing.assert_array_equal(state.painted.mask, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slider_that_moves_and_comes_back_gives_the_same_pixels(state, kind):
    state.choose_kind(kind)
    before, settings = state.painted.image.copy(), state.settings
    for name in settings:
        state.set(name, state.range_of(name)[1])
        assert (state.painted.image != before).any()
        state.set(name, settings[name])
    state.move(-20, 0)
    state.choose_kind("stroke" if kind == "spot" else "spot")
    state.choose_kind(kind)
    state.move(30, 10)
    np.testing.assert_array_equal(state.painted.image, before)
    state.draw_again()
    assert (state.painted.image != before).any()


def test_only_what_was_moved_changes(state):
    state.set("size", 8)
    mask = state.painted.mask
    state.set("intensity", -6)
    state.set("texture", 2)
    np.testing.assert_array_equal(state.painted.mask, mask)
    row, column = state.centre
    state.move(state.across_mm - 8, state.front_mm + 6)
    assert state.centre == (row - 3, column - 4)
    np.testing.assert_array_equal(state.painted.mask, np.roll(mask, (-3, -4), (0, 1)))


def test_a_place_outside_the_brain_is_moved_to_the_nearest_pixel(state):
    assert state.moved_mm == 0 and state.note == ""
    state.move(500, -70)
    asked = np.rint(state.host.middle + np.array([70, 500]) / 2)
    nearest = min(np.argwhere(state.host.brain).tolist(), key=lambda p: (p[0] - asked[0]) ** 2 + (p[1] - asked[1]) ** 2)
    assert state.centre == tuple(nearest)
    assert state.moved_mm == pytest.approx(2 * np.hypot(*(np.array(nearest) - asked)))
    assert "outside the brain" in state.note
    assert state.painted.mask.any()


def test_a_kind_that_paints_nothing_here_says_so(state):
    state.choose_kind("texture")
    state.set("size", 3)
    state.move(0, 0)  # fluid
    assert not state.painted.mask.any()
    assert "Nothing was painted" in state.note
    numbers = state.reading("blur").painted
    assert np.isnan([numbers.dice, numbers.share, numbers.inside]).all()


@pytest.mark.parametrize("name", ["brightness", "blur", "network"])
def test_an_answer_is_what_the_library_predicts(state, validation, name):
    rng = np.random.default_rng(1)
    detector = state.judges[name].detector
    well = predict(detector, validation, STEPS)
    threshold = HealthyFPR(0.02).fit(well)
    for _ in range(3):
        set_all(state, rng)
        one = state.slices.select([state.row])
        image, mask = state.painted.image, state.painted.mask
        table = one.table.drop(columns=["digest"])
        painted = SliceSet(image[None], mask[None], one.brains, table)
        expected, reading = predict(detector, painted, STEPS), state.reading(name)
        np.testing.assert_allclose(reading.after.anomaly, expected.maps[0], atol=1e-6)
        flagged = threshold.apply(expected)[0]
        np.testing.assert_array_equal(reading.after.flagged, flagged)
        np.testing.assert_array_equal(flagged, (reading.after.anomaly >= threshold.value) & one.brains[0])
        assert reading.threshold == threshold.value
        assert reading.after.score == pytest.approx(float(expected.image_scores[0]), rel=1e-5)
        assert reading.after.percentile == 100 * np.mean(well.image_scores < reading.after.score)
        before = predict(detector, one, STEPS)
        np.testing.assert_allclose(reading.before.anomaly, before.maps[0], atol=1e-6)


def test_numbers_are_counts(state):
    reading = state.reading("blur")
    lesion, brain = state.painted.mask, state.host.brain
    for numbers, answer in ((reading.painted, reading.after), (reading.healthy, reading.before)):
        pairs = [(f, t) for f, t, b in zip(answer.flagged.flat, lesion.flat, brain.flat, strict=True) if b]
        assert numbers.found == sum(f and t for f, t in pairs)
        assert numbers.false == sum(f and not t for f, t in pairs)
        assert numbers.missed == sum(t and not f for f, t in pairs)
        assert numbers.dice == dice(answer.flagged, lesion)
        assert numbers.share == numbers.found / lesion.sum()
        assert numbers.inside == pytest.approx(answer.anomaly[lesion].mean())
        assert numbers.outside == pytest.approx(answer.anomaly[brain & ~lesion].mean())
        assert numbers.times == numbers.inside / numbers.outside
    assert reading.painted.found > reading.healthy.found


def test_small_pieces_are_dropped_as_the_last_step_says(slices, validation):
    state = PainterState(slices, {"blur": Blur()}, validation, fpr=0.05, steps=[("components", 4)])
    whole = PainterState(slices, {"blur": Blur()}, validation, fpr=0.05)
    assert 0 < state.reading("blur").before.flagged.sum() < whole.reading("blur").before.flagged.sum()


def test_a_detector_without_a_reconstruction_says_so(state):
    assert state.reading("brightness").after.rebuilt is None
    assert state.reading("network").after.rebuilt.shape == SHAPE


def test_detectors_stay_in_their_mode(state):
    network = state.judges["network"].detector
    network.train()
    network.to_code.eval()
    state.reading("network")
    assert network.training and network.encoder.training and not network.to_code.training
    assert all(weight.grad is None for weight in network.parameters())


def test_a_reconstruction_is_computed_once(slices, validation):
    asked = []

    class Counting(Blur):
        def pseudo_healthy(self, images):
            asked.append(images)
            return super().pseudo_healthy(images)

        def anomaly_map(self, images):
            mirrored = self.pseudo_healthy(images.flip(-1)).flip(-1)  # of other images: computed anew
            return (images - (self.pseudo_healthy(images) + mirrored) / 2).abs()[:, 0]

    state = PainterState(slices, {"counting": Counting()}, validation)
    image, brain = state.host.image, state.host.brain
    asked.clear()
    answer = state.judges["counting"].answer(image, brain)
    assert len(asked) == 3  # the image once for map, score and picture; the mirrored one for map and for score
    expected = predict(Counting(), slices.select([state.row]))
    np.testing.assert_allclose(answer.anomaly, expected.maps[0], atol=1e-6)
    assert answer.score == pytest.approx(float(expected.image_scores[0]))
    assert "pseudo_healthy" not in vars(state.judges["counting"].detector)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_clipped_to_the_kinds_own_range(state, kind):
    state.choose_kind(kind)
    for name in SETTINGS:
        parameter = PARAMETERS[KINDS[kind]].get(SETTINGS[name])
        if parameter is None:
            with pytest.raises(BadInput, match=f"{kind} has no {name}"):
                state.set(name, 1)
            continue
        for value, end in ((1e9, parameter.high), (-1e9, parameter.low)):
            state.set(name, value)
            assert state.settings[name] == end
            assert np.isfinite(state.painted.image).all()


def test_nonsense_is_refused(state, slices, validation):
    ill = slices.masks.copy()
    ill[0, 30, 30] = True
    ill = SliceSet(slices.images, ill, slices.brains, slices.table.drop(columns="digest"))
    blur = {"blur": Blur()}
    for arguments, cause in (
        ((slices, {}, validation), "no detector"),
        ((ill, blur, validation), "lesion already"),
        ((slices.select([]), blur, validation), "no slice"),
        ((slices, blur, slices), "split"),
    ):
        with pytest.raises(BadInput, match=cause):
            PainterState(*arguments)
    for act in (
        lambda: state.choose_kind("flu"),
        lambda: state.choose_subject("nobody"),
        lambda: state.set("size", float("nan")),
        lambda: state.move(float("inf"), 0),
        lambda: state.reading("oracle"),
    ):
        with pytest.raises(BadInput):
            act()


def test_every_control_can_be_walked(explorer):
    for kind in ("spot", "texture", "resection"):
        driver.set_control(explorer, "kind", kind)
        assert explorer.controls["intensity"].disabled == (kind == "texture")
        assert explorer.controls["texture"].disabled == (kind == "resection")
        assert driver.walk(explorer, 3) > 15
    assert explorer.errors.outputs == () and explorer.said.value == ""


def test_the_view_shows_the_state(explorer, state):
    panels = [panel for three in explorer.panels.values() for panel in three] + explorer.slices
    before = [panel.image.value for panel in panels]
    driver.set_control(explorer, "intensity", -8.0)
    assert state.settings["intensity"] == -8
    changed = [panel.image.value != old for panel, old in zip(panels, before, strict=True)]
    assert changed == [False, True, True] + [True] * 6 + [False, True]  # brightness makes no reconstruction
    for name in state.judges:
        n = state.reading(name).painted
        assert f"{n.found} / {n.false} / {n.missed}" in explorer.table.value
        assert f"{n.found} pixels found" in explorer.panels[name][2].says.value
    driver.set_control(explorer, "across", explorer.controls["across"].options[0][1])
    assert "outside the brain" in explorer.note.value
    driver.set_control(explorer, "again")
    assert state.seed == 1


def test_the_view_follows_the_state(explorer, state):
    state.choose_kind("resection")
    state.set("size", 20)
    state.move(-12, 6)
    explorer.show()
    shown = {name: control.value for name, control in explorer.controls.items() if name != "again"}
    assert (shown["kind"], shown["size"], shown["across"], shown["front"]) == ("resection", 20, -12, 6)


def test_what_is_refused_is_said(explorer, state, monkeypatch):
    def refuse(*_):
        raise BadInput("not <today>.")

    monkeypatch.setattr(state, "set", refuse)
    driver.set_control(explorer, "size", 10.0)
    assert "not &lt;today&gt;." in explorer.said.value


def test_pictures_with_a_palette_have_the_same_colours():
    rng = np.random.default_rng(0)
    few = np.repeat(np.repeat(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8), 3, 0), 3, 1)
    many = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for picture, mode in ((few, "P"), (many, "RGB")):
        decoded = Image.open(io.BytesIO(pictures.to_png(pictures.with_palette(picture))))
        assert decoded.mode == mode
        np.testing.assert_array_equal(np.asarray(decoded.convert("RGB")), picture)


def test_found_false_and_missed_have_their_colours(state):
    reading = state.reading("blur")
    panel, zoom = flagged_panel(state, reading), 4
    rows, columns = np.nonzero((reading.after.flagged & state.painted.mask)[state.window])
    assert len(rows)
    assert (panel[rows * zoom, columns * zoom] == (2, 158, 115)).all()


def test_the_figure_names_what_it_shows(state):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = painter_figure(state)
        fig.canvas.draw()
    texts = {ax.get_title() for ax in fig.axes} | {ax.get_ylabel() for ax in fig.axes}
    assert {"reconstruction", "map", "flagged", "blur", "network", "before, z = 4 mm"} <= texts
    assert sum("flagged from" in ax.get_xlabel() for ax in fig.axes) == 3
    plt.close(fig)
