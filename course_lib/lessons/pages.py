"""Executed lessons as web pages that open without a network, and a page that lists them."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path

from nbformat import NotebookNode

from course_lib.files import atomic_write
from course_lib.lessons.outputs import strip_widgets

NOTICE = "Research and teaching only, not for diagnosis."

# nbconvert's own page without the scripts that it would fetch from the network; formulas are MathML by then.
_PAGE = (
    """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block footer_js %}<footer style="max-width: 60em; margin: 2em auto; font-family: sans-serif">
<a href="index.html">All lessons</a>. """
    + NOTICE
    + """</footer>{% endblock %}
"""
)

_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Learning Normal</title>
<style>:root {{ color-scheme: light dark }} body {{ font-family: sans-serif; max-width: 50em; margin: 2em auto;
padding: 0 1em; line-height: 1.5 }} td, th {{ padding: .2em .8em; text-align: left }}
td.n {{ text-align: right }}</style>
</head><body>
<h1>Learning Normal</h1>
<p>Unsupervised anomaly detection in medical images. Profile: {profile}. <strong>{notice}</strong></p>
<table><thead><tr><th>lesson</th><th>minutes</th><th>memory (GiB)</th></tr></thead><tbody>
{rows}
</tbody></table>
<p>Tables: <a href="../results.md">results</a> (<a href="../results.csv">CSV</a>),
<a href="../claims.md">claims</a> (<a href="../claims.csv">CSV</a>), <a href="../cost.csv">cost</a>.</p>
</body></html>
"""


_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$", re.DOTALL)


def title(notebook: NotebookNode) -> str:
    """The first heading of a notebook."""
    lines = (line for cell in notebook.cells if cell["cell_type"] == "markdown" for line in cell["source"].splitlines())
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "Lesson")


def write_page(notebook: NotebookNode, path: Path) -> None:
    """Write an executed lesson as one HTML file with its figures and formulas inside. Drops its widgets."""
    from nbconvert import HTMLExporter

    page_title = title(notebook)
    notebook = copy.deepcopy(notebook)
    strip_widgets(notebook)
    for cell in notebook.cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_mathml(cell["source"])
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output["data"]["text/markdown"] = with_mathml(output["data"]["text/markdown"])
    exporter = HTMLExporter(raw_template=_PAGE, embed_images=True)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": page_title}})
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")


def with_mathml(markdown: str) -> str:
    """Markdown whose LaTeX formulas, `$...$` and `$$...$$`, are MathML, which browsers draw without a script.

    Code is left as it is.
    """
    from latex2mathml.converter import convert

    def formula(match: re.Match) -> str:
        block, inline = match.groups()
        return convert(" ".join((block or inline).split()), display="block" if block else "inline")

    pieces = _CODE.split(markdown)
    pieces[::2] = [_FORMULA.sub(formula, text) for text in pieces[::2]]
    return "".join(pieces)


def write_index(folder: Path, lessons: list[dict], profile: str) -> None:
    """Write `index.html`: the lessons (`name`, `title`, `minutes`, `memory_gib`) and links to the tables."""
    rows = "\n".join(
        f'<tr><td><a href="{html.escape(lesson["name"])}.html">{html.escape(lesson["title"])}</a></td>'
        f'<td class="n">{lesson["minutes"]:.1f}</td><td class="n">{lesson["memory_gib"]:.2f}</td></tr>'
        for lesson in lessons
    )
    with atomic_write(folder / "index.html") as part:
        part.write_text(_INDEX.format(profile=profile, notice=NOTICE, rows=rows), encoding="utf-8")
