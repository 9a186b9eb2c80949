"""How many of very many numbers lie below each of a few: exact, without sorting the many."""

from __future__ import annotations

import numpy as np

_BLOCK = 2**17  # numbers looked at together: they stay in the processor's cache
FEW = 2**20  # so few are sorted
_BUCKETS = 2**19, 2**22  # for some 10^5 values, and for more


def below_and_ties(values: np.ndarray, many: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each value, how many of `many` are smaller, and how many are equal.

    Sorting is most of the work of a ranking, and most of the sorted order is never asked for. So the numbers are
    thrown into a million equal buckets, and only those that fall into a bucket with a value in it are sorted; of the
    others the count is enough. Bucket numbers are a rounded monotone function, the same for both sides: numbers in
    a lower bucket are smaller, whatever the rounding. Measured on 10^7 pixels, 1 % of them lesion: a fifth of the time
    of a vectorised sort.

    Args:
        values: (U,) distinct, ascending, finite; U > 0.
        many: (N,) of the same dtype, N > 0, in any order; not changed.

    Returns:
        Two (U,) int64 arrays.

    Raises:
        FloatingPointError: one of `many` is NaN or infinite.
    """
    buckets = _BUCKETS[len(values) > 2**18]
    # below the first value nothing needs to be told apart; above nearly all of them there are few numbers left
    lowest, highest = float(values[0]), float(values[int(0.998 * (len(values) - 1))])
    scale = (buckets - 2) / (highest - lowest) if highest > lowest else np.inf
    kind = many.dtype if many.dtype.kind == "f" else np.dtype(np.float64)
    if scale > float(np.finfo(kind).max):
        scale = np.inf
    if len(many) <= FEW or not np.isfinite(kind.type(scale)):
        ascending = np.sort(many)
        if not (np.isfinite(ascending[0]) and np.isfinite(ascending[-1])):  # NaN is sorted to the end
            raise FloatingPointError("a number is NaN or infinite")
        return _by_sorting(values, ascending)
    place = _Place(kind.type(lowest), kind.type(scale), buckets)
    occupied = np.zeros(buckets, np.int64)
    starts = range(0, len(values), _BLOCK)
    places = np.concatenate([place(values[start : start + _BLOCK]).copy() for start in starts])
    occupied[places] = 1
    slots = 2 * np.cumsum(occupied) - occupied  # 2 j + 1: the bucket of value j; 2 j: between those of j - 1 and j
    counts = np.zeros(slots[-1] + 2, np.int64)
    kept = []
    room = np.empty(max(_BLOCK, len(counts) // _BLOCK * _BLOCK), np.int64)  # a tally costs as much as its counters
    for start in range(0, len(many), len(room)):
        part = many[start : start + len(room)]
        for first in range(0, len(part), _BLOCK):
            block = part[first : first + _BLOCK]
            if not (np.isfinite(block.min()) and np.isfinite(block.max())):
                raise FloatingPointError("a number is NaN or infinite")
            slot = slots.take(place(block), out=room[first : first + len(block)], mode="clip")
            kept.append(block[(slot & 1).astype(bool)])
        counts += np.bincount(room[: len(part)], minlength=len(counts))
    kept = np.concatenate(kept)
    kept.sort()
    inside = np.where(np.arange(len(counts)) % 2 == 1, counts, 0)
    before, kept_before = np.cumsum(counts) - counts, np.cumsum(inside) - inside
    own = slots[places]
    below, ties = _by_sorting(values, kept)
    return before[own] + below - kept_before[own], ties


class _Place:
    """The bucket of each number of a block; its buffers are used again."""

    def __init__(self, lowest: np.floating, scale: np.floating, buckets: int):
        self.lowest, self.scale, self.last = lowest, scale, buckets - 1
        self.real, self.whole = np.empty(_BLOCK, lowest.dtype), np.empty(_BLOCK, np.intp)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        real, whole = self.real[: len(block)], self.whole[: len(block)]
        with np.errstate(over="ignore"):  # infinity is clipped as any other
            np.subtract(block, self.lowest, out=real, casting="unsafe")
            np.multiply(real, self.scale, out=real)
            np.add(real, 1, out=real)  # bucket 0 is for what lies below all values
        np.clip(real, 0, self.last, out=real)
        whole[:] = real
        return whole


def _by_sorting(values: np.ndarray, ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = np.searchsorted(ascending, values, "left")
    return below, np.searchsorted(ascending, values, "right") - below
