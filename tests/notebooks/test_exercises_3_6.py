"""The exercises of lesson 3.6: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_lib.detectors.deformation import integrate, warp


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run."""
    return exercises("3.6")


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["3.6.1", "3.6.2", "3.6.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


def by_following_a_pixel():
    """Where warp puts a bright pixel."""
    image = torch.zeros(1, 1, 11, 11)
    image[..., 5, 5] = 1
    displacement = torch.zeros(1, 2, 11, 11)
    displacement[:, 1] = 2
    at = np.unravel_index(int(warp(image, displacement).argmax()), (11, 11))
    return at[0] - 5, at[1] - 5


@pytest.mark.parametrize("answer", [(0, -2), [0.0, "-2"], torch.tensor([0, -2]), by_following_a_pixel()])
def test_the_way_is_right(cards, answer):
    assert cards.verdict("3.6.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((0, 2), "has moved the other way"),
        ((-2, 0), "the axis is not"),
        ((2, 0), "Neither sign nor axis"),
        ((0, -4), "not in mm"),
        ((0, 4), "which way does the content move"),
        ((1, 1), "Take one bright pixel"),
        (-2, "could not use this answer"),
    ],
)
def test_wrong_ways_are_named(cards, answer, message):
    assert message in cards.verdict("3.6.1", answer)


def squared(v, start, times, step=None):
    """Squarings from a start."""
    u = start(v)
    for _ in range(times):
        u = step(u) if step else u + warp(u, u)
    return u


def by_recursion(v, n):
    """exp(v) is exp(v / 2) twice."""
    if n == 0:
        return v
    u = by_recursion(v / 2, n - 1)
    return warp(u, u) + u


@pytest.mark.parametrize("answer", [integrate, by_recursion, lambda v, n: squared(v, lambda v: v / 2**n, n)])
def test_ways_to_follow_the_flow(cards, answer):
    assert cards.verdict("3.6.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, n: v, "added at once"),
        (lambda v, n: squared(v, lambda v: v / 2**n, n, lambda u: 2 * u), "begin where the first ended"),
        (lambda v, n: squared(v, lambda v: v, n), "v was not made small"),
        (lambda v, n: squared(v, lambda v: v / n, n), "n doublings make 2^n"),
        (lambda v, n: squared(v, lambda v: v / 2**n, n - 1), "One squaring too few"),
        (lambda v, n: squared(v, lambda v: v / 2**n, n + 1), "One squaring too many"),
        (lambda v, n: squared(v, lambda v: v / 2**n, n, lambda u: warp(u, u)), "first half of the way is lost"),
        (lambda v, n: integrate(v, n)[:, 0], "has the shape of v"),
        (lambda v, n: -integrate(v, n), "Start with v / 2^n"),
        (lambda v: v, "could not use this answer"),
    ],
)
def test_wrong_flows_are_named(cards, answer, message):
    assert message in cards.verdict("3.6.2", answer)


def by_hand(du):
    """The determinant written out."""
    a, b, c, d = du.flatten(1).T
    return (1 + a) * (1 + d) - b * c <= 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda du: torch.linalg.det(torch.eye(2) + du) <= 0,
        lambda du: np.linalg.det(np.eye(2) + du.numpy()) <= 0,
        by_hand,
        lambda du: [bool(fold) for fold in by_hand(du)],
    ],
)
def test_ways_to_see_a_fold(cards, answer):
    assert cards.verdict("3.6.3", answer).endswith("right.")


def det(du, sign=1):
    """det (I + du) or det (I - du)."""
    return torch.linalg.det(torch.eye(2) + sign * du)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda du: torch.linalg.det(du) <= 0, "add the identity"),
        (lambda du: 1 + du[:, 0, 0] + du[:, 1, 1] <= 0, "divergence is not enough"),
        (lambda du: det(du) > 0, "Upside down"),
        (lambda du: det(du, -1) <= 0, "sign of u is flipped"),
        (lambda du: det(du) < 1, "Below 1 an area shrinks"),
        (lambda du: det(du).abs() < 1, "Below 1 an area shrinks"),
        (lambda du: (det(du) <= 0).any(), "One answer for each"),
        (lambda du: torch.zeros(len(du), dtype=torch.bool), "look at the sign"),
        (3, "could not use this answer"),
    ],
)
def test_wrong_folds_are_named(cards, answer, message):
    assert message in cards.verdict("3.6.3", answer)
