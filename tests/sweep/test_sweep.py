"""Runs that end well, runs that go wrong in each way, and what is kept of them."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from filelock import FileLock

from course_lib import sweep
from course_lib.errors import BadInput
from course_lib.sweep import attempt as attempt_module
from course_lib.sweep import folders
from course_lib.sweep import sweep as sweep_module
from course_lib.sweep.attempt import RunFailed, attempt, close_idle
from course_lib.sweep.grid import read_grid


@pytest.fixture(autouse=True)
def _same_code(monkeypatch):
    """Whether finished runs are kept is tested with a digest that no editing meanwhile changes."""
    for module in (sweep_module, attempt_module):
        monkeypatch.setattr(module, "library_digest", lambda: "the code")


@pytest.fixture
def do(client, tmp_path):
    """A function that does a grid's runs and returns the results and what became of the runs."""
    client.run(setattr, attempt_module, "library_digest", partial(str, "the code"))

    def run(grid: dict, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
        output = options.pop("output", tmp_path / "out")
        table = sweep.run({"name": "toys"} | grid, client, output=output, progress=False, **options)
        return table, sweep.read_runs(output)

    return run


def test_each_wrong_run_costs_itself_only(do, client, toy, tmp_path, marked):
    modes = ["ok", "raise", "hang", "die", "eat"]
    grid = {"notebook": str(toy), "seed": [1], "parameters": {"mode": modes}}
    with pytest.warns(UserWarning, match="4 of 5 runs failed: see .*runs.csv"):
        table, runs = do(grid, retries=0, run_seconds=20, run_mib=500)
    assert table["mode"].unique().tolist() == ["ok"] and len(table) == 3
    runs = runs.set_index("mode")
    assert runs["status"].tolist() == ["done"] + ["failed"] * 4
    said = ["", "cell 2: ValueError: planted", "longer than 20 seconds", "the kernel died", "more than its 500 MiB"]
    for mode, text in zip(modes, said, strict=True):
        assert text in runs.at[mode, "cause"]
    for mode in modes[1:]:
        folder = tmp_path / "out" / runs.at[mode, "folder"]
        assert json.loads((folder / "failed.json").read_text())["cause"] == runs.at[mode, "cause"]
        assert not (folder / "done.json").exists()
        assert len(nbformat.read(folder / "notebook.failed.ipynb", 4).cells) >= 2
    assert not list((tmp_path / "out" / ".private").iterdir())
    client.run(close_idle)
    assert marked() == []


def test_a_run_whose_end_was_not_heard_of_before_the_sweep_was_stopped_counts(do, toy, tmp_path, monkeypatch):
    def stopped(client, function, jobs, retries):
        function(jobs[0])
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(sweep_module, "completed", stopped)
    with pytest.raises(KeyboardInterrupt):
        do({"notebook": str(toy), "seed": [1, 2]})
    close_idle()
    assert sweep.read_runs(tmp_path / "out")["status"].tolist() == ["done", "not run"]
    assert sweep.read_results(tmp_path / "out")["seed"].tolist() == [1] * 3


def test_another_split_of_the_same_scans_is_another_data_set(tmp_path):
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1" / "sub-1_FLAIR.nii.gz").write_bytes(b"scan")
    digests = set()
    for split in ("", "train", "test"):
        if split:
            (tmp_path / "participants.tsv").write_text(f"participant_id\tsplit\nsub-1\t{split}\n")
        digests.add(sweep_module._data_digest(str(tmp_path)))
    assert len(digests) == 3 and sweep_module._data_digest("atlas") == ""


def test_a_run_on_a_worker_without_a_memory_limit_may_take_the_computers(monkeypatch):
    worker = SimpleNamespace(memory_manager=SimpleNamespace(memory_limit=None), state=SimpleNamespace(nthreads=2))
    monkeypatch.setattr(attempt_module, "_worker", lambda: worker)
    whole = attempt_module._share_of_memory()
    worker.memory_manager.memory_limit = 2**30
    assert attempt_module._share_of_memory() == 512 < whole


def test_an_idle_process_that_may_be_ending_gets_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt_module, "Runner", lambda *_: "a new one")
    ended = []
    old = SimpleNamespace(environ={}, library="x", process=SimpleNamespace(poll=lambda: None), idle_since=0.0)
    old.kill = lambda: ended.append(True)
    monkeypatch.setattr(attempt_module, "_IDLE", [old])
    assert attempt_module._take({}, "x", tmp_path / "log") == "a new one" and ended == [True]
    old.idle_since = time.monotonic()
    monkeypatch.setattr(attempt_module, "_IDLE", [old])
    assert attempt_module._take({}, "x", tmp_path / "log") is old


