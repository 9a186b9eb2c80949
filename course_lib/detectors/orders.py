"""Orders in which to read a grid of tokens: the eight symmetries of the square.

Pinaya et al., Medical Image Analysis 2022: one transformer for each order, since one order sees only what came before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.errors import BadInput

ORDERS = 8


def order(grid: tuple[int, int], number: int) -> Tensor:
    """pi, the places of a grid `(h, w)` in the order in which they are read: a permutation `(h w,)` of raster indices.

    Bit 0 of the number flips the columns, bit 1 the rows, bit 2 reads columns of the flipped grid before rows. So 0 is
    the raster (left to right, then down), 3 its reverse, 4 goes down first; 0 and 3 together see every neighbour.

    Raises:
        BadInput: the number is not from 0 to 7.
    """
    if not 0 <= number < ORDERS:
        raise BadInput(f"there are {ORDERS} orders, 0 to {ORDERS - 1}; {number} is none.", field="order")
    places = torch.arange(grid[0] * grid[1]).view(grid)
    flipped = [axis for axis, bit in ((1, 1), (0, 2)) if number & bit]
    places = places.flip(flipped)
    return (places.T if number & 4 else places).flatten()


def inverse(permutation: Tensor) -> Tensor:
    """pi^-1: `sequence[inverse(pi)]` is back on the raster; both `(L,)`."""
    return permutation.argsort()
