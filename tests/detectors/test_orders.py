"""Orders: the eight symmetries, each undone by its inverse."""

from __future__ import annotations

import pytest
import torch

from course_lib.detectors.orders import ORDERS, inverse, order
from course_lib.errors import BadInput


@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
@pytest.mark.parametrize("number", range(ORDERS))
def test_the_inverse_undoes_the_order(grid, number):
    pi = order(grid, number)
    places = torch.arange(grid[0] * grid[1])
    assert torch.equal(pi.sort().values, places)
    assert torch.equal(pi[inverse(pi)], places) and torch.equal(inverse(pi)[pi], places)


def test_all_eight_differ_and_are_the_symmetries_of_the_square():
    grid = torch.arange(9).view(3, 3)
    symmetries = {tuple(g.rot90(k).flatten().tolist()) for g in (grid, grid.T) for k in range(4)}
    assert {tuple(order((3, 3), number).tolist()) for number in range(ORDERS)} == symmetries


def test_the_named_ones():
    assert order((2, 3), 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert order((2, 3), 3).tolist() == [5, 4, 3, 2, 1, 0]
    assert order((2, 3), 1).tolist() == [2, 1, 0, 5, 4, 3]
    assert order((2, 3), 4).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("number", [-1, 8])
def test_there_are_no_others(number):
    with pytest.raises(BadInput, match="0 to 7"):
        order((3, 3), number)
