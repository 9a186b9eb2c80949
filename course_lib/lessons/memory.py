"""The memory that a lesson takes: its kernel and the processes that the kernel starts."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil

INTERVAL = 0.2  # seconds between two looks


class PeakMemory:
    """Watch this process's children while the block runs: `with PeakMemory() as memory: ...; memory.mib`.

    What the processes hold at the same time counts. Where the system keeps a process's own peak (Linux, Windows), a
    short one of a single process is seen too; elsewhere it can be missed.
    """

    def __init__(self):
        self.mib = 0.0
        self._done = threading.Event()
        self._before = {process.pid for process in psutil.Process().children(recursive=True)}

    def __enter__(self) -> PeakMemory:
        """Start watching."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        """Stop watching."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            children = [p for p in psutil.Process().children(recursive=True) if p.pid not in self._before]
            now, peaks = zip(*map(_bytes, children), strict=True) if children else ([0], [0])
            self.mib = max(self.mib, sum(now) / 2**20, max(peaks) / 2**20)


def _bytes(process: psutil.Process) -> tuple[int, int]:
    """The resident memory of a process: now, and the largest so far where the system keeps it (else now)."""
    try:
        memory = process.memory_info()
        return memory.rss, max(memory.rss, getattr(memory, "peak_wset", 0), _linux_peak(process.pid))
    except psutil.Error:
        return 0, 0  # it has just ended


def _linux_peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
