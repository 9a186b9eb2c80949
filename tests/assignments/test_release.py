from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest
from assignment_toy import RIGHT, SECRET, SOURCE, header, write_source
from nbformat.v4 import new_output

from course_lib.assignments import lint
from course_lib.assignments.release import build, committed, misfits, release
from course_lib.assignments.source import (
    CODE_STUB,
    TEXT_STUB,
    Assignment,
    assignments,
    grade_id,
    mark_scheme,
    plain_copy,
    student_copy,
)
from course_lib.errors import BadInput
from course_lib.files import ROOT
from course_lib.lessons.catalog import lessons


@pytest.fixture
def toy(tmp_path):
    return write_source(tmp_path / "assignments" / "source")


def changed(toy, old: str, new: str) -> Assignment:
    """The toy with one thing changed, once."""
    assert SOURCE.count(old) >= 1
    toy.path.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
    return Assignment(toy.path)


def test_metadata_survives_and_points_are_known(toy):
    assert toy.points == {"t-dice": 2, "t-threshold": 1, "t-loss": 3, "t-model": 4, "why": 5}
    assert list(toy.cells)[:3] == ["t-setup", "dice", "t-dice"]
    assert mark_scheme(toy.cells["why"]) == 'Two points for "healthy", three for "validation".'


def test_the_students_copy_holds_stubs_and_nothing_secret(toy):
    text = nbformat.writes(student_copy(toy.notebook))
    for secret in (SECRET, "HIDDEN", "SOLUTION", "MARK SCHEME", "Two points", "a.sum()", "self.mean = "):
        assert secret not in text
    cells = {grade_id(cell): cell for cell in student_copy(toy.notebook).cells}
    assert cells["dice"]["source"] == f'def dice(a, b):\n    """Dice of two masks."""\n    {CODE_STUB}'
    assert cells["threshold"]["source"] == CODE_STUB and cells["why"]["source"] == TEXT_STUB
    assert cells["t-dice"]["source"].endswith('"a mask agrees with itself"')
    assert cells["t-dice"]["metadata"]["editable"] is False and "editable" not in cells["dice"]["metadata"]


def test_the_first_stub_stops_a_student_with_its_message(toy):
    space: dict = {}
    with pytest.raises(NotImplementedError, match="your turn"):
        for cell in student_copy(toy.notebook).cells:
            if cell["cell_type"] == "code":
                exec(cell["source"], space)
    assert "scores" in space and "dice" in space


def test_the_plain_copy_knows_nothing_of_nbgrader(toy):
    text = nbformat.writes(plain_copy(toy.notebook))
    assert "nbgrader" not in text and "grade_id" not in text and "editable" not in text
    assert "a mask agrees with itself" in text and SECRET not in text


def test_copying_leaves_the_source_as_it_was(toy):
    before = nbformat.writes(toy.notebook)
    student_copy(toy.notebook), plain_copy(toy.notebook)
    assert nbformat.writes(toy.notebook) == before


def test_release_writes_all_copies(toy, tmp_path):
    assert release(toy, tmp_path / "out") == []
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    course = {"source/9_toy/9_toy.ipynb", "release/9_toy/9_toy.ipynb", "nbgrader_config.py"}
    assert names == course | {f"{kind}/9_toy.ipynb" for kind in ("student", "solution", "plain")}
    solved = nbformat.read(tmp_path / "out" / "solution" / "9_toy.ipynb", 4)
    assert all(cell["execution_count"] for cell in solved.cells if cell["cell_type"] == "code")
    assert SECRET in nbformat.writes(solved)
    config = (tmp_path / "out" / "nbgrader_config.py").read_text()
    assert "your turn" in config and "timeout = 120" in config
    compile(config, "config", "exec")


