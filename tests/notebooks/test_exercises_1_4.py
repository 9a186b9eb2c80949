"""The exercises of lesson 1.4: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def cards(exercises):
    """The lesson's exercises; their checks need nothing from the run but the lesson's own functions."""
    return exercises("1.4")


def test_every_card_is_tested(cards):
    assert cards.numbers == ["1.4.1", "1.4.2", "1.4.3"]


@pytest.mark.parametrize("answer", [0.9999, 0.99999, 1, 1.0, "0.9999"])
def test_nu_near_one_is_right(cards, answer):
    assert cards.verdict("1.4.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.01, "With a small nu few points are support vectors"),
        (0.5, "The weights are not equal yet"),
        (0.99, "The weights are not equal yet"),
        (0, "above 0 and at most 1"),
        (1.5, "above 0 and at most 1"),
        ("all", "Put one number into `answer`"),
    ],
)
def test_other_values_of_nu_are_named(cards, answer, message):
    assert message in cards.verdict("1.4.1", answer)


RIGHT_PARTS = [
    lambda x, mean, precision: (x - mean) * (precision @ (x - mean)),
    lambda x, mean, precision: ((x - mean)[:, None] * precision * (x - mean)).sum(1),
    lambda x, mean, precision: np.asarray(x - mean) * (np.asarray(precision) @ np.asarray(x - mean)),
]


@pytest.mark.parametrize("answer", RIGHT_PARTS)
def test_the_terms_of_the_distance_are_right(cards, answer):
    assert cards.verdict("1.4.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, mean, precision: (x - mean) @ precision @ (x - mean), "This is the score itself"),
        (lambda x, mean, precision: x * (precision @ x), "You forgot the mean"),
        (lambda x, mean, precision: precision @ (x - mean), "half the gradient"),
        (lambda x, mean, precision: (x - mean) ** 2 * precision.diagonal(), "the diagonal alone"),
        (
            lambda x, mean, precision: ((x - mean) @ precision @ (x - mean)).expand(6) / 6,
            "exactly the terms that hold",
        ),
        (lambda x, mean, precision: (x - mean).abs(), "do not sum to the score"),
        (
            lambda x, mean, precision: (x - mean)[:, None] * precision * (x - mean),
            "one number for each pixel, of shape",
        ),
        (lambda x: x, "could not use this answer"),
    ],
)
def test_other_decompositions_are_named(cards, answer, message):
    assert message in cards.verdict("1.4.2", answer)


def bright(cards, images, brains, people):
    return cards.names["bright_rim"](images, brains, people)


def test_the_rim_on_everybody_or_on_a_random_half_is_a_control(cards):
    everybody = lambda images, brains, patient: bright(cards, images, brains, np.ones(len(images), bool))  # noqa: E731
    half = lambda images, brains, patient: bright(cards, images, brains, np.arange(len(images)) % 2 == 0)  # noqa: E731
    drawn = lambda images, brains, patient: bright(  # noqa: E731
        cards, images, brains, np.random.default_rng(0).random(len(images)) < 0.5
    )
    for answer in (everybody, half, drawn):
        assert cards.verdict("1.4.3", answer).endswith("right.")


def in_place(images, brains, patient):
    images += 0.25 * brains
    return images


@pytest.mark.parametrize(
    ("people", "message"),
    [
        (lambda patient: patient, "Only the patients have it"),
        (lambda patient: ~patient, "Only the healthy have it: the same trap"),
        (lambda patient: np.zeros(len(patient), bool), "Nobody has the rim"),
        (lambda patient: patient & (np.arange(len(patient)) % 4 > 0), "still says something"),
    ],
)
def test_a_rim_that_tells_who_is_ill_is_named(cards, people, message):
    answer = lambda images, brains, patient: bright(cards, images, brains, people(patient))  # noqa: E731
    assert message in cards.verdict("1.4.3", answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (in_place, "You changed the given images themselves"),
        (lambda images, brains, patient: images[patient], "Return all the images"),
        (lambda images, brains, patient: images + 0.25 * brains, "More than the rim has changed"),
    ],
)
def test_other_controls_are_named(cards, answer, message):
    assert message in cards.verdict("1.4.3", answer)
