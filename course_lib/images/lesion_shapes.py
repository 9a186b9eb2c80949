"""A bank of lesion shapes: the outlines that the atlas cohort's own pathology draws, without its intensities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from course_lib.errors import BadInput
from course_lib.images.pathology import FAMILIES, place

SHAPED = tuple(family for family in FAMILIES if family not in ("atrophy", "midlineshift"))  # those bend, and have none
SEED = 2718  # of the bank, which is the same in every training


@lru_cache(maxsize=8)
def lesion_shapes(families: Sequence[str], image_shape: tuple[int, int], count: int = 40) -> Tensor:
    """Masks of lesions of these families, each with its centre of mass in the middle of the picture.

    They are drawn in a plain ellipse of the size of a head, by `course_lib.images.pathology`, which also draws the
    lesions of the atlas cohort: other people's, but of one and the same hand.

    Args:
        families: some of `SHAPED`.
        image_shape: H, W; the ellipse takes 0.8 and 0.65 of it.
        count: shapes of each family.

    Returns:
        `(len(families) * count, H, W)`, 0 or 1. The same for the same arguments.

    Raises:
        BadInput: a family without a shape of its own, or none at all.
    """
    unknown = [family for family in families if family not in SHAPED]
    if unknown or not families:
        raise BadInput(f"{unknown or 'no family'} has no shape.", field="shapes", remedy=f"Some of {SHAPED}.")
    height, width = image_shape
    rows, columns = np.ogrid[:height, :width]
    radius = np.hypot((rows - height / 2) / (0.4 * height), (columns - width / 2) / (0.325 * width))
    head = np.where(radius < 1, 0.5, 0).astype(np.float32)  # (H, W)
    rng = np.random.default_rng(SEED)
    masks = [place(head, family, rng).mask for family in families for _ in range(count)]
    return torch.from_numpy(np.stack([_centred(mask) for mask in masks]).astype(np.float32))


def _centred(mask: np.ndarray) -> np.ndarray:
    """The mask, rolled so that its centre of mass lies in the middle."""
    if not mask.any():
        return mask
    middle = [n // 2 - round(float(axis.mean())) for n, axis in zip(mask.shape, np.nonzero(mask), strict=True)]
    return np.roll(mask, middle, axis=(0, 1))
