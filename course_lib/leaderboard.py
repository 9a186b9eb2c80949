"""A contest of detectors: numbers on the public test people, and on people whom nobody has seen.

    python -m course_lib.leaderboard enter NOTEBOOK.ipynb [--detector MyDetector] [--author NAME] ...
    python -m course_lib.leaderboard show

The held-out people are drawn from a secret: same generator, same families, other heads and other lesions. Whoever does
not know the secret cannot look at them, tune on them or pick on them; what they get back is one number an entry. A
lecturer sets the secret in the variable LEARNING_NORMAL_SECRET. Without it there is an open one, which is good for
learning alone, and a contest in name only.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock

from course_lib.benchmark import CLEAN, EVERYONE, person_rows
from course_lib.errors import BadInput
from course_lib.evaluation import predict
from course_lib.files import atomic_write, data_folder, output_folder
from course_lib.images import pathology
from course_lib.metrics.intervals import Interval, bootstrap
from course_lib.metrics.scores import HEALTHY
from course_lib.metrics.statistics import GroupMean

if TYPE_CHECKING:
    from course_lib.images.slices import SliceSet

SECRET = "LEARNING_NORMAL_SECRET"
OPEN = "an open secret"
PEOPLE = 6  # held-out people of each family
HEIGHTS = 4  # every so manieth height is scored, as in lesson 5.3


@dataclass(frozen=True)
class Entry:
    """One row of the board: pixel AP, mean over families of the mean over people.

    Attributes:
        name: of the detector.
        author: who entered it.
        public, public_low, public_high: on the test people of the atlas cohort, with the 95 % interval over them.
        held_out, held_out_low, held_out_high: on the held-out people.
        look: how many entries this author had made with this one: each is a look at the held-out people.
        entered: date and time, UTC.
    """

    name: str
    author: str
    public: float
    public_low: float
    public_high: float
    held_out: float
    held_out_low: float
    held_out_high: float
    look: int
    entered: str


def enter(
    detector,
    public: SliceSet,
    hidden: SliceSet,
    *,
    name: str,
    author: str = "anonymous",
    board: str | Path | None = None,
) -> Entry:
    """Measure a trained detector and add it to the board. An entry of the same name and author is replaced.

    Args:
        detector: has `anomaly_map`; nothing else of it is used.
        public: the test people that everybody knows.
        hidden: of `held_out`.
        name, author: in the board.
        board: its CSV file; default `output/leaderboard.csv`.

    Raises:
        BadInput: the name is empty, or the maps cannot be used (`evaluation.predict`).
    """
    if not name.strip() or not author.strip():
        raise BadInput("an entry needs a name and an author.", field="name")
    seen, unseen = (mean_ap(people_ap(detector, slices)) for slices in (public, hidden))
    path = Path(board or output_folder() / "leaderboard.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        before = read_board(path)
        looks = int(before.loc[before["author"] == author, "look"].max()) if (before["author"] == author).any() else 0
        numbers = (*_numbers(seen), *_numbers(unseen))
        entry = Entry(name, author, *numbers, looks + 1, datetime.now(UTC).isoformat(timespec="seconds"))
        kept = before[(before["name"] != name) | (before["author"] != author)]
        table = pd.DataFrame([*kept.to_dict("records"), asdict(entry)], columns=list(before.columns))
        with atomic_write(path) as part:
            table.to_csv(part, index=False)
    return entry


def read_board(path: str | Path | None = None) -> pd.DataFrame:
    """The board, the highest held-out number first; empty if nobody has entered yet.

    Raises:
        BadInput: the file is no board.
    """
    path, columns = Path(path or output_folder() / "leaderboard.csv"), list(Entry.__dataclass_fields__)
    if not path.exists():
        return pd.DataFrame(columns=columns)
    try:
        table = pd.read_csv(path)[columns]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"this is no leaderboard ({error}).", file=path) from error
    return table.sort_values("held_out", ascending=False, ignore_index=True)


def people_ap(detector, slices: SliceSet) -> pd.DataFrame:
    """Pixel AP of each person with a lesion: `family`, `subject`, `value`. Maps cleaned as in all lessons."""
    rows = person_rows(predict(detector, slices, list(CLEAN)))
    chosen = [(family, who, value) for family, who, _, metric, value in rows if metric == "AP" and who != EVERYONE]
    return pd.DataFrame(chosen, columns=["family", "subject", "value"])


def mean_ap(table: pd.DataFrame, *others: pd.DataFrame, seed: int = 0) -> Interval:
    """The mean over families of the mean over people, with its interval over people (and trainings, if there are more).

    Args:
        table, others: of `people_ap`, one for each training.
        seed: of the bootstrap.
    """
    tables = [one.sort_values(["family", "subject"], ignore_index=True) for one in (table, *others)]
    sizes = tables[0].groupby("family", sort=True).size().tolist()
    return bootstrap([GroupMean(one["value"], one["family"]) for one in tables], sizes, seed=seed, minimum=2)


def held_out(secret: str | None = None, people: int = PEOPLE, folder: Path | None = None) -> SliceSet:
    """The slices of the held-out people, drawn now if they are not there yet (about twenty seconds).

    Args:
        secret: any text; default: LEARNING_NORMAL_SECRET, else an open one.
        people: of each family, healthy ones among them.
        folder: where they are kept; default `held_out` in the data folder. A student's program must not read it:
            the grader's sandbox does not show it.
    """
    from course_lib.images.slices import SliceSet
    from data_scripts.make_atlas_cohort import make_cohort

    digest = hashlib.sha256(f"held out: {secret or os.environ.get(SECRET) or OPEN}".encode()).digest()
    place = (folder or data_folder() / "held_out") / digest[:6].hex()
    groups = [("test", family) for family in (HEALTHY, *pathology.FAMILIES)]
    number = int.from_bytes(digest[6:13], "big")
    make_cohort(place, "full", number, subjects=people, groups=groups, progress=False)
    slices = SliceSet.from_bids(place, progress=False)
    heights = np.unique(slices.table["z_mm"])[::HEIGHTS]
    return slices.select(slices.table["z_mm"].isin(heights).to_numpy())


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return tuple(round(number, 4) for number in (interval.value, interval.low, interval.high))
