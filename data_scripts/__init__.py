"""Commands that make data sets, and the one function that opens them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.errors import BadInput
from course_lib.files import data_folder

if TYPE_CHECKING:
    from course_lib.images.slices import SliceSet

PROFILES = ("quick", "standard", "full")


def open_slices(data: str | Path = "atlas", profile: str = "quick", *, progress: bool = True) -> SliceSet:
    """The slices of a data set by its name, made first where that needs no download.

    Args:
        data: "atlas" (the embedded cohort, made on first use), "stroke" (real patients: what `fetch_stroke` fetched,
            or the ready-made file or fetched folder named by LEARNING_NORMAL_STROKE), or the folder of a prepared
            data set.
        profile: how much of the atlas cohort: quick, standard or full. Other data sets are always whole.
        progress: show progress bars.

    Raises:
        BadInput: the data set is not there, with the command that gets it; or it is damaged.
    """
    if profile not in PROFILES:
        raise BadInput(f"unknown profile {profile!r}.", field="profile", remedy=f"Use {', '.join(PROFILES)}.")
    if str(data) == "atlas":
        return _atlas(profile, progress)
    if str(data) == "stroke":
        return _stroke()
    return _folder(Path(data), progress)


def _atlas(profile: str, progress: bool) -> SliceSet:
    from course_lib.images.slices import SliceSet
    from data_scripts import make_atlas_cohort

    folder = data_folder() / "atlas"
    make_atlas_cohort.make_cohort(folder, profile, progress=progress)
    slices = SliceSet.from_bids(folder, progress=progress)
    wanted = make_atlas_cohort.cohort_plan(profile)["participant_id"]  # a larger cohort holds the smaller ones
    return slices.select(slices.table["subject"].isin(wanted).to_numpy())


def _stroke() -> SliceSet:
    place = Path(os.environ.get("LEARNING_NORMAL_STROKE") or data_folder() / "stroke")
    if not place.exists():
        raise BadInput(
            "the stroke data set is not there.",
            file=place,
            remedy="Run `python -m data_scripts.fetch_stroke`, or name the ready-made file in LEARNING_NORMAL_STROKE.",
        )
    return _open_stroke(place)


def _open_stroke(source: Path) -> SliceSet:
    """Map the slices of a fetched folder, or of a ready-made file (they are then kept in the data folder)."""
    from data_scripts import stroke_set

    ready = _ready(source) if source.is_dir() else source
    place = source if source.is_dir() and os.access(source, os.W_OK) else data_folder() / "stroke_ready"
    ids = stroke_set.ready_ids(ready)
    try:
        return stroke_set.open_built(place, ids)
    except BadInput:
        return stroke_set.build(place, stroke_set.read_ready(ready))  # not made yet, or damaged


def _folder(folder: Path, progress: bool) -> SliceSet:
    from course_lib.images.slices import SliceSet

    if not folder.exists():
        raise BadInput(
            "there is no such data set.",
            file=folder,
            remedy="Use 'atlas', 'stroke', or a folder made by `python -m data_scripts.prepare_folder`.",
        )
    if folder.suffix == ".npz" or _ready(folder).exists():
        return _open_stroke(folder)
    cache = None if os.access(folder, os.W_OK) else data_folder() / "slices" / folder.resolve().name
    return SliceSet.from_bids(folder, cache, progress=progress)


def _ready(folder: Path) -> Path:
    return folder / "stroke_flair_axial.npz"
