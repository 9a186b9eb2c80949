"""The committed lessons: they fit their sources, are executed and clean. tests/run_all.py also runs them."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.lessons.build import misfits, read_source
from course_lib.lessons.catalog import LessonFiles, lessons
from course_lib.lessons.parameters import declared
from course_lib.lessons.tables import read_recorded
from data_scripts import PROFILES

COMMON = {"data": "str", "profile": "str", "seed": "int", "device": "str"}


def named(lesson: LessonFiles) -> str:
    return lesson.name


def test_there_are_lessons():
    assert lessons()


@pytest.mark.parametrize("lesson", lessons(), ids=named)
def test_notebook_fits_its_source(lesson):
    assert misfits(lesson) == []


@pytest.mark.parametrize("lesson", lessons(), ids=named)
def test_parameters_have_the_same_names_everywhere_and_are_explained(lesson):
    known = declared(read_source(lesson.source))
    assert {name: known[name].type for name in COMMON if name in known} == COMMON
    assert [name for name, parameter in known.items() if not parameter.help] == []
    assert known["profile"].default == "standard"


@pytest.mark.parametrize("lesson", lessons(), ids=named)
def test_a_lesson_says_what_it_is_for_and_what_not(lesson):
    source = lesson.source.read_text(encoding="utf-8")
    assert source.startswith(f"# %% [markdown]\n# # {lesson.number} ")
    assert "not for diagnosis" in source
    assert "lesson.summary(" in source


def test_recorded_claims_belong_to_lessons_and_profiles():
    numbers = {lesson.number for lesson in lessons()}
    assert [key for key in read_recorded() if key[0] not in numbers or key[2] not in PROFILES] == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("print(1)", 0),
        ("import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    1 / 0\nout", 1),
        ("import os\nos._exit(1)", 1),
    ],
)
def test_nbval_sees_what_is_planted(tmp_path, source, code):
    made = new_notebook(cells=[new_code_cell(source), new_code_cell("print(2)")])
    nbformat.write(made, tmp_path / "planted.ipynb")
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=30", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path / "planted.ipynb")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stdout
