"""The first process in the sandbox: starts the student's kernel, runs cells in it, and tells the grader.

It shares no memory with the student's code and cannot be killed by it. What it hands on is plain JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid

from course_lib.assignments import sandbox
from course_lib.assignments.channel import ChannelClosed, receive, send

START_SECONDS = 120
WATCH = 0.1  # seconds between looks at the memory
GRACE = 3.0  # seconds that a kernel has to obey an interrupt
_KEPT = {"stream", "display_data", "execute_result", "error"}
_NO_NETWORK = """import socket as _s
def _no(*_): raise OSError("there is no network while grading")
_s.socket.connect = _s.socket.connect_ex = _s.create_connection = _s.getaddrinfo = _no
del _s, _no"""


class KernelGone(RuntimeError):
    """The kernel has ended."""


def main(options: dict, channel: socket.socket, calls: int) -> None:
    """Run a kernel and answer the grader until it hangs up. Never returns.

    Args:
        options: `memory`, `processes`, `disk`, `output`, and whether there is a `sandbox` around.
        channel: to the grader.
        calls: number of the socket over which the grader will talk to the kernel itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the only signal that Python lets end the first process of a sandbox
    try:
        with Kernel(options, calls, channel) as kernel:
            kernel.start()
            _say(channel, {"status": "ready"})
            while True:
                request = json.loads(receive(channel))
                _say(channel, kernel.run(request["code"], request["seconds"]) if "code" in request else kernel.serve())
    except KernelGone as error:
        _say(channel, {"status": "died", "text": str(error)})
    except ChannelClosed:
        pass
    finally:
        os._exit(0)


def _say(channel: socket.socket, answer: dict) -> None:
    with contextlib.suppress(ChannelClosed):
        send(channel, json.dumps(answer).encode())


class Kernel:
    """An IPython kernel and the four sockets to it (in the sandbox's own tmpfs)."""

    def __init__(self, options: dict, calls: int, channel: socket.socket):
        self.options, self.calls, self.channel, self.pid, self.process = options, calls, channel, 0, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL) if self.pid else None

    def start(self) -> None:
        """Start it and wait until it talks."""
        import zmq
        from jupyter_client.connect import write_connection_file
        from jupyter_client.session import Session

        folder = os.environ["TMPDIR"]
        key = uuid.uuid4().hex.encode()
        path, info = write_connection_file(f"{folder}/kernel.json", ip=f"{folder}/k", transport="ipc", key=key)
        self.pid = self._spawn(path)
        os.close(self.calls)
        self.session = Session(key=key, check_pid=False)
        context = zmq.Context()
        self.shell, self.iopub = context.socket(zmq.DEALER), context.socket(zmq.SUB)
        self.iopub.subscribe(b"")
        for each, port in ((self.shell, "shell_port"), (self.iopub, "iopub_port")):
            each.linger = 0
            each.rcvhwm, each.maxmsgsize = 20, 32 * 2**20  # what is more is dropped, here or there
            each.connect(f"ipc://{folder}/k-{info[port]}")
        self.watched = 0.0
        deadline = time.monotonic() + START_SECONDS
        heard = False
        while not heard:  # what is published before the subscription arrives is lost: ask until it is heard
            self.session.send(self.shell, "kernel_info_request", {})
            heard = bool(self.iopub.poll(100))
            self._check(deadline)
        numbers = f"{self.options['output']}, {self.options['processes'] if self.options['sandbox'] else 0}"
        code = f"__import__('course_lib.assignments.agent', fromlist=['calm']).calm({numbers})"
        self.run(code if self.options["sandbox"] else f"{code}\n{_NO_NETWORK}", START_SECONDS, silent=True)

    def _spawn(self, path: str) -> int:
        flags = ["-f", path, "--IPKernelApp.log_level=50", "--HistoryManager.enabled=False"]
        flags.append("--InteractiveShell.colors=NoColor")
        if not self.options["sandbox"]:  # a fresh interpreter: not every system likes a fork of a large one
            command = [sys.executable, "-m", "ipykernel_launcher", *flags]
            self.process = subprocess.Popen(command, pass_fds=[self.calls], start_new_session=True)
            return self.process.pid
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            self.channel.close()
            sandbox.die_with_parent()
            sandbox.hide_memory(False)
            sandbox.limit(self.options["memory"], self.options["processes"])
            _become_kernel(flags)
        finally:
            os._exit(1)

    def run(self, code: str, seconds: float, silent: bool = False) -> dict:
        """Run a cell: its status (ok, error, timeout or stuck), outputs and seconds."""
        begin = time.monotonic()
        content = {"code": code, "silent": silent, "store_history": not silent, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": False}
        message = self.session.send(self.shell, "execute_request", content)
        cell = _Cell(message["header"]["msg_id"], self.options["output"])
        interrupted = False
        while not cell.done:
            left = begin + seconds + (GRACE if interrupted else 0) - time.monotonic()
            if left <= 0 and interrupted:
                return cell.answer("stuck", begin)
            if left <= 0:
                interrupted = True
                os.kill(self.pid, signal.SIGINT)
            if cell.reply and time.monotonic() > cell.reply + 2:
                cell.cut = True  # a flood of outputs has washed away the word that it is idle
                break
            self._pump(cell)
        return cell.answer("timeout" if interrupted else "", begin)

    def serve(self) -> dict:
        """Let the kernel talk to the grader on their own socket, until the grader hangs up here."""
        code = (
            f"__import__('course_lib.assignments.agent', fromlist=['serve']).serve({self.calls}, get_ipython().user_ns)"
        )
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "user_expressions": {}}
        self.session.send(self.shell, "execute_request", content)
        _say(self.channel, {"status": "serving"})
        while True:
            self._pump(None)

    def _pump(self, cell: _Cell | None) -> None:
        """Take what there is, from the grader's side only that it is gone."""
        import zmq

        poller = zmq.Poller()
        for each in (self.shell, self.iopub, self.channel.fileno()):
            poller.register(each, zmq.POLLIN)
        events = dict(poller.poll(20))
        if self.channel.fileno() in events:
            raise ChannelClosed("the grader has hung up.")
        for each in (self.shell, self.iopub):
            if each in events:
                parts = each.recv_multipart()
                if cell is not None:
                    cell.take(self._read(parts))
        self._check(None)

    def _read(self, parts: list[bytes]) -> dict:
        try:
            return self.session.deserialize(self.session.feed_identities(parts)[1])
        except Exception:  # whatever a student's code put on the socket
            return {"msg_type": "", "parent_header": {}, "content": {}}

    def _check(self, deadline: float | None) -> None:
        """Collect processes that ended, as the first process must.

        Raises:
            KernelGone: the kernel is among them, or did not start in time.
        """
        if self.process is not None:
            if self.process.poll() is not None:
                raise KernelGone("its process ended")
        else:
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                    if ended == self.pid:
                        self.pid = 0
                        raise KernelGone("its process ended")
        if deadline and time.monotonic() > deadline:
            raise KernelGone("it did not start")
        full = time.monotonic() > self.watched + WATCH
        self.watched = time.monotonic() if full else self.watched
        if full or self.options["sandbox"]:  # counting is quick there, and has to outrun a fork bomb
            _watch(self.pid, self.options, full)


