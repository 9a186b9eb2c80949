"""Calls side by side, each in a process of its own that ends with the process that has started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait

from course_lib.runtime import cores


def side_by_side(
    function: Callable, items: Iterable, workers: int, started: Callable = lambda item: None
) -> Iterator[tuple]:
    """Call `function(item)` for the items in order, `workers` at a time; yields each item and result as they end.

    A call that raises, or whose process is killed, gives the exception as its result, and the others go on. Calls that
    are under way when the caller stops are killed. With one worker all is done in this process.

    Args:
        function: it and the items can be pickled.
        items: what it is called with.
        workers: processes; the cores are shared out among them.
        started: called with each item before its call.
    """
    if workers <= 1:
        for item in items:
            started(item)
            yield item, _result(function, item)
        return
    waiting, under_way = list(items), {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < workers:
                started(waiting[0])
                process, answer = _start(function, waiting[0], max(1, cores() // workers))
                under_way[answer] = waiting.pop(0), process
            for answer in wait(list(under_way)):
                item, process = under_way.pop(answer)
                yield item, _received(answer, process)
    finally:
        for _, process in under_way.values():
            process.kill()
            process.join()


def _start(function: Callable, item: object, threads: int) -> tuple:
    """A process that makes the call, and the pipe that its result comes through."""
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
    answer, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, threads, function, item))
    process.start()
    theirs.close()
    return process, answer


def _received(answer: Connection, process) -> object:
    try:
        return answer.recv()
    except EOFError:
        process.join()
        return ChildProcessError(f"its process was killed (exit code {process.exitcode}).")
    except Exception as error:  # what it raised cannot be made again here
        return error
    finally:
        answer.close()
        process.join()


def _call(answer: Connection, threads: int, function: Callable, item: object) -> None:
    """What the process does."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for the kernels that it starts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer.send(_result(function, item))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # and its kernel ends with it


def _result(function: Callable, item: object) -> object:
    try:
        return function(item)
    except Exception as error:  # the caller's to report
        return error
