"""As many new people as you like: a statistical model of a data set's healthy heads, and lesions painted on them.

A cohort has a hundred people, and what a detector is worth for *all* people stays unknown. A model of the cohort has
infinitely many, so a number measured on few of them can be compared with its true value. They are blurred cousins of
the cohort's people, made for studying evaluation, not for training detectors of real disease.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images.bids import HEALTHY
from course_lib.images.slices import SliceSet

DARKEST = 0.01  # inside the brain; 0 is the background


class People:
    """A Gaussian model of stacks of healthy slices, to draw new people from.

        x = mu + sum_k z_k s_k u_k + r e,    z_k and e standard normal

    u_k are the first principal components of the data set's people, s_k their standard deviations, r each pixel's
    standard deviation of what the components leave over. A person is one vector over all heights, so that slices of
    one person resemble each other as they do in the data.

    Args:
        slices: of healthy people; those that lack one of the heights are left out.
        z_mm: the heights of a person's slices.
        components: how many u_k; fewer than people.
        pool: the images are averaged over squares of `pool` x `pool` pixels.

    Attributes:
        brains: (L, H, W) bool, where at least half of the people have brain; the same for everybody drawn.
        z_mm: (L,), the heights.
        spacing_mm: the size of a pooled pixel.

    Raises:
        BadInput: a slice has a lesion, or the people with all heights are not more than the components.

    Source: the texture half of Cootes, Edwards, Taylor, Active appearance models, IEEE PAMI 23 (2001).
    """

    def __init__(self, slices: SliceSet, z_mm: Sequence[float], *, components: int = 32, pool: int = 2):
        if slices.masks.any():
            raise BadInput("a model of healthy people is made from slices without a lesion.", field="slices")
        self.z_mm, self.spacing_mm = tuple(float(z) for z in z_mm), slices.spacing_mm * pool
        rows = slices.table.reset_index().pivot(index="subject", columns="z_mm", values="index")
        rows = rows.reindex(columns=self.z_mm).dropna().to_numpy(int)  # (S, L)
        if len(rows) <= components:
            raise BadInput(
                f"{components} components need more than the {len(rows)} people who have all heights.",
                field="components",
                remedy="Ask for fewer components or heights.",
            )
        stacks = _pooled(slices.images, pool)[rows]  # (S, L, H, W)
        self.brains = _pooled(slices.brains.astype(np.float32), pool)[rows].mean(0) >= 0.5  # (L, H, W)
        people = stacks[:, self.brains].astype(np.float64)  # (S, P)
        self._mean = people.mean(0)
        u, s, v = np.linalg.svd(people - self._mean, full_matrices=False)
        self._directions = s[:components, None] / np.sqrt(len(rows) - 1) * v[:components]  # (K, P): s_k u_k
        rest = people - self._mean - (u[:, :components] * s[:components]) @ v[:components]
        self._rest_sd = rest.std(0, ddof=components + 1 if len(rows) > components + 1 else 0)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """New people: `(count, L, H, W)` float32, 0 outside the brain and at least 0.01 inside it."""
        z = rng.standard_normal((count, len(self._directions)))
        vectors = self._mean + z @ self._directions
        vectors += self._rest_sd * rng.standard_normal(vectors.shape)
        images = np.zeros((count, *self.brains.shape), np.float32)
        images[:, self.brains] = np.maximum(vectors, DARKEST)
        return images

    def slice_set(
        self, images: np.ndarray, masks: np.ndarray | None = None, *, split: str = "test", name: str = "new people"
    ) -> SliceSet:
        """Stacks of people as a `SliceSet`, person by person.

        Args:
            images: (S, L, H, W), of `draw`.
            masks: (S, L, H, W) bool, what is abnormal; a person with any is of the family `ill`. None: nobody.
            split: "train", "val" or "test".
            name: goes into the subjects' ids too, so that people of two draws are not taken for the same.
        """
        masks = np.zeros(images.shape, bool) if masks is None else masks
        count, heights = images.shape[:2]
        ill = np.repeat(masks.any((1, 2, 3)), heights)
        subjects = [f"{name} {split} {'ill' if sick else HEALTHY} {k}" for k, sick in enumerate(ill[::heights])]
        table = pd.DataFrame(
            {
                "subject": np.repeat(subjects, heights),
                "slice": np.tile(np.arange(heights), count),
                "z_mm": np.tile(self.z_mm, count),
                "split": split,
                "family": np.where(ill, "ill", HEALTHY),
            }
        )
        flat = (-1, *images.shape[2:])
        brains = np.broadcast_to(self.brains, images.shape).reshape(flat)
        return SliceSet(images.reshape(flat), masks.reshape(flat), brains, table, name=name, spacing_mm=self.spacing_mm)


def paint_discs(
    images: np.ndarray,
    brains: np.ndarray,
    rng: np.random.Generator,
    *,
    radius: tuple[float, float] = (1.5, 4),
    contrast: float | np.ndarray = 0.25,
) -> tuple[np.ndarray, np.ndarray]:
    """One disc in every slice, at a random place in the brain, brighter (or darker) than what was there.

    Args:
        images: (S, L, H, W).
        brains: (L, H, W) bool.
        rng: random stream of places and radii.
        radius: smallest and largest, in pixels; uniform between them. The centre lies at least the largest inside
            the brain where there is such a place, else anywhere in it.
        contrast: what is added, in intensity; 1/8 is one robust standard deviation of the brain. One number, or one
            for each person (S,).

    Returns:
        Images and masks `(S, L, H, W)`: `image + contrast * mask` in the brain, at least 0.01.
    """
    rows, columns = np.indices(brains.shape[1:])
    masks = np.zeros(images.shape, bool)
    for height, brain in enumerate(brains):
        inner = ndimage.distance_transform_edt(brain) > radius[1]
        places = np.argwhere(inner if inner.any() else brain)
        centres = places[rng.integers(len(places), size=len(images))]  # (S, 2)
        size = rng.uniform(*radius, len(images))
        away = (rows - centres[:, 0, None, None]) ** 2 + (columns - centres[:, 1, None, None]) ** 2
        masks[:, height] = (away <= size[:, None, None] ** 2) & brain
    added = np.broadcast_to(contrast, len(images))[:, None, None, None]
    painted = np.where(masks, np.maximum(images + added, DARKEST), images)
    return painted.astype(np.float32), masks


def _pooled(images: np.ndarray, pool: int) -> np.ndarray:
    """Means over squares: (N, H, W) to (N, H / pool, W / pool); what does not fill a square is left out."""
    height, width = (side // pool for side in images.shape[1:])
    cut = images[:, : height * pool, : width * pool]
    return cut.reshape(len(images), height, pool, width, pool).mean((2, 4))
