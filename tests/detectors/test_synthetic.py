"""A U-Net that outlines made-up anomalies: its loss, its map, and that it learns what it is shown."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.synthetic import SyntheticAnomalies
from course_lib.errors import BadInput
from course_lib.images.corruptions import KINDS
from course_lib.store import load_or_train
from course_lib.training import fit

SHAPE = (32, 32)


def small(**settings) -> SyntheticAnomalies:
    torch.manual_seed(0)
    return SyntheticAnomalies(SHAPE, **settings)


def test_the_losses_are_cross_entropy_and_soft_dice_over_the_brain(brains):
    detector, images = small().eval(), brains[:8]
    torch.manual_seed(5)
    losses = detector.training_losses(images)
    torch.manual_seed(5)
    corrupted, masks = detector.corrupt(images)
    p, brain = torch.sigmoid(detector(corrupted)).double(), images > 0
    likelihood = torch.where(masks, p, 1 - p)[brain].log()
    torch.testing.assert_close(losses["cross_entropy"].double(), -likelihood.mean(), rtol=1e-5, atol=1e-6)
    dice = [
        1 - (2 * q[m].sum() + 1) / (q[b].sum() + m.sum() + 1) for q, m, b in zip(p, masks, brain, strict=True)
    ]  # of each image
    torch.testing.assert_close(losses["dice"].double(), torch.stack(dice).mean(), rtol=1e-5, atol=1e-6)
    assert masks.any() and set(losses) == {"cross_entropy", "dice"}


def test_the_losses_vanish_for_a_perfect_outline_and_not_for_a_blank_one(brains, monkeypatch):
    detector, images = small(), brains[:8]
    torch.manual_seed(0)
    corrupted, masks = detector.corrupt(images)
    detector.corrupt.forward = lambda images, generator=None: (corrupted, masks)
    outline = 40.0 * (2 * masks.float() - 1)
    monkeypatch.setattr(detector.network, "forward", lambda images: outline)
    assert sum(detector.training_losses(images).values()) < 1e-6
    monkeypatch.setattr(detector.network, "forward", lambda images: 0 * outline - 40)
    marked = masks.flatten(1).any(1).float().mean()
    assert detector.training_losses(images)["dice"] > 0.9 * marked > 0.4  # small corruptions count as large ones do


def test_every_step_has_fresh_corruptions_and_the_same_seed_the_same_ones(brains):
    detector, images = small(), brains[:8]
    torch.manual_seed(1)
    one, two = detector.training_losses(images), detector.training_losses(images)
    torch.manual_seed(1)
    again = detector.training_losses(images)
    assert one["cross_entropy"] != two["cross_entropy"] and one["cross_entropy"] == again["cross_entropy"]


def test_it_says_about_the_expected_share_before_it_has_learnt(brains):
    assert 0.02 < small().eval().anomaly_map(brains)[brains[:, 0] > 0].mean() < 0.12


def test_one_batch_can_be_learned_by_heart_and_every_parameter_changes(brains):
    detector, images = small(), brains[:8]
    torch.manual_seed(0)
    corrupted, masks = detector.corrupt(images)
    detector.corrupt.forward = lambda images, generator=None: (corrupted, masks)  # the same ones in every step
    before = {name: value.clone() for name, value in detector.named_parameters()}
    history = fit(detector, images, steps=300, batch_size=8, progress=False)
    assert history["cross_entropy"].iloc[-1] < 0.1 * history["cross_entropy"].iloc[0]
    anomaly = detector.anomaly_map(corrupted)
    assert anomaly[masks[:, 0]].mean() > 0.8 and anomaly[~masks[:, 0]].mean() < 0.02
    for name, value in detector.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_it_finds_unseen_people_with_corruptions_of_its_own_kind(brains, unseen):
    detector = small(kinds=("constant",))
    fit(detector, brains, steps=200, batch_size=16, progress=False)
    torch.manual_seed(9)
    corrupted, masks = detector.corrupt(unseen)
    anomaly = detector.anomaly_map(corrupted)
    brain = corrupted[:, 0] > 0
    assert anomaly[masks[:, 0]].mean() > 5 * anomaly[brain & ~masks[:, 0]].mean()
    assert detector.anomaly_map(unseen)[brain].mean() < 0.5 * anomaly[brain].mean()


def test_the_map_is_the_sigmoid_and_the_score_its_mean(brains):
    detector = small().eval()
    anomaly, brain = detector.anomaly_map(brains), brains[:, 0] > 0
    assert anomaly.min() >= 0 and anomaly.max() <= 1 and (anomaly[~brain] == 0).all() and not anomaly.requires_grad
    expected = torch.stack([one[inside].mean() for one, inside in zip(anomaly, brain, strict=True)])
    torch.testing.assert_close(detector.anomaly_score(brains), expected)
    torch.testing.assert_close(anomaly[brain], torch.sigmoid(detector(brains))[:, 0][brain])


def test_nothing_is_corrupted_at_test_time(brains):
    detector = small().eval()
    assert torch.equal(detector.anomaly_map(brains), detector.anomaly_map(brains))


def test_kinds_and_shapes_reach_the_corruptions_and_the_bank_is_not_stored():
    detector = small(kinds=("blur",), shapes=("ms", "stroke"), share=0.5)
    assert detector.corrupt.kinds == ("blur",) and detector.corrupt.share == 0.5
    assert detector.corrupt.shapes.shape == (80, *SHAPE)
    assert small().corrupt.shapes is None and small().corrupt.kinds == KINDS
    assert set(detector.state_dict()) == set(small().state_dict())
    with pytest.raises(BadInput, match="swirl"):
        small(kinds=("swirl",))
    with pytest.raises(BadInput, match="midlineshift"):
        small(shapes=("midlineshift",))


def test_it_trains_under_autocast_and_comes_back_from_the_store(brains, tmp_path):
    options = {"steps": 3, "batch_size": 8, "progress": False, "folder": tmp_path, "fast": True}
    trained, history = load_or_train(small(kinds=("gain", "blur")), brains, **options)
    loaded, _ = load_or_train(small(kinds=("gain", "blur")), brains, **options)
    other, _ = load_or_train(small(kinds=("gain",)), brains, **options)
    assert history["cross_entropy"].notna().all() and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(loaded.anomaly_map(brains), trained.anomaly_map(brains))
    assert not torch.equal(other.anomaly_map(brains), trained.anomaly_map(brains))
