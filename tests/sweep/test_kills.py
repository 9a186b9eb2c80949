"""Workers killed at random: every number comes out as if nothing had happened, and no process stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from course_lib import sweep
from course_lib.sweep.cluster import connect

RUNS, KILLS = 60, 8


def kill_workers(client, stop: threading.Event, moments: random.Random, killed: list[int]) -> None:
    """SIGKILL to one of the cluster's processes, again and again, at random moments."""
    nannies = list(client.cluster.workers.values())
    while len(killed) < KILLS and not stop.wait(moments.uniform(0.2, 2.0)):
        process = moments.choice(nannies).process
        if process is not None and process.pid and process.pid not in killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute and a half where nothing else is going on
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_sixty_runs_with_workers_killed_at_random_give_the_undisturbed_table(toy, tmp_path, marked):
    grid = {"name": "toys", "notebook": str(toy), "seed": range(RUNS // 2), "parameters": {"factor": [0.5, 3.0]}}
    stop, killed = threading.Event(), []
    with connect(workers=2) as client:
        calm = sweep.run(grid, client, output=tmp_path / "calm", progress=False)
        killer = threading.Thread(target=kill_workers, args=(client, stop, random.Random(0), killed))
        killer.start()
        try:
            table = sweep.run(grid, client, output=tmp_path / "wild", progress=False)
        finally:
            stop.set()
            killer.join()
    assert len(killed) == KILLS and len(calm) == 3 * RUNS
    pd.testing.assert_frame_equal(table.drop(columns=sweep.PROVENANCE), calm.drop(columns=sweep.PROVENANCE))
    runs = sweep.read_runs(tmp_path / "wild")
    assert (runs["status"] == "done").all() and runs["attempts"].max() > 1
    assert runs["attempts"].sum() <= RUNS + KILLS  # what was done is not done again
    assert not list((tmp_path / "wild" / ".private").iterdir())
    assert marked() == []


def start(*arguments) -> subprocess.Popen:
    """The command line, as a terminal starts it."""
    command = [sys.executable, "-m", "course_lib.sweep", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    return subprocess.Popen(command, start_new_session=True, **pipes)


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("ending", ["SIGINT", "SIGKILL"])
def test_a_sweep_that_is_stopped_leaves_no_process_and_goes_on(toy, tmp_path, marked, ending):
    grid = tmp_path / "grid.yaml"
    grid.write_text("name: toys\nnotebook: toy.ipynb\nparameters: {mode: [ok, hang]}\n")
    process = start(grid, "--output", tmp_path / "out", "--workers", 2)
    ends = time.monotonic() + 120
    while not list(tmp_path.glob("out/runs/*ok*/done.json")) or len(list(tmp_path.glob("out/.attempts/*"))) < 2:
        assert time.monotonic() < ends and process.poll() is None
        time.sleep(0.1)
    if ending == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all processes of the terminal
    else:
        process.kill()
    said = process.communicate(timeout=60)[0]
    assert marked() == []
    if ending == "SIGINT":
        assert process.returncode == 130 and "The same command goes on from here." in said
        assert sweep.read_runs(tmp_path / "out").set_index("mode")["status"].to_dict() == {
            "ok": "done",
            "hang": "not run",
        }
        assert not list(tmp_path.glob("out/.private/*")) and not list(tmp_path.glob("out/.session*"))
    assert len(list(tmp_path.glob("out/runs/*"))) == 1
    again = start(grid, "--output", tmp_path / "out", "--workers", 2, "--run-seconds", 1, "--retries", 0)
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 1 and "longer than 1 seconds" in said
    assert sweep.read_runs(tmp_path / "out").set_index("mode")["attempts"].to_dict() == {"ok": 1, "hang": 2}