def _watch(kernel: int, options: dict, memory: bool) -> None:
    """Count the student's processes, and if asked their memory.

    Raises:
        KernelGone: there are too many, or they hold too much; ending this process ends them all.
    """
    inside = options["sandbox"]
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()] if inside else _family(kernel)
    if len(found) > options["processes"] + 1:
        raise KernelGone(f"it started more than {options['processes']} processes")
    used = 0
    if (
        memory and sum(_bytes(pid, shared=True) for pid in found) > options["memory"]
    ):  # an upper bound, and quickly read
        used = sum(_bytes(pid, shared=False) for pid in found)
    if used > options["memory"]:
        raise KernelGone(f"it used more than {options['memory'] / 2**30:.1f} GiB of memory")


def _family(kernel: int) -> list[int]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return [kernel, *(child.pid for child in psutil.Process(kernel).children(recursive=True))]
    return []


def _bytes(pid: int, shared: bool) -> int:
    """Memory of a process; pages that it shares with others count fully, or in parts."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if shared or not hasattr(process.memory_full_info(), "pss"):
            return process.memory_info().rss
        return process.memory_full_info().pss
    return 0


class _Cell:
    """What one cell gives, as it comes."""

    def __init__(self, message: str, largest: int):
        self.message, self.left, self.outputs = message, largest, []
        self.reply, self.idle, self.status, self.cut, self.count = 0.0, False, "", False, None

    @property
    def done(self) -> bool:
        return bool(self.reply) and self.idle

    def take(self, message: dict) -> None:
        if message["parent_header"].get("msg_id") != self.message:
            return
        kind, content = message["msg_type"], message["content"]
        if kind == "execute_reply":
            self.reply, self.status = time.monotonic(), str(content.get("status"))
            self.count = content.get("execution_count")
        elif kind == "status":
            self.idle = content.get("execution_state") == "idle"
        elif kind == "clear_output":
            self.outputs.clear()
        elif kind in _KEPT:
            self._keep({"output_type": kind} | {key: value for key, value in content.items() if key != "transient"})

    def _keep(self, output: dict) -> None:
        before = self.outputs[-1] if self.outputs else {}
        size = len(json.dumps(output, default=str))
        if size > self.left:
            self.cut = True
            shorter = {"stream": {"text": str(output.get("text"))[: max(self.left, 0)]}}
            shorter["error"] = {"traceback": [], "evalue": str(output.get("evalue"))[:1000]}
            if output["output_type"] not in shorter:
                return
            output = output | shorter[output["output_type"]]
        self.left -= size
        if output["output_type"] == "stream" == before.get("output_type") and output["name"] == before["name"]:
            before["text"] += output["text"]
        else:
            self.outputs.append(output)

    def answer(self, status: str, begin: float) -> dict:
        found = status or ("ok" if self.status == "ok" else "error")
        return {"status": found, "outputs": self.outputs, "cut": self.cut, "count": self.count} | {
            "seconds": round(time.monotonic() - begin, 3)
        }


def _become_kernel(flags: list[str]) -> None:
    from ipykernel.kernelapp import IPKernelApp

    for stream in (0, 1, 2):  # the host's terminal is not for students
        descriptor = os.open(os.devnull, os.O_RDWR)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["kernel"]
    sys.path.insert(0, "")
    application = IPKernelApp.instance()
    application.initialize(flags)
    application.start()
