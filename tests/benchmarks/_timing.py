"""Interleaved CPU-time comparison of small functions, for machines that are never quiet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def compare(candidates: dict[str, Callable[[], object]], *, rounds: int = 8, seconds: float = 0.3) -> dict[str, float]:
    """The smallest process CPU time of one call, in seconds, of each candidate.

    Every round calls every candidate, so that a noisy spell hits all alike. Use one thread: with more, CPU time
    counts the waiting of idle threads.

    Args:
        candidates: functions without arguments; each is called twice beforehand to warm up.
        rounds: how often to go round.
        seconds: CPU seconds for each candidate in a round; at least two calls are made.
    """
    for function in candidates.values():
        function()
        function()
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, function in candidates.items():
            spent, calls = 0.0, 0
            while spent < seconds or calls < 2:
                started = time.process_time()
                function()
                cpu = time.process_time() - started
                best[name] = min(best[name], cpu)
                spent, calls = spent + cpu, calls + 1
    return best


def machine() -> str:
    """The load, the cores and torch's version and threads, to print above every table."""
    import torch

    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?"
    return f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {os.cpu_count()} cores, load {load}"
