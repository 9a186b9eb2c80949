from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

PARAMETERS = """seed: int = 0  # seed
factor: float = 1.0  # of the result
mode: str = "ok"  # how to go wrong
sizes: list = [1]  # a list
profile: str = "quick"  # profile
"""
# It imports no more than it needs, so that many runs are quick; it writes the record that a lesson would write.
BODY = """import json, os, time
print("the run with seed", seed)
if mode == "raise":
    raise ValueError("planted")
if mode == "hang":
    time.sleep(1000)
if mode == "die":
    os._exit(3)
if mode == "eat":
    held = []
    while True:
        held.append(bytearray(b"x" * 2**24))
        time.sleep(0.01)
folder = os.environ["LEARNING_NORMAL_RECORDS"]
os.makedirs(folder, exist_ok=True)
claim = {"name": "positive", "statement": "It is.", "holds": True, "value": 1.0, "low": None, "high": None, "over": ""}
results = [{"metric": "AP", "family": name, "value": seed * factor / 7} for name in ("ms", "tumour")]
record = {"lesson": "9.1", "complete": True, "claims": [claim], "results": results}
with open(folder + "/9.1.json", "w") as stream:
    json.dump(record, stream)
"""
MEASURES = '''import os
import time

import pandas as pd


def measure(detector, data, seed, profile, device="cpu", *, heights=4):
    """What a detector run of the tests measures."""
    name = detector if isinstance(detector, str) else detector["name"]
    print("measuring", name, flush=True)
    if name == "raises":
        raise ValueError("planted")
    if name == "hangs":
        time.sleep(1000)
    if name == "ends":
        os._exit(3)
    rows = [{"detector": name, "family": family, "metric": "AP", "value": (seed + 1) / 7} for family in ("ms", "all")]
    return pd.DataFrame(rows)
'''


@pytest.fixture
def toy(tmp_path) -> Path:
    """A small notebook that can go wrong in every way."""
    made = new_notebook(cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(BODY)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, tmp_path / "toy.ipynb")
    return tmp_path / "toy.ipynb"


@pytest.fixture
def measure(tmp_path) -> str:
    """The reference of a function that takes the place of `measure_run`."""
    (tmp_path / "measures.py").write_text(MEASURES)
    return f"{tmp_path / 'measures.py'}:measure"


@pytest.fixture(scope="module")
def client():
    """Two workers for the tests that kill none."""
    from course_lib.sweep.cluster import connect

    with connect(workers=2) as made:
        yield made


@pytest.fixture
def marked(monkeypatch):
    """A function that waits until no process of this test's sweeps is left, and returns those that stay.

    A variable in their environment tells them, also when they have lost their parents.
    """
    mark = uuid.uuid4().hex
    monkeypatch.setenv("LEARNING_NORMAL_MARK", mark)

    def left(seconds: float = 20) -> list[str]:
        ends = time.monotonic() + seconds
        while (found := [p for p in psutil.process_iter() if _has(p, mark)]) and time.monotonic() < ends:
            time.sleep(0.2)
        return [f"{process.pid} {' '.join(process.cmdline())}" for process in found if process.is_running()]

    return left


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        if "multiprocessing.resource_tracker" in " ".join(process.cmdline()) and process.ppid() == os.getpid():
            return False  # Python keeps one, from its first new process to the end of this one
        return process.environ().get("LEARNING_NORMAL_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
