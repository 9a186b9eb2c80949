"""The book: figures with their text, formulas without a script, a search, no dead link, nothing from the network."""

from __future__ import annotations

import base64
import json

import nbformat
import pytest

from course_lib.errors import BadInput
from course_lib.lessons import book
from course_lib.lessons.catalog import LessonFiles

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = "One grey pixel, 0.5 bright."


def lesson(folder, name="9.1_toy", markdown="# 9.1 Toy\n\nLet $x_1$ be.\n\n## A section\n\n$$y = \\frac{1}{x}$$"):
    """A built lesson with a figure, a prediction, a claim and an exercise."""
    code = nbformat.v4.new_code_cell("lesson.figure(...)")
    code.outputs = [
        nbformat.v4.new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": ALT}}),
        nbformat.v4.new_output("display_data", {"text/markdown": "**Predict.** How bright is $x$?"}),
        nbformat.v4.new_output("display_data", {"text/markdown": "### Exercise 9.1.1: Think\n\n<details>a</details>"}),
        nbformat.v4.new_output("stream", name="stdout", text="plain words"),
    ]
    metadata = {"language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown), code], metadata=metadata)
    part = folder / "9_toys"
    (part / "source").mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, part / f"{name}.ipynb")
    return LessonFiles(part / "source" / f"{name}.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book of two lessons: its folder, and how many links were checked."""
    folder = tmp_path_factory.mktemp("book")
    two = [lesson(folder), lesson(folder, "9.2_more", "# 9.2 More\n\nSee [the first](9.1_toy.ipynb).")]
    checked = book.build(folder / "site", two)
    return folder / "site", checked


def test_a_page_has_its_figure_its_formulas_and_the_notice(built):
    page = (built[0] / "9_toys" / "9.1_toy.html").read_text(encoding="utf-8")
    assert f'alt="{ALT}"' in page
    assert page.count("<math") == 3 and 'display="block"' in page
    assert "not for diagnosis" in page and "plain words" in page
    assert "form for your guess" in page
    assert "<strong>Exercise 9.1.1: Think</strong>" in page
    pictures = list((built[0] / "_images").glob("*.png"))
    assert pictures[0].read_bytes() == base64.b64decode(PIXEL)


def test_the_book_has_parts_a_search_and_links_that_were_checked(built):
    site, checked = built
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "Part 9: toys" in index and "9.1 Toy" in index and "9.2 More" in index
    assert '"titles":' in (site / "searchindex.js").read_text(encoding="utf-8")
    assert checked > 20
    assert 'href="9.1_toy.html"' in (site / "9_toys" / "9.2_more.html").read_text(encoding="utf-8")
    assert list(book.problems(site)) == []


@pytest.mark.parametrize(
    ("html", "message"),
    [
        ('<a href="nowhere.html">x</a>', "nowhere.html, which is not there"),
        ('<a href="b.html#gone">x</a>', "which has no such place"),
        ('<a href="#gone">x</a>', "which has no such place"),
        ('<script src="https://example.org/a.js"></script>', "fetches https://example.org/a.js"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "fetches //example.org/a.css"),
        ('<img src="b.html">', "no alt text for b.html"),
    ],
)
def test_what_is_wrong_with_a_page_is_named(tmp_path, html, message):
    (tmp_path / "a.html").write_text(html, encoding="utf-8")
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>', encoding="utf-8")
    (found,) = book.problems(tmp_path)
    assert found.startswith("a.html") and message in found


def test_good_links_are_no_problem(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">x</a><a href="https://example.org">x</a><a href="b.html?v=1">x</a>', encoding="utf-8"
    )
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>', encoding="utf-8")
    assert list(book.problems(tmp_path)) == []


def test_a_dead_link_in_a_lesson_stops_the_book_and_the_old_one_stays(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "old.html").write_text("old", encoding="utf-8")
    with pytest.raises(BadInput, match="gone"):
        book.build(tmp_path / "site", [lesson(tmp_path, markdown="# 9.1 Toy\n\n[dead](gone.md)")])
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["old.html"]
    assert not list(tmp_path.glob(".book-*"))


def test_a_lesson_that_is_not_built_is_named(tmp_path):
    with pytest.raises(BadInput, match="not built") as error:
        book.build(tmp_path / "site", [LessonFiles(tmp_path / "9_toys" / "source" / "9.9_none.py")])
    assert "9.9_none.ipynb" in str(error.value)


def test_the_notebook_on_disk_is_not_changed(tmp_path):
    toy = lesson(tmp_path)
    before = json.loads(toy.notebook.read_text(encoding="utf-8"))
    book.write_source(tmp_path / "source", [toy])
    assert json.loads(toy.notebook.read_text(encoding="utf-8")) == before
