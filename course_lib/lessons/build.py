"""Build lessons: `notebooks/<part>/source/*.py` to executed notebooks. One direction; equal runs give equal bytes.

`python -m course_lib.lessons.build` builds the lessons whose source has changed, `--force` all, `--check` none: it
says which notebooks do not fit their source.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.errors import BadInput
from course_lib.files import atomic_write
from course_lib.lessons.catalog import LessonFiles, lessons
from course_lib.lessons.outputs import find_errors, find_stderr, strip_widgets, tidy
from course_lib.lessons.parameters import declared
from course_lib.lessons.run import CELL_SECONDS, START_SECONDS, LessonFailed, kernel_config, read_notebook

LARGEST = 1.5  # MB of one notebook in the repository


def read_source(path: Path) -> NotebookNode:
    """A lesson's source (`py:percent`) as a notebook without outputs."""
    import jupytext  # only authors need it

    notebook = jupytext.read(path, fmt="py:percent")
    tidy(notebook)
    return notebook


def build(lesson: LessonFiles, *, cell_seconds: float = CELL_SECONDS["standard"]) -> None:
    """Execute a lesson's source and write its notebook. The old one stays if anything is wrong.

    Raises:
        LessonFailed: an error, also inside a widget; a time limit; or something was written to stderr.
        BadInput: the parameters cell is missing or not typed.
    """
    notebook = read_source(lesson.source)
    declared(notebook)
    execute(notebook, lesson.notebook.parent, cell_seconds)
    problems = find_errors(notebook) or [f"it wrote to stderr, {text}" for text in find_stderr(notebook)]
    if problems:
        raise LessonFailed(f"{lesson.name}: {problems[0]}")
    strip_widgets(notebook)
    tidy(notebook)
    nbformat.validate(notebook)
    with atomic_write(lesson.notebook) as part:
        part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def execute(notebook: NotebookNode, folder: Path, cell_seconds: float) -> None:
    """Run a notebook in place, in `folder`, apart from the author's own settings, guesses and records.

    Raises:
        LessonFailed: a cell failed or took too long, or the kernel died.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    with tempfile.TemporaryDirectory(prefix="build-", ignore_cleanup_errors=True) as temporary:
        own = {name: f"{temporary}/{name}" for name in ("IPYTHONDIR", "LEARNING_NORMAL_RECORDS")}
        own["LEARNING_NORMAL_PREDICTIONS"] = f"{temporary}/predictions.json"
        client = NotebookClient(
            notebook,
            timeout=cell_seconds,
            startup_timeout=START_SECONDS,
            kernel_name="python3",
            record_timing=False,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(folder)}},
            config=kernel_config(temporary),
        )
        try:
            client.execute(env=os.environ | own)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise LessonFailed(str(error)) from error


def misfits(lesson: LessonFiles) -> list[str]:
    """What is wrong with a committed notebook, without running it; empty if nothing is.

    Its cells must be those of its source (outputs are not compared), every code cell run, nothing failed or on stderr,
    and the file small enough.
    """
    try:
        notebook = read_notebook(lesson.notebook)
    except BadInput as error:
        return [f"{lesson.name}: {error}"]
    found = []
    if _cells(notebook) != _cells(read_source(lesson.source)):
        found.append("its cells differ from its source: run `make notebooks`")
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code" and cell["source"].strip()]
    if any(cell.get("execution_count") is None for cell in code) or not any(cell["outputs"] for cell in code):
        found.append("it is not executed")
    found += find_errors(notebook) + [f"stderr in {text}" for text in find_stderr(notebook)]
    size = lesson.notebook.stat().st_size / 1e6
    if size > LARGEST:
        found.append(f"it has {size:.1f} MB, more than {LARGEST}: fewer or smaller figures")
    return [f"{lesson.name}: {problem}" for problem in found]


def _cells(notebook: NotebookNode) -> list[tuple]:
    """What a notebook's author wrote: kinds, sources and tags of the cells."""
    return [(c["cell_type"], c["source"].strip(), tuple(c["metadata"].get("tags", ()))) for c in notebook.cells]


def _up_to_date(lesson: LessonFiles) -> bool:
    return lesson.notebook.exists() and not misfits(lesson)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the lessons' notebooks from their sources.")
    parser.add_argument("lessons", nargs="*", help="numbers such as 2.1; by default all lessons")
    parser.add_argument("--force", action="store_true", help="also those whose source has not changed")
    parser.add_argument("--check", action="store_true", help="build nothing; say which notebooks do not fit")
    arguments = parser.parse_args()
    try:
        chosen = lessons(only=arguments.lessons)
        if arguments.check:
            problems = [problem for lesson in chosen for problem in misfits(lesson)]
            sys.exit("\n".join(problems) or None)
        for lesson in chosen:
            if not arguments.force and _up_to_date(lesson):
                print(f"{lesson.name}: unchanged", flush=True)
                continue
            print(f"{lesson.name}: building", flush=True)
            build(lesson)
            size = lesson.notebook.stat().st_size / 1e6
            print(f"{lesson.name}: {size:.2f} MB" + (f", over {LARGEST}" if size > LARGEST else ""), flush=True)
    except (BadInput, LessonFailed) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
