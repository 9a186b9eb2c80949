from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from course_lib.lessons.processes import side_by_side

SLEEPER = """
import sys
from course_lib.lessons.processes import side_by_side
from tests.lessons.test_processes import sleep_long
if __name__ == "__main__":
    list(side_by_side(sleep_long, sys.argv[1:], 2))
"""


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def answer(item: str) -> str:
    if item == "cannot be sent":
        raise NeedsTwo("a", "b")
    if item == "raise":
        raise ValueError("planted")
    if item == "die":
        os._exit(3)
    return f"{item} in {os.getpid()} with {os.environ['OMP_NUM_THREADS']}"


def meet(folder: Path) -> int:
    """Wait until two are here at the same time; returns how many were seen."""
    (folder / str(os.getpid())).touch()
    ends = time.monotonic() + 60
    while (seen := len(list(folder.iterdir()))) < 2 and time.monotonic() < ends:
        time.sleep(0.02)
    return seen


def sleep_long(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def test_each_call_has_its_result_or_its_error(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    begun = []
    results = dict(side_by_side(answer, ["a", "raise", "die", "cannot be sent", "b"], 2, begun.append))
    assert begun == ["a", "raise", "die", "cannot be sent", "b"] and set(results) == set(begun)
    assert "NeedsTwo" in str(results["cannot be sent"])
    assert isinstance(results["raise"], ValueError) and str(results["raise"]) == "planted"
    assert "was killed (exit code 3)" in str(results["die"])
    a, b = results["a"].split(), results["b"].split()
    assert a[0] == "a" and b[0] == "b" and len({a[2], b[2], str(os.getpid())}) == 3
    assert int(a[-1]) >= 1 and "OMP_NUM_THREADS" not in os.environ


def test_with_one_worker_all_is_done_here_in_turn():
    assert list(side_by_side(lambda item: 1 / item, [1, 2], 1)) == [(1, 1.0), (2, 0.5)]
    ((_, error),) = side_by_side(lambda item: 1 / item, [0], 1)
    assert isinstance(error, ZeroDivisionError)


def test_two_are_at_work_at_the_same_time(tmp_path):
    assert [seen for _, seen in side_by_side(meet, [tmp_path] * 2, 2)] == [2, 2]


def test_what_is_under_way_is_killed_when_the_caller_stops(tmp_path):
    calls = side_by_side(_first_or_sleep, [tmp_path / "first", tmp_path / "second"], 2)
    next(calls)
    other = int((tmp_path / "second").read_text())
    assert psutil.pid_exists(other)
    calls.close()
    assert not psutil.pid_exists(other)


def _first_or_sleep(path: Path) -> None:
    if path.name == "second":
        sleep_long(str(path))
    while not path.with_name("second").exists() or not path.with_name("second").read_text():
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_no_process_outlives_the_one_that_started_it(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, script, *files], env=os.environ | {"PYTHONPATH": root})
    _until(lambda: all(file.exists() and file.read_text() for file in files))
    process.send_signal(signal.SIGKILL)
    process.wait()
    _until(lambda: not any(psutil.pid_exists(int(file.read_text())) for file in files))


def _until(holds, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)
