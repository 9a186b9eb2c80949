"""A small assignment for the tests of the grader, and submissions of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from nbformat.v4 import new_code_cell

from course_lib.assignments.source import Assignment, grade_id, student_copy

SECRET = "quokka-4711"  # stands in a hidden test, and nowhere else


def header(key: str, grade: bool = False, solution: bool = False, locked: bool = False, points: float = 0) -> str:
    flags = {"grade": grade, "solution": solution, "locked": locked, "task": False}
    text = ", ".join(f'"{name}": {str(value).lower()}' for name, value in flags.items())
    return f'nbgrader={{"schema_version": 3, "grade_id": "{key}", {text}' + (
        f', "points": {points}}}' if points else "}"
    )


SOURCE = f'''# %% [markdown]
# # 9 A toy

# %% {header("t-setup", locked=True)}
import numpy as np

scores = np.arange(101) / 100

# %% {header("dice", solution=True)}
def dice(a, b):
    """Dice of two masks."""
    ### BEGIN SOLUTION
    return 2 * (a & b).sum() / (a.sum() + b.sum())
    ### END SOLUTION

# %% {header("t-dice", grade=True, locked=True, points=2)}
import numpy as np

one = np.array([True, True, False])
assert dice(one, one) == 1, "a mask agrees with itself"
### BEGIN HIDDEN TESTS
secret = "{SECRET}"
other = np.array([True, False, True])
assert abs(dice(one, other) - 0.5) < 1e-9, "the factor 2 is missing"
### END HIDDEN TESTS

# %% {header("threshold", solution=True)}
### BEGIN SOLUTION
threshold = float(np.quantile(scores, 0.95))
### END SOLUTION

# %% {header("t-threshold", grade=True, locked=True, points=1)}
assert abs(threshold - 0.95) < 1e-9, "5 % of the healthy scores lie above the threshold"

# %% {header("loss", solution=True)}
def loss(x, y):
    """Mean squared error of two tensors."""
    ### BEGIN SOLUTION
    return ((x - y) ** 2).mean()
    ### END SOLUTION

# %% {header("t-loss", grade=True, locked=True, points=3)}
import torch

x, y = torch.randn(5, requires_grad=True), torch.randn(5)
value = loss(x, y)
value.backward()
assert torch.isclose(value, torch.nn.functional.mse_loss(x, y)), "the mean of the squares"
### BEGIN HIDDEN TESTS
assert torch.allclose(x.grad, 2 * (x - y).detach() / 5), "the gradient has to reach the input"
### END HIDDEN TESTS

# %% {header("model", solution=True)}
class Model:
    """Remembers the mean of what it has seen."""

    ### BEGIN SOLUTION
    def fit(self, values):
        self.mean = values.mean()
        return self

    def score(self, values):
        return abs(values - self.mean)
    ### END SOLUTION

# %% {header("t-model", grade=True, locked=True, points=4)}
import numpy as np

values = np.random.default_rng(0).normal(size=8)
model = Model().fit(values)
assert np.allclose(model.score(values), abs(values - values.mean())), "the distance from the mean"
### BEGIN HIDDEN TESTS
assert np.isclose(model.mean, values.mean()), "the mean is kept"
### END HIDDEN TESTS

# %% [markdown]
# Why?

# %% [markdown] {header("why", grade=True, solution=True, points=5)}
# Because the threshold comes from healthy people.
#
# === BEGIN MARK SCHEME ===
# Two points for "healthy", three for "validation".
# === END MARK SCHEME ===
'''
RIGHT = {
    "dice": "def dice(a, b):\n    return 2 * (a & b).sum() / (a.sum() + b.sum())",
    "threshold": "threshold = 0.95",
    "loss": "def loss(x, y):\n    return ((x - y) ** 2).mean()",
    "model": "class Model:\n    def fit(self, values):\n        self.mean = values.mean()\n        return self\n\n"
    "    def score(self, values):\n        return abs(values - self.mean)",
}


def write_source(folder: Path) -> Assignment:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "9_toy.py"
    path.write_text(SOURCE, encoding="utf-8")
    return Assignment(path)


def submission(assignment: Assignment, answers: dict[str, str], first: str = "", last: str = ""):
    """The student's copy with cells filled in, and a cell of the student's own at the start or the end."""
    notebook = copy.deepcopy(student_copy(assignment.notebook))
    for cell in notebook.cells:
        if grade_id(cell) in answers:
            cell["source"] = answers[grade_id(cell)]
    if first:
        notebook.cells.insert(0, new_code_cell(first))
    if last:
        notebook.cells.append(new_code_cell(last))
    return notebook


def hand_in(folder: Path, student: str, notebook) -> Path:
    path = folder / "submitted" / student / "9_toy" / "9_toy.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")  # in ASCII, whatever a student has typed
    return path
