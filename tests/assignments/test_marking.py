"""Reading a submission, matching it with the source, and running a graded cell."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import nbformat
import pytest
from assignment_toy import RIGHT, hand_in, submission, write_source
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.assignments import agent, marking
from course_lib.assignments import submission as submissions
from course_lib.assignments.limits import Limits
from course_lib.assignments.marking import check, free_names, mark
from course_lib.assignments.proxy import Remote
from course_lib.assignments.source import TEXT_STUB, cleared, grade_id
from course_lib.assignments.submission import plan, read
from course_lib.errors import BadInput


@pytest.fixture
def toy(tmp_path):
    return write_source(tmp_path / "source")


def ran(plan) -> list[str]:
    return [plan.notebook.cells[index]["source"] for index in plan.run]


def cell(notebook, key: str):
    return next(cell for cell in notebook.cells if grade_id(cell) == key)


def test_tests_are_never_run_in_the_students_process(toy):
    made = plan(toy, submission(toy, RIGHT, "mine = 1", "last = 2"))
    assert ran(made) == ["mine = 1", toy.cells["t-setup"]["source"], *RIGHT.values(), "last = 2"]
    assert made.notes == [] and made.answers == {"why": (TEXT_STUB, False)}


def test_locked_cells_are_the_sources_own(toy):
    notebook = submission(toy, RIGHT)
    cell(notebook, "t-setup")["source"] = "scores = None"
    cell(notebook, "t-dice")["source"] = "pass"
    made = plan(toy, notebook)
    assert toy.cells["t-setup"]["source"] in ran(made) and "scores = None" not in ran(made)
    assert cell(made.notebook, "t-dice")["source"] == cleared(toy.cells["t-dice"])
    assert made.notes == [f"{key} was changed; the original is used" for key in ("t-setup", "t-dice")]


def test_missing_cells_are_put_back_where_they_were(toy):
    notebook = submission(toy, RIGHT)
    notebook.cells = [each for each in notebook.cells if grade_id(each) not in ("t-setup", "t-dice", "dice", "why")]
    made = plan(toy, notebook)
    assert ran(made)[0] == toy.cells["t-setup"]["source"]
    keys = [grade_id(each) for each in made.notebook.cells if grade_id(each)]
    assert keys == ["t-setup", "t-dice", "threshold", "t-threshold", "loss", "t-loss", "model", "t-model"]
    assert {f"{key} is missing" for key in ("t-setup", "t-dice", "dice", "why")} == set(made.notes)
    assert made.answers == {"why": ("", False)}


def test_cells_that_are_there_twice(toy):
    notebook = submission(toy, RIGHT)
    twin = new_code_cell("dice = 'the second'", metadata=cell(notebook, "dice")["metadata"])
    fake = new_code_cell("1 / 0", metadata=cell(notebook, "t-dice")["metadata"])
    answer = new_markdown_cell("My answer.", metadata=cell(notebook, "why")["metadata"])
    notebook.cells += [twin, fake, answer]
    made = plan(toy, notebook)
    assert ran(made)[-1] == "dice = 'the second'" and "1 / 0" not in ran(made)
    assert made.answers == {"why": ("My answer.", True)}  # the one that was written
    assert sum(grade_id(each) == "dice" for each in made.notebook.cells) == 1
    assert made.notes == [f"{key} is there more than once" for key in ("dice", "t-dice", "why")]


def test_types_and_metadata_are_the_sources(toy):
    notebook = submission(toy, RIGHT)
    place = notebook.cells.index(cell(notebook, "threshold"))
    notebook.cells[place] = new_markdown_cell("threshold = 0.95", metadata=notebook.cells[place]["metadata"])
    cell(notebook, "t-dice")["metadata"]["nbgrader"]["points"] = 500
    made = plan(toy, notebook)
    assert "threshold = 0.95" in ran(made) and "threshold was a cell of type markdown" in made.notes
    assert cell(made.notebook, "t-dice")["metadata"]["nbgrader"]["points"] == 2
    nbformat.validate(made.notebook)


@pytest.mark.parametrize(
    "metadata", [{}, {"nbgrader": 7}, {"nbgrader": {"grade_id": 7}}, {"nbgrader": {"grade_id": "x"}}]
)
def test_a_notebook_of_something_else_is_refused(toy, metadata):
    with pytest.raises(BadInput, match="no cell of this assignment"):
        plan(toy, new_notebook(cells=[new_code_cell("1", metadata=metadata)]))


def written(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


DEEP = '{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}"
CELL = {"cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": None}
BOOK = {"metadata": {}, "nbformat": 4, "nbformat_minor": 4}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "this is no notebook"),
        ("hello", "this is no notebook"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "this is no notebook"),
        ("[1, 2]", "this is no notebook"),
        ("{}", "this is no notebook"),
        ('{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}', "this is no notebook"),
        ('{"nbformat": 99, "nbformat_minor": 4, "metadata": {}, "cells": []}', "this is no notebook"),
        (DEEP, "this is no notebook"),
        (json.dumps(BOOK | {"cells": [CELL] * 1001}), "more than 1000 cells"),
        (json.dumps(BOOK | {"cells": [CELL | {"source": {"a": 1}}]}), "this is no notebook"),
    ],
)
def test_what_is_no_notebook_is_refused_with_its_cause(tmp_path, content, cause):
    written(tmp_path / "x.ipynb", content)
    with pytest.raises(BadInput, match=cause):
        read(tmp_path / "x.ipynb", tmp_path)


def test_links_pipes_folders_and_large_files_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    secret = tmp_path / "secret.ipynb"
    nbformat.write(new_notebook(), secret)
    nbformat.write(new_notebook(), tmp_path / "in" / "own.ipynb")
    (tmp_path / "in" / "out.ipynb").symlink_to(secret)
    (tmp_path / "in" / "neighbour.ipynb").symlink_to(tmp_path / "in" / "own.ipynb")
    (tmp_path / "in" / "loop.ipynb").symlink_to(tmp_path / "in" / "loop.ipynb")
    (tmp_path / "in" / "folder.ipynb").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.ipynb")
    with open(tmp_path / "in" / "large.ipynb", "wb") as stream:
        stream.truncate(200 * 2**20)
    causes = {
        "out": "leads out",
        "neighbour": "is a link",
        "loop": "cannot be followed|is a link",
        "pipe": "is no file",
    }
    causes |= {"folder": "is no file|cannot be opened", "large": "200 MB, more than 50", "none": "cannot be opened"}
    for name, cause in causes.items():
        with pytest.raises(BadInput, match=cause):
            read(tmp_path / "in" / f"{name}.ipynb", tmp_path / "in")
    assert submissions.LARGEST == 50 * 2**20
    read(tmp_path / "in" / "own.ipynb", tmp_path / "in")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import numpy as np\nassert np.all(f(x) == y), 'no'", ["f", "x", "y"]),
        ("x = 1\nfor i in range(3): x += g(i)", ["g"]),
        ("def inner(a, b=h): return a + k + len(__name__)\ninner(1)", ["h", "k"]),
        ("v = [w * u for w in range(3) if (z := w)]", ["u"]),
        ("class A(Base):\n    n = size\n    def m(self): return other", ["Base", "other", "size"]),
        ("with open('x') as s: pass\ntry:\n    q\nexcept ValueError as e: print(e)", ["q"]),
        ("from torch import nn as net\nnet.Linear", []),
        ("def f():\n    global counter\n    counter = 1", []),
    ],
)
def test_free_names_are_the_students(source, names):
    assert free_names(source) == names


@pytest.fixture
def remote(monkeypatch):
    monkeypatch.setattr(agent._Alarm, "__enter__", lambda self: None)
    monkeypatch.setattr(agent._Alarm, "__exit__", lambda self, *error: None)
    ours, theirs = socket.socketpair()
    space = {"two": 2, "double": lambda x: 2 * x, "len": lambda x: 99, "assert_": None}
    threading.Thread(target=agent.serve, args=[theirs.detach(), space], daemon=True).start()
    yield Remote(ours, 5)
    ours.close()


HIDDEN = "a = 1\n### BEGIN HIDDEN TESTS\nassert double(two) == 5, 'not five'\n### END HIDDEN TESTS"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("assert double(two) == 4, 'four'", {}),
        ("assert double(two) == 5, 'five'", {"message": "five", "line": "assert double(two) == 5, 'five'"}),
        (HIDDEN, {"message": "not five", "hidden": True, "line": ""}),
        ("double(None)", {"message": "TypeError: unsupported operand type(s) for *: 'int' and 'NoneType'"}),
        ("missing(1)", {"message": "NameError: name 'missing' is not defined"}),
        ("assert len([1]) == 1, 'builtins are ours'", {}),
        ("import sys; print('x'); print('y', file=sys.stderr); import warnings; warnings.warn('z')", {}),
        ("for k in (1, 2):\n    assert k < 2, f'{k} is too large'", {"message": "2 is too large", "hidden": False}),
        ("assert False, 'x' * 9999", {"message": "x" * marking.LONGEST}),
        ("raise SystemExit", {"message": "SystemExit"}),
    ],
)
def test_a_graded_cell(remote, capsys, source, found):
    result = check(source, remote, 5)
    assert {key: result.get(key) for key in found} == found and bool(result) == bool(found)
    assert capsys.readouterr() == ("", "")


def test_a_graded_cell_that_never_ends(remote):
    assert "takes too long" in check("while True: pass", remote, 0.2)["message"]


def test_the_same_name_is_fetched_anew_for_each_cell(remote):
    assert check("two = 3\nassert double(two) == 6, ''", remote, 5) == {}
    assert check("assert two == 2, 'the other cell changed it'", remote, 5) == {}


def test_a_hand_in_that_is_honest_keeps_its_text(toy, tmp_path):
    path = hand_in(tmp_path, "ada", submission(toy, RIGHT | {"why": "Because."}))
    assert plan(toy, read(path, tmp_path)).answers == {"why": ("Because.", True)}


def job_of(toy, folder: Path) -> dict:
    path = hand_in(folder, "ada", submission(toy, RIGHT | {"why": "Because."}))
    job = {"source": str(toy.path), "notebook": str(path), "folder": str(folder), "result": str(folder / "ada")}
    (folder / "ada.ipynb").write_text("as it was run before")
    return job | {"student": "ada", "assignment": "9_toy", "digest": "of these files", "limits": Limits().plain()}


class Stillborn:
    """A nursery whose sandboxes end at once, as they do when memory or disk is short."""

    def start(self, options, control, calls):
        self.process = subprocess.Popen(["true"])
        return self.process.pid


def test_a_sandbox_that_does_not_start_costs_nobody_a_point(toy, tmp_path):
    nursery = Stillborn()
    result = mark(job_of(toy, tmp_path), nursery)
    nursery.process.wait()
    assert (result["status"], result["digest"]) == ("not marked", "")  # so it is tried again
    assert "the sandbox did not start" in result["notes"][0]


def test_a_full_disk_is_not_blamed_on_the_student(toy, tmp_path, monkeypatch):
    real = marking.atomic_write

    def full(path):
        if path.suffix == ".ipynb":
            raise BadInput("cannot be written (No space left on device).", file=path)
        return real(path)

    monkeypatch.setattr(marking, "atomic_write", full)
    monkeypatch.setattr(marking.Session, "mark", lambda self, result: None)
    job = job_of(toy, tmp_path)
    result = mark(job, None)
    assert (result["status"], result["digest"]) == ("not marked", "") and "No space left" in result["notes"][0]
    assert (tmp_path / "ada.ipynb").exists()
    Path(job["notebook"]).write_text("{")
    result = mark(job, None)
    assert (result["status"], result["digest"]) == ("unreadable", job["digest"])
    assert not (tmp_path / "ada.ipynb").exists()
