"""What a sweep costs beside bare papermill, what a second worker gains, and how soon a killed worker is made good.

Run: `python tests/benchmarks/sweep.py [--runs 8]`. On a busy machine compare the columns, not the seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_notebook

from course_lib import sweep
from course_lib.sweep.cluster import connect

BODY = """import time
total, started = 0, time.process_time()
while time.process_time() - started < work:  # seconds of processor time
    total += 1
print(seed, "done")
"""


def make_notebook(folder: Path) -> Path:
    """A notebook that computes for `work` seconds."""
    cell = new_code_cell("seed: int = 0  # seed\nwork: float = 0.0  # seconds", metadata={"tags": ["parameters"]})
    made = new_notebook(cells=[cell, new_code_cell(BODY)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / "toy.ipynb")
    return folder / "toy.ipynb"


def timed(function, *arguments) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def bare(notebook: Path, folder: Path, seed: int) -> None:
    """papermill's own function, as in a loop of a script."""
    quiet = {"progress_bar": False, "shutdown_kernel": "immediate"}
    papermill.execute_notebook(str(notebook), str(folder / f"bare{seed}.ipynb"), {"seed": seed}, **quiet)


def command(notebook: Path, folder: Path, seed: int) -> None:
    """papermill's command, a process for each run."""
    line = ["papermill", str(notebook), str(folder / f"command{seed}.ipynb"), "-p", "seed", str(seed)]
    subprocess.run([sys.executable, "-m", *line, "--no-progress-bar"], check=True, capture_output=True)


def overhead(notebook: Path, folder: Path, runs: int) -> None:
    """Seconds of a run that computes nothing; the three kinds take turns, so that a noisy spell hits all."""
    seconds: dict[str, list[float]] = {"papermill, function": [], "papermill, command": [], "sweep, 1 worker": []}
    with connect(workers=1) as client:
        for turn in range(runs + 1):
            seconds["papermill, function"].append(timed(bare, notebook, folder, turn))
            seconds["papermill, command"].append(timed(command, notebook, folder, turn))
            grid = {"name": "g", "notebook": str(notebook), "seed": turn}
            seconds["sweep, 1 worker"].append(timed(do, grid, client, folder / "overhead"))
    print("\nseconds of a run that computes nothing    median  fastest  (the first of each, with its imports)")
    for name, all_of_them in seconds.items():
        rest = sorted(all_of_them[1:])
        print(f"  {name:38} {rest[len(rest) // 2]:8.2f} {rest[0]:8.2f}  ({all_of_them[0]:.2f})")


def do(grid: dict, client, output: Path):
    """A sweep without a bar."""
    return sweep.run(grid, client, output=output, progress=False)


def speed_up(notebook: Path, folder: Path) -> None:
    """The same eight runs of three processor seconds by one worker and by two."""
    grid = {"name": "g", "notebook": str(notebook), "seed": range(8), "parameters": {"work": 3.0}}
    found = {}
    for workers in (1, 2):
        with connect(workers=workers) as client:
            do(grid | {"seed": range(100, 100 + workers), "parameters": {}}, client, folder / f"warm{workers}")
            found[workers] = timed(do, grid, client, folder / f"speed{workers}")
    print(f"\n8 runs of 3 s of computing: {found[1]:.1f} s by one worker, {found[2]:.1f} s by two: ", end="")
    print(f"{found[1] / found[2]:.2f} times as fast")


def recovery(notebook: Path, folder: Path) -> None:
    """A worker killed in the middle of a run: how soon the run is under way again."""
    grid = {"name": "g", "notebook": str(notebook), "seed": 1, "parameters": {"work": 8.0}}
    output, moment = folder / "killed", {}
    with connect(workers=1) as client:
        [pid] = client.run(os.getpid).values()

        def kill() -> None:
            while not list(output.glob(".private/*/notebook.running.ipynb")):
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            killed = time.perf_counter()
            while len(list(output.glob(".private/*/notebook.running.ipynb"))) < 2:
                time.sleep(0.05)
            moment["again"] = time.perf_counter() - killed

        thread = threading.Thread(target=kill)
        thread.start()
        total = timed(do, grid, client, output)
        thread.join()
    print(f"\na worker killed within its run: the run is under way again after {moment['again']:.1f} s ", end="")
    print(f"(new worker, imports, kernel), and done after {total:.1f} s in all, with 8 s of computing")


def main(runs: int) -> None:
    """Print the three tables."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        notebook = make_notebook(Path(name))
        overhead(notebook, Path(name), runs)
        speed_up(notebook, Path(name))
        recovery(notebook, Path(name))
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    main(parser.parse_args().runs)
