"""One process that imports what all submissions need, and forks a process for each of them.

It is started with a clean environment, so that none of its children ever held the lecturer's. It knows how many jobs
there are, not whose: a grader reads its own once the process in which a student's code will run has been forked. A job
that takes too long is killed with everything that it has started; a job that fails harms no other.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

from course_lib.assignments import sandbox
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.files import ROOT

ALWAYS = ("numpy", "torch", "pandas", "matplotlib.pyplot", "ipykernel.kernelapp", "jupyter_client.session", "zmq")
ALWAYS += (
    "psutil",
    "jupytext",
    "jsonschema",
    "nbformat.validator",
    "course_lib.assignments.marking",
    "course_lib.assignments.agent",
)
SLACK = 120.0  # seconds that a grader itself may take
GRADER_MEMORY = 4 * 2**30  # bytes of one grader
_NO_SANDBOX = 77
_JOB = "{}.json"  # in the foreman's own folder, where it is at work


def work(jobs: list[dict], workers: int, preload: list[str]) -> Iterator[tuple[int, str]]:
    """Mark the jobs, `workers` at a time; yields each one's index and what went wrong, or "", as they end.

    Raises:
        SandboxUnavailable: this computer has no namespaces for us.
    """
    with tempfile.TemporaryDirectory(prefix="lng-", ignore_cleanup_errors=True) as home:
        environment = sandbox.environment(home) | {"PYTHONPATH": str(ROOT), "TMPDIR": home}
        if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
            del environment["PYTHONDONTWRITEBYTECODE"]  # its libraries may be cached; a student's may not
        for index, job in enumerate(jobs):
            Path(home, _JOB.format(index)).write_text(json.dumps(job), encoding="utf-8")
        asked = {"workers": workers, "preload": preload}
        asked["jobs"] = [{"seconds": patience(job["limits"]), "sandbox": not job.get("unsandboxed")} for job in jobs]
        process = subprocess.Popen(
            [sys.executable, "-m", "course_lib.assignments.foreman"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            done = set()
            for line in process.stdout:
                index, code = json.loads(line)
                if code == _NO_SANDBOX:
                    raise SandboxUnavailable("this computer does not let us make namespaces")
                done.add(index)
                yield index, "" if code == 0 else f"the grader ended with code {code}"
            for index in set(range(len(jobs))) - done:
                yield index, "the grader did not come to it"
        finally:
            process.stdin.close()
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGTERM)
            process.stdout.close()
            process.wait()


def patience(limits: dict) -> float:
    """Seconds until a job is given up. A check that began in time may take twice a cell's time, see `marking.check`."""
    return limits["total_seconds"] + 2 * limits["cell_seconds"] + SLACK


def _foreman(jobs: list[dict], workers: int) -> None:
    """The loop: fork, wait, kill what takes too long, tell."""
    waiting, running, parent = list(enumerate(jobs)), {}, os.getppid()
    while waiting or running:
        while waiting and len(running) < workers:
            index, job = waiting.pop(0)
            running[_fork(index, job["sandbox"])] = (index, time.monotonic() + job["seconds"])
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            index, _ = running.pop(pid)
            print(json.dumps([index, os.waitstatus_to_exitcode(status)]), flush=True)
        elif not pid:
            time.sleep(0.02)
        for pid, (_, deadline) in running.items():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        if os.getppid() != parent:
            return  # nobody listens any more


def _fork(index: int, sandboxed: bool) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sandbox.die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(2, 1)  # standard output is the foreman's
        code = _one(index, sandboxed)
    except BaseException as error:
        print(f"{_job(index)['notebook']}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _one(index: int, sandboxed: bool) -> int:
    from course_lib.assignments.marking import mark
    from course_lib.assignments.student import Nursery

    nursery = Nursery() if sandboxed else None  # first of all: see there
    sandbox.limit(GRADER_MEMORY, 1000)
    try:
        mark(_job(index), nursery)
    except SandboxUnavailable as error:
        print(error, file=sys.stderr)
        return _NO_SANDBOX
    finally:
        if nursery:
            nursery.close()
    return 0


def _job(index: int) -> dict:
    return json.loads(Path(_JOB.format(index)).read_text(encoding="utf-8"))


def main() -> None:
    """Read the jobs from standard input and do them."""
    sandbox.die_with_parent()
    asked = json.loads(sys.stdin.readline())
    for name in [*ALWAYS, *asked["preload"]]:
        with contextlib.suppress(Exception):  # whoever needs it will say so
            importlib.import_module(name)
    nbformat.validate(nbformat.v4.new_notebook())  # it reads its schema once
    _foreman(asked["jobs"], asked["workers"])


if __name__ == "__main__":
    main()
