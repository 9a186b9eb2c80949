"""The exercises of lesson 2.2: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("2.2")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["2.2.1", "2.2.2", "2.2.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def by_loops(image, x_hat, mask, brain):
    """The ratio, pixel by pixel."""
    lesion = [abs(a - b) for a, b, m in zip(image.flat, x_hat.flat, mask.flat, strict=True) if m]
    pairs = zip(image.flat, x_hat.flat, mask.flat, brain.flat, strict=True)
    rest = [abs(a - b) for a, b, m, inside in pairs if inside and not m]
    return (sum(lesion) / len(lesion)) / (sum(rest) / len(rest))


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, x_hat, mask, brain: np.abs(x - x_hat)[mask].mean() / np.abs(x - x_hat)[brain & ~mask].mean(),
        lambda x, y, m, b: np.average(abs(y - x), weights=m) / np.average(abs(y - x), weights=b & ~m),
        by_loops,
    ],
)
def test_ways_to_the_ratio(cards, answer):
    assert cards.verdict("2.2.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y, m, b: np.abs(x - y)[b & ~m].mean() / np.abs(x - y)[m].mean(), "Upside down"),
        (lambda x, y, m, b: abs((x - y)[m].mean()) / abs((x - y)[b & ~m].mean()), "without the absolute value"),
        (lambda x, y, m, b: np.abs(x - y)[m].mean() / np.abs(x - y)[~m].mean(), "counted the background"),
        (lambda x, y, m, b: np.abs(x - y)[m].mean() / np.abs(x - y)[b].mean(), "the brain without the lesion"),
        (lambda x, y, m, b: ((x - y) ** 2)[m].mean() / ((x - y) ** 2)[b & ~m].mean(), "You squared"),
        (lambda x, y, m, b: np.abs(x - y)[m].mean(), "divided by that over the brain"),
        (lambda x: x, "could not use this answer"),
    ],
)
def test_other_ratios_are_named(cards, answer, message):
    assert message in cards.verdict("2.2.1", answer)


def towards_the_mean(images, share=0.3):
    """Every brain drawn towards its mean."""
    brain = images > 0
    mean = (images * brain).sum((1, 2, 3), keepdim=True) / brain.sum((1, 2, 3), keepdim=True)
    return torch.where(brain, mean + share * (images - mean), 0.0)


def blurred(images):
    """A blur inside the brain: of the image and of the brain, divided."""
    brain = (images > 0).float()
    blur = torch.nn.AvgPool2d(7, stride=1, padding=3)
    smooth = blur(images) / blur(brain).clamp(min=1e-6) * brain
    return smooth


@pytest.mark.parametrize("answer", [towards_the_mean, blurred, lambda x: towards_the_mean(x, 0.1)])
def test_ways_to_fool_the_residual(cards, answer):
    assert cards.verdict("2.2.2", answer).endswith("right.")


def in_place(images):
    """What must not be done to somebody else's images."""
    images *= 0.5
    return images


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x[:, 0], "Return images of the same shape"),
        (lambda x: x.numpy(), "Return images of the same shape"),
        (in_place, "You changed the given images"),
        (lambda x: x.flip(2).roll(2, 3), "The outline has changed"),
        (lambda x: torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2), "The outline has changed"),
        (lambda x: towards_the_mean(x, 1.5), "more contrast than before"),
        (lambda x: towards_the_mean(x, 0.9), "Most of the detail is still there"),
        (lambda x: 0.4 * x, "mean brightness has moved"),
        (0.5, "could not use this answer"),
    ],
)
def test_other_changes_are_named(cards, answer, message):
    assert message in cards.verdict("2.2.2", answer)


@pytest.mark.parametrize("answer", [{"b", "c"}, ["c", "b"], "bc", ("B", "C"), "b, c"])
def test_honest_ways_to_stop(cards, answer):
    assert cards.verdict("2.2.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"a", "b"}, "the test lesions have then chosen"),
        ({"b", "c", "d"}, "seeds of one test set share its lesions"),
        ({"c"}, "fixed beforehand"),
        ({"b"}, "may be used, if you say so"),
        ({"e"}, "The letters are"),
        (3, "Give the letters"),
    ],
)
def test_other_ways_are_named(cards, answer, message):
    assert message in cards.verdict("2.2.3", answer)
