"""What `make test` must notice, planted: a broken notebook, a false claim, a typed result digit.

The stages' own commands run on a folder with one small lesson.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.files import ROOT
from course_lib.lessons.build import read_source
from course_lib.lessons.catalog import lessons

LESSON = """# %% [markdown]
# # 9.1 A toy
#
# One sentence.

# %% tags=["parameters"]
data: str = "atlas"  # data set
profile: str = "standard"  # profile
seed: int = 0  # seed
device: str = "cpu"  # device

# %%
from course_lib.teaching import Lesson

lesson = Lesson("9.1", profile=profile, seed=seed)
lesson.claim("sum", "One and one is two.", 1 + 1 == 2)
lesson.summary("That was all.")
"""
RECORDED = "lesson\tclaim\tprofile\tholds\n9.1\tsum\tquick\tyes\n"


@pytest.fixture
def stage(tmp_path):
    """A function that plants a lesson's text and runs a stage of tests/run_all.py on it."""
    commands = runpy.run_path(str(ROOT / "tests" / "run_all.py"))["stages"]()

    def run(name: str, text: str) -> subprocess.CompletedProcess:
        import nbformat

        source = tmp_path / "notebooks" / "9_toys" / "source" / "9.1_toy.py"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text, encoding="utf-8")
        (tmp_path / "notebooks" / "claims.tsv").write_text(RECORDED, encoding="utf-8")
        (lesson,) = lessons(tmp_path / "notebooks")
        nbformat.write(read_source(lesson.source), lesson.notebook)  # not executed: the stage does that
        command, environment = list(commands[name]), dict(os.environ)
        if name == "lessons":
            command[command.index("--output") + 1] = str(tmp_path / "output")
            command += ["--notebooks", str(tmp_path / "notebooks")]
        else:
            command += ["--folder", str(tmp_path / "notebooks")]
        assert Path(command[0]) == Path(sys.executable)
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)

    return run


def test_a_sound_lesson_passes(stage):
    done = stage("lessons", LESSON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 claims, 1 hold" in done.stdout


def test_a_broken_notebook_is_red(stage):
    done = stage("lessons", LESSON + "\n# %%\n1 / 0\n")
    assert done.returncode == 1
    assert "FAILED" in done.stdout and "ZeroDivisionError" in done.stdout


EXPLORER = """
# %%
from course_lib.widgets.explorer import Explorer, whole_slider


class Toy(Explorer):
    def __init__(self):
        super().__init__({}, {"size": whole_slider("size", 1, (1, 5))})
        self.arrange(*self.controls.values())

    def changed(self, name, value):
        self.state[name] = 1 / (value - PLANTED)

    def show(self):
        pass


Toy()
"""


def test_an_explorer_is_driven_and_what_it_breaks_is_red(stage):
    sound, broken = (stage("lessons", LESSON + EXPLORER.replace("PLANTED", number)) for number in ("9", "3"))
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert broken.returncode == 1
    assert "FAILED" in broken.stdout and "inside a widget: ZeroDivisionError" in broken.stdout


def test_an_explorer_that_refuses_what_it_offers_is_red(stage):
    refusing = EXPLORER.replace("1 / (value - PLANTED)", "value").replace(
        "self.state[name] = value", "raise BadInput('no.')"
    )
    done = stage("lessons", LESSON + "\n# %%\nfrom course_lib.errors import BadInput\n" + refusing)
    assert done.returncode == 1
    assert "offers 2 and refuses it" in done.stdout


def test_a_false_claim_is_red(stage):
    done = stage("lessons", LESSON.replace("1 + 1 == 2", "1 + 1 == 3"))
    assert done.returncode == 1
    assert "FAILED: claim sum of lesson 9.1 (quick) was recorded as holding and does not hold" in done.stdout


def test_a_typed_result_digit_is_red(stage):
    typed, untyped = (stage("anatomy", LESSON.replace("One sentence.", text)) for text in ("AP is 0.83.", "AP rose."))
    assert typed.returncode == 1
    assert "a score, 'AP is 0.83', is typed" in typed.stdout
    assert "is typed" not in untyped.stdout
