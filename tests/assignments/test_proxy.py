"""The two sides of the boundary in one process, over a real socket: what the grader's side sees of the other."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from course_lib.assignments import agent, proxy
from course_lib.assignments.channel import ChannelClosed, ChannelTimeout, receive, send
from course_lib.assignments.proxy import Handle, Remote, StudentGone
from course_lib.assignments.wire import WireError
from course_lib.files import ROOT

STUDENT = """
import numpy as np
import torch

def double(x, times=2):
    return times * x

def both(x):
    return {"twice": 2 * x, "rest": [x ** 3, x.detach(), "text", None]}

def in_place(x):
    x += 1
    return (x ** 2).sum()

def inner(x):
    (slope,) = torch.autograd.grad((x ** 3).sum(), x, create_graph=True)
    return slope

class Net(torch.nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = torch.nn.Linear(width, 2)
        self.seen = []

    def forward(self, x):
        return self.layer(x).tanh()

    def remember(self, value):
        self.seen.append(value)
        return self

class Bag:
    def __init__(self, *items): self.items = dict(enumerate(items))
    def __getitem__(self, key): return self.items[key]
    def __setitem__(self, key, value): self.items[key] = value
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items.values())
    def __contains__(self, value): return value in self.items.values()
    def __repr__(self): return "Bag of " + str(len(self))
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __float__(self): return 1.0

class Strange(ValueError): pass

def fails(kind):
    if kind == "own": raise Strange("odd")
    if kind == "key": raise KeyError("k")
    if kind == "exit": raise SystemExit(3)
    if kind == "interrupt": raise KeyboardInterrupt
    if kind == "linalg": np.linalg.inv(np.zeros((2, 2)))
    if kind == "unicode": b"\\xff".decode()
    if kind == "torch": torch.ones(2) @ torch.ones(3)
    if kind == "assert": assert False, "mine"
    if kind == "stop": raise StopIteration
    if kind == "mute": raise type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})
    raise NotImplementedError("your turn: write it")

def counts():
    yield from (1, 2, 3)

