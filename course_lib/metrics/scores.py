"""Scores: the anomaly maps of one detector on some slices, with everything that is needed to judge them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from course_lib import maps as map_filters
from course_lib.errors import BadInput
from course_lib.metrics.curves import as_binary

HEALTHY = "healthy"  # the family of subjects without a lesion
_COLUMNS = ("subject", "slice", "split", "family")


@dataclass(frozen=True, eq=False)
class Scores:
    """Anomaly maps of N slices, with masks, brains and the table of subjects; checked when it is made.

    Args:
        maps: (N, H, W) float32, higher is more anomalous.
        masks: (N, H, W) bool, what is abnormal.
        brains: (N, H, W) bool, the region that is scored.
        table: N rows with `subject`, `slice`, `split`, `family`; where a column `person` is there, it is the person
            and not the subject's id that is resampled.
        image_scores: (N,) float32, one score an image; NaN is refused.
        detector, data: names.
        postprocess: the steps that the maps went through, as text.
        min_component: detections smaller than this many pixels are dropped after thresholding.
        image_rule: how an image's score was made from its map.
        raw: the same before post-processing.

    Raises:
        BadInput: shapes differ, a map is NaN or infinite in the brain, a mask is not binary, a subject is missing or
            in two splits, a column is missing, there is no slice.
    """

    maps: np.ndarray
    masks: np.ndarray
    brains: np.ndarray
    table: pd.DataFrame
    image_scores: np.ndarray | None = None
    detector: str = "detector"
    data: str = "data"
    postprocess: str = "none"
    min_component: int = 0
    image_rule: str = "mean over the brain"
    raw: Scores | None = None

    def __post_init__(self):
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (the class is frozen)
        set_("maps", np.asarray(self.maps, np.float32))
        set_("masks", as_binary(self.masks, "masks"))
        set_("brains", as_binary(self.brains, "brains"))
        set_("table", self.table.reset_index(drop=True))
        if self.maps.ndim != 3 or not len(self.maps):
            raise BadInput(f"maps {self.maps.shape} are not (N, H, W) with N > 0.", field="maps")
        for name in ("masks", "brains"):
            if getattr(self, name).shape != self.maps.shape:
                shape = getattr(self, name).shape
                raise BadInput(f"{name} {shape} for maps {self.maps.shape}.", field=name)
        _check_table(self.table, len(self.maps))
        finite = np.isfinite(self.maps) | ~self.brains
        if not finite.all():
            bad = self.table.loc[int((~finite).any((1, 2)).argmax()), "subject"]
            count = int((~finite).sum())
            raise BadInput(f"{count} map pixels are NaN or infinite, the first in subject {bad}.", field="maps")
        if self.image_scores is not None:
            set_("image_scores", np.asarray(self.image_scores, np.float32))
            if self.image_scores.shape != (len(self.maps),) or not np.isfinite(self.image_scores).all():
                raise BadInput("image scores are not one finite number an image.", field="image_scores")

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def units(self) -> np.ndarray:
        """(N,) the person, else the subject, of each slice: what intervals resample and what counts as one."""
        subjects = self.table["subject"].astype(str)
        if "person" not in self.table:
            return subjects.to_numpy()
        return self.table["person"].astype(str).where(self.table["person"].notna(), subjects).to_numpy()

    @property
    def subjects(self) -> list[str]:
        """The persons or subjects, in the order of their first slice."""
        return list(dict.fromkeys(self.units))

    @property
    def splits(self) -> list[str]:
        """The splits that occur."""
        return sorted(self.table["split"].unique())

    @property
    def families(self) -> list[str]:
        """The families that occur, in the order of their first slice."""
        return list(dict.fromkeys(self.table["family"]))

    @property
    def lesion_px(self) -> np.ndarray:
        """(N,) lesion pixels inside the brain."""
        return (self.masks & self.brains).sum((1, 2))

    @property
    def lesion_outside_brain(self) -> float:
        """The share of lesion pixels outside the brain, which no number counts; 0 where there is no lesion."""
        total = int(self.masks.sum())
        return int((self.masks & ~self.brains).sum()) / total if total else 0.0

    def select(self, rows: Sequence[int] | np.ndarray) -> Scores:
        """Some of the slices: a boolean array of length N, or indices."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        pick = lambda array: None if array is None else array[rows]  # noqa: E731
        arrays = {name: pick(getattr(self, name)) for name in ("maps", "masks", "brains", "image_scores")}
        raw = None if self.raw is None else self.raw.select(rows)
        return replace(self, **arrays, table=self.table.iloc[rows], raw=raw)

    def family(self, *families: str) -> Scores | None:
        """The slices of the subjects of these families; None if there is none."""
        rows = self.table["family"].isin(families).to_numpy()
        return self.select(rows) if rows.any() else None

    def by_unit(self) -> dict[str, np.ndarray]:
        """Each person's or subject's row numbers, in the order of `subjects`."""
        units = pd.Series(self.units)
        groups = units.groupby(units, sort=False).indices
        return {unit: groups[unit] for unit in self.subjects}

    def detections(self, threshold: float | np.ndarray) -> np.ndarray:
        """(N, H, W) bool: brain pixels that score at least the threshold, less the components that are too small.

        Args:
            threshold: one number, or one for each slice (N,).
        """
        threshold = np.asarray(threshold, np.float64)
        # float32 maps against a float64 threshold are compared in float64: a threshold that is a score stays one
        at_least = self.maps >= (threshold if threshold.ndim == 0 else threshold[:, None, None])
        return map_filters.remove_small_components(at_least & self.brains, self.min_component)


def _check_table(table: pd.DataFrame, slices: int) -> None:
    if len(table) != slices:
        raise BadInput(f"the table has {len(table)} rows for {slices} maps.", field="table")
    for column in _COLUMNS:
        if column not in table:
            raise BadInput(f"the column {column} is missing.", field=column)
        if table[column].isna().any():
            raise BadInput(f"the column {column} is empty in some rows.", field=column)
    for column in ("subject", *(["person"] if "person" in table else [])):
        splits = table.groupby(column)["split"].nunique()
        if (splits > 1).any():
            raise BadInput(
                f"{column} {splits.index[splits > 1][0]} is in two splits.",
                field="split",
                remedy="Split by person, not by slice.",
            )
