"""Grade forty synthetic submissions of assignment 1, two at a time: seconds, and the same marks after a kill.

Among them are right, partly right and blank ones, and some that loop, eat memory, fork or end their process.

    python tests/benchmarks/grading.py --number 40 --workers 2
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from course_lib.assignments.grade import grade
from course_lib.assignments.limits import Limits
from course_lib.assignments.sandbox import unavailable
from course_lib.assignments.source import Assignment, assignments, grade_id, is_solution, student_copy

HOSTILE = {
    "loop": "while True: pass",
    "memory": "hoard = [bytearray(2**26) for _ in range(10**4)]",
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "exit": "import os\nos._exit(0)",
    "flood": "while True: print('x' * 10**6)",
}
LIMITS = Limits(cell_seconds=20, total_seconds=240)


def write(assignment: Assignment, folder: Path, number: int) -> None:
    """Hand in `number` notebooks: a fifth right, a fifth blank, a fifth hostile, the rest partly right."""
    chance = random.Random(0)
    for index in range(number):
        kind = ("right", "blank", "hostile", "part", "part")[index % 5]
        notebook = copy.deepcopy(student_copy(assignment.notebook))
        for cell in notebook.cells:
            share = {"right": 1, "blank": 0, "hostile": 1, "part": 0.6}[kind]
            if is_solution(cell) and chance.random() < share:
                cell["source"] = assignment.cells[grade_id(cell)]["source"]
        if kind == "hostile":
            notebook.cells.insert(0, new_code_cell(list(HOSTILE.values())[index // 5 % len(HOSTILE)]))
        path = folder / "submitted" / f"{index:02d}-{kind}" / assignment.name / f"{assignment.name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)


def marks(folder: Path) -> list[dict]:
    """All marks but the seconds."""
    with open(folder / "marks.csv", encoding="utf-8-sig", newline="") as stream:
        return [{**row, "seconds": ""} for row in csv.DictReader(stream)]


def report(kind: str, results: list[dict]) -> None:
    """Print points and seconds of one kind."""
    most = sum(test["max"] for test in results[0]["tests"].values())
    got = [sum(test["points"] for test in result["tests"].values()) for result in results]
    took = [result["seconds"] for result in results]
    mean = sum(took) / len(took)
    print(f"  {kind:8} {min(got):g} to {max(got):g} of {most:g} points; {mean:.1f} s each, at most {max(took):.1f}")


def killed(folder: Path, arguments: argparse.Namespace) -> int:
    """Start the same grading, kill it when half of it is done; returns how many results there were."""
    command = [sys.executable, "-m", "course_lib.assignments", "grade", str(folder), "--only", arguments.assignment]
    command += ["--workers", str(arguments.workers), "--cell-seconds", "20", "--seconds", "240"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while len(done := list(folder.glob("graded/*/*.json"))) < arguments.number // 2:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return len(done)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--assignment", default="1_metrics")
    arguments = parser.parse_args()
    if why := unavailable():
        sys.exit(f"no sandbox here: {why}")
    chosen = assignments(only=[arguments.assignment])
    with tempfile.TemporaryDirectory(prefix="grading-benchmark-") as scratch:
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        for folder in (whole, cut):
            write(chosen[0], folder, arguments.number)
        begin, load = time.monotonic(), os.getloadavg()[0]
        results = grade(whole, chosen, workers=arguments.workers, limits=LIMITS, tell=lambda line: None)
        seconds = time.monotonic() - begin
        what = f"{len(results)} submissions of {chosen[0].name}, {arguments.workers} at a time"
        print(f"{what}: {seconds:.0f} s, load {load:.1f}", flush=True)
        for kind in ("right", "blank", "hostile", "part"):
            report(kind, [result for result in results if result["student"].endswith(kind)])
        print(f"killed after {killed(cut, arguments)}; ", end="", flush=True)
        begin = time.monotonic()
        grade(cut, chosen, workers=arguments.workers, limits=LIMITS, tell=lambda line: None)
        same = marks(cut) == marks(whole)
        print(f"the rest in {time.monotonic() - begin:.0f} s; the same marks: {'yes' if same else 'NO'}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
