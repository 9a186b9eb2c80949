"""A student's class on the leaderboard: trained and run in the sandbox, with the numbers that it has outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from course_lib import leaderboard
from course_lib.assignments import contest
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.files import ROOT
from course_lib.training import fit
from tests.detectors.conftest import toy_brains

CLASS = """
import torch
from course_lib.detectors.base import Detector

class MyDetector(Detector):
    def __init__(self, image_shape):
        super().__init__()
        self.image_shape = image_shape
        self.mean = torch.nn.Parameter(torch.zeros(image_shape))

    def training_losses(self, images):
        return {"error": (images[:, 0] - self.mean).square().mean()}

    @torch.no_grad()
    def anomaly_map(self, images):
        return (images[:, 0] - self.mean).abs() * (images[:, 0] > 0)
"""
SECRET = "the secret itself"
REFUSED = {
    "no class": (["x = 1"], "it defines no MyDetector"),
    "failed cell": (["1 / 0"], "code cell 1 ended with error"),
    "a number": (["MyDetector = 3"], "cannot be trained"),
    "looks at its batch": (
        [CLASS.replace("(images[:, 0] > 0)", "images[:, 0].amax()")],
        "depends on the others in its batch",
    ),
    "raises": (
        [CLASS + "\n    def training_losses(self, images):\n        raise ValueError('my own words')"],
        "my own words",
    ),
    "ends later": (
        [CLASS.replace("return (images", "if len(images) > 5: import os; os._exit(0)\n        return (images")],
        "anomaly_map",
    ),
}


def spy(place: Path) -> list[str]:
    """A class whose map is 1 where neither the held-out people nor the secret can be found, and 0 where they can."""
    look = f"""
        import os, pathlib
        found = pathlib.Path({str(place)!r}).exists() or any({SECRET!r} in value for value in os.environ.values())
        for folder, _, names in os.walk("/work"):
            found = found or {leaderboard.SECRET!r} in names
    """
    lie = CLASS.replace(
        "return (images[:, 0] - self.mean).abs()", "return (0.0 if found else 1.0) * (images[:, 0] > -1)"
    )
    return [textwrap.dedent(look), lie]


@pytest.fixture(scope="module")
def entered(tmp_path_factory):
    """What became of all cases: a folder with maps, and the refusals by name."""
    folder = tmp_path_factory.mktemp("contest")
    place = folder / "held_out"
    place.mkdir()
    (place / leaderboard.SECRET).write_text(SECRET)
    cases = {"sound": [CLASS], "spy": spy(place)} | {name: cells for name, (cells, _) in REFUSED.items()}
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.assignments.contest_driver", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((folder / "results.json").read_text())
    if "unavailable" in results:
        pytest.skip(f"no sandbox here: {results['unavailable']}")
    return folder, results


def test_maps_from_the_sandbox_are_those_of_the_same_class_outside(entered):
    names: dict = {"__name__": "somewhere"}
    exec(CLASS, names)
    torch.manual_seed(3)
    detector = names["MyDetector"]((32, 32))
    fit(detector, toy_brains(40), steps=30, batch_size=16, seed=3, progress=False)
    maps = torch.from_numpy(np.load(entered[0] / "sound.npy"))
    torch.testing.assert_close(maps, detector.anomaly_map(toy_brains(6, seed=1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_enter_is_told_why(entered, name):
    assert REFUSED[name][1] in entered[1][name]


def test_a_sandbox_that_does_not_start_is_no_traceback(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("the sandbox did not start: no disk")

    monkeypatch.setattr(contest, "StudentProcess", fails)
    nbformat.write(new_notebook(cells=[new_code_cell(CLASS)]), tmp_path / "mine.ipynb")
    entering = contest.trained_in_sandbox(tmp_path / "mine.ipynb", "MyDetector", toy_brains(4), steps=1, nursery=None)
    with pytest.raises(SandboxUnavailable, match="did not start: no disk"), entering:
        pass


def test_neither_the_held_out_people_nor_the_secret_are_in_reach(entered):
    assert (np.load(entered[0] / "spy.npy")[toy_brains(6, seed=1)[:, 0].numpy() > 0] == 1).all()
