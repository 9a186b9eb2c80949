"""Prepared scores on disk, for an explorer that starts without torch: arrays that are mapped, not read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.errors import BadInput
from course_lib.files import atomic_write
from course_lib.metrics.scores import Scores
from course_lib.widgets.threshold.state import ThresholdState

FORMAT = 1
_COLUMNS = ("subject", "slice", "split", "family", "person")


def save_state(state: ThresholdState, folder: str | Path) -> None:
    """Write a state's scores, images and units to `folder`; the folder appears whole, and replaces an older one.

    Raises:
        BadInput: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    except OSError as error:
        raise BadInput(f"cannot be written ({error.strerror}).", file=folder) from error
    try:
        _fill(state, part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def open_state(folder: str | Path) -> ThresholdState:
    """The state that `save_state` wrote; its arrays are memory-mapped, so that many processes share them.

    Raises:
        BadInput: it is not there, or damaged; the file is named.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise BadInput("it was written by another version.", file=folder, remedy="Prepare it again.")
        parts = {part: _read_part(folder, part, about["detectors"]) for part in ("test", "validation")}
        images = _read_array(folder / "images.npy")
        return ThresholdState(parts["test"], parts["validation"], images, unit=about["unit"])
    except FileNotFoundError as error:
        raise BadInput("nothing is prepared here.", file=error.filename or folder, remedy="Run `make app`.") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"cannot be read ({error}).", file=folder, remedy="Delete this folder.") from error


def _fill(state: ThresholdState, part: Path) -> None:
    for name, scores in (("test", state.scores), ("validation", state.validation)):
        first = next(iter(scores.values()))
        np.save(part / f"{name}_brains.npy", first.brains)
        np.save(part / f"{name}_masks.npy", first.masks)
        table = first.table[[column for column in _COLUMNS if column in first.table]]
        table.to_csv(part / f"{name}.tsv", sep="\t", index=False)
        for number, detector in enumerate(state.scores):
            np.save(part / f"{name}_maps_{number}.npy", scores[detector].maps)
    np.save(part / "images.npy", np.asarray(state.images, np.float32))
    about = {"format": FORMAT, "detectors": list(state.scores), "unit": state.unit}
    with atomic_write(part / "meta.json") as path:
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _read_part(folder: Path, part: str, detectors: list[str]) -> dict[str, Scores]:
    table = pd.read_csv(folder / f"{part}.tsv", sep="\t", dtype={"subject": str, "person": str})
    masks, brains = (_read_array(folder / f"{part}_{name}.npy") for name in ("masks", "brains"))
    return {
        detector: Scores(_read_array(folder / f"{part}_maps_{k}.npy"), masks, brains, table, detector=detector)
        for k, detector in enumerate(detectors)
    }


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadInput(f"this is no whole array ({error}).", file=path, remedy="Prepare it again.") from error
