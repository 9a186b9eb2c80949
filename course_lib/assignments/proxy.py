"""The grader's side of the boundary: what a graded cell holds instead of the student's objects.

Plain values come as they are. Anything else is a `Handle`: calls, attributes, items, length and iteration go to the
student's process and come back as values. A handle is no number and no truth: it cannot compare, add or convert, so
an object that claims to equal everything gains nothing.
"""

from __future__ import annotations

import builtins
import random
import socket
import sys
import time

import numpy as np

from course_lib.assignments import wire
from course_lib.assignments.channel import ChannelClosed, ChannelTimeout, receive, send

GRACE = 3.0  # seconds after a call's own time limit until its process is given up
_NEVER = (SystemExit, KeyboardInterrupt, GeneratorExit)  # would end the grader, not the check


class StudentGone(RuntimeError):
    """The student's process has ended, hangs, or sends what cannot be read. A new one is needed."""


class Remote:
    """Requests to a student's process, one at a time.

    Args:
        channel: the socket on whose other end `agent.serve` listens.
        seconds: the longest that one graded cell may wait in all; `restart_clock` begins anew.
    """

    def __init__(self, channel: socket.socket, seconds: float):
        self.channel, self.seconds, self.gone = channel, seconds, ""
        self.restart_clock()

    def restart_clock(self) -> None:
        """A new graded cell begins."""
        self.deadline = time.monotonic() + self.seconds

    def ask(self, do: str, inputs: list | None = None, **fields) -> object:
        """Send a request and wait for its value.

        Args:
            do: the kind of request, see `agent.Agent`.
            inputs: filled with the tensors of the request to which gradients flow.
            fields: what belongs to it.

        Raises:
            StudentGone: there is no answer.
            Exception: what the student's code raised, as its nearest builtin type.
        """
        if self.gone:
            raise StudentGone(self.gone)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"your code took longer than {self.seconds:g} seconds in this check")
        message = wire.encode({"do": do, "seconds": left, **fields}, _known, _Gradients(self, inputs).out)
        try:
            send(self.channel, message, left + GRACE)
            reply = receive(self.channel, left + GRACE)
            reply = wire.decode(reply, self._handle, _Gradients(self, inputs).come)
        except ChannelTimeout:
            self._give_up(f"your code took longer than {self.seconds:g} seconds and could not be stopped")
        except ChannelClosed as error:
            self._give_up(f"your code ended its process, or used too much memory: {error}")
        except wire.WireError as error:
            self._give_up(f"the answer of your code cannot be read: {error}")
        if type(reply) is not dict or not ({"value", "error"} & reply.keys()):
            self._give_up("the answer of your code cannot be read")
        if "error" in reply:
            raise _exception(reply["error"])
        return reply["value"]

    def _give_up(self, cause: str) -> None:
        self.gone = cause
        raise StudentGone(cause) from None

    def _handle(self, fields: dict) -> Handle:
        return Handle(self, fields)


class Handle:
    """An object in the student's process."""

    def __init__(self, remote: Remote, fields: dict):
        values = {"_remote": remote, "_id": int(fields["id"]), "_kind": str(fields["kind"])[:100]}
        self.__dict__.update(values | {"_callable": bool(fields["callable"])})

    def __call__(self, *args, **kwargs):
        """Call it in the student's process; gradients flow to tensors among the arguments that require them."""
        return _call(self, args, kwargs)

    def __getattr__(self, name: str):
        if name.startswith("__"):  # protocols of Python and NumPy: a handle has none
            raise AttributeError(name)
        return self._remote.ask("getattr", target=self, name=name)

    def __setattr__(self, name: str, value: object) -> None:
        self._remote.ask("setattr", target=self, name=name, value=value)

    def __getitem__(self, key):
        return self._remote.ask("getitem", target=self, key=key)

    def __setitem__(self, key, value) -> None:
        self._remote.ask("setitem", target=self, key=key, value=value)

    def __len__(self) -> int:
        size = self._remote.ask("len", target=self)
        if type(size) is not int:
            raise TypeError("your code gives a length that is no number")
        return size

    def __iter__(self):
        items = self._remote.ask("iter", target=self)
        while True:
            try:
                yield self._remote.ask("next", target=items)
            except StopIteration:
                return

    def __contains__(self, value) -> bool:
        return self._remote.ask("contains", target=self, value=value) is True

    def __repr__(self) -> str:
        return str(self._remote.ask("text", target=self))

    def _no_value(self, *_):
        raise TypeError(f"your code gives an object of type {self._kind} where a number, array or tensor belongs")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __array__ = _no_value
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _no_value
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_value
    __neg__ = __abs__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __and__ = __or__ = __invert__ = _no_value
    __hash__ = object.__hash__


