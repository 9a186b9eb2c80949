"""A sweep from its grid to its tables. Stopped and started again, it goes on."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.errors import BadInput
from course_lib.files import data_folder, output_folder, sha256
from course_lib.library import library_digest, real_data
from course_lib.sweep import cluster, folders, tables
from course_lib.sweep.attempt import attempt
from course_lib.sweep.grid import MEASURE, Run, Sweep, read_grid
from course_lib.sweep.window import completed

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

RUN_SECONDS = {"quick": 1800, "standard": 14_400, "full": 604_800}  # after which a run is killed
NOT_SET = ("LEARNING_NORMAL_RECORDS", "LEARNING_NORMAL_PREDICTIONS")  # every run has its own


def run(
    grid: Mapping | str | Path,
    client: Client | None = None,
    workers: int | None = None,
    output: str | Path | None = None,
    *,
    retries: int = 1,
    run_seconds: float | None = None,
    run_mib: float | None = None,
    threads: int = 1,
    only_failed: bool = False,
    fresh: bool = False,
    progress: bool = True,
    measure: str = MEASURE,
) -> pd.DataFrame:
    """Do all runs of a grid and gather their numbers.

    A run that was done before with the same parameters, text and code is kept. One that raises, hangs, or eats the
    memory costs itself alone: it is tried again, then reported, in a warning and in `runs.csv`.

    Args:
        grid: a mapping or a YAML file, see `course_lib.sweep.grid`.
        client: of a Dask cluster; without one, a cluster on this computer is started and stopped.
        workers: processes of that cluster; default: one a core.
        output: the sweep's folder; default `<output folder>/sweeps/<name>`.
        retries: how often a run that failed is tried again.
        run_seconds: after which a run is killed; default 30 minutes, 4 hours, a week by profile.
        run_mib: memory that a run may take; default: its worker's share.
        threads: of each run's computations.
        only_failed: do only the runs that failed before.
        fresh: do all runs again.
        progress: show a bar.
        measure: the function of a detector run, "module:function" or "file.py:function".

    Returns:
        One row a number: sweep, run, what was asked for, what was measured, and `PROVENANCE`.

    Raises:
        BadInput: the grid is wrong, or the workers cannot do runs; nothing was done.
    """
    if client is not None:
        check_client(client)
    chosen = read_grid(grid, measure)
    limits = {"seconds": run_seconds, "mib": run_mib, "threads": threads}
    options = {"retries": retries, "only_failed": only_failed, "fresh": fresh, "progress": progress}
    folder = sweep_folder(chosen, output)
    connect = partial(nullcontext, client) if client is not None else partial(cluster.connect, workers)
    results, runs = execute(chosen, folder, connect, limits, **options)
    failed = runs[runs["status"] == "failed"]
    if len(failed):
        warnings.warn(f"{len(failed)} of {len(runs)} runs failed: see {folder / 'runs.csv'}.", stacklevel=2)
    return results


def execute(
    sweep: Sweep,
    folder: Path,
    connect: Callable[[], AbstractContextManager[Client]],
    limits: Mapping,
    *,
    retries: int = 1,
    only_failed: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Do what is not done of a sweep, and write its tables, also when it is stopped.

    Args:
        sweep: a checked grid.
        folder: the sweep's.
        connect: opens a client; called if there is something to do.
        limits: of a run: seconds, mib, threads.
        retries, only_failed, fresh, progress: as for `run`.

    Returns:
        The results, and what became of each run.
    """
    with alone(folder):
        make_data(sweep)
        states = {} if fresh else kept(folder, sweep)
        todo = [one for one in sweep.runs if one.id not in states]
        if only_failed:
            todo = [one for one in todo if (folders.run_folder(folder, one.id) / folders.FAILED).exists()]
        if progress:
            print(f"{sweep.name}: {len(todo)} of {len(sweep.runs)} runs to do, in {folder}", flush=True)
        try:
            if todo:
                with connect() as client:
                    do_runs(client, folder, sweep, todo, states, limits, retries, fresh, progress)
        finally:
            tables_written = gather(folder, sweep, states)
    return tables_written


def sweep_folder(sweep: Sweep, output: str | Path | None = None) -> Path:
    """Where a sweep's files go."""
    return Path(output).absolute() if output else (output_folder() / "sweeps" / sweep.name).absolute()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other sweep works in this folder, then remove what a killed one left at work.

    The system frees the lock when its process dies.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Another sweep is at work in {folder}: waiting for it to end.", flush=True)
        lock.acquire()
    try:
        folders.clear(folder)
        yield
    finally:
        lock.release()


def make_data(sweep: Sweep) -> None:
    """Make the atlas cohort that runs ask for once, before many of them would at the same time."""
    from data_scripts import open_slices

    asked = [one.columns for one in sweep.runs if one.kind == "detector" and sweep.measure == MEASURE]
    asked += [one.columns for one in sweep.runs if one.kind == "notebook" and not _is_own(one)]
    profiles = {row.get("profile", "standard") for row in asked if row.get("data", "atlas") == "atlas"}
    for profile in sorted(profiles):
        open_slices("atlas", profile, progress=sys.stderr.isatty())


