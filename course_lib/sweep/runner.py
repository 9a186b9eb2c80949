"""The process that does runs for a worker, watched from outside: time, memory, and no process left behind.

A run is never done in the worker itself. If it hangs, eats the memory or dies, its process is killed with all that it
has started (a kernel is one of them), and the worker goes on. If the worker is killed, the run's process notices that
its input has closed, and ends itself and its kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from course_lib.sweep.folders import read_json

LOOK, LOOK_CLOSELY = 0.05, 0.4  # seconds between two looks: at the outcome, at all processes
IDLE_SECONDS = 60  # after which a process that gets no run ends
OUTCOME = "outcome.json"  # written by the run's process when it is through
STOPPED = "the sweep was stopped."


class Runner:
    """A process that does runs one after another: `course_lib.sweep.child`.

    Args:
        environ: variables that it gets beside the worker's.
        library: the digest of the code that it starts with.
        log: where it writes until its first run.
    """

    def __init__(self, environ: dict[str, str], library: str, log: Path):
        self.environ, self.library = environ, library
        flag = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows; Ctrl-C is the sweep's to handle
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "course_lib.sweep.child"],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=os.environ | environ,
                start_new_session=os.name == "posix",
                creationflags=flag,
            )
        self.known = {psutil.Process(self.process.pid)}
        self.peak_mib = 0.0
        self.idle_since = 0.0  # time.monotonic() when its last run was over

    def do(self, folder: Path, seconds: float, mib: float, stopped: Callable[[], bool]) -> str:
        """Do the run whose `run.json` is in `folder`.

        Args:
            folder: the attempt's private folder; it holds what the run wrote, and `outcome.json`.
            seconds: it may take; it is killed after them.
            mib: memory that its processes may hold together.
            stopped: says whether nobody waits for the run any more.

        Returns:
            Why it was ended, or ended itself, before its outcome was there; empty if all is well.
        """
        self.peak_mib, ends, closely = 0.0, time.monotonic() + seconds, 0.0
        try:
            self.process.stdin.write(f"{folder}\n".encode())
            self.process.stdin.flush()
        except OSError:
            return self._ended(folder)
        while not (folder / OUTCOME).exists():
            if self.process.poll() is not None:
                return self._ended(folder)
            if time.monotonic() > closely:
                closely = time.monotonic() + LOOK_CLOSELY
                held = self.look()
                if held > mib:
                    self.kill()
                    return f"it took more than its {mib:.0f} MiB of memory ({held:.0f})."
                if stopped():
                    self.kill()
                    return STOPPED
            if time.monotonic() > ends:
                self.kill()
                return f"it took longer than {seconds:g} seconds."
            time.sleep(LOOK)
        self.look()
        return ""

    def look(self) -> float:
        """Remember all processes of the run; returns the MiB that they hold."""
        held = 0
        for process in list(self.known):
            try:
                self.known.update(process.children(recursive=True))
            except psutil.Error:
                self.known.discard(process)  # it has ended
        for process in self.known:
            try:
                held += process.memory_info().rss
            except psutil.Error:
                continue
        self.peak_mib = max(self.peak_mib, held / 2**20)
        return held / 2**20

    def kill(self) -> None:
        """Kill the process and all that it has started, also what has lost its parent since."""
        self.look()
        for _ in range(2):  # the second time for what was started in between
            for process in list(self.known):
                try:
                    self.known.update(process.children(recursive=True))
                    process.kill()
                except psutil.Error:
                    continue
            psutil.wait_procs(self.known, timeout=5)
        self.process.wait()
        self.process.stdin.close()

    def _ended(self, folder: Path) -> str:
        code = self.process.wait()
        self.kill()  # its kernel
        if read_json(folder / OUTCOME):
            return ""
        if code < 0:
            return f"its process was killed (signal {-code}), as it is when the memory is used up."
        return f"its process ended by itself (exit code {code})."
