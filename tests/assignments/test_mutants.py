"""Each assignment's checks tell right from wrong, name the misconception, and its copies run as far as they promise."""

from __future__ import annotations

import contextlib
import io
import warnings

import matplotlib
import pytest

from course_lib.assignments.marking import free_names
from course_lib.assignments.source import assignments, cleared, is_test, plain_copy, student_copy
from course_lib.files import output_folder
from tests.assignments.mutant_files import BLANK, all_mutants, grade_all, matrix, write_matrix

ASSIGNMENTS = assignments()
MUTANTS = [mutant for assignment in ASSIGNMENTS for mutant in all_mutants(assignment)]
STUB = "your turn"
HUSHED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def some(wanted):
    """The numbers of the mutants that are wanted, with names to read."""
    found = [k for k, mutant in enumerate(MUTANTS) if wanted(mutant)]
    return pytest.mark.parametrize(
        "number", found, ids=[f"{MUTANTS[k].assignment.name}: {MUTANTS[k].name}" for k in found]
    )


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """What the real grader says of each mutant; the matrix is written and printed."""
    results = grade_all(MUTANTS, tmp_path_factory.mktemp("mutants"))
    write_matrix(MUTANTS, results, output_folder() / "assignments")
    print(matrix(MUTANTS, results))
    return results


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(lambda mutant: mutant.right)
def test_a_right_solution_gets_full_marks(graded, number):
    lost = {key: test["message"] for key, test in graded[number]["tests"].items() if test["points"] < test["max"]}
    assert graded[number]["status"] == "ok" and not lost


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(lambda mutant: mutant.fails)
def test_a_wrong_solution_loses_points_where_it_should_and_is_told_why(graded, number):
    mutant, result = MUTANTS[number], graded[number]
    for key in mutant.fails:
        assert result["tests"][key]["points"] == 0, f"{key} does not see it"
        assert mutant.says in result["tests"][key]["message"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@some(lambda mutant: mutant.name == BLANK)
def test_a_blank_submission_gets_nothing(graded, number):
    assert {test["points"] for test in graded[number]["tests"].values()} == {0}
    assert not any(answer["changed"] for answer in graded[number]["answers"].values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_matrix_shows_every_mutant_and_marks_its_test(graded):
    text = (output_folder() / "assignments" / "matrix.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| solution")]
    assert len(rows) == len(MUTANTS)
    for row, mutant in zip(rows, MUTANTS, strict=True):
        assert row.startswith(f"| {mutant.name} | {mutant.misconception or mutant.way}")
        assert row.count("**x**") == len(mutant.fails)


@pytest.mark.parametrize("assignment", ASSIGNMENTS, ids=lambda assignment: assignment.name)
def test_there_are_mutants_for_every_test(assignment):
    own = [mutant for mutant in MUTANTS if mutant.assignment.name == assignment.name]
    assert sum(bool(mutant.fails) for mutant in own) >= 6
    assert sum(mutant.right and bool(mutant.cells) for mutant in own) >= 2
    meant = {key for mutant in own for key in mutant.fails}
    assert meant == {key for key, cell in assignment.cells.items() if is_test(cell)}
    for mutant in own:
        assert bool(mutant.fails) == bool(mutant.says) == bool(mutant.misconception)
        assert bool(mutant.fails) + mutant.right + (mutant.name == BLANK) == 1
        mutant.notebook()  # refuses a cell that the assignment does not have


# ---- the copies -----------------------------------------------------------------------------------------------------


def run(notebook):
    """Run all code cells in one namespace, whatever fails: index, error, and what stderr would get, of each cell."""
    matplotlib.use("Agg")
    space, found = {"__name__": "__main__"}, []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        heard, problem = io.StringIO(), None
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
            with warnings.catch_warnings(record=True) as spoken:
                warnings.simplefilter("always")
                try:
                    exec(compile(cell.source, f"cell {index}", "exec"), space)
                except Exception as error:  # a stub, or what lacks its result
                    problem = error
        # A kernel shows all warnings but those for developers, on stderr.
        said = [str(one.message) for one in spoken if not issubclass(one.category, HUSHED)]
        found.append((index, problem, heard.getvalue() + "".join(said)))
    return found


@pytest.mark.parametrize("assignment", ASSIGNMENTS, ids=lambda assignment: assignment.name)
def test_the_solution_runs_through_without_a_word_on_stderr(assignment):
    assert [(index, problem, heard) for index, problem, heard in run(assignment.notebook) if problem or heard] == []


@pytest.mark.parametrize("copy", [student_copy, plain_copy], ids=["student", "plain"])
@pytest.mark.parametrize("assignment", ASSIGNMENTS, ids=lambda assignment: assignment.name)
def test_a_copy_stops_at_nothing_but_the_stubs(assignment, copy):
    notebook = copy(assignment.notebook)
    stubs = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code" and STUB in cell.source]
    ran = run(notebook)
    problems = [(index, problem) for index, problem, _ in ran if problem]
    index, first = problems[0]
    assert index >= stubs[0], "something fails before the first stub"
    assert isinstance(first, NotImplementedError) and STUB in str(first), "the first error is no stub"
    for index, problem in problems:  # what comes later is a stub, or lacks what a stub would have made
        assert isinstance(problem, (NotImplementedError, NameError)), f"cell {index}: {problem!r}"
    tests = {index for index, cell in enumerate(assignment.notebook.cells) if is_test(cell)}
    assert tests <= {index for index, _ in problems}, "a check passes although nothing was written"
    assert not any(heard for _, _, heard in ran)


@pytest.mark.parametrize("assignment", ASSIGNMENTS, ids=lambda assignment: assignment.name)
def test_the_visible_part_of_a_test_needs_nothing_of_the_hidden_one(assignment):
    for key, cell in assignment.cells.items():
        if is_test(cell):
            assert set(free_names(cleared(cell))) <= set(free_names(cell.source)), key
