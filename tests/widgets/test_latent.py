"""The latent explorer against analytic codes, loops, and scikit-learn."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets import Widget
from sklearn.decomposition import PCA

from course_lib.detectors.autoencoder import SpatialAE
from course_lib.detectors.base import Detector
from course_lib.detectors.intensity import IntensityThreshold
from course_lib.detectors.vae import VAE
from course_lib.errors import BadInput
from course_lib.images.slices import SliceSet
from course_lib.widgets import driver
from course_lib.widgets.latent import LatentExplorer, LatentState
from course_lib.widgets.latent.figure import POINT, latent_figure
from course_lib.widgets.latent.state import spread

SHAPE = (16, 16)
PERSONS, HEIGHTS = 7, 5


class Identity(Detector):
    """The code is the image."""

    def encode(self, images):
        return images

    def decode(self, code):
        return code


class Linear(Detector):
    """Three orthonormal directions of picture space, stretched by 1, 2 and 3; a fourth number that hardly varies."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("basis", torch.linalg.qr(torch.randn(256, 3, generator=generator))[0].T)  # (3, 256)
        self.register_buffer("stretch", torch.tensor([1.0, 2.0, 3.0]))

    def encode(self, images):
        code = images.flatten(1) @ self.basis.T * self.stretch
        return torch.cat([code, 1e-6 * code[:, :1]], 1)

    def decode(self, code):
        return ((code[:, :3] / self.stretch) @ self.basis).view(-1, 1, *SHAPE)


