"""Everything that CI runs, in stages: `make test`, or `python tests/run_all.py`.

A run that was killed goes on at its stage if no file has changed since; a run that finished leaves nothing behind, so
the next one starts from the beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
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
        "lessons again": [*pytest, "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "*"],
        "tests": [*pytest, "tests"],
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
    return [[*command[:-1], *half] for half in (files[::2], files[1::2]) if half]


def run(command: list[str]) -> tuple[int, list[str]]:
    """Run a stage and show what it prints; returns its exit code and pytest's closing lines."""
    commands = dealt(command)
    if not commands:
        print("there are no executed lessons")
        return 1, []
    summary = []
    with tempfile.TemporaryDirectory(prefix="records-") as records:  # these runs leave the course's tables alone
        environment = os.environ | {"LEARNING_NORMAL_RECORDS": records, "PYTHONUNBUFFERED": "1"}
        options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "text": True}
        running = [subprocess.Popen(each, **options) for each in commands]
        for process in running:  # what the second prints meanwhile waits in its pipe
            with process:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    if PASSED.search(line):
                        summary.append(line.strip())
    return max(abs(process.returncode) for process in running), summary


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
