from __future__ import annotations

import json

import pytest

from course_lib.errors import BadInput
from course_lib.lessons.build import build, misfits, read_source
from course_lib.lessons.catalog import lessons
from course_lib.lessons.run import LessonFailed


@pytest.fixture
def lesson(toy):
    (found,) = lessons(toy)
    return found


def change(lesson, old: str, new: str) -> None:
    text = lesson.source.read_text()
    assert old in text
    lesson.source.write_text(text.replace(old, new))


def test_two_builds_are_byte_identical_and_fit(lesson):
    build(lesson)
    first = lesson.notebook.read_bytes()
    build(lesson)
    assert lesson.notebook.read_bytes() == first
    assert misfits(lesson) == []
    text = first.decode()
    for unwanted in ("widget", "0x7", "iopub", "papermill", '"version"', "FloatText"):
        assert unwanted not in text
    notebook = json.loads(text)
    assert [cell["id"] for cell in notebook["cells"]] == [f"c{i:02d}" for i in range(len(notebook["cells"]))]
    assert any(
        "image/png" in output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", ())
    )


def test_the_author_s_own_guesses_stay_out(lesson, tmp_path, monkeypatch):
    from course_lib.teaching import predictions

    monkeypatch.setenv("LEARNING_NORMAL_PREDICTIONS", str(tmp_path / "mine.json"))
    predictions.store("9.1", "sum", guess=1234.0)
    build(lesson)
    assert "1.23e+03" not in lesson.notebook.read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        (
            "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    1 / 0\nout",
            "inside a widget: ZeroDivisionError",
        ),
        ("import warnings\nwarnings.warn('old')", "stderr"),
        ("import os\nos._exit(1)", "Kernel died"),
    ],
)
def test_a_broken_lesson_is_not_built_and_the_old_notebook_stays(lesson, line, said):
    lesson.notebook.write_text("old")
    change(lesson, "print(object())", line)
    with pytest.raises(LessonFailed, match=said):
        build(lesson)
    assert lesson.notebook.read_text() == "old"


def test_misfits_are_named(lesson):
    assert "not built" in misfits(lesson)[0]
    build(lesson)
    change(lesson, "That was all.", "That was it.")
    assert "differ from its source" in misfits(lesson)[0]
    change(lesson, "That was it.", "That was all.")
    notebook = json.loads(lesson.notebook.read_text())
    notebook["cells"][2]["outputs"].append({"output_type": "stream", "name": "stderr", "text": ["oops"]})
    notebook["cells"][3]["execution_count"] = None
    lesson.notebook.write_text(json.dumps(notebook))
    assert [problem.partition(": ")[2] for problem in misfits(lesson)] == [
        "it is not executed",
        "stderr in cell 2: oops",
    ]


def test_tags_and_text_survive(lesson):
    cells = read_source(lesson.source).cells
    assert cells[0]["source"].startswith("# 9.1 A toy lesson")
    assert cells[1]["metadata"]["tags"] == ["parameters"]


def test_lessons_come_in_the_order_of_their_numbers(toy):
    folder = toy / "9_toys" / "source"
    for name in ("9.10_last", "9.2_second"):
        (folder / f"{name}.py").write_text("")
    assert [lesson.name for lesson in lessons(toy)] == ["9.1_toy", "9.2_second", "9.10_last"]
    assert [lesson.number for lesson in lessons(toy, only=["9.10", "9.1_toy"])] == ["9.1", "9.10"]
    assert [lesson.number for lesson in lessons(toy, only=["9"])] == ["9.1", "9.2", "9.10"]
    with pytest.raises(BadInput, match="no lesson 9.3"):
        lessons(toy, only=["9.3"])
