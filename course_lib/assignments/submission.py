"""A student's notebook: read with care, and set beside the assignment's source cell by cell."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.assignments.source import (
    Assignment,
    cleared,
    grade_id,
    is_locked,
    is_manual,
    is_solution,
    is_test,
    tags,
)
from course_lib.errors import BadInput
from course_lib.files import inside

LARGEST = 50 * 2**20  # bytes of a notebook
MOST_CELLS = 1000
_NAME = "nbgrader"


@dataclass
class Plan:
    """What is run of a submission, and what is shown.

    Args:
        notebook: the student's cells; locked ones as the source has them, without hidden tests.
        run: indices of the cells that are run, in order.
        notes: what is not as it should be.
        answers: the text of each written answer, and whether the student has changed it.
    """

    notebook: NotebookNode
    run: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answers: dict[str, tuple[str, bool]] = field(default_factory=dict)


def content(path: Path, folder: Path) -> bytes:
    """The bytes of a file that was handed in, in `folder`.

    Raises:
        BadInput: it is a link, leads out of the folder, is no file, or too large.
    """
    inside(folder, path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        cause = "this is a link, not a notebook." if path.is_symlink() else f"it cannot be opened ({error.strerror})."
        raise BadInput(cause, file=path.name) from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise BadInput("this is no file.", file=path.name)
    with open(descriptor, "rb") as stream:
        if about.st_size > LARGEST:
            cause = f"it has {about.st_size / 2**20:.0f} MB, more than {LARGEST // 2**20}."
            raise BadInput(cause, file=path.name, remedy="Clear its outputs.")
        return stream.read(LARGEST + 1)


def read(path: Path, folder: Path) -> NotebookNode:
    """Read a submitted notebook that lies in `folder`.

    Raises:
        BadInput: as `content`, or it is no notebook, or has too many cells.
    """
    try:
        found = json.loads(content(path, folder))
        notebook = nbformat.reads(json.dumps(found), as_version=4) if isinstance(found, dict) else None
        nbformat.validate(notebook)
    except BadInput:
        raise
    except RecursionError:
        raise BadInput("this is no notebook (it is nested too deep).", file=path.name) from None
    except Exception as error:  # nbformat raises its own types, json's and jsonschema's
        cause = " ".join(str(error).split())[:200]
        raise BadInput(f"this is no notebook ({cause}).", file=path.name) from None
    if len(notebook.cells) > MOST_CELLS:
        raise BadInput(f"it has more than {MOST_CELLS} cells.", file=path.name)
    return notebook


def plan(assignment: Assignment, submitted: NotebookNode) -> Plan:
    """Match a submission with the source by the cells' grade_ids.

    Tests are never run in the student's process. Locked cells are the source's own, and those that are missing are put
    back. Of a cell that is there twice the first counts; the others are the student's own cells, or tests to leave out.

    Raises:
        BadInput: none of the cells is of this assignment.
    """
    source, seen, cells, ours = assignment.cells, set(), [], []
    made = Plan(nbformat.v4.new_notebook(metadata=_kernel()))
    for cell in submitted.cells:
        key = grade_id(cell)
        known = source.get(key)
        cell = _plain(cell)
        if known is not None and key in seen:
            made.notes.append(f"{key} is there more than once")
            if is_locked(known):
                continue
            _answer(made, key, known, cell)
        elif known is not None:
            seen.add(key)
            _fit(made, key, known, cell)
            ours.append(key)
        cells.append(cell)
    if not seen:
        raise BadInput("it has no cell of this assignment.", field=assignment.name)
    made.notebook.cells = _with_missing(assignment, cells, seen, made)
    for index, cell in enumerate(made.notebook.cells):
        cell["id"] = f"c{index}"
        if cell["cell_type"] == "code" and cell["source"].strip() and not is_test(cell):
            made.run.append(index)
    return made


def _fit(made: Plan, key: str, known: NotebookNode, cell: NotebookNode) -> None:
    """Make a submitted cell what the source says it is."""
    if cell["cell_type"] != known["cell_type"] and not is_manual(known):
        made.notes.append(f"{key} was a cell of type {cell['cell_type']}")
        cell["cell_type"] = known["cell_type"]
        cell.pop("attachments", None)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    text = cleared(known)
    if is_locked(known) and not is_manual(known):
        if cell["source"].strip() not in (text.strip(), known["source"].strip()):
            made.notes.append(f"{key} was changed; the original is used")
        cell["source"] = text
    if is_manual(known):
        _answer(made, key, known, cell)
    cell["metadata"] = NotebookNode({_NAME: dict(tags(known))})


def _answer(made: Plan, key: str, known: NotebookNode, cell: NotebookNode) -> None:
    """Note a written answer; of several the first that was changed."""
    if is_manual(known) and not made.answers.get(key, ("", False))[1]:
        made.answers[key] = (cell["source"], is_solution(known) and cell["source"].strip() != cleared(known).strip())


def _with_missing(assignment: Assignment, cells: list, seen: set, made: Plan) -> list:
    """The cells with every cell of the source; a missing one stands behind the one that it follows there."""
    before = ""
    for key, known in assignment.cells.items():
        if key not in seen:
            made.notes.append(f"{key} is missing")
            if is_manual(known):
                made.answers[key] = ("", False)
            if is_locked(known):
                cell = _plain(known)
                cell["source"], cell["metadata"] = cleared(known), NotebookNode({_NAME: dict(tags(known))})
                place = next((i + 1 for i, each in enumerate(cells) if before and grade_id(each) == before), 0)
                cells.insert(place, cell)
                before = key
        else:
            before = key
    return cells


def _plain(cell: NotebookNode) -> NotebookNode:
    """A cell's type and text, and nothing else of what was handed in."""
    kind = cell["cell_type"] if cell["cell_type"] in ("code", "markdown", "raw") else "raw"
    made = getattr(nbformat.v4, f"new_{kind}_cell")(source=str(cell["source"]))
    return made


def _kernel() -> dict:
    return {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
