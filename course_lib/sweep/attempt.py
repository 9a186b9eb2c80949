"""What a Dask worker does for one run: `attempt(job)`. It may be called twice for one run, at once or in turn."""

from __future__ import annotations

import os
import platform
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from course_lib.library import library_digest
from course_lib.sweep import folders
from course_lib.sweep.runner import IDLE_SECONDS, OUTCOME, STOPPED, Runner

SECONDS_TO_SEE = 5  # until a file that another computer has written is seen here
_IDLE: list[Runner] = []  # processes that have done a notebook and can do the next: starting one takes seconds
_LOCK = threading.Lock()


class RunFailed(RuntimeError):
    """A run did not end well; its folder holds the log and what there is of its notebook."""


def attempt(job: dict) -> dict:
    """Do one run and make its folder.

    Args:
        job: plain values: sweep (folder), session, id, kind, target, parameters, columns, measure, key, library,
            seconds, mib (0: what the worker may take), environ, again (repeat a finished one).

    Returns:
        The run's `done.json`.

    Raises:
        RunFailed: an error, a time or memory limit, a process that died.
    """
    sweep = Path(job["sweep"])
    if not sees(folders.session_file(sweep, job["session"])):
        where = f"{platform.node()} does not see the sweep's folder {sweep} (or its sweep is over)."
        raise RunFailed(f"{where} Workers need it under the same path: a shared file system.")
    done = folders.finished(sweep, job["id"], job["key"])
    if done is not None and not (job["again"] and done["session"] != job["session"]):
        return done
    worker = _worker_name()
    private = folders.private_folder(sweep, job["session"], job["id"])
    started = datetime.now(UTC).isoformat(timespec="seconds")
    number = folders.note_attempt(sweep, job["id"], worker)
    library = library_digest()  # as it is now: someone may have changed it since the sweep began
    folders.write_json(private / "run.json", job | {"started": started, "library": library})
    clock = time.monotonic()
    trouble, peak = _do(job, library, private, lambda: not folders.session_file(sweep, job["session"]).exists())
    about = {"started": started, "seconds": round(time.monotonic() - clock, 3), "peak_mib": round(peak, 1)}
    about |= {"host": platform.node(), "cores": os.cpu_count(), "worker": worker, "attempt": number}
    key = job["key"] if library == job["library"] else "the code changed meanwhile"
    return _finish(job, private, trouble, {"key": key, "session": job["session"]} | about)


def _do(job: dict, library: str, private: Path, stopped) -> tuple[str, float]:
    """What went wrong (empty if nothing), and the peak of the memory."""
    runner = _take(job["environ"], library, private / "log.txt")
    try:
        trouble = runner.do(private, job["seconds"], job["mib"] or _share_of_memory(), stopped)
    except BaseException:
        runner.kill()
        raise
    outcome = folders.read_json(private / OUTCOME)
    trouble = trouble or outcome.get("cause", "")
    if trouble or job["kind"] != "notebook":
        runner.kill()  # a detector run gets a fresh process
    else:
        runner.idle_since = time.monotonic()
        with _LOCK:
            _IDLE.append(runner)
    return trouble, runner.peak_mib


def _take(environ: dict[str, str], library: str, log: Path) -> Runner:
    """An idle process with these settings and this code, or a new one."""
    with _LOCK:
        for runner in [*_IDLE]:
            _IDLE.remove(runner)
            same = (runner.environ, runner.library) == (environ, library)
            if same and runner.process.poll() is None and time.monotonic() - runner.idle_since < IDLE_SECONDS / 2:
                return runner
            runner.kill()
    return Runner(environ, library, log)


def close_idle() -> None:
    """End the processes that wait for another notebook now; left alone, they end after a minute."""
    with _LOCK:
        while _IDLE:
            _IDLE.pop().kill()


def _finish(job: dict, private: Path, trouble: str, about: dict) -> dict:
    """Complete the attempt's folder and make it the run's."""
    if trouble == STOPPED:
        folders.remove(private)
        raise RunFailed(trouble)
    outcome = folders.read_json(private / OUTCOME)
    environment = folders.read_json(private / "environment.json")
    environment |= {name: value for name, value in about.items() if name not in ("key", "session")}
    folders.write_json(private / "environment.json", environment | {"cpu_seconds": outcome.get("cpu_seconds")})
    (private / OUTCOME).unlink(missing_ok=True)
    running = private / "notebook.running.ipynb"
    if running.exists():
        running.replace(private / "notebook.failed.ipynb")
    if trouble:
        folders.write_json(private / folders.FAILED, about | {"cause": trouble})
    else:
        folders.write_json(private / folders.DONE, about)
    folders.publish(Path(job["sweep"]), job["id"], private)
    if trouble:
        raise RunFailed(trouble)
    return about


def sees(path: Path) -> bool:
    """Whether a file is there, or comes to be seen within seconds, as on network file systems."""
    ends = time.monotonic() + SECONDS_TO_SEE
    while not path.exists():
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True


def _worker():
    try:
        from distributed import get_worker

        return get_worker()
    except (ImportError, ValueError):
        return None  # called without Dask


def _worker_name() -> str:
    worker = _worker()
    return "" if worker is None else str(worker.address)


def _share_of_memory() -> float:
    """MiB that a run may take: the worker's limit by its threads, or nine tenths of the computer's memory."""
    import psutil

    worker = _worker()
    limit = worker.memory_manager.memory_limit if worker else None  # None also for a worker without one
    return (limit / worker.state.nthreads if limit else 0.9 * psutil.virtual_memory().total) / 2**20