def test_detector_runs_get_fresh_processes_and_one_that_ends_costs_itself(do, measure, tmp_path, marked):
    grid = {"detectors": ["A", "raises", "ends", "B"], "seed": [0, 1], "parameters": {"heights": 2}}
    with pytest.warns(UserWarning, match="4 of 8 runs failed"):
        table, runs = do(grid, measure=measure)
    assert table["detector"].tolist() == ["A"] * 4 + ["B"] * 4
    assert table["value"].tolist() == [(seed + 1) / 7 for _ in "AB" for seed in (0, 1) for _ in range(2)]
    assert table.columns[:6].tolist() == ["sweep", "run", "data", "seed", "profile", "heights"]
    causes = runs.groupby("detector")["cause"].first()
    assert causes["raises"] == "ValueError: planted" and "ended by itself (exit code 3)" in causes["ends"]
    assert runs.groupby("detector")["attempts"].first().to_dict() == {"A": 1, "B": 1, "ends": 2, "raises": 2}
    log = (tmp_path / "out" / runs.at[2, "folder"] / "log.txt").read_text()
    assert "measuring raises" in log and "Traceback" in log
    assert marked() == []


def test_a_run_leaves_what_is_needed_to_judge_it(do, toy, tmp_path):
    table, runs = do({"notebook": str(toy), "seed": 3, "parameters": {"factor": [0.5], "sizes": [[1, 2]]}})
    folder = tmp_path / "out" / runs.at[0, "folder"]
    names = ["done.json", "environment.json", "log.txt", "metrics.csv", "notebook.ipynb", "records", "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    asked = json.loads((folder / "run.json").read_text())
    assert asked["parameters"] == {"seed": 3, "factor": 0.5, "sizes": [1, 2]}
    about = json.loads((folder / "environment.json").read_text())
    assert {"python", "platform", "packages", "commit", "library", "host", "cores"} <= set(about)
    assert about["cpu_seconds"] > 0 and about["peak_mib"] > 30 and about["attempt"] == 1
    assert "cell 1" in (folder / "log.txt").read_text()
    assert table["value"].tolist() == [3 * 0.5 / 7, 3 * 0.5 / 7, 1.0]
    assert table["kind"].tolist() == ["result", "result", "claim"] and table.at[2, "metric"] == "positive"
    assert table[sweep.PROVENANCE].notna().all(axis=None)


def test_both_tables_on_disk_are_the_one_that_is_returned(do, toy, tmp_path):
    table, _ = do({"notebook": str(toy), "seed": [0, 1], "parameters": {"sizes": [[1, 2], [3]]}})
    pd.testing.assert_frame_equal(sweep.read_results(tmp_path / "out"), table, check_dtype=False)
    stored = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert stored["value"].tolist() == table["value"].tolist() and stored["sizes"].tolist() == table["sizes"].tolist()


def test_finished_runs_are_kept_until_their_text_or_the_code_changes(do, toy, tmp_path, monkeypatch):
    grid = {"notebook": str(toy), "seed": [0, 1]}
    first, _ = do(grid)
    monkeypatch.setattr(sweep_module.cluster, "connect", None)  # nothing is started if there is nothing to do
    again, runs = do(grid)
    pd.testing.assert_frame_equal(first, again)
    assert runs["status"].tolist() == ["kept", "kept"] and runs["attempts"].tolist() == [1, 1]
    _, runs = do(grid | {"seed": [1, 2]})
    assert runs["status"].tolist() == ["kept", "done"]
    _, runs = do(grid, fresh=True)
    assert runs["status"].tolist() == ["done", "done"] and runs["attempts"].tolist() == [2, 2]
    notebook = nbformat.read(toy, 4)
    notebook.cells[1]["source"] += "\nprint('changed')"
    nbformat.write(notebook, toy)
    assert do(grid)[1]["status"].tolist() == ["done", "done"]
    assert do(grid)[1]["status"].tolist() == ["kept", "kept"]
    monkeypatch.setattr(sweep_module, "library_digest", lambda: "other code")
    assert do(grid)[1]["status"].tolist() == ["done", "done"]


def test_only_what_failed_is_done_again(do, toy, tmp_path):
    grid = {"notebook": str(toy), "parameters": {"mode": ["ok", "raise"]}}
    with pytest.warns(UserWarning, match="1 of 2"):
        do(grid, retries=0)
    notebook = nbformat.read(toy, 4)
    notebook.cells[1]["source"] = notebook.cells[1]["source"].replace('"raise"', '"never"')
    nbformat.write(notebook, toy)
    table, runs = do(grid, only_failed=True)
    assert runs["status"].tolist() == ["not run", "done"] and table["mode"].unique().tolist() == ["raise"]
    assert not (tmp_path / "out" / runs.at[1, "folder"] / "failed.json").exists()


def test_two_sweeps_in_one_folder_take_turns(do, toy, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    lock, held = FileLock(tmp_path / "out" / ".lock", thread_local=False), threading.Event()
    other = threading.Thread(target=lambda: (lock.acquire(), held.set(), time.sleep(2), lock.release()))
    other.start()
    held.wait()
    _, runs = do({"notebook": str(toy)})
    assert "Another sweep is at work" in capsys.readouterr().out and runs["status"].tolist() == ["done"]


# ---- one run, started twice -----------------------------------------------------------------------------------------


@pytest.fixture
def job(toy, tmp_path) -> dict:
    """A run as a worker gets it; its session is open."""
    [one] = read_grid({"name": "toys", "notebook": str(toy), "seed": 1}).runs
    made = sweep_module._job(one, tmp_path / "out", "session", "", "the code", {"seconds": 60}, again=False)
    (tmp_path / "out").mkdir()
    folders.session_file(tmp_path / "out", "session").write_text("")
    return made


def test_a_run_that_two_workers_do_at_once_is_whole(job, tmp_path):
    threads = [threading.Thread(target=attempt, args=(job,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [folder] = (tmp_path / "out" / "runs").iterdir()
    assert (folder / "notebook.ipynb").exists() and json.loads((folder / "done.json").read_text())["key"] == job["key"]
    assert not list((tmp_path / "out" / ".private").iterdir())
    before = (folder / "done.json").stat().st_mtime_ns
    assert attempt(job)["attempt"] in (1, 2)  # lost by its worker, and asked for once more: nothing is done
    assert (folder / "done.json").stat().st_mtime_ns == before


def test_an_attempt_that_fails_replaces_no_good_result(tmp_path):
    def private(session: str, **outcome) -> Path:
        folder = folders.private_folder(tmp_path, session, "r")
        folders.write_json(folder / "run.json", {"key": "k", "session": session, "again": session == "fresh"})
        about = outcome | {"key": "k", "session": session}
        folders.write_json(folder / ("failed.json" if "cause" in outcome else "done.json"), about)
        return folder

    folders.publish(tmp_path, "r", private("one", n=1))
    folders.publish(tmp_path, "r", private("two", cause="planted"))
    assert folders.finished(tmp_path, "r", "k")["n"] == 1
    folders.publish(tmp_path, "r", private("fresh", n=2))
    folders.publish(tmp_path, "r", private("fresh", cause="planted"))
    assert folders.finished(tmp_path, "r", "k")["n"] == 2
    assert folders.finished(tmp_path, "r", "another key") is None
    assert not list((tmp_path / ".private").iterdir())


def test_an_attempt_of_a_sweep_that_is_over_ends_and_leaves_nothing(job, toy, tmp_path, marked):
    [one] = read_grid({"name": "toys", "notebook": str(toy), "parameters": {"mode": "hang"}}).runs
    hanging = sweep_module._job(one, tmp_path / "out", "session", "", "the code", {"seconds": 60}, again=False)
    mark = folders.session_file(tmp_path / "out", "session")
    threading.Timer(3, mark.unlink).start()  # as the end of its sweep does
    with pytest.raises(RunFailed, match="stopped"):
        attempt(hanging)
    assert not (tmp_path / "out" / "runs").exists() and not list((tmp_path / "out" / ".private").iterdir())
    assert marked() == []
    with pytest.raises(RunFailed, match="does not see the sweep's folder"):
        attempt(job)


def test_a_client_that_is_none_is_refused(toy):
    with pytest.raises(BadInput, match="client is a distributed.Client, not 3"):
        sweep.run({"name": "toys", "notebook": str(toy)}, client=3)