def draw(rng): return rng.random()
def draws(): return float(torch.rand(1)), float(np.random.rand()), __import__("random").random()
def kind(x): return type(x).__name__
def grad_on(): return torch.is_grad_enabled()
def same(bag, other): return bag is other
bag = Bag(1, "two")
number = 3
weight = torch.nn.Parameter(torch.ones(2))
"""


@pytest.fixture
def remote(monkeypatch):
    monkeypatch.setattr(agent._Alarm, "__enter__", lambda self: None)  # signals are for the main thread
    monkeypatch.setattr(agent._Alarm, "__exit__", lambda self, *error: None)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    ours, theirs = socket.socketpair()
    space: dict = {}
    exec(STUDENT, space)
    thread = threading.Thread(target=agent.serve, args=[theirs.detach(), space], daemon=True)
    thread.start()
    yield Remote(ours, 20)
    ours.close()
    thread.join(5)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="module")
def apart():
    """The same with the student in a process of its own: random numbers and graphs are not shared by accident."""
    code = f"import sys\nfrom course_lib.assignments.agent import serve\nspace = {{}}\nexec({STUDENT!r}, space)\n"
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", f"{code}serve(int(sys.argv[1]), space)", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
    theirs.close()
    yield Remote(ours, 120)
    ours.close()
    assert process.wait(20) == 0


def of(remote, *names):
    found = [remote.ask("get", name=name) for name in names]
    return found if len(found) > 1 else found[0]


def test_values_come_as_values_and_functions_as_handles(remote):
    number, double = of(remote, "number", "double")
    assert number == 3 and type(number) is int
    assert isinstance(double, Handle)
    assert double(4) == 8 and double(np.arange(2), times=3).tolist() == [0, 3]
    with pytest.raises(NameError, match="'missing' is not defined"):
        of(remote, "missing")
    with pytest.raises(ValueError, match="imports the module numpy itself"):
        of(remote, "np")


def test_classes_attributes_items(remote):
    net = of(remote, "Net")(width=4)
    assert net.layer.in_features == 4
    net.scale = 2.5
    assert net.scale == 2.5
    assert net.remember("x").remember(2).seen == ["x", 2]
    bag = of(remote, "bag")
    bag[7] = (1, 2)
    assert (bag[7], len(bag), list(bag), "two" in bag, "three" in bag) == ((1, 2), 3, [1, "two", (1, 2)], True, False)
    assert repr(bag) == "Bag of 3"
    assert list(of(remote, "counts")()) == [1, 2, 3]
    assert of(remote, "same")(bag, of(remote, "bag")) is True  # a handle that goes back is the object itself
    with pytest.raises(TypeError, match="'Bag' object is not callable"):
        bag()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        bag.colour  # noqa: B018
    with pytest.raises(KeyError):
        bag[99]


def test_a_handle_is_neither_a_truth_nor_a_number(remote):
    bag = of(remote, "bag")
    for use in (
        bool,
        float,
        int,
        abs,
        lambda h: h == 1,
        lambda h: h != 1,
        lambda h: h < 1,
        lambda h: 1 + h,
        np.asarray,
    ):
        with pytest.raises(TypeError, match="an object of type Bag where a number"):
            use(bag)
    with pytest.raises(TypeError):
        np.allclose(bag, 1)
    with pytest.raises((TypeError, ValueError)):
        torch.tensor([1.0]) + bag
    assert bag is not None


@pytest.mark.parametrize(
    ("kind", "type_", "text"),
    [
        ("own", ValueError, "Strange: odd"),
        ("key", KeyError, "k"),
        ("exit", RuntimeError, "SystemExit: 3"),
        ("interrupt", RuntimeError, "KeyboardInterrupt"),
        ("linalg", ValueError, "LinAlgError: Singular matrix"),
        ("unicode", RuntimeError, "UnicodeDecodeError"),
        ("torch", RuntimeError, "inconsistent tensor size"),
        ("assert", AssertionError, "mine"),
        ("stop", StopIteration, ""),
        ("mute", Exception, "Mute"),
        ("stub", NotImplementedError, "your turn: write it"),
    ],
)
def test_exceptions_keep_their_builtin_type_and_their_text(remote, kind, type_, text):
    with pytest.raises(Exception) as caught:  # noqa: B017
        of(remote, "fails")(kind)
    assert type(caught.value) is type_ and text in str(caught.value)


def test_gradients_through_a_call_are_the_local_ones(apart):
    both, net = of(apart, "both", "Net")
    x, y = (torch.linspace(-1, 2, 5).double().requires_grad_() for _ in range(2))

    def total(found, at):
        assert found["rest"][2:] == ["text", None]
        return (found["twice"] * at).sum() + (found["rest"][0] ** 2).sum() + found["rest"][1].sum()

    total(both(x * 1.5), x).backward()
    space: dict = {}
    exec(STUDENT, space)
    total(space["both"](y * 1.5), y).backward()
    assert torch.allclose(x.grad, y.grad)
    (slope,) = torch.autograd.grad(both(x)["twice"].sum(), x)
    assert torch.equal(slope, torch.full_like(x, 2))
    (slope,) = torch.autograd.grad(of(apart, "in_place")(3 * x), x)  # what is no leaf may be changed in place
    assert torch.allclose(slope, 6 * (3 * x + 1))


def test_gradients_through_two_calls_and_into_the_students_weights(apart):
    net, double = of(apart, "Net")(), of(apart, "double")
    local = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for ours, theirs in zip(local.parameters(), net.parameters(), strict=True):
            ours.copy_(theirs)
    x, y = torch.randn(4, 3, requires_grad=True), None
    y = x.detach().clone().requires_grad_()
    double(net(x)).square().sum().backward()
    (2 * local(y).tanh()).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-6)
    for ours, theirs in zip(local.parameters(), net.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_a_second_derivative_inside_the_student_works_and_outside_is_refused(remote):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    slope = of(remote, "inner")(x)
    assert torch.allclose(slope, 3 * x**2)
    slope.sum().backward()
    assert torch.allclose(x.grad, 6 * x)
    (once,) = torch.autograd.grad(of(remote, "double")(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        once.sum().backward()


def test_no_grad_holds_on_the_other_side(apart):
    assert of(apart, "grad_on")() is True
    with torch.no_grad():
        assert of(apart, "grad_on")() is False
        assert not of(apart, "double")(torch.ones(2, requires_grad=True)).requires_grad


def test_a_gradient_of_another_shape_is_refused(remote, monkeypatch):
    x = torch.ones(3, requires_grad=True)
    value = of(remote, "double")(x).sum()
    monkeypatch.setattr(agent.Agent, "_do_backward", lambda self, request: [torch.ones(7)])
    with pytest.raises(TypeError, match="another shape"):
        value.backward()


def test_seeds_hold_across_the_boundary(apart):
    draws = of(apart, "draws")

    def seeded():
        torch.manual_seed(5), np.random.seed(6), random.seed(7)
        return draws()

    first, second, third = seeded(), draws(), seeded()
    assert first == third and all(a != b for a, b in zip(first, second, strict=True))
    torch.manual_seed(5), np.random.seed(6), random.seed(7)
    assert first == (float(torch.rand(1)), float(np.random.rand()), random.random())  # as if it were one process


def test_a_generator_as_an_argument_moves_on(apart):
    draw, rng = of(apart, "draw"), np.random.default_rng(1)
    first, second = draw(rng), draw(rng)
    assert first == np.random.default_rng(1).random() and second != first


def test_functions_of_the_test_cannot_be_given_away(remote):
    with pytest.raises(WireError, match="function cannot be given to student's code"):
        of(remote, "double")(lambda: 1)
    assert of(remote, "double")(2) == 4  # and nothing is out of step


def test_arguments_arrive_as_what_they_are(remote):
    kind = of(remote, "kind")
    for value in (1, 1.5, "x", None, [1], (1,), {1: 2}, {1}, np.ones(2), torch.ones(2), np.float32(1), slice(2)):
        assert kind(value) == type(value).__name__


class Fake:
    """A student's side that answers what it likes."""

    def __init__(self, *replies: bytes):
        self.ours, theirs = socket.socketpair()
        threading.Thread(target=self._answer, args=[theirs, replies], daemon=True).start()

    def _answer(self, channel, replies):
        for reply in replies:
            receive(channel)
            channel.sendall(reply)
        channel.close()


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize(
    "reply", [b"", b"\xff\xff\xff\xff", framed(b""), framed(b"junk"), framed(proxy.wire.encode(7)), framed(bytes(99))]
)
def test_garbage_ends_the_conversation(reply):
    remote = Remote(Fake(reply).ours, 5)
    for _ in range(2):
        with pytest.raises(StudentGone):
            remote.ask("len", target=[])
    assert remote.gone


