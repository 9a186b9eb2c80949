"""A contest of detectors: numbers on the public test people, and on people whom nobody has seen.

    python -m course_lib.leaderboard enter NOTEBOOK.ipynb [--detector MyDetector] [--author NAME] ...
    python -m course_lib.leaderboard show

The held-out people are drawn from a secret: same generator, same families, other heads and other lesions. Whoever does
not know the secret cannot look at them, tune on them or pick on them; what they get back is one number an entry. A
lecturer writes any text into `data/held_out/secret.txt`. Without it there is an open one, which is good for learning
alone, and a contest in name only. (No variable of the environment: a program can read the one it was started with.)
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock

from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.benchmark import CLEAN, EVERYONE, person_rows, test_slices
from course_lib.errors import BadInput
from course_lib.evaluation import predict
from course_lib.files import atomic_write, data_folder, output_folder
from course_lib.images import pathology
from course_lib.metrics.intervals import Interval, bootstrap
from course_lib.metrics.scores import HEALTHY, Scores
from course_lib.metrics.statistics import GroupMean
from data_scripts import PROFILES, open_slices

if TYPE_CHECKING:
    from course_lib.images.slices import SliceSet

SECRET = "secret.txt"  # in the folder of the held-out people
OPEN = "an open secret"
PEOPLE = 6  # held-out people of each family
HEIGHTS = 2  # every so manieth height is scored


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
    seen, unseen = (mean_ap(people_ap(predict(detector, some, list(CLEAN)))) for some in (public, hidden))
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
        text = {"name": str, "author": str}  # a number, or "NA", is somebody's name too
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])[columns]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"this is no leaderboard ({error}).", file=path) from error
    return table.sort_values("held_out", ascending=False, ignore_index=True)


def people_ap(scores: Scores) -> pd.DataFrame:
    """Pixel AP of each person with a lesion: `family`, `subject`, `value`."""
    rows = person_rows(scores)
    chosen = [(family, who, value) for family, who, _, metric, value in rows if metric == "AP" and who != EVERYONE]
    return pd.DataFrame(chosen, columns=["family", "subject", "value"])


def mean_ap(table: pd.DataFrame, *others: pd.DataFrame, seed: int = 0) -> Interval:
    """The mean over families of the mean over people, with its interval over people (and trainings, if there are more).

    There is no interval, but NaN, where a family has one person only.

    Args:
        table, others: of `people_ap`, one for each training.
        seed: of the bootstrap.
    """
    tables = [one.sort_values(["family", "subject"], ignore_index=True) for one in (table, *others)]
    sizes = tables[0].groupby("family", sort=True).size().tolist()
    statistics = [GroupMean(one["value"], one["family"]) for one in tables]
    if min(sizes) < 2:
        value = float(np.mean([each(np.ones((1, sum(sizes))))[0] for each in statistics]))
        return Interval(value, float("nan"), float("nan"), sum(sizes), len(tables), "too few people")
    return bootstrap(statistics, sizes, seed=seed, minimum=2, method="percentile")


def held_out(secret: str | None = None, people: int = PEOPLE, folder: Path | None = None) -> SliceSet:
    """The slices of the held-out people, drawn now if they are not there yet (about twenty seconds).

    Args:
        secret: any text; default: what stands in `secret.txt` in the folder, else an open one.
        people: of each family, healthy ones among them.
        folder: where they are kept; default `held_out` in the data folder. A student's program must not read it:
            the grader's sandbox does not show it.
    """
    from course_lib.images.slices import SliceSet
    from data_scripts.make_atlas_cohort import make_cohort

    folder = folder or data_folder() / "held_out"
    if secret is None:
        secret = (folder / SECRET).read_text(encoding="utf-8").strip() if (folder / SECRET).exists() else OPEN
    digest = hashlib.sha256(f"held out: {secret}".encode()).digest()
    place = folder / digest[:6].hex()
    groups = [("test", family) for family in (HEALTHY, *pathology.FAMILIES)]
    number = int.from_bytes(digest[6:13], "big")
    make_cohort(place, "full", number, subjects=people, groups=groups, progress=False)
    slices = SliceSet.from_bids(place, progress=False)
    heights = np.unique(slices.table["z_mm"])[::HEIGHTS]
    return slices.select(slices.table["z_mm"].isin(heights).to_numpy())


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return tuple(round(number, 4) for number in (interval.value, interval.low, interval.high))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The leaderboard of detectors.")
    parser.add_argument("--board", type=Path, help="its file (default: output/leaderboard.csv)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="print the board")
    entering = commands.add_parser("enter", help="take a detector's class out of a notebook, train it, measure it")
    entering.add_argument("notebook", type=Path)
    entering.add_argument("--detector", default="MyDetector", help="the class (default: MyDetector)")
    entering.add_argument("--author", default="anonymous")
    entering.add_argument("--name", help="of the entry (default: the class's)")
    entering.add_argument("--steps", type=int, default=600, help="of the training, the same for all who enter")
    entering.add_argument("--seed", type=int, default=0)
    entering.add_argument("--profile", choices=PROFILES, default="standard")
    entering.add_argument("--people", type=int, default=PEOPLE, help="held-out people of each family")
    entering.add_argument("--minutes", type=float, default=15, help="time limit of a cell, and of the training")
    entering.add_argument("--unsandboxed", action="store_true", help="run the student's code as your own (do not)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "enter":
            _enter_notebook(options)
        print(read_board(options.board).to_string(index=False))
    except (BadInput, SandboxUnavailable) as error:
        parser.exit(2, f"{error}\n")


def _enter_notebook(options: argparse.Namespace) -> None:
    from course_lib.assignments.contest import trained_in_sandbox
    from course_lib.assignments.limits import Limits
    from course_lib.assignments.student import Nursery

    nursery = None if options.unsandboxed else Nursery()  # before this process knows anything
    try:
        slices = open_slices("atlas", options.profile, progress=False)
        train = slices.select("split == 'train' and family == 'healthy'")
        limits = Limits(cell_seconds=60 * options.minutes, total_seconds=240 * options.minutes)
        budget = {"steps": options.steps, "seed": options.seed, "limits": limits, "nursery": nursery}
        images = train.batch(np.arange(len(train)))
        with trained_in_sandbox(options.notebook, options.detector, images, **budget) as detector:
            public, hidden = test_slices(slices, "atlas", HEIGHTS), held_out(people=options.people)
            name = options.name or options.detector
            enter(detector, public, hidden, name=name, author=options.author, board=options.board)
    finally:
        if nursery is not None:
            nursery.close()


if __name__ == "__main__":
    main()
