"""The process in which runs are done: `python -m course_lib.sweep.child`, started by `runner.Runner`.

It reads the folders of runs from its input, one a line, and writes `outcome.json` into each when it is through. When
its input closes, the worker that has started it is gone: it then kills its kernel and ends.
"""

from __future__ import annotations

import os
import platform
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from course_lib.errors import BadInput
from course_lib.sweep import folders
from course_lib.sweep.runner import IDLE_SECONDS, OUTCOME


def main() -> None:
    """Do the runs whose folders come in."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(waiting,), daemon=True).start()
    while True:
        try:
            folder = Path(waiting.get(timeout=IDLE_SECONDS))
        except queue.Empty:
            return
        before = os.times()
        _log_to(folder / "log.txt")
        outcome = _perform(folder, folders.read_json(folder / "run.json"))
        spent = [now - then for now, then in zip(os.times()[:4], before[:4], strict=True)]
        outcome |= {"cpu_seconds": round(sum(spent), 3)}
        sys.stdout.flush()
        folders.write_json(folder / OUTCOME, outcome)


def _listen(waiting: queue.SimpleQueue[str]) -> None:
    """Pass on what comes in; at the end of it, end this process with all that it has started."""
    for line in sys.stdin.buffer:
        waiting.put(line.decode().rstrip("\n"))
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
    os._exit(1)


def _log_to(path: Path) -> None:
    """Send all that this process and its children print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def _perform(folder: Path, job: dict) -> dict:
    """Do a run; returns its outcome: a cause if it failed."""
    try:
        os.environ["LEARNING_NORMAL_RECORDS"] = str(folder / "records")  # for the kernel: runs share no record
        os.environ["LEARNING_NORMAL_PREDICTIONS"] = str(folder / "records" / "predictions.json")
        folders.write_json(folder / "environment.json", environment() | {"library": job["library"]})
        numbers = _notebook(folder, job) if job["kind"] == "notebook" else _detector(job)
        _write_numbers(folder / "metrics.csv", numbers)
        return {}
    except BaseException as error:  # whatever a run raises, also SystemExit, costs this run only
        traceback.print_exc()
        text = str(error).partition("\nThe notebook as far as it got")[0]
        known = isinstance(error, BadInput) or type(error).__name__ == "LessonFailed"
        return {"cause": text if known else f"{type(error).__name__}: {text}"}


def _notebook(folder: Path, job: dict) -> pd.DataFrame:
    """Run a notebook; its numbers are those that it gave to `lesson.results` and its claims."""
    from course_lib.lessons.run import run

    run(Path(job["target"]), folder / "notebook.ipynb", job["parameters"], on_cell=_tell)
    return record_numbers(folder / "records")


def record_numbers(records: Path) -> pd.DataFrame:
    """The numbers in the records of a folder, one a row: kind is "result" or "claim"."""
    from course_lib.teaching.record import read_record

    rows = []
    for path in sorted(records.glob("*.json")) if records.exists() else ():
        if path.name == "predictions.json":
            continue
        record = read_record(path)
        first = {"lesson": record.get("lesson", path.stem)}
        rows += [first | {"kind": "result"} | row for row in record["results"]]
        for claim in record["claims"]:
            kept = {name: claim[name] for name in ("statement", "holds", "value", "low", "high", "over")}
            rows.append(first | {"kind": "claim", "metric": claim["name"]} | kept)
    return pd.DataFrame(rows)


def _detector(job: dict) -> pd.DataFrame:
    """Train and measure a detector."""
    from course_lib.references import load

    measured = load(job["measure"], "measure")(job["target"], **job["parameters"])
    if not isinstance(measured, pd.DataFrame):
        raise TypeError(f"{job['measure']} returned a {type(measured).__name__}, not a DataFrame.")
    return measured.reset_index(drop=True)


def _write_numbers(path: Path, numbers: pd.DataFrame) -> None:
    from course_lib.files import atomic_write

    if numbers.columns.empty:
        numbers = pd.DataFrame(columns=["metric", "value"])
    with atomic_write(path) as part:
        numbers.to_csv(part, index=False, lineterminator="\n")


def _tell(index: int, cell: Mapping) -> None:
    if cell["cell_type"] == "code" and cell["source"].strip():
        print(f"cell {index}: {cell['source'].strip().splitlines()[0][:90]}", flush=True)


@cache
def environment() -> dict:
    """With what runs are done in this process."""
    from importlib.metadata import distributions

    packages = {found.metadata["Name"]: found.version for found in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "commit": _commit(),
        "packages": dict(sorted(packages.items(), key=lambda item: str(item[0]).lower())),
    }


def _commit() -> str:
    """The git commit of the clone, with a plus if files have changed since; empty without git."""
    import subprocess

    from course_lib.files import ROOT

    if not (ROOT / ".git").exists():
        return ""
    try:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 20, "check": True}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


if __name__ == "__main__":
    main()
