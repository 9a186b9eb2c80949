from __future__ import annotations

import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.metrics.intervals import Interval
from course_lib.teaching.claims import Claim, claims_table


def test_value_and_interval_as_text():
    claim = Claim("gap", "A beats B", True, value=0.3125, low=0.25, high=0.375, over="subjects")
    assert claim.measured() == "0.312 [0.25, 0.375] over subjects"
    assert Claim("x", "y", True).measured() == ""


def test_a_claim_that_does_not_hold_gives_its_reason():
    assert Claim("x", "y", np.bool_(False), because="too few subjects").verdict() == "does not hold (too few subjects)"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"holds": 1},
        {"holds": None},
        {"value": float("nan")},
        {"low": 0.1},
        {"low": 0.3, "high": 0.1, "over": "seeds"},
        {"low": 0.1, "high": 0.3},
    ],
)
def test_half_a_claim_is_refused(fields):
    with pytest.raises(BadInput):
        Claim(**{"name": "n", "statement": "s", "holds": True} | fields)


def test_table_has_a_row_for_each_claim_and_keeps_bars_apart():
    text = claims_table([Claim("a", "P(x|z) is larger", True), Claim("b", "so is q", False)])
    assert len(text.splitlines()) == 4
    assert "P(x\\|z)" in text
    assert "does not hold" in text


@pytest.mark.parametrize(
    ("limits", "holds"),
    [({"above": 0}, True), ({"above": 0.2}, False), ({"below": 0.5}, True), ({"above": 0, "below": 0.25}, False)],
)
def test_an_interval_holds_if_the_whole_of_it_lies_beyond_the_limit(limits, holds):
    claim = Claim.of_interval("a", "A is so", Interval(0.2, 0.1, 0.3, 12, 3), because="noise", **limits)
    assert claim.holds is holds and claim.over == "12 subjects and 3 seeds" and claim.seeds == 3
    assert claim.because == ("" if holds else "noise")


def test_an_interval_needs_a_limit():
    with pytest.raises(BadInput, match="above or below"):
        Claim.of_interval("a", "A is so", Interval(0.2, 0.1, 0.3, 12))
