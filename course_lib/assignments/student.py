"""The grader's view of a student's process: start it, run cells, talk to what they defined, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from course_lib.assignments import sandbox, warden
from course_lib.assignments.channel import ChannelClosed, ChannelTimeout, receive, send
from course_lib.assignments.limits import Limits
from course_lib.assignments.proxy import Remote, StudentGone
from course_lib.files import ROOT

ANSWER = 32 * 2**20  # bytes: the outputs of one cell
SLACK = 15.0  # seconds beyond a cell's limit until the whole sandbox is given up


class Nursery:
    """A process that was forked before anything secret was read; sandboxes are forked from it.

    So no memory of a student's process ever held a hidden test, and what is imported already is not imported again.
    """

    def __init__(self):
        self.channel, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            try:
                self.channel.close()
                _nursery(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def start(self, options: dict, control: socket.socket, calls: socket.socket) -> int:
        """Fork a sandbox that owns two sockets; returns the number of its outer process."""
        socket.send_fds(self.channel, [json.dumps(options).encode()], [control.fileno(), calls.fileno()])
        return int.from_bytes(receive(self.channel, 30), "big")

    def close(self) -> None:
        """End it, and with it all sandboxes."""
        self.channel.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _nursery(channel: socket.socket) -> None:
    sandbox.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # sandboxes that end leave nothing behind
    while True:
        message, descriptors, *_ = socket.recv_fds(channel, 2**16, 2)
        if not message:
            return
        pid = os.fork()
        if not pid:
            try:
                sandbox.die_with_parent()
                _enter(json.loads(message), *descriptors)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        send(channel, pid.to_bytes(8, "big"))


def _enter(options: dict, control: int, calls: int) -> None:
    """The outer process of a sandbox: leaves the host, starts the first inner process and waits for its end."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _only(control, calls)
    sandbox.forget_environment()
    os.environ.update(options["environment"])
    channel = socket.socket(fileno=control)
    try:
        sandbox.unshare()
        inner = os.fork()
        if inner:
            channel.close()
            os.close(calls)
            os.waitpid(inner, 0)
            return
        sandbox.die_with_parent()
        sandbox.furnish(options["root"], options["disk"], options["hidden"])
        sandbox.lock(options["processes"])
        sandbox.hide_memory(True)
    except sandbox.SandboxUnavailable as error:
        send(channel, json.dumps({"status": "unavailable", "text": str(error)}).encode())
        return
    except OSError as error:  # no disk, no processes left: another time it may work
        send(channel, json.dumps({"status": "died", "text": str(error)}).encode())
        return
    tempfile.tempdir = None
    warden.main(options, channel, calls)


def _only(*kept: int) -> None:
    """Close every other descriptor; standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    edges = [2, *sorted(kept), 2**16]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        os.closerange(low + 1, high)


class StudentProcess:
    """One running kernel in a sandbox.

    Args:
        limits: what it may use.
        nursery: where it is forked; None runs it without a sandbox, in a fresh interpreter.
        hidden: folders that it must not see, beside the course's own lessons, sources, tests and data.

    Raises:
        SandboxUnavailable: this computer has no namespaces for us.
        RuntimeError: it does not start, which is no fault of the student's.
    """

    def __init__(self, limits: Limits, nursery: Nursery | None, hidden: Iterable[str] = ()):
        self.limits, self.process = limits, None
        # Short names: a path of a socket has at most a hundred characters.
        self.folder = tempfile.TemporaryDirectory(prefix="g-", ignore_cleanup_errors=True)
        self.control, control = socket.socketpair()
        self.calls, calls = socket.socketpair()
        options = limits.plain() | {"root": self.folder.name, "sandbox": nursery is not None}
        options["hidden"] = [*hidden, *sandbox.own_folders()]
        home = sandbox.WORK if nursery else self.folder.name
        options["environment"] = sandbox.environment(home)
        with control, calls:
            self.pid = nursery.start(options, control, calls) if nursery else self._bare(options, control, calls)
        try:
            answer = self._hear(warden.START_SECONDS + SLACK)
        except StudentGone as error:  # no code of the student's has run yet
            self.close()
            raise RuntimeError(f"the sandbox did not start: {error}") from None
        if answer["status"] == "unavailable":
            self.close()
            raise sandbox.SandboxUnavailable(answer["text"])

    def run(self, code: str, seconds: float) -> dict:
        """Run one cell: `status` (ok, error, timeout), `outputs`, `cut`, `count`, `seconds`.

        Raises:
            StudentGone: the process ended, or the cell cannot be stopped.
        """
        with contextlib.suppress(ChannelClosed, ChannelTimeout):
            send(self.control, json.dumps({"code": code, "seconds": seconds}).encode(), SLACK)
        answer = self._hear(seconds + warden.GRACE + SLACK)
        if answer["status"] == "stuck":
            raise StudentGone(f"it took longer than {seconds:g} seconds and could not be stopped")
        return answer

    def serve(self) -> Remote:
        """Begin to talk with what the cells have defined; no more cells can be run."""
        with contextlib.suppress(ChannelClosed, ChannelTimeout):
            send(self.control, b"{}", SLACK)
        self._hear(SLACK)
        return Remote(self.calls, self.limits.cell_seconds)

    def last_words(self) -> str:
        """Why the process ended, if it is known."""
        try:
            return str(json.loads(receive(self.control, 2.0, ANSWER)).get("text", ""))
        except (ChannelClosed, ChannelTimeout, ValueError, AttributeError):
            return ""

    def close(self) -> None:
        """End it with all that it has started."""
        for each in (self.control, self.calls):
            each.close()
        _end(self.pid)
        if self.process is not None:
            self.process.wait()
        self.folder.cleanup()

    def _hear(self, seconds: float) -> dict:
        try:
            answer = json.loads(receive(self.control, seconds, ANSWER))
        except (ChannelClosed, ChannelTimeout, ValueError) as error:
            raise StudentGone(str(error)) from None
        if type(answer) is not dict or answer.get("status") == "died":
            raise StudentGone(str(answer.get("text", "its process ended")))
        return answer

    def _bare(self, options: dict, control: socket.socket, calls: socket.socket) -> int:
        os.makedirs(f"{self.folder.name}/tmp", exist_ok=True)
        command = [sys.executable, "-m", "course_lib.assignments.student", json.dumps(options)]
        command += [str(control.fileno()), str(calls.fileno())]
        environment = options["environment"] | {"PYTHONPATH": str(ROOT)}
        descriptors = [control.fileno(), calls.fileno()]
        self.process = subprocess.Popen(
            command, cwd=self.folder.name, env=environment, pass_fds=descriptors, start_new_session=True
        )
        return self.process.pid


def _end(pid: int) -> None:
    """Kill a process and its descendants. In a sandbox the first suffices; without one, whoever is still related."""
    import psutil

    with contextlib.suppress(psutil.Error):
        outer = psutil.Process(pid)
        family = [outer, *outer.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()


def main() -> None:
    """Without a sandbox: the warden in a fresh interpreter."""
    options, control, calls = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sandbox.limit(options["memory"], options["processes"])
    warden.main(options, socket.socket(fileno=control), calls)


if __name__ == "__main__":
    main()
