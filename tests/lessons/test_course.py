from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.lessons import course as course_module
from course_lib.lessons import tables
from course_lib.lessons.build import build
from course_lib.lessons.catalog import LessonFiles, lessons
from course_lib.lessons.course import Course


@pytest.fixture
def run_course(toy, tmp_path, monkeypatch):
    """A function that runs the toy course; the toy lesson is built."""
    monkeypatch.setenv("LEARNING_NORMAL_RECORDS", "")  # restored after the test: a course sets it
    for lesson in lessons(toy):
        build(lesson)

    def run(workers: int = 1, **parameters) -> Course:
        given = {"profile": "quick", "seed": 0, "device": "cpu"} | parameters
        course = Course(tmp_path / "output", given)
        course.run(lessons(toy), workers)
        course.finish()
        return course

    return run


def test_pages_tables_and_cost(run_course, tmp_path):
    course = run_course()
    assert course.failures == []
    output = tmp_path / "output"
    page = (output / "lessons" / "9.1_toy.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "not for diagnosis" in page
    assert "<title>9.1 A toy lesson</title>" in page
    assert "require.min.js" not in page
    assert "jupyter-widgets" not in page
    assert '<a href="9.1_toy.html">9.1 A toy lesson</a>' in (output / "lessons" / "index.html").read_text(
        encoding="utf-8"
    )
    assert pd.read_csv(output / "results.csv")["value"].tolist() == [0.5]
    assert "| A | 0.500 [0.400, 0.600] |" in (output / "results.md").read_text(encoding="utf-8")
    assert pd.read_csv(output / "claims.csv")["holds"].tolist() == [True]
    assert "The sum is positive" in (output / "claims.md").read_text(encoding="utf-8")
    assert pd.read_csv(output / "cost.csv")["memory_gib"][0] > 0


def test_a_finished_lesson_is_run_again_only_if_something_changed(run_course, toy, tmp_path, capsys, monkeypatch):
    run_course()
    before = (tmp_path / "output" / "results.csv").read_bytes()
    capsys.readouterr()
    run_course()
    assert "done before" in capsys.readouterr().out
    assert (tmp_path / "output" / "results.csv").read_bytes() == before
    run_course(seed=1)
    assert "running" in capsys.readouterr().out
    (tmp_path / "output" / "lessons" / "9.1_toy.html").unlink()  # killed before its page was written
    run_course(seed=1)
    assert "running" in capsys.readouterr().out
    monkeypatch.setattr(course_module, "library_digest", lambda: "other code")
    run_course(seed=1)
    assert "running" in capsys.readouterr().out


def test_one_lesson_that_fails_does_not_stop_the_others(run_course, toy, capsys):
    (first,) = lessons(toy)
    broken = first.source.with_name("9.0_broken.py")
    broken.write_text(first.source.read_text(encoding="utf-8").replace("print(object())", "1 / 0"))
    notebook = json.loads(first.notebook.read_text(encoding="utf-8"))
    notebook["cells"][3]["source"] = ["1 / 0"]
    lessons(toy)[0].notebook.write_text(json.dumps(notebook))
    course = run_course()
    assert len(course.failures) == 1
    assert "ZeroDivisionError" in course.failures[0]
    assert len(course.records) == 1
    assert course_module.conclude(course, accept=False) == 1
    assert "1 lessons done, 1 failed" in capsys.readouterr().out


def test_lessons_side_by_side_leave_what_lessons_in_turn_leave(run_course, toy, tmp_path, capsys):
    (first,) = lessons(toy)
    for number, cell in (("9.2", "1 / 0"), ("9.3", "print(object())")):
        text = first.source.read_text(encoding="utf-8").replace("9.1", number).replace("print(object())", cell)
        other = LessonFiles(first.source.with_name(f"{number}_toy.py"))
        other.source.write_text(text, encoding="utf-8")
        notebook = json.loads(first.notebook.read_text(encoding="utf-8").replace("9.1", number))
        for made in notebook["cells"]:
            made["source"] = [line.replace("print(object())", cell) for line in made["source"]]
        other.notebook.write_text(json.dumps(notebook), encoding="utf-8")
    course = run_course(workers=2)
    assert [row["name"] for row in course.cost] == ["9.1_toy", "9.3_toy"]
    assert [record["lesson"] for record in course.records] == ["9.1", "9.3"]
    assert all(0.05 < row["memory_gib"] < 1 for row in course.cost)  # each its own kernel's, not both
    assert len(course.failures) == 1 and "9.2_toy.ipynb: cell" in course.failures[0]
    assert capsys.readouterr().out.count("running") == 3
    again = run_course()
    assert capsys.readouterr().out.count("done before") == 2
    assert again.cost == course.cost


def test_how_many_lessons_at_a_time(monkeypatch):
    assert course_module.how_many(7) == 7
    monkeypatch.setattr(course_module, "cores", lambda: 4)
    for gib, workers in ((64, 4), (11.9, 2), (3, 1)):
        monkeypatch.setattr(
            course_module.psutil, "virtual_memory", lambda gib=gib: SimpleNamespace(available=gib * 2**30)
        )
        assert course_module.how_many() == workers
    with pytest.raises(BadInput, match="workers is 1 or more, not 0"):
        course_module.how_many(0)


def record(holds: bool, name: str = "a") -> dict:
    claim = {"name": name, "statement": "A is so", "holds": holds}
    return {"lesson": "2.1", "profile": "quick", "seed": 0, "claims": [claim], "results": []}


def test_a_claim_that_stops_holding_is_a_failure(tmp_path):
    path = tmp_path / "claims.tsv"
    assert tables.compare_claims([record(True)], path) == (
        [],
        ["claim a of lesson 2.1 (quick) is new: record it with --accept-claims"],
    )
    tables.accept_claims([record(True)], path)
    assert tables.compare_claims([record(True)], path) == ([], [])
    failures, _ = tables.compare_claims([record(False)], path)
    assert failures == ["claim a of lesson 2.1 (quick) was recorded as holding and does not hold in this run"]


def test_a_claim_cannot_vanish(tmp_path):
    path = tmp_path / "claims.tsv"
    tables.accept_claims([record(True)], path)
    failures, notes = tables.compare_claims([record(True, name="b")], path)
    assert failures == ["claim a of lesson 2.1 (quick) is recorded but was not measured"]
    assert "claim b" in notes[0]


def test_a_claim_on_real_scans_may_be_missing_where_the_scans_are_but_not_fail(tmp_path):
    path = tmp_path / "claims.tsv"
    tables.accept_claims([record(True, name="real stroke: a")], path)
    tables.accept_claims([record(True, name="b")], path)  # on a computer without the scans: the record stays
    assert tables.compare_claims([record(True, name="b")], path) == ([], [])
    failures, _ = tables.compare_claims([record(False, name="real stroke: a")], path)
    assert any("does not hold in this run" in failure for failure in failures)


def test_a_claim_too_close_to_call_never_fails_and_stays_so(tmp_path):
    path = tmp_path / "claims.tsv"
    path.write_text("lesson\tclaim\tprofile\tholds\n2.1\ta\tquick\teither\n")
    for holds in (True, False):
        assert tables.compare_claims([record(holds)], path) == ([], [])
        tables.accept_claims([record(holds)], path)
        assert tables.read_recorded(path) == {("2.1", "a", "quick"): None}


def test_an_honest_does_not_hold_is_allowed(tmp_path):
    path = tmp_path / "claims.tsv"
    tables.accept_claims([record(False)], path)
    assert tables.compare_claims([record(False)], path) == ([], [])
    assert tables.compare_claims([record(True)], path)[0] == []


def test_other_lessons_and_profiles_are_not_asked_for(tmp_path):
    path = tmp_path / "claims.tsv"
    tables.accept_claims([record(True)], path)
    other = record(True) | {"profile": "standard"}
    assert tables.compare_claims([other], path)[0] == []
    tables.accept_claims([other], path)
    assert len(tables.read_recorded(path)) == 2


def test_results_without_the_usual_columns_are_listed():
    text = tables.results_text(pd.DataFrame({"lesson": ["1.1"], "subjects": [40]}))
    assert text == {"results": "| lesson | subjects |\n| --- | --- |\n| 1.1 | 40 |"}


def test_two_runs_in_one_folder_take_turns(tmp_path, capsys):
    turns = []

    def second() -> None:
        with course_module.alone(tmp_path):
            turns.append("second")

    other = threading.Thread(target=second)
    with course_module.alone(tmp_path):
        other.start()
        other.join(timeout=0.5)
        turns.append("first")
    other.join(timeout=30)
    assert turns == ["first", "second"]
    assert "waiting for it" in capsys.readouterr().out


def spent(**fields) -> dict:
    row = {"name": "2.1_a", "minutes": 2.0, "memory_gib": 1.0, "promised_minutes": 1.0, "promised_gib": 1.5}
    return row | fields


@pytest.mark.parametrize(
    ("profile", "fields", "failures", "notes"),
    [
        ("standard", {}, 0, 0),
        ("standard", {"memory_gib": 1.51}, 1, 0),
        ("quick", {"memory_gib": 1.51}, 1, 0),
        ("full", {"memory_gib": 9.0, "minutes": 99.0}, 0, 0),
        ("standard", {"minutes": 3.1}, 0, 1),
        ("quick", {"minutes": 3.1, "promised_minutes": 9.0}, 0, 1),
        ("quick", {"memory_gib": 9.0, "promised_minutes": None, "promised_gib": None}, 0, 0),
    ],
)
def test_more_memory_than_promised_fails_and_more_time_is_noted(profile, fields, failures, notes):
    found = tables.compare_cost([spent(**fields)], profile)
    assert (len(found[0]), len(found[1])) == (failures, notes)


def test_cost_and_claims_in_short():
    assert "| 2.1_a | 2.0 | 1 | 1.00 | 1.5 |" in tables.cost_text([spent()])
    several = record(True)
    several["claims"].append({"name": "b", "statement": "B is so", "holds": False, "seeds": 3})
    assert tables.claims_line([several]) == "2 claims, 1 hold, 1 over at least 3 seeds."
    assert tables.claims_frame([several])["seeds"].tolist()[1] == 3
