"""The command line: `python -m course_lib.sweep GRID.yaml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from course_lib.errors import BadInput
from course_lib.sweep import cluster
from course_lib.sweep.grid import Sweep, read_grid
from course_lib.sweep.sweep import execute, kept, sweep_folder


def main(arguments: list[str] | None = None) -> None:
    """Read the command, do the sweep, and say what became of it. Exit code 1: a run failed; 2: wrong input."""
    options = _parse(arguments)
    try:
        sweep = read_grid(options.grid)
        if options.dry_run:
            _print_plan(sweep, options)
            return
        sys.exit(_do(sweep, options))
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.sweep", description="Many runs of lessons or detectors, on all cores or a cluster."
    )
    parser.add_argument("grid", type=Path, help="a YAML file: see course_lib/sweep/grid.py")
    parser.add_argument("--workers", type=int, help="processes (default: one a core), or jobs of a queue (10)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="join this Dask scheduler")
    where.add_argument("--slurm", type=Path, metavar="YAML", help="workers as SLURM jobs: dask-jobqueue's settings")
    where.add_argument("--pbs", type=Path, metavar="YAML", help="workers as PBS jobs: dask-jobqueue's settings")
    parser.add_argument("--retries", type=int, default=1, help="of a run that failed (default 1)")
    parser.add_argument("--run-seconds", type=float, help="a run is killed after them (default: by profile)")
    parser.add_argument("--run-mib", type=float, help="memory that a run may take (default: its worker's share)")
    parser.add_argument("--threads", type=int, default=1, help="of each run's computations (default 1)")
    parser.add_argument("--output", type=Path, help="the sweep's folder (default: output/sweeps/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs, and a queue's job script, and stop")
    parser.add_argument("--only-failed", action="store_true", help="do only the runs that failed before")
    parser.add_argument("--fresh", action="store_true", help="do all runs again")
    return parser.parse_args(arguments)


def _queue(options: argparse.Namespace) -> tuple[str | None, Path | None]:
    return ("slurm", options.slurm) if options.slurm else ("pbs", options.pbs) if options.pbs else (None, None)


def _print_plan(sweep: Sweep, options: argparse.Namespace) -> None:
    done = kept(sweep_folder(sweep, options.output), sweep)
    for one in sweep.runs:
        print(f"{one.id}{'  (done before)' if one.id in done else ''}")
    print(f"{len(sweep.runs)} runs, {len(done)} done before, in {sweep_folder(sweep, options.output)}")
    queue, settings = _queue(options)
    if queue:
        print(f"\n{cluster.job_script(queue, settings)}")


def _do(sweep: Sweep, options: argparse.Namespace) -> int:
    """Do the runs; returns the exit code."""
    folder = sweep_folder(sweep, options.output)
    limits = {"seconds": options.run_seconds, "mib": options.run_mib, "threads": options.threads}
    chosen = {name: getattr(options, name) for name in ("retries", "only_failed", "fresh")}
    _, runs = execute(sweep, folder, partial(_connect, options), limits, **chosen)
    return _conclude(folder, runs)


@contextmanager
def _connect(options: argparse.Namespace) -> Iterator:
    with cluster.connect(options.workers, options.scheduler, *_queue(options)) as client:
        link = cluster.dashboard(client)
        print(f"Watch it: {link}" if link else "There is no page to watch it: Dask needs bokeh for that.", flush=True)
        yield client


def _conclude(folder: Path, runs) -> int:
    failed = runs[runs["status"] == "failed"]
    for row in failed.itertuples():
        print(f"FAILED: {row.run}: {row.cause} See {folder / row.folder / 'log.txt'}")
    print(f"{len(runs)} runs, {len(failed)} failed. Tables: {folder}")
    return 1 if len(failed) else 0


if __name__ == "__main__":
    main()
