"""SliceSet: the slices of a data set with their masks and a tidy table, split by subject."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from course_lib.errors import BadInput
from course_lib.images import bids, lattice, slice_cache
from course_lib.images.lattice import SPACING_MM, STANDARD_HEIGHTS
from course_lib.images.volumes import Volume, check_pair, read_volume

if TYPE_CHECKING:
    from torch import Tensor

MINIMAL_BRAIN = 0.05  # a slice is kept if at least this share of its pixels is brain
_COLUMNS = ("subject", "slice", "z_mm", "split", "family")
_COUNTS = ("lesion_px", "lesion_mm2", "brain_px")
_OWN = {*_COLUMNS, *_COUNTS, "digest"}  # a participants.tsv with such a column: it becomes participant_<column>


class SliceSet:
    """Axial slices `(N, H, W)` of a data set, with masks, brains and a table; also any selection of them.

    Args:
        images: (N, H, W) float32, 0 outside the brain, positive inside it.
        masks: (N, H, W) bool, what is abnormal.
        brains: (N, H, W) bool.
        table: N rows with at least `subject`, `slice` (number of the height), `z_mm`, `split`, `family`. The columns
            `lesion_px`, `lesion_mm2`, `brain_px` and `digest` are made from the arrays, whatever stands there.
        name: the data set's name.
        spacing_mm: the size of a pixel.
        licence: the terms of use.
        citation: what to cite.
        source: where the data came from.

    Attributes:
        table: the table of the selection, with a fresh index, and the columns `lesion_px`, `lesion_mm2`, `brain_px`.
        name, spacing_mm, licence, citation, source: as given.

    Raises:
        BadInput: a subject, or a person where the table has that column, is in two splits; arrays of other shapes
            or dtypes; NaN; an image that is not 0 outside the brain. (What `open` maps was checked when it was
            written.)
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        brains: np.ndarray,
        table: pd.DataFrame,
        *,
        name: str = "slices",
        spacing_mm: float = SPACING_MM,
        licence: str = "",
        citation: str = "",
        source: str = "",
        _checked: bool = False,  # for `open` alone: the arrays were checked, and the table's columns made, on writing
    ):
        slice_cache.check_shapes(images, masks, brains, name)
        if len(table) != len(images):
            raise BadInput(f"the table has {len(table)} rows for {len(images)} slices.", file=name, field="table")
        for column in _COLUMNS:
            if column not in table:
                raise BadInput(f"the column {column} is missing.", file=name, field=column)
        unknown = sorted(set(table["split"]) - set(bids.SPLITS))
        if unknown:
            raise BadInput(f"unknown split {unknown}.", file=name, field="split")
        bids.check_splits(table, name)
        table = table.reset_index(drop=True)
        if not _checked:
            slice_cache.check_arrays(images, masks, brains, name)
            table = _with_counts(table, masks, brains, spacing_mm)
            table = table.assign(digest=slice_cache.digests(images, masks, brains, table))
        self._arrays = {"images": images, "masks": masks, "brains": brains}
        self._rows: np.ndarray | None = None  # None: all rows
        self.table = table
        self.name, self.spacing_mm = name, spacing_mm
        self.licence, self.citation, self.source = licence, citation, source

    # ---- from disk ------------------------------------------------------------------------------------------------

    @classmethod
    def from_bids(
        cls,
        folder: str | Path,
        cache: str | Path | None = None,
        z_mm: Sequence[float] = STANDARD_HEIGHTS,
        *,
        progress: bool = True,
    ) -> SliceSet:
        """The slices of a BIDS-like folder (`course_lib.images.bids`), read once and then memory-mapped.

        The cache is keyed on the participants' table and on the size and time of every file, and built again when
        one of them changes or when it is damaged.

        Args:
            folder: the data set.
            cache: where caches are kept; default `<folder>/derivatives/slices`.
            z_mm: the heights of the slices.
            progress: show a progress bar while reading.

        Raises:
            BadInput: the data set is not sound; the file and the reason are named.
        """
        folder = Path(folder)
        cache = Path(cache) if cache else folder / "derivatives" / "slices"
        participants = bids.read_participants(folder)
        key = _key(folder, participants, z_mm)
        target = cache / key[:16]
        slice_cache.sweep(cache)
        try:
            return cls.open(target)
        except BadInput:
            pass  # not there yet, or damaged: build it
        about = bids.read_description(folder)
        sources = about.get("SourceDatasets") or [{}]
        meta = {
            "name": str(about.get("Name", folder.name)),
            "key": key,
            "z_mm": [float(z) for z in z_mm],
            "licence": str(about.get("License", "")),
            "citation": str(about.get("HowToAcknowledge", "")),
            "source": str(sources[0].get("URL", "")),
        }
        blocks = _read_all(folder, participants, tuple(z_mm), progress)
        slice_cache.write(target, blocks, meta, SPACING_MM)
        slice_cache.remove_stale(target, meta["z_mm"])
        return cls.open(target)

    @classmethod
    def open(cls, cache: str | Path) -> SliceSet:
        """Memory-map a cache that was written before.

        Raises:
            BadInput: it is missing or damaged.
        """
        arrays, table, meta = slice_cache.read(cache)
        texts = {name: meta.get(name, "") for name in ("name", "licence", "citation", "source")}
        return cls(**arrays, table=table, spacing_mm=meta["spacing_mm"], **texts, _checked=True)

    def save(self, cache: str | Path) -> None:
        """Write the slices as a cache that `open` reads.

        Raises:
            BadInput: the folder cannot be written.
        """
        table = self.table.drop(columns="digest")
        meta = {"name": self.name, "licence": self.licence, "citation": self.citation, "source": self.source}
        block = slice_cache.Block(self.images, self.masks, self.brains, table)
        slice_cache.write(cache, [block], meta, self.spacing_mm)

    # ---- what is in it ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        height, width = self.image_shape
        return f"SliceSet({self.name}: {len(self)} slices of {height} x {width}, {len(self.subjects)} subjects)"

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self._arrays["images"].shape[1:]

    @property
    def subjects(self) -> list[str]:
        """The subjects' ids, in the order of their first slice."""
        return list(dict.fromkeys(self.table["subject"]))

    @property
    def families(self) -> list[str]:
        """The families that occur, in the order of their first slice."""
        return list(dict.fromkeys(self.table["family"]))

    @cached_property
    def images(self) -> np.ndarray:
        """(N, H, W) float32: a view of the map if the selected rows are in one piece, else a copy, made once."""
        return self._array("images")

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool: what is abnormal; a view or a copy, as `images`."""
        return self._array("masks")

    @cached_property
    def brains(self) -> np.ndarray:
        """(N, H, W) bool; a view or a copy, as `images`."""
        return self._array("brains")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the selected slices' pixels and facts, in their order.

        It depends on the content alone: the same slices have the same fingerprint whether they are a data set of
        their own or a selection of a larger one.
        """
        return slice_cache.fingerprint(self.table["digest"], self.spacing_mm)

    # ---- selections -------------------------------------------------------------------------------------------------

    def select(self, which: str | np.ndarray | pd.Series | Sequence[int] | Sequence[bool] | slice) -> SliceSet:
        """Some of the slices, as a view: the images are not copied.

        Args:
            which: a pandas query over the table (`"split == 'train' and family == 'healthy'"`), a boolean array of
                length N, an array of indices, or a slice.

        Raises:
            BadInput: the query fails, or an index or the array's length is out of range.
        """
        rows = self._selected(which)
        chosen = object.__new__(SliceSet)
        chosen._arrays = self._arrays
        chosen._rows = rows if self._rows is None else self._rows[rows]
        chosen.table = self.table.iloc[rows].reset_index(drop=True)
        for name in ("name", "spacing_mm", "licence", "citation", "source"):
            setattr(chosen, name, getattr(self, name))
        return chosen

    def example(self, family: str, place: float = 0.5) -> int:
        """The index of a slice to show: the one with the largest lesion of one subject of a family.

        Args:
            family: one that occurs; of `healthy` subjects the middle slice is taken.
            place: which subject, with the family's subjects ordered by their largest lesion: 0 the smallest, 1 the
                largest, 0.5 one in the middle.

        Raises:
            BadInput: there is no such family.
        """
        own = self.table[self.table["family"] == family]
        if own.empty:
            raise BadInput(f"no slice is of the family {family!r}.", field="family", remedy=f"One of {self.families}.")
        sizes = own.groupby("subject")["lesion_px"].max().sort_values(kind="stable")
        chosen = own[own["subject"] == sizes.index[round(place * (len(sizes) - 1))]]
        if chosen["lesion_px"].max() == 0:
            return int(chosen.index[len(chosen) // 2])
        return int(chosen["lesion_px"].idxmax())

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """The images of some slices as a new float32 tensor (B, 1, H, W)."""
        import torch  # here, so that data scripts need not wait for torch

        rows = np.atleast_1d(np.asarray(indices))
        if self._rows is not None:
            rows = self._rows[rows]
        return torch.from_numpy(np.asarray(self._arrays["images"][rows]))[:, None]  # (B, 1, H, W)

    def verify(self) -> None:
        """Compare every pixel with the digests taken when the slices were made.

        Raises:
            BadInput: names the first slice that differs.
        """
        rows = np.arange(len(self)) if self._rows is None else self._rows
        for start in range(0, len(rows), 512):
            piece = rows[start : start + 512]
            arrays = {name: array[piece] for name, array in self._arrays.items()}
            table = self.table.iloc[start : start + 512]
            slice_cache.verify(arrays, table, np.arange(len(piece)), self.name)

    def _array(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        if self._rows is None:
            return array
        rows = self._rows
        if len(rows) and (np.diff(rows) == 1).all():
            return array[rows[0] : rows[-1] + 1]
        return np.asarray(array[rows])

    def _selected(self, which) -> np.ndarray:
        if isinstance(which, slice):
            return np.arange(len(self))[which]
        if isinstance(which, str):
            try:
                return self.table.query(which, engine="python").index.to_numpy()
            except Exception as error:  # pandas raises many kinds for a query that does not parse or evaluate
                raise BadInput(f"the query {which!r} fails ({error}).", field="select") from error
        which = np.asarray(which)
        if which.dtype == bool:
            if which.shape != (len(self),):
                raise BadInput(f"{which.shape} booleans for {len(self)} slices.", field="select")
            return np.flatnonzero(which)
        rows = which.astype(int) if which.size else np.zeros(0, int)
        if rows.ndim != 1 or (rows < 0).any() or (rows >= len(self)).any():
            raise BadInput(f"an index is outside 0 ... {len(self) - 1}.", field="select")
        return rows


# ---- reading a data set ---------------------------------------------------------------------------------------------


def _key(folder: Path, participants: pd.DataFrame, heights: Sequence[float]) -> str:
    """A digest of the table, the heights, and the name, size and time of every file that will be read."""
    state = hashlib.sha256(f"{slice_cache.FORMAT} {[float(z) for z in heights]}\n".encode())
    state.update((folder / "participants.tsv").read_bytes())
    description = folder / "dataset_description.json"
    paths = [description] if description.exists() else []
    for subject in participants["participant_id"]:
        lesion = bids.lesion_path(folder, subject)
        paths += [bids.find_image(folder, subject), bids.brain_path(folder, subject), *([lesion] * lesion.exists())]
    for path in paths:
        status = path.stat()
        state.update(f"{path.relative_to(folder)}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return state.hexdigest()


def _read_all(
    folder: Path, participants: pd.DataFrame, heights: tuple[float, ...], progress: bool
) -> Iterator[slice_cache.Block]:
    """One block a subject: training, validation, test, and in each the healthy first.

    The usual selections are so one piece of the file and need no copy.
    """
    order = participants.assign(
        _split=participants["split"].map(bids.SPLITS.index),
        _ill=participants["family"] != bids.HEALTHY,
    ).sort_values(["_split", "_ill", "family", "participant_id"], kind="stable")
    rows = order.drop(columns=["_split", "_ill"]).to_dict("records")
    workers = min(8, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(workers) as pool,  # unpacking gzip releases the interpreter lock
        tqdm(total=len(rows), desc=f"slices of {folder.name}", unit="subject", disable=not progress) as bar,
    ):
        for start in range(0, len(rows), 4 * workers):  # a few subjects ahead: bounded memory
            piece = rows[start : start + 4 * workers]
            for block in pool.map(lambda row: _read_subject(folder, row, heights), piece):
                bar.update()
                if block is not None:
                    yield block


def _read_subject(folder: Path, row: dict[str, object], heights: tuple[float, ...]) -> slice_cache.Block | None:
    subject = str(row["participant_id"])
    path, lesion = bids.find_image(folder, subject), bids.lesion_path(folder, subject)
    volume = read_volume(path)
    data, affine = volume.data, volume.affine
    inside = _mask(bids.brain_path(folder, subject), volume)
    marked = _mask(lesion, volume) if lesion.exists() else np.zeros_like(inside)
    _check_volume(path, data, inside, marked)
    try:
        images, brains, masks = (lattice.axial_slices(array, affine, heights) for array in (data, inside, marked))
    except BadInput as error:
        raise BadInput(error.cause, file=path, field=error.field, remedy=error.remedy) from error
    kept = [z for z in heights if z in images and brains[z].mean() >= MINIMAL_BRAIN]
    if not kept:
        return None
    brain, mask = np.stack([brains[z] for z in kept]), np.stack([masks[z] for z in kept])  # (n, 96, 96)
    image = np.where(brain, np.stack([images[z] for z in kept]), np.float32(0))  # smoothing at 1 mm blurs the rim
    own = {"participant_id", "split", "family"}
    facts = {(f"participant_{k}" if k in _OWN else k): value for k, value in row.items() if k not in own}
    table = pd.DataFrame(
        {
            "subject": subject,
            "slice": [heights.index(z) for z in kept],
            "z_mm": [float(z) for z in kept],
            "split": row["split"],
            "family": row["family"],
        }
    )
    return slice_cache.Block(image, mask, brain, _with_counts(table, mask, brain, SPACING_MM).assign(**facts))


def _mask(path: Path, image: Volume) -> np.ndarray:
    """The voxels (X, Y, Z) of a mask, on its image's grid."""
    mask = read_volume(path, kind="mask")
    check_pair(image, mask)
    return mask.data


def _check_volume(path: Path, image: np.ndarray, brain: np.ndarray, lesion: np.ndarray) -> None:
    if image[~brain].any():
        raise BadInput("the image is not 0 outside the brain mask.", file=path, field="data")
    if (image[brain] <= 0).any():
        raise BadInput("the image is not positive inside the brain mask.", file=path, field="data")
    if lesion.any() and not (lesion & brain).any():
        raise BadInput("what is marked as abnormal lies wholly outside the brain.", file=path, field="lesion mask")


def _with_counts(table: pd.DataFrame, masks: np.ndarray, brains: np.ndarray, spacing_mm: float) -> pd.DataFrame:
    lesion, brain = masks.sum((1, 2)), brains.sum((1, 2))
    return table.assign(**dict(zip(_COUNTS, (lesion, lesion * spacing_mm**2, brain), strict=True)))
