"""Where a sweep keeps what: one folder a run, whole or not there, however often a run is started.

output/sweeps/<name>/
results.parquet, results.csv, runs.csv
runs/<id>/        run.json notebook.ipynb metrics.csv log.txt environment.json, last done.json or failed.json
.private/         of runs that are at work; one is renamed to runs/<id>/ when it is over
.attempts/<id>    a line for each start of the run
.session-<token>  there as long as its sweep is: an attempt whose session is gone gives up
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from course_lib.files import atomic_write

DONE, FAILED = "done.json", "failed.json"


def run_folder(sweep: Path, run: str) -> Path:
    """The folder of a run that is over."""
    return sweep / "runs" / run


def private_folder(sweep: Path, session: str, run: str) -> Path:
    """A new folder for one attempt at a run, which no other attempt knows."""
    folder = sweep / ".private" / f"{session}.{run}.{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    return folder


def session_file(sweep: Path, session: str) -> Path:
    """The file that is there as long as the sweep's command runs."""
    return sweep / f".session-{session}"


def note_attempt(sweep: Path, run: str, worker: str) -> int:
    """Count a start of a run, also of one that is killed later; returns how many there were."""
    path = sweep / ".attempts" / run
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as stream:  # one short write at the end: whole, also beside another one
        stream.write(f"{worker}\n".encode())
    return path.read_bytes().count(b"\n")


def count_attempts(sweep: Path, run: str) -> int:
    """How often a run was started."""
    try:
        return (sweep / ".attempts" / run).read_bytes().count(b"\n")
    except OSError:
        return 0


def read_json(path: Path) -> dict:
    """The mapping in a file; empty if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict) -> None:
    """Write a mapping, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def finished(sweep: Path, run: str, key: str) -> dict | None:
    """What `done.json` says of a run that ended well from the same inputs, else None."""
    done = read_json(run_folder(sweep, run) / DONE)
    return done if done.get("key") == key else None


def publish(sweep: Path, run: str, private: Path) -> None:
    """Make an attempt's folder the run's, in one step.

    Of two attempts of one session the first that ended well stays; and one that failed replaces no older result from
    the same inputs, unless all runs were asked to be done again.
    """
    target = run_folder(sweep, run)
    target.parent.mkdir(parents=True, exist_ok=True)
    mine = read_json(private / "run.json")
    for _ in range(20):
        done = read_json(target / DONE)
        if done.get("key") == mine["key"] and (done.get("session") == mine["session"] or not mine["again"]):
            remove(private)
            return
        aside = private.with_name(f"{private.name}.old")
        with suppress(FileNotFoundError):
            os.rename(target, aside)
        try:
            os.rename(private, target)
            return
        except OSError:  # the other attempt has put its folder there meanwhile
            if not private.exists():
                raise
        finally:
            remove(aside)
    raise OSError(f"{target} cannot be replaced")


def clear(sweep: Path, session: str = "") -> None:
    """Remove what attempts (of one session, or of all) left behind. Only for who holds the sweep's lock."""
    for path in (sweep / ".private").glob(f"{session}*"):
        remove(path)
    for path in sweep.glob(f".session-{session}*"):
        path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder and all in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
