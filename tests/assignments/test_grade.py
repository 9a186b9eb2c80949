"""Grading a folder: what is found in it, the tables, going on after a kill, and the pages for students."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from assignment_toy import RIGHT, SECRET, hand_in, submission, write_source
from nbformat.v4 import new_markdown_cell, new_notebook

from course_lib.assignments import sandbox, tables
from course_lib.assignments.feedback import feedback
from course_lib.assignments.foreman import patience
from course_lib.assignments.grade import grade, load, mark_all, strays, submissions
from course_lib.assignments.limits import Limits
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.assignments.source import TEXT_STUB
from course_lib.errors import BadInput
from course_lib.files import ROOT

EVIL = "<script>document.title='owned'</script>"
SHOW = f"""
from IPython.display import HTML, Javascript, Markdown, display
display(HTML("{EVIL}<b>bold</b><img src=x onerror=\\"document.title='owned'\\">"))
display(Javascript("document.title='owned'"))
display(Markdown("{EVIL}"))
display({{"image/png": "PHNjcmlwdD4=", "text/plain": "no picture"}}, raw=True)
display({{"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>", "text/plain": "an svg"}}, raw=True)
print("</pre>{EVIL}\\x1b[31mred")
import matplotlib.pyplot as plt
plt.plot([1, 3, 2]);
"""
STUDENTS = {
    "ada": (RIGHT | {"why": f"Healthy people. {EVIL} **Surely** $x<y$."}, SHOW),
    "bob": (RIGHT | {"dice": "def dice(a, b):\n    return (a & b).sum() / (a | b).sum()", "loss": "loss = 3"}, ""),
    "<i>carl": ({}, ""),
    "=dora()": (RIGHT | {"why": "-1", "model": "class Model: pass"}, "import os\nos._exit(1)"),
}
HONEST = {"ada": 10, "bob": 5, "<i>carl": 0, "=dora()": 6}


def rows(path: Path) -> dict[str, dict]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return {row["student"].lstrip("'"): row for row in csv.DictReader(stream)}


def marks(folder: Path) -> list[dict]:
    return [{**row, "seconds": ""} for row in rows(folder / "marks.csv").values()]


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def graded(tmp_path_factory, sandboxed):
    """A folder with four students and three files that are no notebooks, graded once."""
    folder = tmp_path_factory.mktemp("graded")
    toy = write_source(folder.parent / "graded-sources")
    for student, (answers, first) in STUDENTS.items():
        notebook = submission(toy, answers, first)
        if first == SHOW:
            notebook.cells.insert(1, new_markdown_cell(f"# Mine {EVIL}<meta http-equiv='refresh' content='0;url=x'>"))
        hand_in(folder, student, notebook)
    broken = hand_in(folder, "eve", submission(toy, {}))
    broken.write_text("{")
    hand_in(folder, "fay", submission(toy, {})).unlink()
    link = folder / "submitted" / "gil" / "9_toy" / "9_toy.ipynb"
    link.parent.mkdir(parents=True)
    link.symlink_to("/etc/passwd")
    grade(folder, [toy], workers=2, sandboxed=sandboxed, tell=silent)
    feedback(folder, [toy])
    return folder, toy


def test_everyone_has_a_row_and_a_mark(graded):
    folder, toy = graded
    table = rows(folder / "marks.csv")
    assert list(table["ada"]) == [
        "student",
        "assignment",
        *toy.points,
        *"auto manual total max status seconds notes".split(),
    ]
    assert {name: float(table[name]["auto"]) for name in HONEST} == HONEST
    assert {row["max"] for row in table.values()} == {"15"}
    assert {name: table[name]["status"] for name in ("eve", "fay", "gil")} == dict.fromkeys(
        ("eve", "fay", "gil"), "unreadable"
    )
    assert "no notebook" in table["eve"]["notes"] and "leads out" in table["gil"]["notes"]
    assert table["ada"]["status"] == "manual points missing" and table["ada"]["why"] == ""
    assert table["<i>carl"]["status"] == "ok" and table["<i>carl"]["why"] == "0"  # an answer that nobody touched
    assert "is left out" in table["=dora()"]["notes"]
    assert "'=dora()" in (folder / "marks.csv").read_text(encoding="utf-8-sig")  # no formula in a spreadsheet


def test_a_second_round(graded, sandboxed):
    """Nothing is marked twice; points are entered by hand; what changed is marked again."""
    folder, toy = graded
    told, before = [], marks(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("graded/[a=]*/*.json")}
    grade(folder, [toy], sandboxed=sandboxed, tell=told.append)
    assert told[-1] == "7 submissions, 0 to mark" and marks(folder) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    table = rows(folder / "manual.csv")
    assert set(table) == {"ada", "=dora()"}
    assert table["ada"]["mark_scheme"].startswith("Two points") and "Healthy people." in table["ada"]["answer"]
    assert table["=dora()"]["answer"] == "'-1" and table["ada"]["max"] == "5"
    with open(folder / "manual.csv", "w", encoding="utf-8", newline="") as stream:  # as some spreadsheets save it
        writer = csv.DictWriter(stream, table["ada"], delimiter=";")
        writer.writeheader()
        writer.writerows(row | {"points": "3,5", "comment": "which people?"} for row in table.values())
    grade(folder, [toy], sandboxed=sandboxed, tell=silent)
    ada = rows(folder / "marks.csv")["ada"]
    assert (ada["why"], ada["manual"], ada["total"], ada["status"]) == ("3.5", "3.5", "13.5", "ok")
    assert rows(folder / "manual.csv")["=dora()"]["points"] == "3.5"

    hand_in(folder, "bob", submission(toy, RIGHT))
    hand_in(folder, "=dora()", submission(toy, RIGHT | {"why": "Another answer."}))
    (folder / "graded" / "eve" / "9_toy.json").write_text('{"half')
    grade(folder, [toy], workers=2, sandboxed=sandboxed, tell=told.append)
    assert "7 submissions, 3 to mark" in told
    after = rows(folder / "marks.csv")
    assert after["bob"]["auto"] == "10" and after["eve"]["status"] == "unreadable"
    assert after["=dora()"]["status"] == "manual points missing"
    dora = rows(folder / "manual.csv")["=dora()"]
    assert dora["points"] == "" and "the answer has changed" in dora["comment"]


def test_pages_tell_the_points_and_run_nothing(graded):
    folder, toy = graded
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in folder.glob("feedback/*/9_toy.html")}
    assert set(pages) == {*STUDENTS, "eve", "fay", "gil"}
    for page in pages.values():
        assert page.index("Content-Security-Policy") < page.index("<title>")
        assert "default-src 'none'" in page and "<script" not in page and SECRET not in page
        assert "<meta http-equiv='refresh'" not in page and "<img src=x" not in page and "<svg" not in page
        assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
        assert "not for diagnosis" in page
    ada = pages["ada"]
    assert ada.count("data:image/png;base64,") == 1 and "no picture" in ada and "bold" in ada
    assert "&lt;script&gt;" in ada and "<strong>Surely</strong>" in ada and "\x1b" not in ada
    bob = pages["bob"]
    assert "5 of 15 points" in bob and "the factor 2 is missing" in bob and "checks that your copy does not show" in bob
    assert "TypeError" in bob and "value = loss(x, y)" in bob and "1 / 3" not in bob
    assert "&lt;i&gt;carl" in pages["<i>carl"] and "there is no answer" in pages["<i>carl"]
    assert "unreadable" in pages["eve"] and "no notebook" in pages["eve"]


def test_pages_in_a_browser(graded):
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    chromium = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
    folder, toy = graded
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        except playwright.Error:
            pytest.skip("no Chromium")
        page, asked = browser.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "feedback" / "ada" / "9_toy.html").as_uri())
        page.wait_for_timeout(300)
        assert page.title() == "9 A toy: ada"
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the notebook"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#t-dice"
        assert page.locator("#t-dice").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()


def test_killed_in_the_middle_it_goes_on(tmp_path, sandboxed):
    toy = write_source(tmp_path / "sources")
    answers = random.Random(0)
    for number in range(6):
        some = {key: text for key, text in RIGHT.items() if answers.random() < 0.7}
        for name in ("whole", "cut"):
            hand_in(tmp_path / name, f"s{number}", submission(toy, some, "import time; time.sleep(0.3)"))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    grade(whole, [toy], workers=2, sandboxed=sandboxed, tell=silent)
    command = [
        sys.executable,
        "-m",
        "course_lib.assignments",
        "--sources",
        str(tmp_path / "sources"),
        "grade",
        str(cut),
    ]
    command += ["--workers", "2"] + ([] if sandboxed else ["--unsandboxed"])
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(cut.glob("graded/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in cut.glob("graded/*/*.json")}
    assert 0 < len(done) < 6 and not (cut / "marks.csv").exists()
    time.sleep(1)  # whoever was at work ends with it
    told: list[str] = []
    grade(cut, [toy], workers=2, sandboxed=sandboxed, tell=told.append)
    assert int(told[0].split()[2]) < 6
    assert marks(cut) == marks(whole)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())


def test_files_by_name(tmp_path):
    toy = write_source(tmp_path / "sources")
    other = write_source(tmp_path / "more")
    other = type(other)(other.path.rename(other.path.with_name("8_other.py")))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("ada_9_toy", "9_toy-bob", "ada-9_toy", "8_other carl", ".hidden_9_toy"):
        (folder / f"{name}.ipynb").write_text("{}")
    found = {(each.student, each.assignment.name) for each in submissions(folder, [toy, other])}
    assert found == {("ada", "9_toy"), ("bob", "9_toy"), ("ada_9_toy", "9_toy"), ("carl", "8_other")}
    (folder / "dan.ipynb").write_text("{}")
    with pytest.raises(BadInput, match="which assignment is this"):
        submissions(folder, [toy, other])
    assert len(submissions(folder, [toy])) == 5  # one that is hidden is none
    with pytest.raises(BadInput, match="there is no submission"):
        submissions(tmp_path / "sources", [toy])
    (folder / "dan.ipynb").unlink()
    assert {each.student for each in submissions(folder, [toy], [toy, other])} == {"ada", "bob", "ada_9_toy"}


def test_what_is_out_of_place_is_named(tmp_path):
    toy = write_source(tmp_path / "sources")
    notebook = submission(toy, {})
    path = hand_in(tmp_path, "ada", notebook)
    path.rename(path.with_name("homework.ipynb"))  # the only notebook there will do
    nbformat.write(notebook, tmp_path / "submitted" / "loose.ipynb")
    (tmp_path / "submitted" / "bob" / "9-toy").mkdir(parents=True)
    assert [each.path.name for each in submissions(tmp_path, [toy])] == ["homework.ipynb"]
    assert {path.name for path in strays(tmp_path, [toy])} == {"loose.ipynb", "9-toy"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("student,assignment,points\n", "no column grade_id"),
        ("student,assignment,grade_id,points\nada,9_toy,why,many\n", "'many' is no number"),
        ("student,assignment,grade_id,points\nada,9_toy,why,6\n", "not between 0 and 5"),
        ("student,assignment,grade_id,points\nada,9_toy,why,-1\n", "not between 0 and 5"),
        ("student,assignment,grade_id,points\nada,9_toy,why,nan\n", "not between 0 and 5"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_runs(tmp_path, text, cause):
    toy = write_source(tmp_path / "sources")
    hand_in(tmp_path, "ada", submission(toy, RIGHT))
    (tmp_path / "manual.csv").write_text(text)
    with pytest.raises(BadInput, match=cause):
        grade(tmp_path, [toy], tell=silent)
    assert not (tmp_path / "graded").exists()
    (tmp_path / "manual.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        tables.read_manual(tmp_path, [toy])


def test_a_tab_separated_table_and_rows_of_others_stay(tmp_path):
    toy = write_source(tmp_path / "sources")
    (tmp_path / "manual.tsv").write_text("student\tassignment\tgrade_id\tpoints\tcomment\nada\t9_toy\twhy\t2\tgood\n")
    entered = tables.read_manual(tmp_path, [toy])
    assert entered[("ada", "9_toy", "why")]["points"] == 2
    tables.write_manual(tmp_path, [toy], [], entered)
    assert rows(tmp_path / "manual.csv")["ada"]["comment"] == "good"


def test_a_grader_that_fails_harms_no_other(tmp_path, sandboxed):
    """The time for one submission is used up; the result says so, and the next grading tries again."""
    toy = write_source(tmp_path / "sources")
    hand_in(tmp_path, "slow", submission(toy, RIGHT, last="import time; time.sleep(60)"))
    hand_in(tmp_path, "quick", submission(toy, RIGHT))
    limits = Limits(cell_seconds=30, total_seconds=8)
    grade(tmp_path, [toy], workers=2, limits=limits, sandboxed=sandboxed, tell=silent)
    table = rows(tmp_path / "marks.csv")
    assert table["quick"]["auto"] == "10" and table["slow"]["status"] == "out of time"
    assert load(tmp_path / "graded" / "slow" / "9_toy")["digest"]


# ---- without running anything ---------------------------------------------------------------------------------------


def stored(folder: Path, assignment, student: str, answer: str = TEXT_STUB, status: str = "ok") -> dict:
    """A result as the grader stores it: full marks, and one written answer."""
    points = assignment.points
    tests = {key: {"points": most, "max": most} for key, most in points.items() if key != "why"}
    answers = {"why": {"text": answer, "changed": answer != TEXT_STUB and status == "ok", "max": points["why"]}}
    result = {"student": student, "assignment": assignment.name, "status": status, "notes": [], "seconds": 1.0}
    result |= {"digest": "", "tests": tests, "answers": answers}
    path = folder / "graded" / student / f"{assignment.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return result


def twin(toy):
    """The same source as another assignment."""
    path = toy.path.with_name("8_other.py")
    path.write_text(toy.path.read_text())
    return type(toy)(path)


def test_where_nothing_can_be_marked_earlier_results_stay(tmp_path, monkeypatch):
    toy = write_source(tmp_path / "sources")
    hand_in(tmp_path, "ada", submission(toy, RIGHT))
    before = stored(tmp_path, toy, "ada")
    monkeypatch.setattr(sandbox, "unavailable", lambda: "namespaces are forbidden.")
    with pytest.raises(SandboxUnavailable, match="^namespaces are forbidden$"):
        grade(tmp_path, [toy], tell=silent)
    assert load(tmp_path / "graded" / "ada" / "9_toy") == before


@pytest.mark.parametrize("workers", [0, -2])
def test_no_workers_are_refused(tmp_path, workers):
    toy = write_source(tmp_path / "sources")
    hand_in(tmp_path, "ada", submission(toy, RIGHT))
    for start in (lambda: grade(tmp_path, [toy], workers=workers, tell=silent), lambda: mark_all([], workers=workers)):
        with pytest.raises(BadInput, match=f"1 or more, not {workers}"):
            start()
    assert not (tmp_path / "graded").exists()


@pytest.mark.parametrize("cell", [10.0, 600.0])
def test_a_grader_may_live_as_long_as_its_last_check(cell):
    assert patience(Limits(cell_seconds=cell, total_seconds=600).plain()) >= 600 + 2 * cell + 60


def test_a_page_for_a_text_with_a_pasted_picture(tmp_path):
    toy = write_source(tmp_path / "sources")
    pasted = f"![image.png](attachment:image.png) {EVIL}"
    for student in ("ada", "bob"):
        hand_in(tmp_path, student, submission(toy, {}))
        stored(tmp_path, toy, student)
        cells = [new_markdown_cell(pasted if student == "ada" else "**fine**")]
        nbformat.write(new_notebook(cells=cells), tmp_path / "graded" / student / "9_toy.ipynb")
    ada, bob = (path.read_text(encoding="utf-8") for path in feedback(tmp_path, [toy]))
    assert "attachment:image.png" in ada and "<script" not in ada and "<img" not in ada
    assert "<strong>fine</strong>" in bob


def test_only_one_assignment_leaves_the_others_in_the_tables(tmp_path, monkeypatch):
    toy = write_source(tmp_path / "sources")
    other = twin(toy)
    for student in ("ada", "bob"):
        path = hand_in(tmp_path, student, submission(toy, RIGHT))
        path.parent.with_name("8_other").mkdir()
    results = [stored(tmp_path, other, student, "Mine.") for student in ("ada", "bob", "carl")]
    entered = {("ada", "8_other", "why"): {"points": None, "comment": "a good start", "answer": "Mine."}}
    tables.write_manual(tmp_path, [toy, other], results, entered)
    monkeypatch.setattr("course_lib.assignments.grade.mark_all", lambda *_, **__: [])
    told: list[str] = []
    stale = json.loads((tmp_path / "graded" / "carl" / "8_other.json").read_text())
    stale["tests"]["t-of-long-ago"] = {"points": 1, "max": 1}
    (tmp_path / "graded" / "carl" / "8_other.json").write_text(json.dumps(stale))
    grade(tmp_path, [toy, other], chosen=[toy], tell=told.append)
    with open(tmp_path / "marks.csv", encoding="utf-8-sig", newline="") as stream:
        found = {(row["student"], row["assignment"]): row["auto"] for row in csv.DictReader(stream)}
    assert found == {(s, a): "10" if a == "8_other" else "0" for s in ("ada", "bob") for a in ("8_other", "9_toy")}
    manual = rows(tmp_path / "manual.csv")
    assert manual["ada"]["comment"] == "a good start" and manual["bob"]["answer"] == "Mine."
    assert not any("left aside" in line for line in told)
    assert any("carl" in line and "has changed since" in line for line in told)


def test_a_comment_alone_is_kept(tmp_path):
    toy = write_source(tmp_path / "sources")
    head = "student,assignment,grade_id,points,comment\n"
    (tmp_path / "manual.csv").write_text(f"{head}ada,7_gone,why,,see me\nbob,7_gone,why,,\n")
    tables.write_manual(tmp_path, [toy], [], tables.read_manual(tmp_path, [toy]))
    assert {name: row["comment"] for name, row in rows(tmp_path / "manual.csv").items()} == {"ada": "see me"}


def second_round(folder: Path, toy, answers: list[str], edit=lambda row: row, status: str = "ok") -> list[dict]:
    """Points are entered for the first answer; then the others are handed in. `edit` is what a person does to rows."""
    seen = []
    for number, answer in enumerate(answers):
        result = stored(folder, toy, "ada", answer, status if number else "ok")
        manual = tables.read_manual(folder, [toy])
        tables.write_manual(folder, [toy], [result], manual)
        seen.append(
            {"sum": tables.totals(result, manual, [toy])["manual"]} | rows(folder / "manual.csv").get("ada", {})
        )
        if not number:
            row = edit(seen[0] | {"points": "4", "comment": "well"})
            with open(folder / "manual.csv", "w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, tables.MANUAL, extrasaction="ignore")
                writer.writeheader()
                writer.writerow(row)
    return seen


@pytest.mark.parametrize("answer", ["Mine.", "  ", "(nothing)"])
def test_points_stay_with_their_answer(tmp_path, answer):
    toy = write_source(tmp_path / "sources")
    after = second_round(tmp_path, toy, [answer, answer, answer])[-1]
    assert (after["sum"], after["points"], after["comment"]) == (4, "4", "well")


@pytest.mark.parametrize(("first", "then"), [("Mine.", "Another."), ("Mine.", TEXT_STUB), ("", "Mine."), ("Mine.", "")])
def test_points_for_another_answer_are_taken_back(tmp_path, first, then):
    toy = write_source(tmp_path / "sources")
    for after in second_round(tmp_path, toy, [first, then, then])[1:]:
        assert (after["sum"], after["points"], after["comment"]) == (0, "", "(the answer has changed) well")


def test_points_stay_where_the_column_of_answers_was_cleared(tmp_path):
    toy = write_source(tmp_path / "sources")
    second, third = second_round(tmp_path, toy, ["Mine.", "Mine.", "Another."], lambda row: row | {"answer": ""})[1:]
    assert (second["sum"], second["points"], second["answer"]) == (4, "4", "Mine.")
    assert (third["sum"], third["points"]) == (0, "")


@pytest.mark.parametrize("status", ["not marked", "unreadable"])
def test_points_stay_while_nothing_can_be_read(tmp_path, status):
    toy = write_source(tmp_path / "sources")
    after = second_round(tmp_path, toy, ["Mine.", ""], status=status)[-1]
    assert (after["sum"], after["points"], after["answer"]) == (4, "4", "Mine.")


@pytest.mark.parametrize("points", ["-1", "nan", "inf"])
def test_points_of_an_unknown_assignment_are_numbers_too(tmp_path, points):
    toy = write_source(tmp_path / "sources")
    (tmp_path / "manual.csv").write_text(f"student,assignment,grade_id,points\nada,7_gone,why,{points}\n")
    with pytest.raises(BadInput, match=f"{points} is not 0 or more points"):
        tables.read_manual(tmp_path, [toy])
