"""The computers that do the runs: this one's cores, a Dask scheduler that is there, or jobs of SLURM or PBS.

Workers on other computers need the course (the same code), and the sweep's and data's folders under the same paths, as
on a shared file system. Dask's connections carry code and are neither encrypted nor protected by a password unless
Dask is configured so: the local cluster listens on this computer alone; join only schedulers of your own network.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from course_lib.errors import BadInput
from course_lib.library import library_digest
from course_lib.runtime import cores

if TYPE_CHECKING:
    from distributed import Client

DEATHS = 10  # a run is done in a process of its own: that its worker dies is seldom its fault
SECONDS_TO_JOIN = 30
HEAL_SECONDS = 5  # between two looks at whether a local cluster has all its workers
# On a computer with more processes than cores everything takes long; that is no reason to give a worker up.
PATIENT = {
    "distributed.deploy.lost-worker-timeout": "60s",
    "distributed.scheduler.worker-ttl": "60 minutes",
    "distributed.comm.timeouts.connect": "120s",
    "distributed.comm.timeouts.tcp": "300s",
}
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}
JOBS = 10  # of a queue at a time, unless told otherwise


@contextmanager
def connect(
    workers: int | None = None,
    scheduler: str | None = None,
    queue: str | None = None,
    settings: str | Path | Mapping | None = None,
    *,
    deaths: int = DEATHS,
) -> Iterator[Client]:
    """A Dask client of a cluster that ends with the block, or of one that was there before and stays.

    Args:
        workers: processes (default: one a core), or jobs of a queue (default 10). One thread each.
        scheduler: address of a scheduler to join, such as tcp://host:8786.
        queue: "slurm" or "pbs": start workers as its jobs.
        settings: of the queue: keyword arguments of dask-jobqueue's cluster, or a YAML file of them.
        deaths: of workers over one task, after which it counts as failed; a scheduler that is joined has its own.

    Raises:
        BadInput: the scheduler does not answer, or the queue's settings are wrong.
    """
    import dask
    from distributed import Client

    if workers is not None and workers < 1:
        raise BadInput(f"workers is 1 or more, not {workers}.", field="workers")
    if scheduler:
        with _join(scheduler) as client:
            yield client
        return
    # One task a worker and none in its queue: a task is not to be blamed for the death of a worker that another kills.
    own = {"distributed.scheduler.allowed-failures": deaths, "distributed.scheduler.worker-saturation": 1.0}
    with dask.config.set(PATIENT | own), _queue(queue, settings) if queue else _local(workers) as cluster:
        if queue:
            cluster.adapt(minimum=0, maximum=workers or JOBS)
        with Client(cluster) as client, nullcontext() if queue else _healed(cluster):
            yield client


def _local(workers: int | None):
    """Processes on this computer. In a script, call from below `if __name__ == "__main__":`, as Dask asks for."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=workers or cores(),
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0" if has_dashboard() else None,
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _healed(cluster) -> Iterator[None]:
    """While the block runs, replace workers that are lost for good.

    A worker that is killed is started again by its nanny. But on a busy computer that can take so long that Dask gives
    the nanny up, and it does not start another one by itself: without workers, a sweep would wait for ever.
    """
    over, wanted = threading.Event(), len(cluster.worker_spec)

    def heal() -> None:
        while not over.wait(HEAL_SECONDS):
            cluster.scale(wanted)

    thread = threading.Thread(target=heal, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def has_dashboard() -> bool:
    """Whether Dask can show its pages: they need bokeh."""
    return importlib.util.find_spec("bokeh") is not None


def dashboard(client: Client) -> str:
    """The address of the cluster's page; empty if there is none. The page itself is looked at: without bokeh the
    scheduler answers too, with a page that says so.
    """
    link = client.dashboard_link
    try:
        with urllib.request.urlopen(link, timeout=5) as page:
            return link if b"bokeh" in page.read().lower().replace(b"needs bokeh", b"") else ""
    except (OSError, ValueError, TypeError, AttributeError):
        return ""


@contextmanager
def _join(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=SECONDS_TO_JOIN)
    except (OSError, ValueError, TimeoutError) as error:
        cause = f"no Dask scheduler answers at {address} ({type(error).__name__})."
        raise BadInput(cause, field="scheduler", remedy="Start one with `dask scheduler`, and `dask worker`.") from None
    with client:
        yield client


def _queue(queue: str, settings: str | Path | Mapping | None):
    """A cluster whose workers are jobs; none is asked for yet."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        remedy = 'Run `pip install "learning-normal[cluster]"`, or `pip install dask-jobqueue`.'
        raise BadInput("dask-jobqueue is not installed.", field=queue, remedy=remedy)
    import dask_jobqueue

    file = None if isinstance(settings, Mapping) else settings
    options = dict(settings) if isinstance(settings, Mapping) else _read_settings(Path(settings))
    try:
        return getattr(dask_jobqueue, QUEUES[queue])(**({"processes": 1, "n_workers": 0} | options))
    except (TypeError, ValueError) as error:
        raise BadInput(f"dask-jobqueue refuses these settings ({error}).", file=file, field=queue) from error


def job_script(queue: str, settings: str | Path | Mapping) -> str:
    """The script of one job, as it would be handed in."""
    with _queue(queue, settings) as cluster:
        return cluster.job_script()


def _read_settings(path: Path) -> dict:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"these settings cannot be read ({error}).", file=path) from error
    if not isinstance(settings, dict):
        raise BadInput("settings map names to values.", file=path, remedy="Such as: cores: 4")
    return settings


def check_workers(client: Client, files: list[Path]) -> None:
    """Refuse workers that cannot do their work, before any is sent to them.

    Args:
        client: of the cluster.
        files: that they have to see, one in each folder that they need.

    Raises:
        BadInput: a worker lacks the course, has another version of it, or does not see a folder.
    """
    needs = "Workers need the same course and Python, and the folders under the same paths."
    versions = {library_digest()}
    try:
        answers = client.run(_look, [str(file) for file in files], on_error="return")
    except Exception as error:  # what a worker's unpickling raises reaches us in a dozen types
        raise BadInput(f"the workers do not answer ({error}).", field="scheduler", remedy=needs) from error
    versions.add(library_digest())  # someone may be editing it
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            cause = f"worker {worker} cannot load the course ({type(answer).__name__}: {answer})."
        elif answer["missing"]:
            cause = f"worker {worker} does not see {answer['missing']}: it is on no file system that both share."
        elif answer["library"] not in versions:
            cause = f"worker {worker} has another version of the course, or of Python, torch or NumPy."
        else:
            continue
        raise BadInput(cause, field="scheduler", remedy=needs)


def _look(files: list[str]) -> dict:
    """What a worker has; runs on it."""
    from course_lib.sweep.attempt import sees

    missing = next((file for file in files if not sees(Path(file))), "")
    return {"missing": missing, "library": library_digest()}
