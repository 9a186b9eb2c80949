"""A page for each submission: the notebook as it was run, points and messages at each check, comments, the total.

Everything of the student's is untrusted text: it is escaped, pictures are taken only as PNG and JPEG, HTML and
JavaScript of outputs are not, and the page's own policy forbids scripts, forms and every request to the network.
Of hidden tests a page shows the message, never the code.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.assignments import tables
from course_lib.assignments.grade import load, submissions
from course_lib.assignments.source import Assignment, grade_id, is_manual, is_test
from course_lib.files import atomic_write, inside
from course_lib.lessons.pages import NOTICE, title, with_mathml

LONGEST = 20_000  # characters of one output that are shown
_PICTURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_STYLE = """:root { color-scheme: light dark; --line: #8888; --good: #0072b2; --bad: #b34700; --soft: #8882 }
@media (prefers-color-scheme: dark) { :root { --good: #56b4e9; --bad: #f0a060 } }
body { font-family: sans-serif; line-height: 1.5; max-width: 56em; margin: 1em auto; padding: 0 1em }
pre { overflow-x: auto; padding: .6em; margin: .3em 0; border-radius: 4px }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
pre.code { background: var(--soft) } pre.out { border-left: 3px solid var(--line) }
pre.err { border-left: 3px solid var(--bad) }
img { max-width: 100% } table { border-collapse: collapse } th, td { text-align: left; padding: .2em .8em .2em 0;
vertical-align: top; border-bottom: 1px solid var(--line) } .n { text-align: right; white-space: nowrap }
.check { border: 2px solid var(--line); border-radius: 6px; padding: .4em .8em; margin: .6em 0 }
.check.full { border-color: var(--good) } .check.none { border-color: var(--bad) }
.check p { margin: .3em 0 } .points { font-weight: bold } .total { font-size: 1.4em; font-weight: bold }
:focus-visible { outline: 3px solid var(--good); outline-offset: 2px } .skip { position: absolute; left: -99em }
.skip:focus { left: 1em }"""


def feedback(folder: Path, known: list[Assignment], chosen: list[Assignment] | None = None) -> list[Path]:
    """Write `feedback/<student>/<assignment>.html` for every submission that was graded; returns the pages.

    Args:
        folder: the one that was graded.
        known: all assignments that may have been handed in there.
        chosen: those whose pages are wanted; by default all.

    Raises:
        BadInput: there is no submission, or `manual.csv` cannot be used.
    """
    folder = Path(folder)
    entered, written = tables.read_manual(folder, known), []
    for each in submissions(folder, known if chosen is None else chosen, known):
        result = load(each.result(folder))
        if not result:
            continue
        path = folder / "feedback" / each.student / f"{each.assignment.name}.html"
        inside(folder, path)
        text = page(each.assignment, result, _executed(each.result(folder)), entered, known)
        with atomic_write(path) as part:
            part.write_bytes(text.encode("utf-8", "replace"))
        written.append(path)
    return written


def _executed(stem: Path) -> NotebookNode | None:
    path = stem.with_name(stem.name + ".ipynb")
    try:
        return nbformat.read(path, 4)
    except Exception:  # there is none: what was handed in is no notebook
        return None


def page(assignment: Assignment, result: dict, executed: NotebookNode | None, entered: dict, known: list) -> str:
    """The whole page as text.

    Args:
        assignment: what it is a submission of.
        result: what `grade` has stored.
        executed: the notebook as it was run, if there is one.
        entered: points and comments from `manual.csv`.
        known: all assignments.
    """
    sums = tables.totals(result, entered, known)
    heading = f"{title(assignment.notebook)}: {result['student']}"
    body = [_summary(assignment, result, sums, entered)]
    own = {cell["source"].strip() for cell in assignment.notebook.cells if cell["cell_type"] == "markdown"}
    for number, cell in enumerate(executed.cells if executed else [], start=1):
        body.append(f'<section aria-label="Cell {number}">{_cell(cell, own, number)}')
        known_cell = assignment.cells.get(grade_id(cell))
        if known_cell is not None and (is_test(known_cell) or is_manual(known_cell)):
            body.append(_check(grade_id(cell), result, sums, entered))
        body.append("</section>")
    text = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(heading)}</title><style>{_STYLE}</style></head>\n<body><a class="skip" href="#work">'
        f"To the notebook</a><header><h1>{html.escape(heading)}</h1></header>\n<main>{text}</main>\n"
        f"<footer><p>{NOTICE}</p></footer></body></html>\n"
    )


def _summary(assignment: Assignment, result: dict, sums: dict, entered: dict) -> str:
    """Total, notes and a table of all that is worth points, with links."""
    missing = None in sums["points"].values()
    total = f"{sums['total']:g} of {sums['max']:g} points" + (" so far" if missing else "")
    lines = [f'<p class="total">{total}</p>']
    if result["status"] != "ok":
        lines.append(f"<p>Status: <strong>{html.escape(result['status'])}</strong></p>")
    notes = result["notes"] + ([] if result.get("sandbox", True) else ["marked without a sandbox"])
    if notes:
        lines.append(f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>")
    rows = []
    for key, most in assignment.points.items():
        points = sums["points"].get(key)
        got = "not marked yet" if points is None else f"{points:g} of {most:g}"
        why = html.escape(_why(key, result, entered))
        link = f'<a href="#{html.escape(key)}">{html.escape(key)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th><td class="n">{got}</td><td>{why}</td></tr>')
    head = (
        '<tr><th scope="col">part</th><th scope="col" class="n">points</th><th scope="col">what is to be said</th></tr>'
    )
    lines.append(f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>")
    return "\n".join(lines) + '<h2 id="work">Your notebook as it was run</h2>'


def _why(key: str, result: dict, entered: dict) -> str:
    if key in result["tests"]:
        return result["tests"][key].get("message", "")
    comment = entered.get((result["student"], result["assignment"], key), {}).get("comment", "")
    untouched = not result["answers"].get(key, {}).get("changed")
    return comment or ("there is no answer" if untouched else "")


def _check(key: str, result: dict, sums: dict, entered: dict) -> str:
    """The box at a check: points, message, the line that failed if the student may see it."""
    points, test = sums["points"].get(key), result["tests"].get(key, {})
    most = (test or result["answers"][key])["max"]
    kind = "open" if points is None else "full" if points == most else "none" if points == 0 else "part"
    got = "not marked yet" if points is None else f"{points:g} of {most:g} points"
    lines = [f'<p class="points">{html.escape(key)}: {got}</p>']
    if why := _why(key, result, entered):
        lines.append(f"<p>{html.escape(why)}</p>")
    if test.get("line"):
        lines.append(f'<p>The check that failed:</p><pre class="code">{html.escape(test["line"])}</pre>')
    elif test.get("hidden"):
        lines.append("<p>This was one of the checks that your copy does not show.</p>")
    return f'<div class="check {kind}" id="{html.escape(key)}">{"".join(lines)}</div>'


def _cell(cell: NotebookNode, own: set[str], number: int) -> str:
    if cell["cell_type"] == "markdown":
        return _markdown(cell["source"], trusted=cell["source"].strip() in own)
    code = f'<pre class="code">{html.escape(cell["source"])}</pre>' if cell["source"].strip() else ""
    return code + "".join(_output(output, number) for output in cell.get("outputs", []))


def _markdown(text: str, trusted: bool) -> str:
    """Markdown as HTML. Only the course's own may hold HTML; a student's is escaped, and its formulas stay as typed."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    text = with_mathml(text) if trusted else text[:LONGEST]
    renderer = IPythonRenderer(escape=not trusted, exclude_anchor_links=True)
    try:
        return MarkdownWithMath(renderer=renderer).render(text)
    except Exception:  # such as a picture pasted into the text, which is not kept
        if trusted:
            raise
        return _pre(text, "out")


def _output(output: NotebookNode, number: int) -> str:
    kind = output["output_type"]
    if kind == "stream":
        return _pre(output["text"], "err" if output["name"] == "stderr" else "out")
    if kind == "error":
        return _pre("\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}", "err")
    data = output.get("data", {})
    for form, magic in _PICTURES.items():
        if form in data and (picture := _picture(data[form], magic)):
            return f'<p><img src="data:{form};base64,{picture}" alt="Figure of cell {number}"></p>'
    if "text/markdown" in data:
        return _markdown(_text(data["text/markdown"]), trusted=False)
    plain = _text(data.get("text/plain", ""))
    if "text/html" in data and (not plain or plain.startswith("<IPython")):
        plain = _Words.of(_text(data["text/html"]))
    return _pre(plain, "out") if plain else ""


def _pre(text: str, kind: str) -> str:
    text = _ANSI.sub("", _text(text))
    cut = "\n[...]" if len(text) > LONGEST else ""
    return f'<pre class="{kind}" tabindex="0">{html.escape(text[:LONGEST] + cut)}</pre>'


def _text(value: object) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _picture(text: object, magic: bytes) -> str:
    """Base64 of a picture that begins as its kind must; else ""."""
    try:
        content = base64.b64decode(_text(text))
    except (binascii.Error, ValueError):
        return ""
    return base64.b64encode(content).decode() if content.startswith(magic) else ""


class _Words(HTMLParser):
    """The text of a piece of HTML."""

    def __init__(self):
        super().__init__()
        self.words, self.silent = [], 0

    @classmethod
    def of(cls, text: str) -> str:
        reader = cls()
        reader.feed(text[: 5 * LONGEST])
        return " ".join("".join(reader.words).split())

    def handle_starttag(self, tag, attributes):
        self.silent += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.silent -= tag in ("script", "style")
        self.words.append(" ")

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)
