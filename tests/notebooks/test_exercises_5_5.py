"""The exercises of lesson 5.5: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

import numpy as np
import pytest

from course_lib.teaching import predictions


@pytest.fixture(scope="module")
def cards(exercises):
    return exercises("5.5", students=3)


def test_every_card_is_tested(cards):
    assert cards.numbers == ["5.5.1", "5.5.2"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda p, hit: ((p - hit) ** 2).mean(),
        lambda p, hit: sum((a - b) ** 2 for a, b in zip(p, hit, strict=True)) / len(p),
        lambda p, hit: np.where(hit, (1 - p) ** 2, p**2).mean(),
    ],
)
def test_brier_scores_are_right(cards, answer):
    assert cards.verdict("5.5.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, hit: ((p - hit) ** 2).sum(), "That is the sum"),
        (lambda p, hit: np.abs(p - hit).mean(), "absolute distances"),
        (lambda p, hit: np.sqrt(((p - hit) ** 2).mean()), "the root at the end"),
        (lambda p, hit: (p.mean() - hit.mean()) ** 2, "compared the means"),
        (lambda p, hit: hit.mean(), "the hit rate"),
        (lambda p, hit: 9.0, "For each guess"),
        (0.3, "could not use this answer"),
    ],
)
def test_other_scores_are_named(cards, answer, message):
    assert message in cards.verdict("5.5.1", answer)


@pytest.mark.parametrize("answer", [0.7, 7 / 10, np.float32(0.7)])
def test_honesty_is_right(cards, answer):
    assert cards.verdict("5.5.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (1, "Certainty costs most"),
        (0.5, "gives away what you know"),
        (70, "not a percentage"),
        (0.3, "of being wrong"),
        (0.8, "Minimise"),
        ("much", "could not use this answer"),
    ],
)
def test_other_statements_are_named(cards, answer, message):
    assert message in cards.verdict("5.5.2", answer)


def test_the_simulated_students_are_what_they_are_called(cards):
    tables = {
        skill: predictions.calibration(cards.names["simulated_student"](np.random.default_rng(0), skill, 3000))
        for skill in (1, 0.4)
    }
    value = {skill: table.set_index("measure")["value"] for skill, table in tables.items()}
    assert value[1]["inside the range"] == pytest.approx(0.8, abs=0.05)
    assert value[1]["hit rate"] == pytest.approx(0.75, abs=0.05)
    assert value[0.4]["hit rate"] == pytest.approx(0.6, abs=0.05)
    assert value[0.4]["inside the range"] == pytest.approx(0.4783, abs=0.05)  # 2 Phi(0.6408) - 1
