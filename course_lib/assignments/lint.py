"""What would go wrong with an assignment's source, in our grader or in nbgrader, found before a student sees it."""

from __future__ import annotations

import ast
import re

from nbformat import NotebookNode

from course_lib.assignments.marking import free_names
from course_lib.assignments.source import (
    HIDDEN,
    MARK,
    SCHEME,
    SOLUTION,
    Assignment,
    cleared,
    grade_id,
    is_manual,
    is_marked,
    is_solution,
    is_test,
    mark_scheme,
    tags,
)

KEYS = {"schema_version", "grade_id", "grade", "solution", "locked", "task"}
_LOOSE_MARK = re.compile(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)")  # nbgrader looks for no more than this


def problems(assignment: Assignment) -> list[str]:
    """Everything that is wrong with a source, each with its grade_id; empty if nothing is."""
    cells = [cell for cell in assignment.notebook.cells if tags(cell)]
    keys = [grade_id(cell) for cell in cells]
    found = [f"{key}: this grade_id is there twice" for key in sorted(set(keys)) if keys.count(key) > 1]
    found += [] if any(map(is_marked, cells)) else ["no cell is worth points"]
    for cell in assignment.notebook.cells:
        label = grade_id(cell) or cell["source"].strip().partition("\n")[0][:40]
        found += [f"{label}: {problem}" for problem in _marks(cell)]
        if tags(cell):
            found += [f"{label}: {problem}" for problem in [*_metadata(cell), *_code(cell), *_written(cell)]]
    return [f"{assignment.name}: {problem}" for problem in found + _names(assignment.notebook)]


def run_problems(executed: NotebookNode) -> list[str]:
    """What an executed reference solution must not show: errors, stderr in any cell, a value at a test's end."""
    found = []
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            label = grade_id(cell) or cell["source"].strip().partition("\n")[0][:40]
            if output["output_type"] == "error":
                found.append(f"{label}: the reference fails, {output['ename']}: {output['evalue'][:300]}")
            elif output["output_type"] == "stream" and output["name"] == "stderr":
                found.append(f"{label}: stderr, which costs all points in nbgrader: {output['text'].strip()[:200]}")
            elif output["output_type"] == "execute_result" and is_test(cell):
                found.append(f"{label}: a value at its end, which nbgrader takes for the mark")
    return found


def _metadata(cell: NotebookNode) -> list[str]:
    found, about = [], tags(cell)
    if missing := KEYS - about.keys():
        found.append(f"metadata without {', '.join(sorted(missing))}")
    if about.get("schema_version") != 3:
        found.append("schema_version is not 3")
    if not re.fullmatch(r"[A-Za-z][\w-]*", grade_id(cell)):
        found.append("a grade_id is letters, digits, - and _")
    wrong = [key for key in ("grade", "solution", "locked", "task") if not isinstance(about.get(key, False), bool)]
    found += [f"{key} is neither true nor false" for key in wrong]
    points = about.get("points")
    worth = type(points) in (int, float) and points > 0
    if is_marked(cell) != worth or (points is not None and not worth):
        found.append("points above 0 belong to a test, an answer or a task, and to nothing else")
    if about.get("task") and (about.get("grade") or about.get("solution")):
        found.append("a task is neither a test nor an answer")
    if is_test(cell) and not about.get("locked"):
        found.append("a test is locked")
    if is_solution(cell) and about.get("locked"):
        found.append("a solution is not locked")
    if about.get("grade") and not about.get("solution") and cell["cell_type"] != "code":
        found.append("a test is a code cell")
    return found


def _marks(cell: NotebookNode) -> list[str]:
    """Regions are closed, not nested within their kind, and in cells where nbgrader expects them."""
    found, open_regions = [], []
    for line in cell["source"].splitlines():
        mark = MARK.match(line)
        if _LOOSE_MARK.search(line) and not mark:
            found.append(f"this mark is not written as it should be: {line.strip()}")
        if not mark:
            continue
        begin, kind = mark[1] == "BEGIN", mark[2]
        if begin:
            place = {SOLUTION: is_solution(cell), HIDDEN: is_test(cell), SCHEME: is_manual(cell)}[kind]
            found += [] if place else [f"{kind} does not belong in this cell"]
            allowed = not open_regions or (open_regions == [SOLUTION] and kind == SCHEME)
            found += [] if allowed else [f"{kind} within {open_regions[-1]}"]
            open_regions.append(kind)
        elif open_regions and open_regions[-1] == kind:
            open_regions.pop()
        else:
            found.append(f"END {kind} without its BEGIN")
    return found + [f"BEGIN {kind} without its END" for kind in open_regions]


def _code(cell: NotebookNode) -> list[str]:
    """A graded cell: plain Python, asserts with messages, no value at its end, with and without its hidden part."""
    found = []
    for text in (cell["source"], cleared(cell)) if cell["cell_type"] == "code" else ():
        try:
            body = ast.parse(text).body
        except SyntaxError as error:
            found.append(f"this is no Python ({error.msg}, line {error.lineno})")
            continue
        if not is_test(cell):
            continue
        if body and isinstance(body[-1], ast.Expr):
            found.append("its last line is a value, which nbgrader takes for the mark")
        asserts = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Assert)]
        if text is cell["source"] and not asserts:
            found.append("a test without an assert")
        found += [f"line {node.lineno}: an assert without a message" for node in asserts if node.msg is None]
    return sorted(set(found))


def _written(cell: NotebookNode) -> list[str]:
    if not is_manual(cell):
        return []
    found = [] if mark_scheme(cell) else ["an answer without a mark scheme"]
    if SCHEME in cleared(cell) or (mark_scheme(cell) and mark_scheme(cell) in cleared(cell)):
        found.append("the mark scheme stays in the student's copy: put it into the solution region")
    lines = cell["source"].splitlines()
    solution = [i for i, line in enumerate(lines) if (mark := MARK.match(line)) and mark[2] == SOLUTION]
    scheme = [i for i, line in enumerate(lines) if (mark := MARK.match(line)) and mark[2] == SCHEME]
    if is_solution(cell) and solution and scheme and not solution[0] < scheme[0] < solution[-1]:
        found.append("the mark scheme lies outside the solution region, which nbgrader refuses")
    return found


def _names(notebook: NotebookNode) -> list[str]:
    """Every name of a test comes from the test or from the student; every solution is tested."""
    found, defined, imported, used = [], {}, set(), set()
    for cell in notebook.cells:
        if cell["cell_type"] != "code":
            continue
        try:
            if is_test(cell):
                names = set(free_names(cell["source"]))
                used |= names
                found += [f"{grade_id(cell)}: it does not import {name}" for name in sorted(names & imported)]
                unknown = names - imported - {name for each in defined.values() for name in each}
                found += [f"{grade_id(cell)}: nothing defines {name}" for name in sorted(unknown)]
            else:
                bound, brought = _bound(cell["source"])
                imported = (imported | brought) - bound
                defined[cell["id"], grade_id(cell), is_solution(cell) and not is_manual(cell)] = bound
        except SyntaxError:  # magics, or told already
            continue
    untested = [key for (_, key, solution), names in defined.items() if solution and not names & used]
    return found + [f"{key}: no later test uses what this solution defines" for key in untested]


def _bound(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell defines, and those that it imports."""
    import symtable

    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    brought = {symbol.get_name() for symbol in symbols if symbol.is_imported()}
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned()} - brought, brought
