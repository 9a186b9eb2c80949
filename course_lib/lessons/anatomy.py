r"""The lint of the lessons' anatomy: `python -m course_lib.lessons.anatomy [LESSON ...]`.

Each rule is a function from a lesson's cells to sentences that name the cell and what is wrong. A number in prose that
is a definition, not a result, stands in backticks or in a formula: `0.85` or $\alpha = 0.85$.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

from course_lib.errors import BadInput
from course_lib.lessons.build import read_source
from course_lib.lessons.catalog import NOTEBOOKS, LessonFiles, lessons
from course_lib.lessons.colours import colour_problems
from course_lib.lessons.digits import typed_results
from course_lib.lessons.outputs import all_outputs
from course_lib.lessons.run import read_notebook

LINES, CELLS = 25, (20, 70)  # of code in a cell; cells in a lesson
_COST = re.compile(r"^\|\s*(\d+(?:\.\d+)?) minutes?[^|]*\|[^|\d]*(\d+(?:\.\d+)?) GiB", re.MULTILINE)


def problems(lesson: LessonFiles) -> list[str]:
    """All that is wrong with a lesson's source, and with the pictures of its notebook if there is one."""
    found = source_problems(read_source(lesson.source), lesson.number)
    if lesson.notebook.exists():
        found += pictures_without_text(read_notebook(lesson.notebook))
    return [f"{lesson.name}: {problem}" for problem in found]


def source_problems(notebook: NotebookNode, number: str) -> list[str]:
    """What is wrong with a lesson's cells. `number` is the lesson's, such as "2.1"."""
    trees, found = parse(notebook)
    if found:
        return found
    found = opening(notebook, number) + parts(notebook, trees, number) + sizes(notebook, trees)
    for index, cell in enumerate(notebook.cells):
        if cell["cell_type"] == "markdown":
            found += [f"cell {index}: {problem}" for problem in typed_results(cell["source"])]
    for index, tree in trees.items():
        found += [f"cell {index}: {problem}" for problem in colour_problems(tree)]
        if any(ast.unparse(call.func) in ("plt.show", "pyplot.show") for call in _calls(tree)):
            found.append(f"cell {index}: plt.show() gives no text: use lesson.figure('what is to be seen')")
    return found


def parse(notebook: NotebookNode) -> tuple[dict[int, ast.Module], list[str]]:
    """The code cells as syntax trees by the cell's index, and those that are no Python."""
    trees, found = {}, []
    for index, cell in enumerate(notebook.cells):
        if cell["cell_type"] == "code":
            try:
                trees[index] = ast.parse(cell["source"])
            except SyntaxError as error:
                found.append(f"cell {index}: {error.msg}, line {error.lineno}")
    return trees, found


def opening(notebook: NotebookNode, number: str) -> list[str]:
    """The first cell: title, question, objectives, cost, notice. A lesson N.0 has nothing to recall, others do."""
    text = notebook.cells[0]["source"] if notebook.cells else ""
    goals = text.partition("you can")[2]
    needed = {
        f"a title '# {number} ...'": text.startswith(f"# {number} "),
        "the question in bold, '**...?**'": re.search(r"\*\*[^*]+\?\*\*", text),
        "'After this lesson you can' and three numbered objectives (a fourth may follow)": (
            "After this lesson you can" in text and 3 <= len(re.findall(r"^\d\. ", goals, re.MULTILINE)) <= 4
        ),
        "a table | time | memory | needs | with 'N minutes' and 'N GiB'": promised_cost(notebook),
        "'not for diagnosis'": "not for diagnosis" in text,
    }
    found = [f"cell 0: it lacks {what}" for what, there in needed.items() if not there]
    before = [c["source"] for c in notebook.cells[:4] if c["cell_type"] == "markdown"]
    if not number.endswith(".0") and sum(source.count("<details>") for source in before) < 2:
        found.append("cell 1: it lacks two recall questions, folded in <details>")
    return found


def promised_cost(notebook: NotebookNode) -> tuple[float, float] | None:
    """Minutes (of the standard profile) and GiB that the first cell promises; None if it does not."""
    text = notebook.cells[0]["source"] if notebook.cells else ""
    match = _COST.search(text) if re.search(r"^\| time \| memory \|", text, re.MULTILINE) else None
    return (float(match[1]), float(match[2])) if match else None


