"""The student's side of the boundary, inside the student's own kernel: answers the grader's requests one by one.

Nothing here is trusted by the grader: student's code shares this process and may change all of it. All that it can
gain is to send another *value*, and only the grader knows which value would be right.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import socket
import sys
import time
import types

from course_lib.assignments import wire
from course_lib.assignments.channel import ChannelClosed, receive, send

CUT = "The output of this cell is too long and was cut."
LONGEST_MESSAGE = 4000  # characters of an exception's text


def serve(descriptor: int, namespace: dict) -> None:
    """Answer requests on an inherited socket until the other side closes it.

    Args:
        descriptor: the socket's number in this process.
        namespace: the names that student's code has defined.
    """
    with socket.socket(fileno=descriptor) as channel:
        agent = Agent(namespace)
        while True:
            try:
                message = receive(channel)
            except ChannelClosed:
                return
            send(channel, agent.answer(message))


def calm(largest: int, processes: int) -> None:
    """Slow down what runs away, before the warden has to end it.

    Args:
        largest: characters that each cell may print; the rest is dropped, so that it fills no memory.
        processes: when there are more, the next fork waits; 0 where processes cannot be counted.
    """
    left = largest

    def anew(*_):
        nonlocal left
        left = largest
        for stream in (sys.stdout, sys.stderr):
            vars(stream).pop("write", None)
            stream.write = calmed(stream.write)

    def calmed(write):
        def limited(text):
            nonlocal left
            if left <= 0 or not isinstance(text, str):
                return write(text) if left > 0 else len(text)
            kept, left = text[:left], left - len(text)
            return write(kept if left > 0 else f"{kept}\n[{CUT}]\n")

        return limited

    def wait():
        if sum(name.isdigit() for name in os.listdir("/proc")) > processes:
            time.sleep(2)

    if processes:
        os.register_at_fork(before=wait)
    shell = sys.modules["IPython"].get_ipython()
    shell.events.register("pre_run_cell", anew)
    shell._tee = lambda channel: contextlib.nullcontext()  # it keeps all that was ever printed, for a history


class Agent:
    """Keeps the objects that do not cross, by number, and does with them what it is asked."""

    def __init__(self, namespace: dict):
        self.namespace, self.objects, self.nodes, self.calls = namespace, [], [], []
        self.inputs: list = []  # tensors of the running call to which gradients flow

    def answer(self, message: bytes) -> bytes:
        """The reply to one request: `{"value": ...}` or `{"error": ...}`, never an exception."""
        try:
            self.inputs = []
            request = wire.decode(message, self._find, self._tensor_in)
            with _Alarm(request.get("seconds", 0)):
                value = getattr(self, f"_do_{request['do']}")(request)
            return wire.encode({"value": value}, self._keep, self._tensor_out)
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: they end a call, not the kernel
            return wire.encode({"error": _described(error)})

    def _do_get(self, request: dict) -> object:
        name = request["name"]
        if name not in self.namespace:
            raise NameError(f"name {name!r} is not defined")
        return self.namespace[name]

    def _do_call(self, request: dict) -> object:
        _seed(request.get("random"))
        self.calls.append(self.inputs)
        sys.modules["torch"].set_grad_enabled(request["grad"]) if "torch" in sys.modules else None
        return request["target"](*request["args"], **request["kwargs"])

    def _do_getattr(self, request: dict) -> object:
        return getattr(request["target"], request["name"])

    def _do_setattr(self, request: dict) -> None:
        setattr(request["target"], request["name"], request["value"])

    def _do_getitem(self, request: dict) -> object:
        return request["target"][request["key"]]

    def _do_setitem(self, request: dict) -> None:
        request["target"][request["key"]] = request["value"]

    def _do_len(self, request: dict) -> int:
        return len(request["target"])

    def _do_iter(self, request: dict) -> object:
        return _Iterator(iter(request["target"]))

    def _do_next(self, request: dict) -> object:
        return next(request["target"].items)

    def _do_contains(self, request: dict) -> bool:
        return request["value"] in request["target"]

    def _do_text(self, request: dict) -> str:
        return repr(request["target"])[:LONGEST_MESSAGE]

    def _do_backward(self, request: dict) -> list:
        """The gradients of one output of a call with regard to the call's tensors; also into the student's weights."""
        import torch

        inputs = self.calls[request["call"]]
        for leaf, _ in inputs:
            leaf.grad = None
        torch.autograd.backward([self.nodes[request["node"]]], [request["gradient"]], retain_graph=True)
        return [None if leaf.grad is None else leaf.grad.detach().clone() for leaf, _ in inputs]

    def _find(self, fields: dict) -> object:
        return self.objects[fields["id"]]

    def _keep(self, value: object) -> dict:
        if isinstance(value, types.ModuleType):
            raise wire.WireError(f"a graded cell imports the module {value.__name__} itself.")
        self.objects.append(value)
        return {"id": len(self.objects) - 1, "kind": type(value).__name__[:100], "callable": callable(value)}

    def _tensor_in(self, tensor: object, fields: dict) -> object:
        if not fields.get("grad"):
            return tensor
        leaf = tensor.requires_grad_()
        used = leaf if fields["grad"] == "leaf" else leaf.clone()
        self.inputs.append((leaf, used))
        return used

    def _tensor_out(self, tensor: object) -> dict:
        if not tensor.requires_grad:
            return {}
        own = tensor.is_leaf and not any(tensor is leaf for leaf, _ in self.inputs)
        if own:  # a weight of the student's, with the gradient that it has by now
            return {"leaf": True, "gradient": None if tensor.grad is None else tensor.grad.detach().tolist()}
        self.nodes.append(tensor)
        return {"node": len(self.nodes) - 1, "call": len(self.calls) - 1}


class _Iterator:
    """An iterator that is always a handle, also when what it goes over could cross."""

    def __init__(self, items):
        self.items = items


class _Alarm:
    """Raise TimeoutError in a call that takes too long."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self):
        if self.seconds and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *error):
        if self.seconds and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, *_):
        raise TimeoutError(f"your code took longer than {self.seconds:g} seconds")


def _described(error: BaseException) -> dict:
    """An exception as its nearest builtin type and its text."""
    kind = next(base for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base)
    try:
        text = str(error.args[0]) if kind is KeyError and error.args else str(error)
    except BaseException:  # a student's own __str__
        text = ""
    return {"kind": kind.__name__, "name": type(error).__name__[:100], "text": text[:LONGEST_MESSAGE]}


def _seed(states: dict | None) -> None:
    """Random numbers go on as they would in the grader's process, so that `manual_seed` in a test works."""
    if not states:
        return
    import random

    import numpy as np

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    if "torch" in states:
        sys.modules["torch"].set_rng_state(states["torch"])
