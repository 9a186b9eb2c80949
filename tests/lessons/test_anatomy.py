"""The lint of the lessons: a whole lesson passes, each planted fault is named."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_lib import plots
from course_lib.lessons import anatomy
from course_lib.lessons.build import read_source
from course_lib.lessons.catalog import lessons
from course_lib.lessons.colours import colour_problems, seen_apart
from course_lib.lessons.digits import typed_results

FILLER = "".join(f"\n# %%\nx{k} = {k}\n" for k in range(16))
WHOLE = f"""# %% [markdown]
# # 9.1 A whole lesson
#
# **What is asked?**
#
# After this lesson you can
#
# 1. one;
# 2. two;
# 3. three.
#
# | time | memory | needs |
# |---|---|---|
# | 3 minutes to run, 30 to read | under 2.5 GiB | lesson 1.1 |
#
# *For research and teaching only, not for diagnosis.*

# %% [markdown]
# Two questions.
#
# <details><summary>One?</summary>1</details>
#
# <details><summary>Two?</summary>2</details>

# %%
lesson.predict("a", "A?")
lesson.predict("b", "B?")
{FILLER}
# %%
ax.plot(x, y, color=plots.PALETTE[0])
lesson.figure("A line.")
lesson.reveal("a", 1)
lesson.reveal("b", 1)
lesson.claim("c", "C", True)
lesson.card("9.1.1", "A")
lesson.check("9.1.1", ...)
lesson.card("9.1.2", "B")
lesson.check("9.1.2", ...)
lesson.summary("S")

