"""`course_lib.contract`: every promise that a student's class may break is named."""

from __future__ import annotations

import pytest
import torch

from course_lib.contract import broken_promises
from course_lib.detectors.base import Detector
from course_lib.detectors.dae import DenoisingAE
from course_lib.detectors.pca import PCA
from tests.detectors.conftest import toy_brains

SHAPE = (32, 32)


class Sound(Detector):
    """The distance to a learnt mean image: all that the contract wants."""

    def __init__(self, image_shape=SHAPE):
        super().__init__()
        self.image_shape = image_shape
        self.mean = torch.nn.Parameter(torch.zeros(image_shape))

    def training_losses(self, images):
        return {"error": (images[:, 0] - self.mean).square().mean()}

    @torch.no_grad()
    def anomaly_map(self, images):
        return (images[:, 0] - self.mean).abs()


class Forgets(Sound):
    def __init__(self, width=3):
        super().__init__()


class WrongShape(Sound):
    def anomaly_map(self, images):
        return super().anomaly_map(images)[:, None]


class ChangesImages(Sound):
    def anomaly_map(self, images):
        images -= 0.1
        return super().anomaly_map(images)


class KeepsGraph(Sound):
    def anomaly_map(self, images):
        return (images[:, 0] - self.mean).abs()


class NotANumber(Sound):
    def anomaly_map(self, images):
        return super().anomaly_map(images) / 0 * 0


class Noisy(Sound):
    def anomaly_map(self, images):
        return super().anomaly_map(images) + torch.rand(images.shape[2:])


class LooksAtTheBatch(Sound):
    def anomaly_map(self, images):
        found = super().anomaly_map(images)
        return found - found.mean()


class OneScore(Sound):
    def anomaly_score(self, images):
        return super().anomaly_score(images).mean()


class LearnsAside(Sound):
    def training_losses(self, images):
        self.aside = images[:, 0].mean(0)
        return super().training_losses(images)

    @torch.no_grad()
    def anomaly_map(self, images):
        return (images[:, 0] - getattr(self, "aside", 0)).abs()


class Raises(Sound):
    def training_losses(self, images):
        raise ValueError("my own words")


@pytest.mark.parametrize(
    "detector", [Sound(), DenoisingAE(SHAPE), PCA(SHAPE, components=4)], ids=lambda d: str(type(d))
)
def test_a_sound_detector_breaks_nothing_and_stays_as_it_was(detector):
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    images = toy_brains(12)
    assert broken_promises(detector, images) == []
    assert torch.equal(images, toy_brains(12))
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (Forgets(), "must store"),
        (WrongShape(), r"it has to be \(B, H, W\)"),
        (ChangesImages(), "changes the images"),
        (KeepsGraph(), "graph for gradients"),
        (NotANumber(), "NaN or infinite"),
        (Noisy(), "another map the second time"),
        (LooksAtTheBatch(), "depends on the others in its batch"),
        (OneScore(), "one finite number for each image"),
        (LearnsAside(), "parameters or buffers"),
        (Raises(), "my own words"),
        (torch.nn.Linear(1, 1), "no subclass"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_a_broken_promise_is_named(detector, words):
    import re

    images = toy_brains(12)
    found = broken_promises(detector, images)
    assert any(re.search(words, sentence) for sentence in found), found
    assert torch.equal(images, toy_brains(12))
