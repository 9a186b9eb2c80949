"""Mask, stitch, re-sample: the threshold, the mask, and that nothing outside it changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from course_lib.detectors.auto_ddpm import AutoDDPM, smooth
from course_lib.detectors.ddpm import DDPM
from course_lib.errors import BadInput
from course_lib.store import load_or_train
from course_lib.training import fit
from tests.detectors.conftest import toy_brains

SHAPE = (32, 32)


@pytest.fixture(scope="module")
def ddpm() -> DDPM:
    """A model of toy brains, trained once."""
    torch.manual_seed(0)
    model = DDPM(SHAPE, widths=(16, 24, 32))
    fit(model, toy_brains(120), steps=300, batch_size=16, progress=False)
    return model


@pytest.fixture
def auto(ddpm, unseen) -> AutoDDPM:
    return AutoDDPM(ddpm).calibrate(unseen)


def with_square(images: Tensor) -> Tensor:
    ill = images.clone()
    ill[:, :, 12:18, 14:20] = 1.2
    return ill


def test_the_threshold_leaves_its_share_of_healthy_pixels(auto, unseen):
    stages, brain = auto.parts(unseen), auto.region(unseen)
    assert (stages["coarse"][brain] > auto.tau).float().mean().item() == pytest.approx(0.05, abs=0.002)
    strict = AutoDDPM(auto.ddpm, share=0.01).calibrate(unseen)
    assert strict.tau > auto.tau


def test_the_threshold_is_of_the_calibration_and_of_no_scored_image(auto, unseen):
    tau = auto.tau.clone()
    auto.anomaly_map(10 * unseen[:3])
    assert torch.equal(auto.tau, tau)
    together = auto.anomaly_map(with_square(unseen[:5]))
    alone = torch.cat([auto.anomaly_map(image[None]) for image in with_square(unseen[:5])])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)
    assert torch.equal(together, auto.anomaly_map(with_square(unseen[:5])))
    with pytest.raises(BadInput, match="tau is not known"):
        AutoDDPM(auto.ddpm).anomaly_map(unseen[:2])
    with pytest.raises(BadInput, match="no brain"):
        AutoDDPM(auto.ddpm).calibrate(torch.zeros(2, 1, *SHAPE))


def test_outside_the_mask_the_composite_is_the_input(auto, unseen):
    images = with_square(unseen)
    stages = auto.parts(images)
    assert torch.equal(stages["composite"][~stages["mask"]], stages["x"][~stages["mask"]])
    assert (stages["composite"][stages["mask"]] != stages["x"][stages["mask"]]).float().mean() > 0.99
    reach = auto.ddpm.enlarge(stages["mask"].float()) > 0  # (B, 1, H, W)
    healthy, anomaly = auto.pseudo_healthy(images), auto.anomaly_map(images)
    assert torch.equal(healthy[~reach], images[~reach]) and (anomaly[~reach[:, 0]] == 0).all()
    assert (healthy[images == 0] == 0).all() and (anomaly[images[:, 0] == 0] == 0).all()


def test_an_empty_mask_returns_the_image_and_a_full_one_does_not(auto, unseen):
    x = auto.ddpm.shrink(unseen[:4])
    nothing, everything = torch.zeros_like(x, dtype=torch.bool), torch.ones_like(x, dtype=torch.bool)
    assert torch.equal(auto.inpaint(x, nothing, x), x)
    assert (auto.inpaint(x, everything, x) != x).all()


def test_the_mask_is_one_pixel_wider_than_what_was_found_and_in_the_brain(auto):
    coarse = torch.zeros(1, 1, 16, 16)
    coarse[0, 0, 8, 8] = coarse[0, 0, 3, 3] = auto.tau + 1
    brain = torch.ones_like(coarse, dtype=torch.bool)
    brain[0, 0, :3] = False
    expected = torch.zeros_like(brain)
    expected[0, 0, 7:10, 7:10] = expected[0, 0, 3:5, 2:5] = True
    assert torch.equal(auto.mask(coarse, brain), expected)


def test_known_and_unknown_meet_at_the_same_level(auto, unseen, monkeypatch):
    """RePaint's off by one: in the stride from t to s both parts are at s, and only s = 0 ends it."""
    calls = []
    add_noise, ancestral = DDPM.add_noise, DDPM.ancestral_step
    monkeypatch.setattr(
        DDPM, "add_noise", lambda self, x, t, n, start=0: calls.append((start, t)) or add_noise(self, x, t, n, start)
    )
    monkeypatch.setattr(
        DDPM, "ancestral_step", lambda self, x, t, s, n: calls.append(("step", t, s)) or ancestral(self, x, t, s, n)
    )
    x = auto.ddpm.shrink(unseen[:1])
    auto.inpaint(x, torch.ones_like(x, dtype=torch.bool), x)
    expected = [(0, 50)]
    for t, s in ((50, 40), (40, 30), (30, 20), (20, 10), (10, 0)):
        for repeat in range(3):
            expected += [(0, s), ("step", t, s)] + ([(s, t)] if repeat < 2 else [])
    assert calls == expected
    assert sum(call[0] == "step" for call in calls) == 15  # network calls of the second stage


def test_a_square_is_found_and_painted_away_and_healthy_pixels_stay(auto, unseen):
    images = with_square(unseen)
    inside = (slice(None), slice(None), slice(12, 18), slice(14, 20))
    healed = auto.pseudo_healthy(images)
    assert (healed - unseen)[inside].abs().mean() < 0.7 * (images - unseen)[inside].abs().mean()
    brain = unseen > 0
    composite_error = (auto.pseudo_healthy(unseen) - unseen).abs()[brain].mean()
    single_error = (auto.ddpm.pseudo_healthy(unseen, t0=200) - unseen).abs()[brain].mean()
    assert composite_error < 0.5 * single_error
    scores, healthy_scores = auto.anomaly_score(images), auto.anomaly_score(unseen)
    assert (scores > healthy_scores).all()


def test_smoothing_keeps_the_sum_and_has_the_stated_width():
    field = torch.zeros(1, 1, 41, 41)
    field[0, 0, 20, 20] = 1
    blurred = smooth(field, 2.0)[0, 0]
    place = torch.arange(41.0) - 20
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert math.sqrt((blurred.sum(0) * place**2).sum()) == pytest.approx(2, rel=0.02)


def test_the_diffusion_model_stays_frozen_and_the_store_knows_its_weights(auto, ddpm, unseen, tmp_path):
    before = {name: value.clone() for name, value in ddpm.state_dict().items()}
    assert not auto.train().ddpm.training
    stored, _ = load_or_train(AutoDDPM(ddpm), unseen, progress=False, folder=tmp_path)
    loaded, _ = load_or_train(AutoDDPM(ddpm), unseen, progress=False, folder=tmp_path)
    assert loaded is not stored and torch.equal(loaded.tau, auto.tau)
    assert torch.equal(loaded.anomaly_map(unseen[:3]), stored.anomaly_map(unseen[:3]))
    assert all(torch.equal(value, before[name]) for name, value in ddpm.state_dict().items())
    given = auto.hyperparameters()
    assert AutoDDPM(**given).hyperparameters() == given


@pytest.mark.parametrize("options", [{"t0": 500}, {"levels": 60}, {"repeats": 0}, {"share": 1.0}, {"inpaint_t": 401}])
def test_arguments_out_of_range_are_refused(ddpm, options):
    with pytest.raises(ValueError, match="0 < t0 <= 400"):
        AutoDDPM(ddpm, **options)
