"""A scheduler and workers that are there already, jobs of a queue, and what is said when they do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from course_lib import sweep
from course_lib.errors import BadInput
from course_lib.sweep import cluster
from course_lib.sweep.__main__ import main
from course_lib.sweep.attempt import close_idle


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """The address of a scheduler with two workers, each a process of its own as on other computers."""
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1"]
    with open(tmp_path / "dask.log", "w") as log:
        commands = [[*dask, "scheduler", *options, "--port", "0", "--no-dashboard"]]
        commands += [[*dask, "worker", *options, "--nthreads", "1", "--no-dashboard"]] * 2
        processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        ends = time.monotonic() + 60
        while not file.exists() and time.monotonic() < ends:
            time.sleep(0.1)
        yield yaml.safe_load(file.read_text())["address"]
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


def test_runs_of_a_cluster_that_was_there_and_stays(scheduler, measure, toy, tmp_path, marked, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("name: toys\nnotebook: toy.ipynb\nseed: [1, 2, 3, 4]\n")
    with pytest.raises(SystemExit) as ended:
        main([str(grid), "--scheduler", scheduler, "--output", str(tmp_path / "out")])
    assert ended.value.code == 0
    with cluster.connect(scheduler=scheduler) as client:
        assert len(client.nthreads()) == 2
        table = sweep.read_results(tmp_path / "out")
        assert table["seed"].unique().tolist() == [1, 2, 3, 4] and table["run_worker"].nunique() == 2
        assert set(table["run_worker"]) == set(client.nthreads())
        with pytest.raises(BadInput, match="worker tcp.* does not see .*no file system that both share"):
            cluster.check_workers(client, [tmp_path / "elsewhere" / ".session"])
        client.run(close_idle)
    assert marked() == []


def test_a_worker_that_is_lost_for_good_is_replaced(monkeypatch, measure, tmp_path):
    """As on a busy computer, where Dask gives up a worker that starts too slowly."""
    monkeypatch.setattr(cluster, "HEAL_SECONDS", 0.5)
    monkeypatch.setitem(cluster.PATIENT, "distributed.deploy.lost-worker-timeout", "1s")
    with cluster.connect(workers=1) as client:
        before = set(client.nthreads())
        [nanny] = client.cluster.workers.values()
        client.sync(nanny.close)
        grid = {"name": "g", "detectors": ["A"]}
        table = sweep.run(grid, client, output=tmp_path / "out", measure=measure, progress=False)
        assert set(table["run_worker"]) == set(client.nthreads()) and not before & set(client.nthreads())


def test_a_scheduler_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_JOIN", 2)
    with pytest.raises(BadInput, match=r"\[scheduler\] no Dask scheduler answers at tcp://127.0.0.1:9"):
        with cluster.connect(scheduler="tcp://127.0.0.1:9"):
            pass


def test_workers_with_another_version_are_refused(client, tmp_path, monkeypatch):
    (tmp_path / ".session").write_text("")
    cluster.check_workers(client, [tmp_path / ".session"])
    monkeypatch.setattr(cluster, "library_digest", lambda: "mine")
    with pytest.raises(BadInput, match="another version of the course"):
        cluster.check_workers(client, [tmp_path / ".session"])


def test_the_page_is_looked_at_and_not_only_its_status(client):
    pytest.importorskip("bokeh")
    link = cluster.dashboard(client)
    assert link.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(link) as page:
        text = page.read().decode()
    assert "Dask" in text and "bokeh" in text and "needs bokeh" not in text


def test_a_page_that_says_it_cannot_be_shown_is_none(monkeypatch):
    class Client:
        dashboard_link = "data:text/html,<p>Dask needs bokeh >= 3.1.0 for the dashboard.</p>"

    assert cluster.dashboard(Client()) == ""


@pytest.mark.parametrize(("queue", "directive"), [("slurm", "#SBATCH --cpus-per-task=2"), ("pbs", "#PBS -l walltime=")])
def test_the_job_script_of_a_queue_says_what_its_settings_say(queue, directive, toy, tmp_path, capsys):
    pytest.importorskip("dask_jobqueue")
    settings = {"cores": 2, "memory": "8GB", "walltime": "00:30:00", "job_script_prologue": ["source env/bin/activate"]}
    (tmp_path / "queue.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "grid.yaml").write_text("notebook: toy.ipynb\nseed: [1, 2]\n")
    main([str(tmp_path / "grid.yaml"), f"--{queue}", str(tmp_path / "queue.yaml"), "--dry-run"])
    printed = capsys.readouterr().out
    assert "2 runs, 0 done before" in printed and "toy_seed=1_" in printed
    assert directive in printed and "00:30:00" in printed and "source env/bin/activate" in printed
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://" in printed
    assert not os.environ.get("SLURM_JOB_ID")


@pytest.mark.parametrize(
    ("text", "said"),
    [("cores: 2\nmemory: 8GB\nqueu: x", "refuses these settings"), ("[1]", "settings map"), ("a: [", "cannot be read")],
)
def test_wrong_settings_of_a_queue_are_one_sentence(text, said, tmp_path):
    pytest.importorskip("dask_jobqueue")
    (tmp_path / "queue.yaml").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        cluster.job_script("slurm", tmp_path / "queue.yaml")
    assert "queue.yaml" in str(caught.value)


def test_no_worker_is_too_few():
    with pytest.raises(BadInput, match="workers is 1 or more, not 0"), cluster.connect(workers=0):
        pass
