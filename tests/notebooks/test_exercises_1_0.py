"""The exercises of lesson 1.0: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from course_lib.images.slices import SliceSet

rows, columns = np.mgrid[:96, :96]
BRAIN = (rows - 48) ** 2 + (columns - 48) ** 2 < 40**2


@pytest.fixture(scope="module")
def test_set():
    """Two stroke subjects in a round brain."""
    masks = np.zeros((2, 96, 96), bool)
    masks[0, 40:50, 40:50], masks[1, 30:34, 50:60] = True, True
    table = pd.DataFrame({"subject": ["sub-a", "sub-b"], "slice": 0, "split": "test", "family": "stroke", "z_mm": 18.0})
    images = np.where(BRAIN, np.float32(0.5), np.float32(0))[None].repeat(2, 0)
    return SliceSet(images, masks, BRAIN[None].repeat(2, 0), table, name="two")


@pytest.fixture(scope="module")
def cards(exercises, test_set):
    """The lesson's exercises with a detector that knows healthy tissue to be 0.5, give or take its grain."""
    grain = np.random.default_rng(0).normal(0, 1 / 16, BRAIN.shape)
    detector = SimpleNamespace(anomaly_map=lambda images: (images[:, 0].float() - 0.5).abs() * torch.from_numpy(BRAIN))
    healthy = np.where(BRAIN, 0.5 + grain, 0).astype(np.float32)
    return exercises("1.0", test=test_set, four=["stroke"], seed=0, detector=detector, healthy_slice=healthy)


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["1.0.1", "1.0.2"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


@pytest.mark.parametrize("answer", [0, 0.5, -0.75, np.float32(0)])
def test_brightnesses_that_hide(cards, answer):
    assert cards.verdict("1.0.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (7, "Stay between -5 and 5"),
        (5, "an easy one"),
        (-5, "an easy one"),
        (3, "move down"),
        (-3, "move up"),
        ("dark", "could not use this answer"),
    ],
)
def test_brightnesses_that_show(cards, answer, message):
    assert message in cards.verdict("1.0.1", answer)


def test_ways_to_chance(cards, test_set):
    own = test_set.select("family == 'stroke'")
    random_map = np.random.default_rng(0).permutation(own.masks[own.brains])
    for answer in (own.masks.sum() / own.brains.sum(), own.masks[own.brains].mean(), float(random_map.mean())):
        assert cards.verdict("1.0.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda own: own.masks.mean(), "The background is not brain"),
        (lambda own: 0.5, "the chance level of AUROC"),
        (lambda own: 10 * own.masks[own.brains].mean(), "the share of lesion pixels among brain pixels"),
        (lambda own: "small", "could not use this answer"),
    ],
)
def test_wrong_chances_are_named(cards, test_set, answer, message):
    assert message in cards.verdict("1.0.2", answer(test_set))