# %% [markdown]
# ## References
#
# - A 0.83 of 97 % is nobody's result here.
"""


def faults(tmp_path, text: str, number: str = "9.1") -> list[str]:
    path = tmp_path / "9.1_whole.py"
    path.write_text(text, encoding="utf-8")
    return anatomy.source_problems(read_source(path), number)


def test_a_whole_lesson_passes_and_its_cost_is_read(tmp_path):
    assert faults(tmp_path, WHOLE) == []
    assert anatomy.promised_cost(read_source(tmp_path / "9.1_whole.py")) == (3, 2.5)
    assert anatomy.card_numbers(read_source(tmp_path / "9.1_whole.py")) == ["9.1.1", "9.1.2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# # 9.1 A", "# # A", "a title"),
        ("**What is asked?**", "What is asked?", "the question in bold"),
        ("# 3. three.\n", "", "three numbered objectives"),
        ("| time | memory | needs |", "| needs |", "a table"),
        ("3 minutes to run", "a while", "a table"),
        ("not for diagnosis", "for fun", "not for diagnosis"),
        ("<details><summary>Two?", "<p><summary>Two?", "two recall questions"),
        ('lesson.predict("b", "B?")', "", "1 lesson.predict, not 2"),
        ('lesson.reveal("b", 1)', "", "lesson.predict without lesson.reveal: b"),
        ('lesson.claim("c", "C", True)', "", "makes no claim"),
        ('lesson.check("9.1.2", ...)', 'lesson.check("9.1.1", 2)', "lesson.card without lesson.check: 9.1.2"),
        ('"9.1.2"', '"9.3.2"', "9.3.2 belongs to another"),
        ('lesson.summary("S")', "", "0 lesson.summary"),
        ("## References", "## Books", "last cell"),
        ('lesson.figure("A line.")', "plt.show()", "plt.show() gives no text"),
        ("color=plots.PALETTE[0]", "color='red'", "the colour 'red'"),
        ("ax.plot(x, y, color", "ax.plot(x, y, 'g--', color", "the colour 'g--'"),
        ("x3 = 3", "\n".join(f"y{k} = {k}" for k in range(26)), "26 lines of code, more than 25"),
        (FILLER, "", "cells, not 20"),
        ("# Two questions.", "# AP is 0.83 here.", "a score, 'AP is 0.83'"),
        ("x3 = 3", "x3 = = 3", "cell 6: invalid syntax"),
    ],
)
def test_each_fault_is_named(tmp_path, old, new, message):
    assert old in WHOLE
    assert any(message in problem for problem in faults(tmp_path, WHOLE.replace(old, new)))


def test_the_first_lesson_of_a_part_has_nothing_to_recall(tmp_path):
    text = WHOLE.replace("9.1", "9.0").replace("<details>", "<p>")
    assert faults(tmp_path, text, "9.0") == []


@pytest.mark.parametrize(
    "text",
    [
        "The AE reaches AP 0.83.",
        "It fell by .83 in all.",
        "It marks 37 % of them.",
        "12 per cent of the brain lit up.",
        "It is 3 times brighter.",
        "a 12-fold rise",
        "This is clear (p < 0.01).",
        "Dice of 77 was reached.",
        "The loss ends at -1.25.",
        "In lesson 1.2 you saw 0.42.",
    ],
)
def test_typed_results_are_found(text):
    assert len(typed_results(text)) == 1, typed_results(text)


@pytest.mark.parametrize(
    "text",
    [
        "Meissen 2021 and 96 × 96 pixels of 2.5 mm; 120 people, 17 slices.",
        "See lesson 1.2, lessons 2.1 and 2.2, as in 2.1; doi 10.1038/s41597-024-03667-5.",
        "## 2.1 Auto-encoders",
        "The threshold is `0.83`, $\\alpha = 0.3$, and\n\n$$x > 2.5$$",
        "```\npython -p rate 0.01\n```",
        "The 95 % interval; allow 1 % of the pixels.",
        "0.5 is the median and 0.125 one robust s.d.; a perfect map has AP 1, and chance AUROC 0.5.",
        "[a page](https://a.org/v1.25/x) of 3 families, six times.",
        "Text.\n\n## References\n\n- It reached 0.83.",
    ],
)
def test_definitions_and_sizes_are_left_alone(text):
    assert typed_results(text) == []


def test_colours_outside_the_palette_and_misleading_maps():
    bad = (
        "ax.imshow(x, cmap='jet')\nax.scatter(x, y, c=['#ff0000', '0.4'])\nplt.cm.hsv(0.1)\nsns.boxplot(palette='Set1')"
    )
    assert len(colour_problems(ast.parse(bad))) == 4
    good = (
        "ax.imshow(x, cmap='magma')\nax.plot(x, y, 'k--', color='0.3')\nax.bar(x, y, color=plots.PALETTE[1], ec='none')"
    )
    assert colour_problems(ast.parse(good + "\nax.plot('gap', 'size', c='C1')")) == []


def test_the_palette_can_be_told_apart_without_green_receptors():
    assert seen_apart(plots.PALETTE) > 10  # ten colours; each also has its own marker
    assert seen_apart(plots.PALETTE[:3]) > 40
    red_and_green = ["#d62728", "#2ca02c"]
    assert seen_apart(red_and_green) < 10 < 80 < seen_apart(red_and_green, np.eye(3))
    assert seen_apart(["black", "white"]) == pytest.approx(100, abs=0.1)


def test_pictures_need_a_text():
    data = {"image/png": "AAAA"}
    cells = [
        new_code_cell(outputs=[new_output("display_data", data=data, metadata={"image/png": {"alt": text}})])
        for text in ("A line.", " ")
    ]
    cells.append(new_code_cell(outputs=[new_output("display_data", data=data)]))
    assert [p.split(":")[0] for p in anatomy.pictures_without_text(new_notebook(cells=cells))] == ["cell 1", "cell 2"]


def test_a_folder_of_lessons_is_checked_by_the_command(tmp_path, capsys, monkeypatch):
    source = tmp_path / "9_toys" / "source" / "9.1_whole.py"
    source.parent.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["anatomy", "--folder", str(tmp_path)])
    for text, code in ((WHOLE, 0), (WHOLE.replace("# Two questions.", "# AP is 0.83."), 1)):
        source.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            anatomy.main()
        assert ended.value.code == code
    assert "9.1_whole: cell 1: a score, 'AP is 0.83', is typed" in capsys.readouterr().out
    assert anatomy.problems(lessons(tmp_path)[0])
