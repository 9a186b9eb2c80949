"""An assignment's source, `notebooks/assignments/source/<name>.py`, and the copies that are made from it.

The source is in the percent format with nbgrader's own cell metadata and marks, so that a lecturer may grade with
nbgrader or with `course_lib.assignments.grade`. No copy is ever edited by hand.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nbformat import NotebookNode

from course_lib.errors import BadInput
from course_lib.lessons.catalog import NOTEBOOKS

ASSIGNMENTS = NOTEBOOKS / "assignments"
CODE_STUB = 'raise NotImplementedError("your turn: replace this line by your code")'
TEXT_STUB = "*Your answer here.*"
SOLUTION, HIDDEN, SCHEME = "SOLUTION", "HIDDEN TESTS", "MARK SCHEME"  # what stands behind BEGIN and END
MARK = re.compile(r"^\s*(?:###|===)\s*(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)\b")


@dataclass(frozen=True)
class Assignment:
    """One assignment's source file."""

    path: Path

    @property
    def name(self) -> str:
        """Such as "1_metrics"."""
        return self.path.stem

    @cached_property
    def notebook(self) -> NotebookNode:
        """The source as a notebook without outputs. Copy it before you change it."""
        return read_source(self.path)

    @property
    def cells(self) -> dict[str, NotebookNode]:
        """The cells that have a grade_id, by it, in order."""
        return {grade_id(cell): cell for cell in self.notebook.cells if grade_id(cell)}

    @property
    def points(self) -> dict[str, float]:
        """What each marked cell is worth, tests and written answers, in order."""
        return {key: float(tags(cell)["points"]) for key, cell in self.cells.items() if is_marked(cell)}


def assignments(folder: Path | None = None, only: list[str] | None = None) -> list[Assignment]:
    """All assignments of a folder of sources, in order; with `only`, those of these names or numbers ("1").

    Raises:
        BadInput: an asked-for assignment does not exist.
    """
    folder = folder or ASSIGNMENTS / "source"
    found = [Assignment(path) for path in sorted(folder.glob("*.py"))]
    for name in only or []:
        if not any(name in (each.name, each.name.partition("_")[0]) for each in found):
            known = ", ".join(each.name for each in found)
            raise BadInput(f"there is no assignment {name}.", file=folder, remedy=f"There are: {known}.")
    return [each for each in found if not only or {each.name, each.name.partition("_")[0]} & set(only)]


def read_source(path: Path) -> NotebookNode:
    """A source (`py:percent`) as a notebook: fixed ids, nbgrader's metadata kept, no outputs."""
    import jupytext  # only authors and lecturers need it

    try:
        notebook = jupytext.read(path, fmt="py:percent")
    except (OSError, ValueError) as error:
        raise BadInput(f"this source cannot be read ({error}).", file=path) from error
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel), language_info=NotebookNode(name="python"))
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"c{index:02d}"
        kept = {key: cell["metadata"][key] for key in ("nbgrader", "tags") if key in cell["metadata"]}
        cell["metadata"] = NotebookNode(kept)
    return notebook


def tags(cell: NotebookNode) -> dict:
    """A cell's nbgrader metadata; empty if it has none, or something else in its place."""
    found = cell.get("metadata", {}).get("nbgrader", {})
    return found if isinstance(found, dict) else {}


def grade_id(cell: NotebookNode) -> str:
    """The name by which a cell is known to the grader, or ""."""
    found = tags(cell).get("grade_id", "")
    return found if isinstance(found, str) else ""


def is_test(cell: NotebookNode) -> bool:
    """A code cell whose asserts decide over points."""
    return bool(tags(cell).get("grade")) and not tags(cell).get("solution") and cell["cell_type"] == "code"


def is_manual(cell: NotebookNode) -> bool:
    """A written answer, or a task, whose points a person gives."""
    return bool(tags(cell).get("task")) or bool(tags(cell).get("grade") and tags(cell).get("solution"))


def is_marked(cell: NotebookNode) -> bool:
    """A cell that is worth points."""
    return is_test(cell) or is_manual(cell)


def is_solution(cell: NotebookNode) -> bool:
    """A cell that the student fills in."""
    return bool(tags(cell).get("solution"))


def is_locked(cell: NotebookNode) -> bool:
    """A cell that the student may not change, tests included."""
    return not is_solution(cell) and bool(tags(cell).get("locked") or tags(cell).get("grade"))


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """What a student gets: stubs for solutions, no hidden tests, mark schemes or outputs; tests cannot be edited."""
    notebook = _cleared(notebook)
    for cell in notebook.cells:
        if is_locked(cell):
            cell["metadata"] |= {"editable": False, "deletable": False}
        elif is_marked(cell):
            cell["metadata"]["deletable"] = False
    return notebook


def plain_copy(notebook: NotebookNode) -> NotebookNode:
    """What a reader outside a class gets: the student's copy without any trace of nbgrader."""
    notebook = _cleared(notebook)
    for cell in notebook.cells:
        cell["metadata"].pop("nbgrader", None)
    return notebook


def _cleared(notebook: NotebookNode) -> NotebookNode:
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell["source"] = cleared(cell)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def cleared(cell: NotebookNode) -> str:
    """A source cell's text as the student gets it."""
    text = cell["source"]
    if is_solution(cell):
        text = with_stub(text, CODE_STUB if cell["cell_type"] == "code" else TEXT_STUB)
    return without(without(text, HIDDEN), SCHEME)


def with_stub(text: str, stub: str) -> str:
    """The text with each solution region replaced by the stub, indented alike; without regions, the stub alone."""
    lines, inside, found = [], False, False
    for line in text.splitlines():
        mark = MARK.match(line)
        if mark and mark[2] == SOLUTION:
            inside = mark[1] == "BEGIN"
            if inside:
                found = True
                lines.append(line[: len(line) - len(line.lstrip())] + stub)
        elif not inside:
            lines.append(line)
    return "\n".join(lines) if found else stub


def without(text: str, kind: str) -> str:
    """The text without its regions of one kind."""
    return "\n".join(line for line, where in regions(text) if kind not in where).rstrip()


def regions(text: str) -> list[tuple[str, str]]:
    """Each line with the kind of region that it lies in, or "". The marks themselves belong to their region."""
    found, kind = [], ""
    for line in text.splitlines():
        mark = MARK.match(line)
        if mark and mark[1] == "BEGIN":
            kind = mark[2]
        found.append((line, kind))
        if mark and mark[1] == "END":
            kind = ""
    return found


def mark_scheme(cell: NotebookNode) -> str:
    """The text of a cell's mark scheme, without its marks."""
    lines = [line for line, kind in regions(cell["source"]) if kind == SCHEME and not MARK.match(line)]
    return "\n".join(lines).strip()
