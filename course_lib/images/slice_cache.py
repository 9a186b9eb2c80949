"""Slices on disk: three memory-mapped arrays, a table and a fingerprint, in a folder that is whole or not there.

images.npy  (N, 96, 96) float32      masks.npy, brains.npy  (N, 96, 96) bool
slices.tsv  one row a slice          slices.json  name, key, fingerprint, spacing, licence, citation, source
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.errors import BadInput

FORMAT = 1  # goes up when the content of a cache changes its meaning: older ones are then built again
ARRAYS = {"images": np.dtype(np.float32), "masks": np.dtype(bool), "brains": np.dtype(bool)}
_REMEDY = "Remove the folder: it is built again when it is next needed."


@dataclass
class Block:
    """Some slices of a data set, usually one subject's: arrays (n, H, W) and a table of n rows."""

    images: np.ndarray
    masks: np.ndarray
    brains: np.ndarray
    table: pd.DataFrame


def check_arrays(images: np.ndarray, masks: np.ndarray, brains: np.ndarray, where: str | Path = "") -> None:
    """Refuse slices that a detector or a metric would silently get wrong.

    Raises:
        BadInput: shapes or dtypes differ from (N, H, W) float32, bool, bool; a value is NaN or infinite; an image is
            not 0 outside the brain, or not positive inside it; a slice has no brain.
    """

    def refuse(cause: str, field: str) -> None:
        raise BadInput(cause, file=where or None, field=field)

    check_shapes(images, masks, brains, where)
    for start in range(0, len(images), 512):  # bounded memory, whatever N
        image, brain = images[start : start + 512], brains[start : start + 512]  # (n, H, W)
        if not np.isfinite(image).all():
            refuse("an image has NaN or infinite pixels.", "images")
        if image[~brain].any():
            refuse("an image is not 0 outside the brain mask.", "images")
        if (image[brain] <= 0).any():
            refuse("an image is not positive inside the brain mask.", "images")
        if not brain.any((1, 2)).all():
            refuse("a slice has no brain.", "brains")


def check_shapes(images: np.ndarray, masks: np.ndarray, brains: np.ndarray, where: str | Path = "") -> None:
    """Refuse arrays of the wrong dtype or of different shapes, without reading them.

    Raises:
        BadInput: names the array.
    """
    for (name, dtype), array in zip(ARRAYS.items(), (images, masks, brains), strict=True):
        if array.dtype != dtype:
            raise BadInput(f"is {array.dtype}, not {dtype}.", file=where or None, field=name)
        if array.ndim != 3 or array.shape != images.shape:
            raise BadInput(
                f"has shape {array.shape}; images has {images.shape}; both must be (N, H, W).",
                file=where or None,
                field=name,
            )


def digests(images: np.ndarray, masks: np.ndarray, brains: np.ndarray, table: pd.DataFrame) -> list[str]:
    """One short SHA-256 a slice, over its pixels, subject, height, split and family."""
    found = []
    facts = table[["subject", "z_mm", "split", "family"]].itertuples(index=False)
    for image, mask, brain, (subject, z_mm, split, family) in zip(images, masks, brains, facts, strict=True):
        state = hashlib.sha256(f"{subject}\t{float(z_mm):g}\t{split}\t{family}\n".encode())
        for array in (image, mask, brain):
            state.update(np.ascontiguousarray(array).data)
        found.append(state.hexdigest()[:20])
    return found


def fingerprint(slice_digests: Iterable[str], spacing_mm: float) -> str:
    """SHA-256 over the slices in their order: equal content gives an equal fingerprint, wherever it comes from."""
    text = f"{spacing_mm:g}\n" + "\n".join(slice_digests)
    return hashlib.sha256(text.encode()).hexdigest()