class _Gradients:
    """Marks tensors that go out, and ties those that come back to the student's graph."""

    def __init__(self, remote: Remote, inputs: list | None):
        self.remote, self.inputs = remote, inputs

    def out(self, tensor) -> dict:
        if self.inputs is None or not tensor.requires_grad:
            return {}
        self.inputs.append(tensor)
        return {"grad": "leaf" if tensor.is_leaf else "inner"}

    def come(self, tensor, fields: dict):
        import torch

        if fields.get("leaf") is True:
            tensor.requires_grad_()
            if fields.get("gradient") is not None:
                tensor.grad = torch.tensor(fields["gradient"], dtype=tensor.dtype).reshape(tensor.shape)
            return tensor
        if type(fields.get("node")) is not int or not tensor.is_floating_point():
            return tensor
        numbers = {"node": fields["node"], "call": int(fields["call"])}
        return _attach(self.remote, tensor, numbers, self.inputs or [])


def _attach(remote: Remote, tensor, numbers: dict, inputs: list):
    """A tensor that came back, with a gradient function that asks the student's process."""
    import torch

    class Back(torch.autograd.Function):
        @staticmethod
        def forward(context, anchor, *tensors):
            return tensor.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, gradient):
            found = remote.ask("backward", gradient=gradient, **numbers)
            if type(found) is not list or len(found) < len(inputs):
                raise TypeError("your code gives no gradients")
            return None, *(_fitting(grad, like) for grad, like in zip(found, inputs, strict=False))

    return Back.apply(torch.zeros((), requires_grad=True), *inputs)


def _fitting(gradient, like):
    import torch

    if gradient is None:
        return None
    if not isinstance(gradient, torch.Tensor) or gradient.shape != like.shape:
        raise TypeError("your code gives gradients of another shape")
    return gradient.to(like.dtype)


def _call(handle: Handle, args: tuple, kwargs: dict):
    if not handle._callable:
        raise TypeError(f"'{handle._kind}' object is not callable")
    torch = sys.modules.get("torch")
    grad = bool(torch and torch.is_grad_enabled())
    fields = {"target": handle, "args": list(args), "kwargs": kwargs, "grad": grad, "random": _random_states()}
    try:
        with torch.enable_grad() if torch else _Nothing():  # so that what comes back can be tied to the graph
            return handle._remote.ask("call", [] if grad else None, **fields)
    finally:
        _move_on([*args, *kwargs.values()])


class _Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def _random_states() -> dict:
    """The states of the global generators, which the student's process takes over for a call."""
    states = {"python": random.getstate(), "numpy": np.random.get_state()}
    return states | ({"torch": sys.modules["torch"].get_rng_state()} if "torch" in sys.modules else {})


def _move_on(values: list) -> None:
    """Draw once from each generator: the next call gets other numbers, the same seed gets the same ones."""
    random.random()
    np.random.random()
    torch = sys.modules.get("torch")
    if torch:
        torch.rand(1)
    for value in values:
        if isinstance(value, np.random.Generator):
            value.random()
        elif torch and isinstance(value, torch.Generator):
            torch.rand(1, generator=value)


def _known(value: object) -> dict:
    """A handle that goes back to its owner; anything else that is no plain value stays here."""
    if isinstance(value, Handle):
        return {"id": value._id}
    raise wire.WireError(
        f"an object of type {type(value).__name__} cannot be given to student's code: give numbers, arrays or tensors."
    )


def _exception(described: object) -> Exception:
    """The exception that a student's code raised, rebuilt from its type's name and its text."""
    if type(described) is not dict:
        return RuntimeError("your code fails in a way that cannot be told")
    kind, name, text = (str(described.get(key, ""))[:4000] for key in ("kind", "name", "text"))
    found = getattr(builtins, kind, None)
    if not (isinstance(found, type) and issubclass(found, BaseException)) or issubclass(found, _NEVER):
        return RuntimeError(f"{name}: {text}" if text else name)
    if not issubclass(found, Exception):
        return RuntimeError(f"{name}: {text}")
    shown = text if name == kind or not name else f"{name}: {text}"
    try:
        return found(shown)
    except Exception:  # UnicodeDecodeError and its like want five arguments
        return RuntimeError(f"{name}: {text}")
