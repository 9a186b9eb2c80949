from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """data: str = "atlas"  # data set
profile: str = "standard"  # quick, standard or full
seed: int = 0  # seed
device: str = "cpu"  # device
rate: float = 0.01  # learning rate
fast: bool = False  # a switch
sizes: list = [1, 2]  # a list
"""
TOY = """# %% [markdown]
# # 9.1 A toy lesson
#
# It has a formula, $x^2$.

# %% tags=["parameters"]
data: str = "atlas"  # data set
profile: str = "standard"  # quick, standard or full
seed: int = 0  # seed
device: str = "cpu"  # device

# %%
import matplotlib.pyplot as plt
import pandas as pd
from tqdm.auto import tqdm

from course_lib.teaching import Lesson

lesson = Lesson("9.1", profile=profile, seed=seed)
lesson.predict("sum", "What is the sum?")

# %%
total = sum(tqdm(range(seed + 10), leave=False))
print(object())
plt.plot([1, 2, 3])
plt.show()
lesson.reveal("sum", total)

# %%
row = dict(detector="A", data="toy", family="ms", level="pixel", metric="AP", protocol="", value=0.5, low=0.4, high=0.6)
lesson.results(pd.DataFrame([row]))
pd.DataFrame([row]).style.hide(axis="index")

# %%
lesson.claim("positive", "The sum is positive", total > 0, value=float(total))
lesson.summary("That was all.")
"""


@pytest.fixture
def notebook(tmp_path):
    """A function that writes a notebook of code cells behind a parameters cell and returns its path."""

    def write(*sources: str, parameters: str = PARAMETERS) -> Path:
        cells = [new_markdown_cell("# Toy"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
        made = new_notebook(cells=[*cells, *map(new_code_cell, sources)])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, tmp_path / "toy.ipynb")
        return tmp_path / "toy.ipynb"

    return write


@pytest.fixture
def toy(tmp_path):
    """A folder like `notebooks/` with one small lesson's source."""
    source = tmp_path / "notebooks" / "9_toys" / "source" / "9.1_toy.py"
    source.parent.mkdir(parents=True)
    source.write_text(TOY, encoding="utf-8")
    return tmp_path / "notebooks"
