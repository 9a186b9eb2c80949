"""The tables of a sweep: every number of every run in one, and what became of each run in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from course_lib.errors import BadInput
from course_lib.files import atomic_write
from course_lib.sweep import folders
from course_lib.sweep.grid import Run

# How, where and when a number was made: the columns that differ when a sweep is done again or was disturbed.
PROVENANCE = ["run_commit", "run_library", "run_python", "run_torch", "run_numpy", "run_started", "run_seconds"]
PROVENANCE += ["run_cpu_seconds", "run_peak_mib", "run_host", "run_worker", "run_attempt"]


def results_table(folder: Path, name: str, runs: Iterable[Run]) -> pd.DataFrame:
    """The numbers of the runs, in the grid's order: what was asked for, what was measured, `PROVENANCE`.

    A column that a run's table and the grid both have (data, seed, profile) is the grid's, but for `detector`, which
    is the table's.
    """
    frames = [_numbers(folder, name, run) for run in runs]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=["sweep", "run", "metric", "value", *PROVENANCE])
    table = pd.concat(frames, ignore_index=True)
    return table[[*(column for column in table if column not in PROVENANCE), *PROVENANCE]]


def _numbers(folder: Path, name: str, run: Run) -> pd.DataFrame:
    place = folders.run_folder(folder, run.id)
    try:
        measured = pd.read_csv(place / "metrics.csv", engine="python")  # exact floats
    except (OSError, ValueError) as error:
        raise BadInput(
            "this is no table of a run.", file=place / "metrics.csv", remedy="Start with --fresh."
        ) from error
    asked = {key: _cell(value) for key, value in run.columns.items() if key != "detector" or key not in measured}
    asked = {"sweep": name, "run": run.id} | asked
    measured = measured.drop(columns=[column for column in measured if column in asked])
    first = pd.DataFrame({key: [value] * len(measured) for key, value in asked.items()}, index=measured.index)
    about = provenance(folders.read_json(place / "environment.json"))
    last = pd.DataFrame({key: [value] * len(measured) for key, value in about.items()}, index=measured.index)
    return pd.concat([first, measured, last], axis=1)


def provenance(environment: Mapping) -> dict:
    """The provenance columns from a run's `environment.json`."""
    packages = environment.get("packages", {})
    versions = {"torch": packages.get("torch"), "numpy": packages.get("numpy")}
    return {column: (environment | versions).get(column.removeprefix("run_")) for column in PROVENANCE}


def runs_table(folder: Path, runs: Iterable[Run], states: Mapping[str, dict]) -> pd.DataFrame:
    """One row a run: what was asked for, status (done, kept from before, failed, not run), cause, attempts, seconds."""
    rows = []
    for run in runs:
        state = states.get(run.id, {"status": "not run"})
        row = {"run": run.id} | {key: _cell(value) for key, value in run.columns.items()}
        row |= {"status": state["status"], "cause": state.get("cause", "")}
        row |= {"attempts": folders.count_attempts(folder, run.id), "seconds": state.get("seconds")}
        rows.append(row | {"folder": f"runs/{run.id}"})
    return pd.DataFrame(rows)


def _cell(value):
    """A value for a table: lists and mappings as text."""
    return str(value) if isinstance(value, (list, dict)) else value


def write_tables(folder: Path, results: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Write results.csv, results.parquet (where pyarrow is installed) and runs.csv, each whole or not at all."""
    for name, table in (("results.csv", results), ("runs.csv", runs)):
        with atomic_write(folder / name) as part:
            table.to_csv(part, index=False, lineterminator="\n")
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return
    with atomic_write(folder / "results.parquet") as part:
        _one_type(results).to_parquet(part, index=False)


def _one_type(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold numbers and text as text: Parquet has one type a column."""
    mixed = [name for name in table if table[name].dtype == object and table[name].dropna().map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(lambda v: v if pd.isna(v) else str(v)) for name in mixed})


def read_results(folder: str | Path) -> pd.DataFrame:
    """The results of a sweep from its folder."""
    return pd.read_csv(Path(folder) / "results.csv", engine="python")  # exact floats


def read_runs(folder: str | Path) -> pd.DataFrame:
    """What became of each run of a sweep, from its folder."""
    return pd.read_csv(Path(folder) / "runs.csv", keep_default_na=False)