def discs(subjects: int = PERSONS, heights: int = HEIGHTS) -> SliceSet:
    """Discs that grow with the height, each person with a texture of its own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    images, rows = [], []
    for s in range(subjects):
        texture = rng.standard_normal(SHAPE)
        for z in range(heights):
            disc = x**2 + y**2 < (0.5 + 0.1 * z) ** 2
            image = 0.5 + 0.05 * texture + 0.02 * rng.standard_normal(SHAPE)
            images.append((np.clip(image, 0.05, 2) * disc).astype(np.float32))
            rows.append({"subject": f"s{s}", "slice": z, "z_mm": 4.0 * z, "split": "train", "family": "healthy"})
    images = np.stack(images)
    return SliceSet(images, np.zeros(images.shape, bool), images > 0, pd.DataFrame(rows))


@pytest.fixture(scope="module")
def slices() -> SliceSet:
    return discs()


@pytest.fixture
def state(slices) -> LatentState:
    return LatentState(Linear(), slices, batch_size=8)


@pytest.fixture
def explorer(state) -> LatentExplorer:
    yield LatentExplorer(state)
    Widget.close_all()


def test_half_way_is_the_mean_exactly(slices):
    state = LatentState(Identity(), slices)
    state.choose_a(3)
    state.choose_b(20)
    state.set_t(0.5)
    mean = (slices.images[3] + slices.images[20]) / 2
    np.testing.assert_allclose(state.point().picture, mean, atol=1e-7)
    np.testing.assert_allclose(state.point().faded, mean, atol=1e-7)


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_a_linear_code_interpolates_linearly(state, t):
    state.choose_a(1)
    state.choose_b(17)
    state.set_t(t)
    straight = (1 - t) * state.rebuilt(1) + t * state.rebuilt(17)
    np.testing.assert_allclose(state.point().picture, straight, atol=1e-5)
    faded = (1 - t) * state.images[1] + t * state.images[17]
    np.testing.assert_allclose(state.point().faded, faded, atol=1e-6)


def loops(state: LatentState, t: float):
    """The distances of the point to every slice, in codes and in pictures, by loops."""
    codes = Linear().encode(torch.from_numpy(state.images[:, None])).numpy()[:, :3].astype(float)
    scale, brain = codes.std(0), (state.images > 0).any(0)
    code = codes[state.a] + t * (codes[state.b] - codes[state.a])
    in_code = [np.sqrt(np.mean(((c - code) / scale) ** 2)) for c in codes]
    picture = state.point().picture
    in_picture = [np.sqrt(np.mean((image[brain] - picture[brain]) ** 2)) * 8 for image in state.images]
    return np.array(in_code), np.array(in_picture)


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.45, 1.0])
def test_the_nearest_slice_is_the_one_of_a_loop(state, t):
    state.choose_a(2)
    state.choose_b(24)
    state.set_t(t)
    point = state.point()
    for near, distances in zip((point.in_code, point.in_picture), loops(state, t), strict=True):
        assert near.row == distances.argmin()
        assert near.distance == pytest.approx(distances.min(), rel=1e-4, abs=1e-6)
        others = np.where(np.isin(state.subjects, ["s0", "s4"]), np.inf, distances)  # rows 2 and 24
        assert near.other_row == others.argmin()
        assert near.other_distance == pytest.approx(others.min(), rel=1e-4)


def test_a_slice_is_at_distance_zero_from_itself(state):
    state.choose_a(9)
    state.set_t(0)
    point = state.point()
    assert (point.in_code.row, point.in_code.distance) == (9, 0)
    assert (point.in_faded.row, point.in_faded.distance) == (9, 0)


def test_far_is_measured_by_how_far_healthy_slices_are_from_each_other(state):
    state.choose_a(2)
    state.choose_b(24)
    state.set_t(0.5)
    rebuilt, brain, everyone = state.decode(state.codes), state.brain, range(len(state.rows))
    scaled = state.codes[:, :3] / state.codes[:, :3].std(0)

    def yardstick(distance):
        return np.array(
            [min(distance(i, j) for j in everyone if state.subjects[i] != state.subjects[j]) for i in everyone]
        )

    def rms(difference):
        return np.sqrt(np.mean(difference**2))

    expected = {
        "codes": yardstick(lambda i, j: rms(scaled[i] - scaled[j])),
        "decoded": yardstick(lambda i, j: 8 * rms((rebuilt[i] - state.images[j])[brain])),
        "slices": yardstick(lambda i, j: 8 * rms((state.images[i] - state.images[j])[brain])),
    }
    point = state.point()
    nears = {"codes": point.in_code, "decoded": point.in_picture, "slices": point.in_faded}
    for name, distances in expected.items():
        assert state.usual[name] == pytest.approx(np.median(distances), rel=1e-3)
        assert nears[name].percentile == pytest.approx(100 * np.mean(distances < nears[name].other_distance), abs=0.1)


def test_directions_are_scikit_learns_up_to_sign(state):
    fitted = PCA(3, svd_solver="full").fit(state.codes.astype(float))
    np.testing.assert_allclose(state.deviations[:3], np.sqrt(fitted.explained_variance_), rtol=1e-4)
    agreement = np.abs((state.directions[:3] * fitted.components_).sum(1))
    np.testing.assert_allclose(agreement, 1, atol=1e-4)
    along = np.abs(fitted.transform(state.codes)[:, :2] / np.sqrt(fitted.explained_variance_[:2]))
    np.testing.assert_allclose(np.abs(state.places(state.codes)), along, atol=1e-3)


def test_a_step_is_so_many_deviations_from_a(state):
    state.choose_mode("walk")
    state.choose_a(6)
    state.choose_direction(1)
    state.set_step(-2.5)
    moved = (state.point().code - state.codes[6]) @ state.directions.T / state.deviations
    np.testing.assert_allclose(moved[:3], [0, -2.5, 0], atol=1e-4)
    assert state.point().faded is None and state.point().in_faded is None
    own = state.subjects == state.subjects[6]
    assert not own[state.point().in_code.other_row]


def test_code_numbers_that_say_nothing_are_left_out(state):
    np.testing.assert_array_equal(state.lively, [True, True, True, False])


def test_a_code_of_any_shape_is_flattened_and_restored(slices):
    torch.manual_seed(0)
    network = SpatialAE(SHAPE, depth=2, channels=(4, 8), code_channels=3)
    network.train()
    state = LatentState(network, slices, batch_size=4)
    assert state.codes.shape == (len(slices), 3 * 4 * 4)
    assert network.training and network.encoder.training
    network.eval()
    with torch.no_grad():
        expected = network(slices.batch(range(len(slices))))[:, 0].numpy()
    np.testing.assert_allclose(state.decode(state.codes), expected, atol=1e-5)
    np.testing.assert_allclose(state.rebuilt(7), expected[7], atol=1e-5)


def test_a_variational_code_is_the_mean(slices):
    torch.manual_seed(0)
    network = VAE(SHAPE, latent=4, depth=2, channels=(4, 8)).eval()
    state = LatentState(network, slices)
    with torch.no_grad():
        mu = network.posterior(slices.batch(range(len(slices))))[0].numpy()
    np.testing.assert_allclose(state.codes, mu, atol=1e-5)


def test_very_many_slices_are_thinned_evenly(slices):
    state = LatentState(Linear(), slices, limit=15)
    assert len(state.rows) == 14  # two of each of seven
    assert pd.Series(state.subjects).value_counts().unique().tolist() == [2]
    np.testing.assert_array_equal(state.images, slices.images[state.rows])
    subjects = np.repeat(list("abcdef"), [1, 9, 9, 9, 9, 9])
    rows = spread(subjects, 18)
    assert pd.Series(subjects[rows]).value_counts(sort=False).tolist() == [1, 3, 3, 3, 3, 3]
    assert [subjects[row] for row in spread(subjects, 3)] == ["a", "c", "f"]
    np.testing.assert_array_equal(spread(subjects, 46), np.arange(46))


def test_nonsense_is_refused(state, slices):
    class Pair(Identity):
        def encode(self, images):
            return images, images

    class Small(Identity):
        def decode(self, code):
            return code[..., ::2]

    class Constant(Identity):
        def encode(self, images):
            return torch.zeros(len(images), 2)

    for detector, cause in (
        (IntensityThreshold(), "no encode"),
        (Pair(), "one finite code"),
        (Constant(), "same code"),
    ):
        with pytest.raises(BadInput, match=cause):
            LatentState(detector, slices)
    with pytest.raises(BadInput, match="decode gives"):
        LatentState(Small(), slices).point()
    ill = SliceSet(slices.images, slices.brains.copy(), slices.brains, slices.table.drop(columns="digest"))
    with pytest.raises(BadInput, match="lesion"):
        LatentState(Linear(), ill)
    with pytest.raises(BadInput, match="2 persons"):
        LatentState(Linear(), slices.select("subject in ['s0', 's1']"))
    for act in (
        lambda: state.choose_mode("fly"),
        lambda: state.choose_a(-1),
        lambda: state.choose_b(len(state.rows)),
        lambda: state.choose_direction(99),
        lambda: state.set_t(float("nan")),
        lambda: state.rows_of("nobody"),
    ):
        with pytest.raises(BadInput):
            act()
    state.set_t(9)
    state.set_step(-9)
    assert (state.t, state.step) == (1.5, -4)


@pytest.mark.parametrize("mode", ["interpolate", "walk"])
def test_every_control_can_be_walked(explorer, mode):
    driver.set_control(explorer, "mode", mode)
    assert explorer.controls["t"].disabled == (mode == "walk")
    assert explorer.controls["step"].disabled == (mode == "interpolate")
    assert driver.walk(explorer, 4) > 10
    assert explorer.errors.outputs == () and explorer.said.value == ""


def test_the_view_shows_the_state(explorer, state):
    before = {name: panel.image.value for name, panel in explorer.panels.items()}
    driver.set_control(explorer, "t", 1.25)
    assert state.t == 1.25
    changed = {name for name, panel in explorer.panels.items() if panel.image.value != before[name]}
    assert {"decoded", "cross-fade"} <= changed <= {"decoded", "cross-fade", "nearest code", "nearest picture"}
    for near in (state.point().in_code, state.point().in_picture):
        assert state.name_of(near.row) in explorer.table.value
        assert f"{near.distance:.2f}" in explorer.table.value
    driver.set_control(explorer, "mode", "walk")
    hidden = {name for name, frame in explorer._framed.items() if frame.layout.display == "none"}
    assert hidden == {"B", "B, rebuilt", "cross-fade"}


def test_another_person_is_taken_at_the_same_height(explorer, state):
    height = state.heights[state.a]
    driver.set_control(explorer, "a", "s3")
    assert state.subjects[state.a] == "s3" and state.heights[state.a] == height
    driver.set_control(explorer, "a_height", int(state.rows_of("s3")[0]))
    assert state.heights[state.a] == 0


@pytest.mark.parametrize("t", [0.0, 0.5, 1.5])
def test_the_point_lies_where_its_code_does(explorer, state, t):
    driver.set_control(explorer, "t", t)
    drawn = np.asarray(explorer._moved())
    column, row = explorer._background[1](*state.places(state.point().code[None])[0])
    np.testing.assert_allclose(drawn[round(row), round(column)] / 255, POINT, atol=0.01)


def test_what_is_refused_is_said(explorer, state, monkeypatch):
    def refuse(*_):
        raise BadInput("not <today>.")

    monkeypatch.setattr(state, "set_t", refuse)
    driver.set_control(explorer, "t", 1.0)
    assert "not &lt;today&gt;." in explorer.said.value


@pytest.mark.parametrize("mode", ["interpolate", "walk"])
def test_the_figure_names_what_it_shows(state, mode):
    state.choose_mode(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = latent_figure(state)
        fig.canvas.draw()
    labels = {ax.get_xlabel() for ax in fig.axes} | {ax.get_ylabel() for ax in fig.axes}
    assert any(label.startswith("principal direction 1 (s.d.)") for label in labels)
    assert {"height z (mm)", "decoded"} <= labels
    assert ("cross-fade" in labels) == (mode == "interpolate")
    plt.close(fig)