def write(folder: str | Path, blocks: Iterable[Block], meta: dict[str, object], spacing_mm: float) -> None:
    """Write a cache: build it in a temporary folder beside `folder`, then rename.

    Two processes may do this at once: the one that comes second drops its copy.

    Args:
        folder: the cache; replaced if it is there.
        blocks: the slices, in order; taken one at a time.
        meta: what is kept in slices.json beside the fingerprint.
        spacing_mm: the size of a pixel.

    Raises:
        BadInput: a block is not sound, there are no slices, or the disk is full or read-only.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
        part.chmod(0o777 & ~_umask())
        try:
            _fill(part, blocks, meta, spacing_mm)
            _move(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise BadInput(
            f"the slices cannot be written ({error.strerror or error}).",
            file=folder,
            remedy="Free some space, or choose another folder with LEARNING_NORMAL_DATA.",
        ) from error


def read(folder: str | Path) -> tuple[dict[str, np.ndarray], pd.DataFrame, dict[str, object]]:
    """The memory-mapped arrays by name, the table, and the content of slices.json.

    Sizes, the fingerprint of the table, and the pixels of a few slices are checked: a truncated or mixed-up cache
    does not pass. `verify` reads everything.

    Raises:
        BadInput: the cache is missing, incomplete or damaged.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "slices.json").read_text(encoding="utf-8"))
        table = pd.read_csv(folder / "slices.tsv", sep="\t", na_values=["n/a"], keep_default_na=False, dtype=_DTYPES)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        if meta["format"] != FORMAT:
            raise BadInput("is of an older format.", file=folder, remedy=_REMEDY)
        check_shapes(**arrays, where=folder)
        rows = {len(table), *(len(array) for array in arrays.values())}
        if len(rows) != 1 or meta["fingerprint"] != fingerprint(table["digest"], meta["spacing_mm"]):
            raise BadInput("the slices do not agree with their fingerprint.", file=folder, remedy=_REMEDY)
        verify(arrays, table, np.unique(np.linspace(0, len(table) - 1, 12).astype(int)), folder)
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput("there are no slices here.", file=folder, remedy=_REMEDY) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the slices are damaged ({error}).", file=folder, remedy=_REMEDY) from error
    return arrays, table, meta


def verify(arrays: dict[str, np.ndarray], table: pd.DataFrame, rows: np.ndarray, where: str | Path) -> None:
    """Compare the pixels of `rows` with the digests in the table.

    Raises:
        BadInput: names the first slice that differs.
    """
    chosen = table.iloc[rows]
    found = digests(*(arrays[name][rows] for name in ARRAYS), chosen)
    for subject, z_mm, kept, now in zip(chosen["subject"], chosen["z_mm"], chosen["digest"], found, strict=True):
        if kept != now:
            raise BadInput(f"slice z = {z_mm:g} mm of {subject} is damaged.", file=where, remedy=_REMEDY)


def remove_stale(target: Path, heights: list[float]) -> None:
    """Remove the caches beside `target` that hold an earlier state of the same data set at the same heights.

    A process that has one mapped keeps it (on Windows it stays until it is free).
    """
    for folder in target.parent.iterdir():
        if folder == target or folder.name.startswith("."):
            continue
        try:
            old = json.loads((folder / "slices.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not a cache of ours
        if old.get("z_mm") == heights:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed builders left in `parent`: temporary folders whose files were not touched for two minutes."""
    for folder in [*parent.glob(".part-*"), *parent.glob(".old-*")]:
        try:
            touched = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:
            continue  # its builder has just finished
        if time.time() - touched > _ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)


_ABANDONED_S = 120
_DTYPES = {"subject": str, "split": str, "family": str, "digest": str, "z_mm": float, "person": str}


def _fill(part: Path, blocks: Iterable[Block], meta: dict[str, object], spacing_mm: float) -> None:
    tables, shape = [], (0, 0)
    with ExitStack() as stack:
        streams = {name: stack.enter_context(open(part / f"{name}.npy", "w+b")) for name in ARRAYS}
        for stream, dtype in zip(streams.values(), ARRAYS.values(), strict=True):
            _header(stream, (0, 0, 0), dtype)
        for block in blocks:
            check_arrays(block.images, block.masks, block.brains)
            shape = block.images.shape[1:]
            for name, stream in streams.items():
                stream.write(np.ascontiguousarray(getattr(block, name)).data)
            tables.append(block.table.assign(digest=digests(block.images, block.masks, block.brains, block.table)))
        if not tables:
            raise BadInput("there are no slices with brain in this data set.", file=part.parent)
        table = pd.concat(tables, ignore_index=True)
        for stream, dtype in zip(streams.values(), ARRAYS.values(), strict=True):
            stream.seek(0)
            _header(stream, (len(table), *shape), dtype)
            stream.flush()
            os.fsync(stream.fileno())
    table.to_csv(part / "slices.tsv", sep="\t", index=False, na_rep="n/a", lineterminator="\n")
    content = {**meta, "format": FORMAT, "spacing_mm": spacing_mm, "slices": len(table)}
    content["fingerprint"] = fingerprint(table["digest"], spacing_mm)
    (part / "slices.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _header(stream, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """NumPy's own header, padded to 256 bytes so that the number of slices can be filled in at the end."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    stream.write(b"\x93NUMPY\x01\x00" + (246).to_bytes(2, "little") + text.ljust(245).encode("latin1") + b"\n")


def _move(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`; a folder that is there is moved aside first. Loses a race quietly."""
    for _ in range(5):
        try:
            os.rename(part, folder)
            return
        except OSError:
            if not folder.exists():
                raise
        try:
            read(folder)  # another process has just built it
            return
        except BadInput:
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-"))
            try:
                os.rename(folder, aside / "damaged")
            except FileNotFoundError:
                pass  # another process moved it first
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    raise BadInput("the slices cannot be put in place.", file=folder, remedy=_REMEDY)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
