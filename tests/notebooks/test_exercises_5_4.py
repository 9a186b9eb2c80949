"""The exercises of lesson 5.4: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib.detectors.pca import PCA
from course_lib.training import fit
from tests.detectors.conftest import SHAPE, toy_brains


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises, with small stand-ins for what the last check uses."""
    means = {"template": 0.2, "brightness": 0.3, "positional Gaussian": 0.5, "C: Gaussian with both": 0.6}
    found = exercises("5.4", healthy_few=toy_brains(12), found={name: {"mean": mean} for name, mean in means.items()})
    found.names["on_ill"] = lambda detector: detector
    found.names["family_means"] = lambda detector: {"mean": 0.4 if isinstance(detector, PCA) else 0.1}
    return found


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["5.4.1", "5.4.2", "5.4.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


# ---- a calibrated witness -------------------------------------------------------------------------------------------


def tail(healthy, values):
    return (1 + (healthy[:, None] >= values).sum(0)) / (1 + len(healthy))


def by_search(healthy, values):
    known = np.sort(healthy)
    return -np.log((1 + len(known) - np.searchsorted(known, values, side="left")) / (1 + len(known)))


@pytest.mark.parametrize("answer", [lambda h, v: -np.log(tail(h, v)), by_search, lambda h, v: list(by_search(h, v))])
def test_ways_to_a_surprise(cards, answer):
    assert cards.verdict("5.4.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda h, v: np.log(tail(h, v)), "The sign"),
        (lambda h, v: tail(h, v), "This is the tail probability"),
        (lambda h, v: -np.log((1 + (h[:, None] < v).sum(0)) / (1 + len(h))), "share *below*"),
        (lambda h, v: -np.log((1 + (h[:, None] > v).sum(0)) / (1 + len(h))), "A tie counts"),
        (lambda h, v: -np.log((h[:, None] >= v).mean(0)), "add one"),
        (lambda h, v: -np.log(tail(h, v)).sum(), "One number for each value"),
        (lambda h, v: -np.log2(tail(h, v)), "take minus the logarithm"),
    ],
)
def test_wrong_surprises_are_named(cards, answer, message):
    with np.errstate(divide="ignore"):
        assert message in cards.verdict("5.4.1", answer)


# ---- repairing a class ----------------------------------------------------------------------------------------------


def careful(cards, how: str):
    """`Careless`, repaired in one of several ways, or not quite."""
    Template = cards.names["Template"]

    class Careful(Template):
        def __init__(self, image_shape, width=16):
            super().__init__(image_shape, width)
            if how == "a parameter":
                self.typical = torch.nn.Parameter(torch.zeros(1, *image_shape))
            elif how not in ("a plain attribute", "without it"):
                self.register_buffer("typical", torch.zeros(1, *image_shape))
            self.register_buffer("count", torch.zeros(()))

        def training_losses(self, images):
            losses = super().training_losses(images)
            if how == "a parameter":
                return losses | {"typical": (images - self.typical).square().mean()}
            if how == "a plain attribute":
                self.typical = images.mean(0)
            elif how in ("the last batch", "not subtracted", "divides by its batch"):
                self.typical.copy_(images.mean(0))
            elif how == "a running mean":
                self.typical.lerp_(images.mean(0), 0.1)
            elif how == "a sum and a count":
                self.typical += images.sum(0)
                self.count += len(images)
            elif how == "one person":
                self.typical.copy_(images[0])
            return losses

        @torch.no_grad()
        def anomaly_map(self, images):
            typical = getattr(self, "typical", torch.zeros(()))
            if how == "a sum and a count":
                typical = typical / self.count.clamp(min=1)
            found = super().anomaly_map(images if how == "not subtracted" else images - 0.1 * typical)
            return found / found.max() if how == "divides by its batch" else found

    return Careful


@pytest.mark.parametrize("how", ["the last batch", "a running mean", "a sum and a count", "a parameter"])
def test_ways_to_repair(cards, how):
    assert cards.verdict("5.4.2", careful(cards, how)).endswith("right.")


def test_a_typical_image_of_another_shape_is_a_repair_too(cards):
    class Flat(cards.names["Template"]):
        def __init__(self, image_shape, width=16):
            super().__init__(image_shape, width)
            self.register_buffer("typical", torch.zeros(image_shape[0] * image_shape[1]))

        def training_losses(self, images):
            self.typical = images.mean(0).flatten()
            return super().training_losses(images)

        @torch.no_grad()
        def anomaly_map(self, images):
            return super().anomaly_map(images - 0.1 * self.typical.view(images.shape[2:]))

    assert cards.verdict("5.4.2", Flat).endswith("right.")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a plain attribute", "parameters or buffers"),
        ("divides by its batch", "depends on the others in its batch"),
        ("without it", "The typical image is gone"),
        ("zeros for ever", "The typical image is never learnt."),
        ("one person", "The typical image is never learnt."),
        ("not subtracted", "The map does not use the typical image."),
    ],
)
def test_what_is_not_repaired_is_named(cards, how, message):
    assert message in cards.verdict("5.4.2", careful(cards, how))


def test_an_object_and_a_class_with_more_arguments_are_no_answer(cards):
    assert "the class itself" in cards.verdict("5.4.2", careful(cards, "a parameter")(SHAPE))

    class Needs(cards.names["Template"]):
        def __init__(self, image_shape, width):
            super().__init__(image_shape, width)

    assert "made with the image's shape alone" in cards.verdict("5.4.2", Needs)


# ---- one's own ------------------------------------------------------------------------------------------------------


def test_a_better_detector_passes_and_others_are_told_why(cards):
    better = PCA(SHAPE, components=4)
    fit(better, toy_brains(30), progress=False)
    assert cards.verdict("5.4.3", better).endswith("right.")
    assert "a trained detector" in cards.verdict("5.4.3", PCA)
    assert "template has 0.200" in cards.verdict("5.4.3", cards.names["Template"](SHAPE))
    assert "breaks the contract" in cards.verdict("5.4.3", cards.names["Careless"](SHAPE))


@pytest.mark.parametrize(
    ("mean", "verdict", "remark"),
    [
        (0.2, "template has 0.200. Is it trained?", ""),
        (0.25, "brightness has 0.300. That one needs no training", ""),
        (0.3, "brightness has 0.300", ""),
        (0.31, "right.", "Next: positional Gaussian, 0.190 higher."),
        (0.55, "right.", "Next: C: Gaussian with both, 0.050 higher."),
        (0.7, "right.", "None of ours is higher."),
    ],
)
def test_the_next_rung_is_named(cards, monkeypatch, capsys, mean, verdict, remark):
    monkeypatch.setitem(cards.names, "family_means", lambda detector: {"mean": mean})
    assert verdict in cards.verdict("5.4.3", cards.names["Template"](SHAPE))
    assert capsys.readouterr().out.strip() == remark
