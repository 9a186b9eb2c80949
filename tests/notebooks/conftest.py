"""Exercises as tests use them: a lesson's cards and checks, without running the lesson."""

from __future__ import annotations

import ast

import pytest

from course_lib.lessons.build import read_source
from course_lib.lessons.catalog import lessons
from course_lib.teaching import Lesson
from data_scripts import PROFILES


class Exercises:
    """The exercises of a lesson: `verdict(number, answer)` is what a student reads; `names` what the lesson defines."""

    def __init__(self, number: str, names: dict):
        self.lesson = Lesson(number, profile=PROFILES[0])
        self.names = names | {"lesson": self.lesson}
        (files,) = lessons(only=[number])
        cells = [cell["source"] for cell in read_source(files.source).cells if cell["cell_type"] == "code"]
        for node in (node for cell in cells for node in ast.parse(cell).body):
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) or _is_card(node):
                exec(compile(ast.Module([node], []), str(files.source), "exec"), self.names)

    @property
    def numbers(self) -> list[str]:
        """The numbers of the cards."""
        return list(self.lesson._cards)

    def verdict(self, number: str, answer) -> str:
        """The line that `lesson.check` prints."""
        return self.lesson._cards[number].verdict(answer)


def _is_card(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "lesson.card"


@pytest.fixture(scope="session")
def exercises():
    """`exercises("2.1", train=..., scores=...)`: the exercises of a lesson, with what their checks use from it."""
    return lambda number, **names: Exercises(number, names)
