from __future__ import annotations

import pytest

from course_lib.errors import BadInput
from course_lib.teaching.prose import fill, table


def test_numbers_and_intervals_are_filled_in():
    assert fill("AP is {ap:.2f} {ci:.2f}", ap=0.5, ci=(0.4, 0.6)) == "AP is 0.50 [0.40, 0.60]"
    assert fill("{who} wins", who="PCA") == "PCA wins"


@pytest.mark.parametrize("values", [{}, {"ap": 1, "dice": 2}])
def test_missing_and_unused_values_are_named(values):
    with pytest.raises(BadInput, match="missing: ap|unused: dice"):
        fill("AP is {ap}", **values)


def test_table():
    assert table([{"a": 1, "b": "x|y"}], {"a": "A", "b": "B"}) == "| A | B |\n| --- | --- |\n| 1 | x\\|y |"
