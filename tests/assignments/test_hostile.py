"""Submissions that attack the grader: each gets its honest mark, and harms nobody.

All are marked in one run, as in a folder; then each test looks at what came of one of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from assignment_toy import RIGHT, SECRET, hand_in, submission, write_source
from attacks import ATTACKS

from course_lib.assignments.grade import mark_all
from course_lib.assignments.limits import Limits
from course_lib.assignments.source import grade_id

FULL = {"t-dice": 2, "t-threshold": 1, "t-loss": 3, "t-model": 4}
LIMITS = Limits(cell_seconds=6, total_seconds=90, memory=1200 * 2**20, processes=40)
MARKER = "sleep 98765"  # a process that a submission leaves behind
TOKEN = "token-of-the-lecturer-0815"


@pytest.fixture(scope="module")
def world(tmp_path_factory, needs_sandbox):
    """Everything that is attacked: files with their digests, listeners, and the results of all submissions."""
    folder = tmp_path_factory.mktemp("hostile")
    assignment = write_source(folder / "sources")
    victims = folder / "victims"
    victims.mkdir()
    (victims / "gradebook.db").write_text("the gradebook")
    places = {"victims": victims, "course": Path(__file__).parents[2] / "course_lib", "source": assignment.path}
    places |= {"folder": folder, "marker": MARKER, "unix": f"{folder}/u", "abstract": f"listener-{os.getpid()}"}
    with Listeners(places) as listeners:
        jobs = []
        for name, attack in ATTACKS.items():
            here = places | {"result": f"{folder}/graded/{name}"}
            first, last = (filled(cell, here) for cell in (attack.first, attack.last))
            notebook = submission(assignment, RIGHT | attack.answers, first, last)
            path = hand_in(folder, name, notebook)
            jobs.append({"source": assignment.path, "notebook": path, "folder": folder, "student": name})
            jobs[-1]["result"] = here["result"]
        before = digests(folder, places["course"])
        os.environ["A_TOKEN"] = TOKEN
        begin = time.monotonic()
        results = mark_all(jobs, workers=2, limits=LIMITS)
        os.environ.pop("A_TOKEN")
        print(f"{len(jobs)} submissions in {time.monotonic() - begin:.0f} s, load {os.getloadavg()[0]:.1f}")
        yield {"results": {result["student"]: result for result in results}, "folder": folder} | {
            "before": before,
            "course": places["course"],
            "heard": listeners.heard,
        }


def filled(cell: str, places: dict) -> str:
    for name, value in places.items():
        cell = cell.replace(f"@{name}@", str(value))
    return cell.strip()


class Listeners:
    """Someone listens on loopback, on a Unix socket in a folder, and on one without a file."""

    def __init__(self, places: dict):
        self.heard, self.sockets = [], []
        tcp = socket.create_server(("127.0.0.1", 0))
        places["port"] = tcp.getsockname()[1]
        for address in (places["unix"], "\0" + places["abstract"]):
            self.sockets.append(socket.socket(socket.AF_UNIX))
            self.sockets[-1].bind(address)
            self.sockets[-1].listen()
        self.sockets.append(tcp)

    def __enter__(self):
        for each in self.sockets:
            threading.Thread(target=self._listen, args=[each], daemon=True).start()
        return self

    def __exit__(self, *error):
        for each in self.sockets:
            each.close()

    def _listen(self, each):
        while True:
            try:
                self.heard.append(each.accept()[0].recv(100))
            except OSError:
                return


def digests(folder: Path, course: Path) -> dict:
    files = [*folder.rglob("submitted/**/*.ipynb"), *folder.rglob("sources/*"), *folder.rglob("victims/*")]
    files += [*course.glob("assignments/*.py"), *course.glob("__init__.py")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


@pytest.mark.parametrize("name", ATTACKS)
def test_each_gets_its_honest_mark(world, name):
    result = world["results"][name]
    points = {key: test["points"] for key, test in result["tests"].items()}
    honest = {key: 0 if key in ATTACKS[name].lost else most for key, most in FULL.items()}
    assert points == honest, json.dumps(result, indent=1)


def test_what_they_aimed_at_is_intact(world):
    assert digests(world["folder"], world["course"]) == world["before"]
    assert not list(world["folder"].rglob("written"))


def test_nobody_was_reached(world):
    assert world["heard"] == []
    assert "sent" not in shown(world, "network")


def test_nothing_was_learned(world):
    text = (world["folder"] / "graded" / "reads_tests.ipynb").read_text()
    seen = shown(world, "reads_tests")
    assert SECRET not in text and TOKEN not in text
    assert "control True hits 0 0" in seen  # the search finds what is there
    assert "others 0" in seen  # nor the path of anybody's submission


def shown(world, name: str) -> str:
    notebook = nbformat.read(world["folder"] / "graded" / f"{name}.ipynb", 4)
    return "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))


def test_nobody_stays_behind(world):
    deadline = time.monotonic() + 10
    while (left := stragglers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def stragglers() -> list[str]:
    own = [process for process in psutil.Process().children(recursive=True) if process.status() != "zombie"]
    found = [f"a child: {process}" for process in own]
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if line.startswith(MARKER):
            found.append(line)
    return found


def test_a_flood_is_cut(world):
    path = world["folder"] / "graded" / "floods.ipynb"
    assert path.stat().st_size < 2 * LIMITS.output
    assert "too long and was cut" in path.read_text()


def test_notes_tell_the_lecturer(world):
    notes = {name: "; ".join(result["notes"]) for name, result in world["results"].items()}
    assert "could not be stopped" in notes["endless_stubborn"]
    assert "GiB of memory" in notes["memory_shared"] and "GiB of memory" in notes["memory_family"]
    assert "is left out" in notes["kills_its_kernel"]
    assert "cell 1 is left out: its process ended" in notes["kills_everybody"]  # its own, and not the warden


def test_executed_notebooks_hold_no_hidden_test(world):
    for name in ATTACKS:
        path = world["folder"] / "graded" / f"{name}.ipynb"
        assert SECRET not in path.read_text()
        assert {"t-dice", "t-model"} <= {grade_id(cell) for cell in nbformat.read(path, 4).cells}
