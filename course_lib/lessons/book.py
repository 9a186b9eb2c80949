"""The book: all executed lessons as one site with a search, for reading without Python or a network.

`python -m course_lib.lessons.book`, or `make book`, writes `output/book/index.html`. The notebooks are taken as they
were built: nothing is run. A warning of Sphinx, a broken link or a page that fetches from the network is an error.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
from nbformat import NotebookNode

from course_lib.errors import BadInput
from course_lib.files import output_folder
from course_lib.lessons.catalog import LessonFiles, lessons
from course_lib.lessons.outputs import strip_widgets
from course_lib.lessons.pages import NOTICE, title, with_mathml

TITLE = "Learning Normal"
PREDICTION = "**Predict.**"
FORM = "*(In the notebook a form for your guess stands here.)*"
OUTSIDE = ("http:", "https:", "//", "mailto:", "data:")
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}  # what a browser fetches unasked

_INDEX = """# {title}

A course on unsupervised anomaly detection in medical images: detectors that see healthy scans only, and then have to
find and outline disease that nobody has shown them.

**{notice}**

These pages show the lessons as they were run. To run them yourself, to predict, and to do the exercises, take the
notebooks: `make lab`.
"""

_TOCTREE = """
```{{toctree}}
:caption: {caption}
:maxdepth: 1

{pages}
```
"""

# Wide outputs scroll in a box of their own; figures keep their white ground in dark mode.
_STYLE = """
.cell_output, .cell_output > .output { overflow-x: auto; }
.cell_output img { background: white; max-width: 100%; height: auto; }
.cell_output table { font-size: 0.85em; }
.cell_output .text_html td, .cell_output .text_html th { white-space: nowrap; padding: 0.1em 0.6em; text-align: right; }
.cell, details { margin-top: 0.8em; }
math[display="block"] { overflow-x: auto; overflow-y: hidden; max-width: 100%; padding: 0.3em 0; }
"""


def build(folder: Path, chosen: list[LessonFiles]) -> int:
    """Write the book of some lessons to `folder`, whole or not at all; returns how many local links were checked.

    Raises:
        BadInput: a lesson is not built yet, Sphinx warns, a link is broken, or a page needs the network.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".book-") as work:
        source, site = Path(work) / "source", Path(work) / "site"
        write_source(source, chosen)
        _sphinx(source, site, Path(work) / "doctrees")
        found = list(problems(site))
        if found:
            more = f" and {len(found) - 10} more" if len(found) > 10 else ""
            raise BadInput(f"the book is not whole: {'; '.join(found[:10])}{more}.", file=folder)
        shutil.rmtree(folder, ignore_errors=True)
        site.rename(folder)
    return sum(1 for page in folder.rglob("*.html") for _ in _Links.of(page).local())


def write_source(folder: Path, chosen: list[LessonFiles]) -> None:
    """Write what Sphinx reads: an index with a part for each folder of lessons, and the lessons made fit for a page.

    Raises:
        BadInput: a lesson has no executed notebook.
    """
    parts: dict[str, list[str]] = {}
    for lesson in chosen:
        part = lesson.notebook.parent.name
        if not lesson.notebook.exists():
            raise BadInput("this lesson is not built.", file=lesson.notebook, remedy="Run `make notebooks`.")
        notebook = for_the_book(nbformat.read(lesson.notebook, as_version=4))
        (folder / part).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / part / lesson.notebook.name)
        parts.setdefault(part, []).append(f"{part}/{lesson.name}")
    index = _INDEX.format(title=TITLE, notice=NOTICE)
    for part, pages in parts.items():
        number, _, name = part.partition("_")
        index += _TOCTREE.format(caption=f"Part {number}: {name.replace('_', ' ')}", pages="\n".join(pages))
    (folder / "index.md").write_text(index, encoding="utf-8")
    (folder / "style").mkdir()
    (folder / "style" / "book.css").write_text(_STYLE, encoding="utf-8")


