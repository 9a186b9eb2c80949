"""Write an assignment's copies: for students, for the lecturer (with outputs), for readers, and for nbgrader."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.assignments import lint
from course_lib.assignments.source import (
    CODE_STUB,
    TEXT_STUB,
    Assignment,
    plain_copy,
    student_copy,
)
from course_lib.errors import BadInput
from course_lib.files import atomic_write
from course_lib.lessons.build import execute
from course_lib.lessons.run import LessonFailed

CELL_SECONDS = 120.0
_CONFIG = f'''"""Settings for nbgrader, written by `python -m course_lib.assignments release`."""
c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "learning-normal"
c.ClearSolutions.code_stub = {{"python": {CODE_STUB!r}}}
c.ClearSolutions.text_stub = {TEXT_STUB!r}
c.ExecutePreprocessor.timeout = {CELL_SECONDS:.0f}
c.ExecutePreprocessor.startup_timeout = 120
c.OverwriteCells.add_missing_cells = True
c.Exchange.path_includes_course = False
'''


def release(assignment: Assignment, folder: Path) -> list[str]:
    """Check a source and write its copies into `folder`; returns the problems, and writes nothing if there are any.

    `student/`, `solution/` and `plain/` hold `<name>.ipynb`; `source/<name>/` and `release/<name>/` are as nbgrader
    has them, beside `nbgrader_config.py`.
    """
    found = lint.problems(assignment)
    if found:
        return found
    solved, found = solution_copy(assignment)
    if found:
        return [f"{assignment.name}: {problem}" for problem in found]
    student, name = student_copy(assignment.notebook), assignment.name
    write(student, folder / "student" / f"{name}.ipynb")
    write(solved, folder / "solution" / f"{name}.ipynb")
    write(plain_copy(assignment.notebook), folder / "plain" / f"{name}.ipynb")
    write(assignment.notebook, folder / "source" / name / f"{name}.ipynb")
    write(student, folder / "release" / name / f"{name}.ipynb")
    with atomic_write(folder / "nbgrader_config.py") as part:
        part.write_text(_CONFIG, encoding="utf-8")
    return []


def solution_copy(assignment: Assignment) -> tuple[NotebookNode, list[str]]:
    """The source, run here: with outputs, solutions, hidden tests and mark schemes; and what went wrong."""
    notebook = copy.deepcopy(assignment.notebook)
    with tempfile.TemporaryDirectory(prefix="release-", ignore_cleanup_errors=True) as folder:
        try:
            execute(notebook, Path(folder), CELL_SECONDS)
        except LessonFailed as error:
            return notebook, lint.run_problems(notebook) or [str(error)[-500:]]
    return notebook, lint.run_problems(notebook)


def misfits(assignment: Assignment) -> list[str]:
    """What is wrong with the committed copy for students, without running anything."""
    path = committed(assignment)
    try:
        there = path.read_text(encoding="utf-8")
    except OSError:
        return [f"{assignment.name}: {path} is not there: run `python -m course_lib.assignments build`"]
    if there != text(student_copy(assignment.notebook)):
        return [f"{assignment.name}: {path} differs from its source: run `python -m course_lib.assignments build`"]
    return []


def committed(assignment: Assignment) -> Path:
    """Where the student's copy lies in the repository: beside the folder of sources."""
    return assignment.path.parent.parent / f"{assignment.name}.ipynb"


def build(assignment: Assignment) -> None:
    """Write the student's copy into the repository.

    Raises:
        BadInput: something is wrong with the source.
    """
    found = lint.problems(assignment)
    if found:
        raise BadInput("\n".join(found), file=assignment.path)
    write(student_copy(assignment.notebook), committed(assignment))


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text(notebook), encoding="utf-8")


def text(notebook: NotebookNode) -> str:
    """A notebook's file content; equal notebooks give equal bytes."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"
