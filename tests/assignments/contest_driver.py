"""Enter several notebooks, one after another: reads cases from a JSON file, writes maps or refusals beside it.

A process of its own: sandboxes have to be forked before torch has computed anything.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import numpy as np

from course_lib.assignments.contest import trained_in_sandbox
from course_lib.assignments.limits import Limits
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.assignments.student import Nursery
from course_lib.errors import BadInput
from tests.detectors.conftest import toy_brains


def main(folder: Path) -> None:
    """Do the cases."""
    nursery = Nursery()
    limits, results = Limits(cell_seconds=120, total_seconds=240), {}
    for name, cells in json.loads((folder / "cases.json").read_text()).items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(notebook, folder / "mine.ipynb")
        budget = {"nursery": nursery, "steps": 30, "seed": 3, "limits": limits}
        try:
            with trained_in_sandbox(folder / "mine.ipynb", "MyDetector", toy_brains(40), **budget) as detector:
                np.save(folder / f"{name}.npy", detector.anomaly_map(toy_brains(6, seed=1)).numpy())
                results[name] = ""
        except BadInput as error:
            results[name] = str(error)
        except SandboxUnavailable as error:
            results = {"unavailable": str(error)}
            break
    nursery.close()
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