def test_build_and_check(toy):
    assert "is not there" in misfits(toy)[0]
    build(toy)
    assert misfits(toy) == []
    again = committed(toy).read_bytes()
    build(toy)
    assert committed(toy).read_bytes() == again
    other = changed(toy, "a mask agrees with itself", "another message")
    assert "differs from its source" in misfits(other)[0]
    command = [sys.executable, "-m", "course_lib.assignments", "--sources", str(toy.path.parent), "release", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "differs from its source" in done.stderr


def test_a_wrong_source_is_not_built(toy, tmp_path):
    wrong = changed(toy, '"schema_version": 3', '"schema_version": 2')
    with pytest.raises(BadInput, match="schema_version is not 3"):
        build(wrong)
    assert not committed(wrong).exists()
    assert release(wrong, tmp_path / "out") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"grade_id": "threshold"', '"grade_id": "dice"', "this grade_id is there twice"),
        ('"points": 2', '"points": 0', "points above 0"),
        ('"points": 2', '"weight": 2', "points above 0"),
        ('"points": 2', '"points": true', "points above 0"),
        ('"schema_version": 3', '"schema_version": 1', "schema_version is not 3"),
        ('"grade_id": "dice"', '"grade_id": "dice 1"', "a grade_id is letters"),
        (
            header("t-dice", grade=True, locked=True, points=2),
            header("t-dice", grade=True, points=2),
            "a test is locked",
        ),
        (header("dice", solution=True), header("dice", solution=True, locked=True), "a solution is not locked"),
        ("    ### END SOLUTION", "    # end", "BEGIN SOLUTION without its END"),
        ("### END HIDDEN TESTS", "", "BEGIN HIDDEN TESTS without its END"),
        ("    ### BEGIN SOLUTION", "    # BEGIN SOLUTION", "this mark is not written as it should be"),
        ("# === END MARK SCHEME ===", "#", "BEGIN MARK SCHEME without its END"),
        (
            "scores = np.arange(101) / 100",
            "### BEGIN SOLUTION\n### END SOLUTION",
            "SOLUTION does not belong in this cell",
        ),
        ('assert dice(one, one) == 1, "a mask agrees with itself"', "assert dice(one, one) == 1", "without a message"),
        ("### END HIDDEN TESTS", "### END HIDDEN TESTS\n0.5", "its last line is a value"),
        ("one = np.array", "dice(1, 2)\none = np.array", None),
        ('### BEGIN HIDDEN TESTS\nsecret = "', '7\n### BEGIN HIDDEN TESTS\nsecret = "', "its last line is a value"),
        ("import numpy as np\n\none", "one", "t-dice: it does not import np"),
        ("dice(one, one)", "dise(one, one)", "nothing defines dise"),
        ("assert abs(threshold - 0.95)", "assert abs(scores[95] - 0.95)", "threshold: no later test uses"),
        ("# === BEGIN MARK SCHEME ===", "#", "an answer without a mark scheme"),
        ("    def fit(self, values):", "    def fit(self, values:", "this is no Python"),
    ],
)
def test_lint_finds_what_would_go_wrong(toy, old, new, told):
    found = lint.problems(changed(toy, old, new))
    assert (found == []) if told is None else any(told in problem for problem in found), found


def test_lint_wants_the_scheme_inside_the_solution(toy):
    answer = "# Because the threshold comes from healthy people."
    wrong = changed(toy, answer, f"# ### BEGIN SOLUTION\n{answer}\n# ### END SOLUTION")
    found = "\n".join(lint.problems(wrong))
    assert "outside the solution region" in found
    text = SOURCE.replace(answer, f"# ### BEGIN SOLUTION\n{answer}")
    toy.path.write_text(text.rstrip() + "\n# ### END SOLUTION\n", encoding="utf-8")
    right = Assignment(toy.path)
    assert lint.problems(right) == []
    assert "MARK" not in nbformat.writes(student_copy(right.notebook))


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (new_output("stream", name="stderr", text="a warning"), "stderr, which costs all points"),
        (new_output("execute_result", data={"text/plain": "0.5"}), "takes for the mark"),
        (new_output("error", ename="AssertionError", evalue="no", traceback=[]), "the reference fails"),
        (new_output("stream", name="stdout", text="fine"), None),
    ],
)
def test_lint_of_the_executed_reference(toy, output, told):
    toy.cells["t-dice"]["outputs"] = [output]
    found = lint.run_problems(toy.notebook)
    assert [told in problem for problem in found] == ([] if told is None else [True])


def test_a_reference_that_warns_is_not_released(toy, tmp_path):
    warns = changed(
        toy, "scores = np.arange(101) / 100", "import warnings\nscores = np.arange(101) / 100\nwarnings.warn('x')"
    )
    assert "stderr" in release(warns, tmp_path / "out")[0] and not (tmp_path / "out").exists()


def test_assignments_are_found_by_name_and_number(toy):
    folder = toy.path.parent
    assert [each.name for each in assignments(folder)] == ["9_toy"]
    assert assignments(folder, ["9"]) == assignments(folder, ["9_toy"])
    with pytest.raises(BadInput, match="there is no assignment 8"):
        assignments(folder, ["8"])
    with pytest.raises(BadInput, match="cannot be read"):
        Assignment(folder / "none.py").notebook  # noqa: B018


def test_assignments_are_no_lessons(toy):
    (toy.path.parent / "1.0_real.py").write_text("# %%\n")
    assert [lesson.name for lesson in lessons(toy.path.parents[2])] == ["1.0_real"]


def test_the_toys_answers_are_right(toy):
    assert set(RIGHT) == {key for key in toy.cells if not key.startswith("t-")} - {"why"}


@pytest.mark.parametrize("assignment", assignments(), ids=lambda each: each.name)
def test_the_courses_own_sources_and_copies(assignment):
    assert lint.problems(assignment) + misfits(assignment) == []
