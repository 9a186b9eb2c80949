"""The same course graded by nbgrader, through its own commands: what it makes of our source, and its marks beside ours.

Two traps of nbgrader's are planted here and must not be ours: its `validate` says 0 whatever it finds, and anything on
stderr, or a value at the end of a test, changes the mark. `lint` refuses sources that do so (see test_release).
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from assignment_toy import RIGHT, SECRET, hand_in, submission, write_source

from course_lib.assignments.grade import grade
from course_lib.assignments.release import release
from course_lib.assignments.source import grade_id

pytest.importorskip("nbgrader", reason="the extra `grading` is not installed")

STUDENTS = {
    "right": RIGHT | {"why": "Healthy people of the validation split."},
    "partly": RIGHT
    | {"dice": "def dice(a, b):\n    return (a & b).sum() / (a | b).sum()", "threshold": "threshold = 0.5"},
    "typo": RIGHT | {"model": "class Model\n    pass", "why": "No idea."},
    "blank": {},
}
MANUAL = {"right": 4.5, "typo": 1.0}


def nbgrader(course: Path, *arguments: str) -> str:
    """Run a command of nbgrader's; returns all that it prints."""
    home = course.parent / "home"
    environment = os.environ | {"HOME": str(home), "JUPYTER_CONFIG_DIR": str(home / "config"), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it calls `alembic` by its name
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def course(tmp_path_factory, sandboxed):
    """A course that our `release` wrote, with its student's copy made by nbgrader, submissions, both gradings."""
    folder = tmp_path_factory.mktemp("nbgrader") / "course"
    assignment = write_source(folder.parent / "sources")
    assert release(assignment, folder) == []
    ours = folder / "release" / "9_toy" / "9_toy.ipynb"
    shutil.copy(ours, folder.parent / "ours.ipynb")
    nbgrader(folder, "generate_assignment", "9_toy", "--create", "--force")  # also fills its database
    for student, answers in STUDENTS.items():
        hand_in(folder, student, submission(assignment, answers))
    nbgrader(folder, "autograde", "9_toy", "--create")
    results = grade(folder, [assignment], workers=2, sandboxed=sandboxed, tell=lambda line: None)
    by_hand(folder)
    grade(folder, [assignment], workers=2, sandboxed=sandboxed, tell=lambda line: None)
    nbgrader(folder, "generate_feedback", "9_toy")
    nbgrader(folder, "export", "--to", "grades.csv")
    return folder, assignment, results


def by_hand(folder: Path) -> None:
    """A person marks the written answers: through nbgrader's interface, and in our table."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder}/gradebook.db") as book:
        for student, points in MANUAL.items():
            found = book.find_grade("why", "9_toy", "9_toy", student)
            assert found.needs_manual_grade
            found.manual_score, found.needs_manual_grade = points, False
        untouched = book.find_grade("why", "9_toy", "9_toy", "blank")
        assert (untouched.score, untouched.needs_manual_grade) == (0, False)  # an answer that nobody touched
        book.db.commit()
    with open(folder / "manual.csv", encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["student"] for row in rows} == set(MANUAL)
    with open(folder / "manual.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"points": MANUAL[row["student"]], "comment": "read"} for row in rows)


def test_our_copy_for_students_is_the_one_that_nbgrader_makes(course):
    folder, _, _ = course
    theirs = nbformat.read(folder / "release" / "9_toy" / "9_toy.ipynb", 4)
    ours = nbformat.read(folder.parent / "ours.ipynb", 4)
    assert [cell["source"].strip() for cell in ours.cells] == [cell["source"].strip() for cell in theirs.cells]
    for one, other in zip(ours.cells, theirs.cells, strict=True):
        told = {key: value for key, value in other["metadata"].get("nbgrader", {}).items() if key != "checksum"}
        told.pop("cell_type", None)
        assert one["metadata"].get("nbgrader", {}) == told
        assert one["metadata"].get("editable", True) == other["metadata"].get("editable", True), grade_id(one)
    assert SECRET not in nbformat.writes(ours)


def test_marks_are_the_same_cell_by_cell(course):
    from nbgrader.api import Gradebook

    folder, assignment, _ = course
    with open(folder / "marks.csv", encoding="utf-8-sig", newline="") as stream:
        rows = {row["student"]: row for row in csv.DictReader(stream)}
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as book:
        for student in STUDENTS:
            theirs = {key: book.find_grade(key, "9_toy", "9_toy", student).score for key in assignment.points}
            assert theirs == {key: float(rows[student][key]) for key in assignment.points}, student
            assert book.find_submission("9_toy", student).score == float(rows[student]["total"])
    assert [float(rows[name]["total"]) for name in ("right", "partly", "typo", "blank")] == [14.5, 7, 7, 0]


def test_nbgrader_exports_and_tells_the_same(course):
    folder, _, _ = course
    with open(folder / "grades.csv", newline="") as stream:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(stream)}
    assert scores == {"right": 14.5, "partly": 7, "typo": 7, "blank": 0}
    page = (folder / "feedback" / "partly" / "9_toy" / "9_toy.html").read_text(encoding="utf-8")
    assert "the factor 2 is missing" in page


def test_validate_is_read_not_believed(course):
    folder, assignment, _ = course
    nbformat.write(assignment.notebook, folder / "right.ipynb")
    blank = nbgrader(folder, "validate", str(folder / "release" / "9_toy" / "9_toy.ipynb"))
    assert "VALIDATION FAILED ON" in blank and "your turn" in blank
    assert "Success! Your notebook passes all the tests" in nbgrader(folder, "validate", "right.ipynb")