@pytest.mark.parametrize(
    "error", [7, {}, {"kind": "SystemExit", "name": "x", "text": "y"}, {"kind": "eval", "name": "eval", "text": "1"}]
)
def test_made_up_errors_are_ordinary_exceptions(error):
    with pytest.raises(RuntimeError):
        Remote(Fake(framed(proxy.wire.encode({"error": error}))).ours, 5).ask("len", target=[])


def test_who_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(proxy, "GRACE", 0.1)
    ours, _theirs = socket.socketpair()
    remote = Remote(ours, 0.2)
    begin = time.monotonic()
    with pytest.raises(StudentGone, match="could not be stopped"):
        remote.ask("len", target=[])
    assert time.monotonic() - begin < 3


def test_a_channel_has_a_deadline_and_a_largest_size():
    ours, theirs = socket.socketpair()
    with pytest.raises(ChannelTimeout):
        receive(ours, 0.05)
    theirs.sendall(b"\x00\x00\x00\x09half")
    with pytest.raises(ChannelTimeout):
        receive(ours, 0.05)
    ours, theirs = socket.socketpair()
    send(theirs, bytes(100))
    with pytest.raises(ChannelClosed, match="MiB at once"):
        receive(ours, 1, largest=99)
    with pytest.raises(ChannelTimeout):
        send(theirs, bytes(2**24), 0.05)
    ours.close()
    with pytest.raises(ChannelClosed):
        send(theirs, b"x")