def parts(notebook: NotebookNode, trees: dict[int, ast.Module], number: str) -> list[str]:
    """Predictions, each revealed; claims; exercises, each checked; summary; references at the end."""
    calls = [call for tree in trees.values() for call in _calls(tree)]
    named = {name: [c for c in calls if ast.unparse(c.func) == f"lesson.{name}"] for name in _NEEDED}
    found = [
        f"it has {len(named[name])} lesson.{name}, not {least} or more"
        for name, least in _NEEDED.items()
        if len(named[name]) < least
    ]
    if not any(ast.unparse(c.func) in ("lesson.claim", "lesson.claim_interval") for c in calls):
        found.append("it makes no claim: lesson.claim_interval or lesson.claim")
    for first, second in (("predict", "reveal"), ("card", "check")):
        missing = _first_arguments(named[first]) - _first_arguments(named[second])
        if missing and not any(not isinstance(c.args[0], ast.Constant) for c in named[second] if c.args):
            found.append(f"lesson.{first} without lesson.{second}: {', '.join(sorted(missing))}")
    wrong = [card for card in _first_arguments(named["card"]) if not card.startswith(f"{number}.")]
    found += [f"exercise {card} belongs to another lesson" for card in sorted(wrong)]
    if not notebook.cells or not notebook.cells[-1]["source"].startswith("## References"):
        found.append("its last cell is not '## References'")
    return found


_NEEDED = {"predict": 2, "reveal": 1, "card": 2, "check": 2, "figure": 1, "summary": 1}


def sizes(notebook: NotebookNode, trees: dict[int, ast.Module]) -> list[str]:
    """Cells too long to read at once, and lessons too long, or too short to be one."""
    found = [
        f"cell {index}: {lines} lines of code, more than {LINES} (without imports, checks of exercises, lesson.*)"
        for index, tree in trees.items()
        if (lines := code_lines(tree)) > LINES
    ]
    if not CELLS[0] <= len(notebook.cells) <= CELLS[1]:
        found.append(f"it has {len(notebook.cells)} cells, not {CELLS[0]} to {CELLS[1]}")
    return found


def code_lines(tree: ast.Module) -> int:
    """Lines that a reader has to follow: not imports, functions named check_*, docstrings, or prose by `lesson.`."""
    lines: set[int] = set()
    for node in tree.body:
        call = node.value if isinstance(node, ast.Expr) else None
        prose = isinstance(call, ast.Call) and ast.unparse(call.func).startswith("lesson.")
        check = isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
        docstring = isinstance(call, ast.Constant)
        if not (prose or check or docstring or isinstance(node, (ast.Import, ast.ImportFrom))):
            lines |= {line for part in ast.walk(node) if hasattr(part, "lineno") for line in (part.lineno,)}
    return len(lines)


def pictures_without_text(notebook: NotebookNode) -> list[str]:
    """Pictures in an executed notebook that say nothing to those who cannot see them."""
    return [
        f"cell {index}: a figure without alt text: use lesson.figure"
        for index, output in all_outputs(notebook)
        if "image/png" in output.get("data", {})
        and not output.get("metadata", {}).get("image/png", {}).get("alt", "").strip()
    ]


def card_numbers(notebook: NotebookNode) -> list[str]:
    """The numbers of a lesson's exercise cards."""
    trees, _ = parse(notebook)
    cards = [c for tree in trees.values() for c in _calls(tree) if ast.unparse(c.func) == "lesson.card"]
    return sorted(_first_arguments(cards))


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _first_arguments(calls: list[ast.Call]) -> set[str]:
    return {str(c.args[0].value) for c in calls if c.args and isinstance(c.args[0], ast.Constant)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Check the anatomy of the lessons.")
    parser.add_argument("lessons", nargs="*", help="numbers such as 2.1; by default all lessons")
    parser.add_argument("--folder", type=Path, default=NOTEBOOKS, help="where the parts lie")
    arguments = parser.parse_args()
    try:
        chosen = lessons(arguments.folder, arguments.lessons)
        found = [problem for lesson in chosen for problem in problems(lesson)]
    except BadInput as error:
        sys.exit(f"{error}")
    print("\n".join(found) or f"{len(chosen)} lessons: nothing to complain about")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