def _is_own(one: Run) -> bool:
    """Whether a notebook is the user's, and none of the course's lessons."""
    from course_lib.lessons.catalog import NOTEBOOKS

    return not Path(one.target).is_relative_to(NOTEBOOKS)


def kept(folder: Path, sweep: Sweep) -> dict[str, dict]:
    """The states of the runs that an earlier start of the sweep has done, by id."""
    library = library_digest()
    found = {one.id: folders.finished(folder, one.id, run_key(one, sweep.measure, library)) for one in sweep.runs}
    return {name: done | {"status": "kept"} for name, done in found.items() if done}


def run_key(one: Run, measure: str, library: str) -> str:
    """A digest of what a run's numbers depend on: what was asked for, text, code, data. (Not seen: the code of classes
    that are installed elsewhere, and what an own file imports.)
    """
    from course_lib.lessons.run import read_notebook

    if one.kind == "notebook":
        cells = read_notebook(Path(one.target)).cells
        inputs = [[(cell["cell_type"], cell["source"]) for cell in cells], real_data()]
    else:
        inputs = [one.target, measure, [sha256(path) for path in one.files]]
    inputs += [one.kind, one.parameters, library, _data_digest(one.parameters.get("data", ""))]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _data_digest(data: str) -> str:
    """Names, sizes and times of a data set's files, and its table; empty for those that are called by a name."""
    folder = Path(data)
    if not data or not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("sub-*.nii.gz") if path.is_file())
    facts = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    table = folder / "participants.tsv"  # who is in which split
    facts.append(sha256(table) if table.is_file() else "")
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def do_runs(
    client: Client,
    folder: Path,
    sweep: Sweep,
    todo: list[Run],
    states: dict[str, dict],
    limits: Mapping,
    retries: int = 1,
    again: bool = False,
    progress: bool = True,
) -> None:
    """Do runs on a cluster, and add their states by id: status "done" or "failed", and what their folder says."""
    from tqdm.auto import tqdm

    session, library = uuid.uuid4().hex[:12], library_digest()
    jobs = [_job(one, folder, session, sweep.measure, library, limits, again) for one in todo]
    mark = folders.session_file(folder, session)
    mark.write_text("")
    try:
        cluster.check_workers(client, [mark])
        with tqdm(total=len(jobs), unit="run", desc=sweep.name, disable=not progress) as bar:
            for job, future in completed(client, attempt, jobs, retries=retries):
                states[job["id"]] = _state(future)
                if states[job["id"]]["status"] == "failed":
                    bar.write(f"{job['id']}: FAILED. {states[job['id']]['cause']}", file=sys.stderr)
                bar.update()
    finally:
        mark.unlink(missing_ok=True)  # attempts that are still at work give up
        folders.clear(folder, session)
        for job in jobs:  # of a sweep that is stopped: some were done, and word of it was still on its way
            done = folders.finished(folder, job["id"], job["key"])
            if job["id"] not in states and done and done["session"] == session:
                states[job["id"]] = done | {"status": "done"}


def _job(one: Run, folder: Path, session: str, measure: str, library: str, limits: Mapping, again: bool) -> dict:
    """A run as plain values for a worker."""
    environ = {name: value for name, value in os.environ.items() if name.startswith("LEARNING_NORMAL_")}
    environ = {name: value for name, value in environ.items() if name not in NOT_SET}
    environ |= {"LEARNING_NORMAL_DATA": str(data_folder().absolute())}
    threads = str(limits.get("threads") or 1)
    environ |= {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    seconds = limits.get("seconds") or RUN_SECONDS[one.columns.get("profile", "standard")]
    about = {"sweep": str(folder), "session": session, "measure": measure, "library": library, "again": again}
    about |= {"key": run_key(one, measure, library), "seconds": seconds, "mib": limits.get("mib") or 0}
    return asdict(one) | about | {"environ": environ}


def _state(future) -> dict:
    """What became of a run. A run whose cause is not its own (its workers died) is a failed one too."""
    error = future.exception()
    if error is None:
        return future.result() | {"status": "done"}
    name = type(error).__name__
    if name == "KilledWorker":
        cause = "its workers were killed again and again, perhaps for want of memory."
    else:
        cause = str(error) if name == "RunFailed" else f"{name}: {error}"
    return {"status": "failed", "cause": cause}


def gather(folder: Path, sweep: Sweep, states: Mapping[str, dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the tables; returns the results and the runs."""
    good = [one for one in sweep.runs if states.get(one.id, {}).get("status") in ("done", "kept")]
    results = tables.results_table(folder, sweep.name, good)
    runs = tables.runs_table(folder, sweep.runs, states)
    tables.write_tables(folder, results, runs)
    return results, runs


def check_client(client: object) -> None:
    """Raise BadInput if this is no Dask client."""
    from distributed import Client

    if not isinstance(client, Client):
        raise BadInput(f"client is a distributed.Client, not {client!r}.", field="client")