def for_the_book(notebook: NotebookNode) -> NotebookNode:
    """The notebook with formulas as MathML, alt text where Sphinx looks for it, and a line in place of each form."""
    for cell in notebook.cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_mathml(cell["source"])
        outputs = cell.get("outputs", [])
        for output in outputs:
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = _flat(with_mathml(data["text/markdown"]))
                if data["text/markdown"].startswith(PREDICTION):
                    data["text/markdown"] += f"\n\n{FORM}"
        texts = [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in outputs]
        if any(texts):
            cell["metadata"]["mystnb"] = {"image": {"alt": " ".join(filter(None, texts))}}
    strip_widgets(notebook)
    if title(notebook) == "Lesson":
        raise BadInput("a lesson begins with a heading, `# 1.0 Title`.", field="title")
    return notebook


def problems(site: Path) -> Iterator[str]:
    """Local links that lead nowhere, images without alt text, and what a page would fetch from the network."""
    pages = {page.resolve(): _Links.of(page) for page in sorted(site.rglob("*.html"))}
    for page, links in pages.items():
        name = page.relative_to(site.resolve())
        for address in links.fetched:
            yield f"{name} fetches {address}"
        for picture in links.without_alt:
            yield f"{name}: no alt text for {picture}"
        for address in links.local():
            path, fragment = urldefrag(address)
            path = unquote(path.partition("?")[0])  # behind the ? is a version, for caches
            target = (page.parent / path).resolve() if path else page
            if not target.exists():
                yield f"{name} links to {address}, which is not there"
            elif fragment and target in pages and unquote(fragment) not in pages[target].anchors:
                yield f"{name} links to {address}, which has no such place"


class _Links(HTMLParser):
    """The links, anchors and pictures of one page."""

    def __init__(self):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.without_alt: list[str] = []

    @classmethod
    def of(cls, page: Path) -> _Links:
        """Those of a file."""
        parser = cls()
        parser.feed(page.read_text(encoding="utf-8"))
        return parser

    def local(self) -> Iterator[str]:
        """The links that stay in the book."""
        return (link for link in self.links if link not in ("", "#") and not link.startswith(OUTSIDE))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for every tag."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        self.links += [values[name] for name in ("href", "src") if name in values]
        address = values.get(LOADED.get(tag, ""), "")
        if address.startswith(("http:", "https:", "//")) and values.get("rel") != "canonical":
            self.fetched.append(address)
        if tag == "img" and not values.get("alt"):
            self.without_alt.append(address[:60])


def _sphinx(source: Path, site: Path, doctrees: Path) -> None:
    """Run Sphinx with the book's settings.

    Raises:
        BadInput: it warned, or it is not installed.
    """
    try:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError as error:
        remedy = 'Run `pip install -c constraints.txt -e ".[book]"`.'
        raise BadInput(f"the book needs Sphinx ({error}).", remedy=remedy) from error
    settings = {
        "project": TITLE,
        "copyright": "Learning Normal contributors, MIT licence",
        "extensions": ["myst_nb"],
        "nb_execution_mode": "off",
        "nb_render_markdown_format": "myst",
        "html_theme": "furo",
        "html_title": TITLE,
        "html_static_path": [str(source / "style")],
        "html_css_files": ["book.css"],
        "html_theme_options": {"announcement": NOTICE},
        "html_copy_source": False,
        "html_show_sphinx": False,
    }
    said = io.StringIO()
    with patch_docutils(source), docutils_namespace():  # as its own command does; or a second book would warn
        app = Sphinx(source, None, site, doctrees, "html", confoverrides=settings, status=None, warning=said)
        app.build()
    warned = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).replace(f"{source}/", "").strip().splitlines()
    if warned:
        raise BadInput(f"Sphinx warned {len(warned)} times: {'; '.join(warned[:10])}")


def _flat(markdown: str) -> str:
    """Markdown whose headings are bold lines: an output is a part of its section, and has no sections of its own."""
    return re.sub(r"^#{1,6} +(.+)$", r"**\1**", markdown, flags=re.MULTILINE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=output_folder() / "book", help="folder of the site")
    parser.add_argument("--only", nargs="+", help="numbers of lessons, such as 2.1")
    arguments = parser.parse_args()
    try:
        chosen = lessons(only=arguments.only)
        checked = build(arguments.output, chosen)
    except BadInput as error:
        sys.exit(str(error))
    print(f"{len(chosen)} lessons, {checked} local links checked: {arguments.output / 'index.html'}")


if __name__ == "__main__":
    main()
