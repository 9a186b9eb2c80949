"""Mutants of the assignments: wrong and right solutions as files, made into submissions and graded in one go.

A mutant, `notebooks/assignments/mutants/<assignment>/<name>.py`, is the reference solution with some solution cells
replaced. Its docstring is YAML: `misconception`, `fails` (the grade_ids that must lose points) and `says` (what the
message must contain); or `right: true` and `way`. Then each `# %% grade_id` is followed by the cell's new source.
"""

from __future__ import annotations

import ast
import copy
import csv
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml

from course_lib.assignments.grade import mark_all
from course_lib.assignments.source import Assignment, assignments, student_copy
from course_lib.files import ROOT, atomic_write, output_folder

FOLDER = ROOT / "notebooks" / "assignments" / "mutants"
REFERENCE, BLANK = "the reference", "a blank one"


@dataclass(frozen=True)
class Mutant:
    """One solution of an assignment; `cells` maps a solution's grade_id to the source that replaces it."""

    assignment: Assignment
    name: str
    misconception: str = ""
    fails: tuple[str, ...] = ()
    says: str = ""
    right: bool = False
    way: str = ""
    cells: dict[str, str] = field(default_factory=dict)

    def notebook(self) -> nbformat.NotebookNode:
        """The submission: a blank one, the reference, or the reference with the mutant's cells."""
        if self.name == BLANK:
            return student_copy(self.assignment.notebook)
        notebook, left = copy.deepcopy(self.assignment.notebook), dict(self.cells)
        for cell in notebook.cells:
            about = cell.metadata.get("nbgrader", {})
            if about.get("solution") and about["grade_id"] in left:
                cell.source = left.pop(about["grade_id"])
        if left:
            raise ValueError(f"{self.name}: no solution cell {sorted(left)} in {self.assignment.path.name}.")
        return notebook


def read_mutant(assignment: Assignment, path: Path) -> Mutant:
    """Read a mutant's file.

    Raises:
        TypeError: the docstring has a key that no mutant has.
    """
    text = path.read_text(encoding="utf-8")
    about = yaml.safe_load(ast.get_docstring(ast.parse(text)))
    parts = re.split(r"^# %% (\S+)\n", text, flags=re.M)[1:]
    cells = dict(zip(parts[::2], (source.strip() for source in parts[1::2]), strict=True))
    return Mutant(assignment, path.stem, **about | {"fails": tuple(about.get("fails", ()))}, cells=cells)


def all_mutants(assignment: Assignment) -> list[Mutant]:
    """The reference, a blank submission, and all mutants of an assignment: right ones, then wrong ones."""
    folder = FOLDER / assignment.name
    read = [read_mutant(assignment, path) for path in sorted(folder.glob("*.py"))]
    plain = [Mutant(assignment, REFERENCE, right=True, way="as in the source"), Mutant(assignment, BLANK)]
    return plain + sorted(read, key=lambda mutant: not mutant.right)


def grade_all(mutants: list[Mutant], folder: Path, workers: int = 2) -> list[dict]:
    """Grade the mutants by the real grader; `results[k]` is what it says of mutant k."""
    jobs = []
    for number, mutant in enumerate(mutants):
        own = folder / f"{number:03d}"
        own.mkdir(parents=True)
        nbformat.write(mutant.notebook(), own / "submission.ipynb")
        names = {"notebook": str(own / "submission.ipynb"), "folder": str(own), "result": str(own / "result")}
        jobs.append({"source": mutant.assignment.path, "student": f"{number:03d}", **names})
    return mark_all(jobs, workers=workers)


def matrix(mutants: list[Mutant], results: list[dict]) -> str:
    """A Markdown table for each assignment: a row for each mutant, a column for each test, x where points were lost."""
    lines = []
    for name in dict.fromkeys(mutant.assignment.name for mutant in mutants):
        rows = [(m, r) for m, r in zip(mutants, results, strict=True) if m.assignment.name == name]
        tests = list(rows[0][1]["tests"])
        short = [test.split("-", 1)[1].removesuffix("-test") for test in tests]
        lines += [f"## {name}", "", "x: points lost. **x**: on the test that is meant for the mistake.", ""]
        lines += ["| solution | what it is | " + " | ".join(short) + " |", "|---|---|" + "---|" * len(tests)]
        for mutant, result in rows:
            marks = [_mark(result["tests"][test], test in mutant.fails) for test in tests]
            lines.append(f"| {mutant.name} | {mutant.misconception or mutant.way} | " + " | ".join(marks) + " |")
        lines.append("")
    return "\n".join(lines)


def write_matrix(mutants: list[Mutant], results: list[dict], folder: Path) -> None:
    """Write `matrix.md`, and `matrix.csv` with a row for each mutant and test."""
    with atomic_write(folder / "matrix.md") as part:
        part.write_text("# Which check sees which mistake\n\n" + matrix(mutants, results), encoding="utf-8")
    with atomic_write(folder / "matrix.csv") as part, open(part, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(
            ["assignment", "solution", "misconception", "right", "test", "meant", "points", "max", "message"]
        )
        for mutant, result in zip(mutants, results, strict=True):
            for key, test in result["tests"].items():
                about = [mutant.assignment.name, mutant.name, mutant.misconception, mutant.right, key]
                marks = [key in mutant.fails, test["points"], test["max"], test.get("message", "")]
                table.writerow(about + marks)


def _mark(test: dict, meant: bool) -> str:
    if test["points"] == test["max"]:
        return ""
    return "**x**" if meant else "x"


def main() -> None:
    """Grade all mutants, or those of the assignments named, and write the matrix into the output folder."""
    found = [mutant for assignment in assignments(only=sys.argv[1:] or None) for mutant in all_mutants(assignment)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        results = grade_all(found, Path(folder))
    write_matrix(found, results, output_folder() / "assignments")
    print(matrix(found, results))


if __name__ == "__main__":
    main()
