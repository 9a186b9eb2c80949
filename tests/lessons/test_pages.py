"""Pages open without a network: figures and formulas are inside."""

import nbformat
import pytest

from course_lib.lessons import pages


def test_formulas_become_mathml_and_code_stays():
    text = pages.with_mathml(
        "Take $x_p$ and\n\n$$\\hat{x}\n= A z$$\n\nbut not `$HOME` nor\n\n```\necho $x$\n```\nor 5 $."
    )
    assert text.count("<math") == 2
    assert 'display="block"' in text and 'display="inline"' in text
    assert "`$HOME`" in text and "echo $x$" in text and text.endswith("or 5 $.")


@pytest.mark.parametrize("text", ["no formula", "it costs 3$ or 4$ each", r"an escaped \$x\$ sign"])
def test_dollars_that_are_no_formula_stay(text):
    assert pages.with_mathml(text) == text


def test_a_page_asks_the_network_for_nothing(tmp_path):
    markdown = nbformat.v4.new_markdown_cell("# 9.9 Toy\n\nLet $x$ be.")
    code = nbformat.v4.new_code_cell("1")
    code.outputs = [nbformat.v4.new_output("display_data", {"text/markdown": "So $y = 2$."})]
    notebook = nbformat.v4.new_notebook(cells=[markdown, code])
    pages.write_page(notebook, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("<math") == 2
    assert pages.NOTICE in html and "<title>9.9 Toy" in html
    assert "<script src" not in html and 'href="http' not in html
    assert notebook.cells[0].source.endswith("Let $x$ be.")  # the notebook itself is not changed
