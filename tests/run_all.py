"""Everything that CI runs, in stages: `make test`, or `python tests/run_all.py`.

A run that was killed goes on at its stage if no file has changed since; a run that finished leaves nothing behind, so
the next one starts from the beginning.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = Path(os.environ.get("LEARNING_NORMAL_OUTPUT") or ROOT / "output") / "test"
STAMP = OUTPUT / "stages.json"
PASSED = re.compile(r"^=+ .*\b\d+ (passed|failed|error).* =+$")
PYTHON = sys.executable


def stages() -> dict[str, list[str]]:
    """The commands by name, in order. `*` stands for the executed lessons, `tests` for all files of tests."""
    pytest = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider"]
    course = [PYTHON, "-m", "course_lib.lessons.course"]
    return {
        "lint": [PYTHON, "-m", "ruff", "check", "."],
        "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "anatomy": [PYTHON, "-m", "course_lib.lessons.anatomy"],
        "book": [PYTHON, "-m", "course_lib.lessons.book", "--output", str(OUTPUT / "book")],
        # With every control of every explorer moved, through the real widgets; what breaks is an error in their state.
        "lessons": [*course, "--profile", "quick", "--drive", "--output", str(OUTPUT / "quick")],
        # Once more, in fresh kernels: outputs of cells tagged nbval-check-output have to be the same.
        "lessons again": [*pytest, "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "*"],
        "tests": [*pytest, "--durations=15", "tests"],
    }


def main() -> None:
    """Run the stages that are not done; the exit code is 1 if one of them failed."""
    state = read_state()
    if not state["done"]:
        shutil.rmtree(OUTPUT / "quick", ignore_errors=True)
    failed: dict[str, list[str]] = {}
    for name, command in stages().items():
        if name in state["done"]:
            print(f"== {name}: done before ==", flush=True)
            continue
        print(f"== {name} ==", flush=True)
        started = time.perf_counter()
        code, summary = run(command)
        line = f"{name:14} {'ok' if code == 0 else 'FAILED':7}{time.perf_counter() - started:7.1f} s"
        if code:
            failed[name] = [line, *summary]
        else:
            state["done"][name] = [line, *summary]
            write_state(state)
        print(line, flush=True)
    close(state, failed)


def close(state: dict, failed: dict[str, list[str]]) -> None:
    """Print what every stage gave; the next run starts anew."""
    print("\n== in short ==")
    for name in stages():
        print("\n".join(failed.get(name) or state["done"][name]))
    STAMP.unlink(missing_ok=True)
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


def dealt(command: list[str]) -> list[list[str]]:
    """The commands of a stage: many files are dealt out to two processes, as each alone leaves a core idle.

    Empty if there is nothing to run on.
    """
    if command[-1] == "*":
        files = sorted(map(str, (OUTPUT / "quick" / "lessons").glob("*.ipynb")))
        files = [path for path in files if not path.endswith((".failed.ipynb", ".running.ipynb"))]
    elif command[-1] == "tests":
        files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    else:
        return [command]
    return [[*command[:-1], *half] for half in halves(files, minutes()) if half]


def minutes() -> dict[str, float]:
    """How long each lesson took in the stage before, by name."""
    try:
        with open(OUTPUT / "quick" / "cost.csv", encoding="utf-8", newline="") as stream:
            return {row["name"]: float(row["minutes"]) for row in csv.DictReader(stream)}
    except FileNotFoundError:
        return {}


def halves(files: list[str], cost: dict[str, float]) -> tuple[list[str], list[str]]:
    """Two halves that take about as long: the dear files first, each to the lighter half. Unknown costs are equal."""
    sums, parts = [0.0, 0.0], ([], [])
    for path in sorted(files, key=lambda path: -cost.get(Path(path).stem, 1.0)):
        lighter = sums.index(min(sums))
        sums[lighter] += cost.get(Path(path).stem, 1.0)
        parts[lighter].append(path)
    return parts


def run(command: list[str]) -> tuple[int, list[str]]:
    """Run a stage and show what it prints; returns its exit code and pytest's closing lines."""
    commands = dealt(command)
    if not commands:
        print("there are no executed lessons")
        return 1, []
    with tempfile.TemporaryDirectory(prefix="records-") as records:  # these runs leave the course's tables alone
        environment = os.environ | {"LEARNING_NORMAL_RECORDS": records, "PYTHONUNBUFFERED": "1"}
        if len(commands) > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(commands))))
        later = [tempfile.TemporaryFile() for _ in commands[1:]]  # what the others print while the first is shown
        options = {"cwd": ROOT, "env": environment}
        first = subprocess.Popen(commands[0], stdout=subprocess.PIPE, **options)
        others = [
            subprocess.Popen(each, stdout=file, **options) for each, file in zip(commands[1:], later, strict=True)
        ]
        with first:
            summary = show(first.stdout)
        for process, printed in zip(others, later, strict=True):
            process.wait()
            printed.seek(0)
            with printed:
                summary += show(printed)
    return max(abs(process.returncode) for process in (first, *others)), summary


def show(lines: Iterable[bytes]) -> list[str]:
    """Print lines as they come; returns pytest's closing ones."""
    closing = []
    for line in (raw.decode(errors="replace") for raw in lines):
        print(line, end="", flush=True)
        if PASSED.search(line):
            closing.append(line.strip())
    return closing


def read_state() -> dict:
    """The stages that a killed run has done, if it was a run of these very files."""
    fresh = {"tree": tree_digest(), "done": {}}
    try:
        state = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return fresh
    return state if state.get("tree") == fresh["tree"] else fresh


def write_state(state: dict) -> None:
    """Keep the state, whole or not at all."""
    STAMP.parent.mkdir(parents=True, exist_ok=True)
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps(state, indent=1), encoding="utf-8")
    part.replace(STAMP)


def tree_digest() -> str:
    """A digest of the repository's files, committed or not, without those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not names:  # not a clone, but a downloaded archive
        folders = ("course_lib", "data_scripts", "notebooks", "tests")
        names = [str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.[pi]*")]
    digest = hashlib.sha256(sys.version.encode())
    for name in sorted(names):
        if (ROOT / name).is_file():
            digest.update(name.encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
