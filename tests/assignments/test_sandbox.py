"""What a student's process finds in its sandbox, what it may not do there, and what happens where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.assignments import sandbox
from course_lib.files import ROOT

PROBE = """
import json, sys
import ipykernel.kernelapp, jupyter_client.session, psutil, zmq
from course_lib.assignments.limits import Limits
from course_lib.assignments.student import Nursery, StudentProcess

nursery = Nursery() if sys.argv[1] == "in" else None
process = StudentProcess(Limits(disk=64 * 2**20), nursery, ["/usr/share"])
for code in json.loads(sys.argv[2]):
    answer = process.run(code, 20)
    print(json.dumps("".join(o.get("text", o.get("evalue", "")) for o in answer["outputs"])))
process.close()
"""


CELLS = [
    """
import os, course_lib
print(sorted(os.listdir("/")), os.path.exists(os.path.dirname(course_lib.__path__[0]) + "/tests"))""",
    "print(sorted(os.environ), os.getcwd(), os.listdir('/usr/share'), os.path.expanduser('~'))",
    "open('here', 'w').write('x'); open('/tmp/there', 'w').write('y'); print(os.listdir('.'))",
    "open(course_lib.__file__, 'a')",
    "open('/usr/lib/x', 'w')",
    """
paths = ["/boot", "/run", "/var", "/sys", "/etc/shadow", "/dev/sda", "/dev/shm"]
print([os.path.exists(path) for path in paths])""",
    "!umount -l /usr; mount -t tmpfs none /mnt; unshare -Ur true; echo done",
    """
import ctypes
print(ctypes.CDLL(None).setuid(0), [line for line in open("/proc/self/status") if line[:3] in ("Cap", "NoN")])""",
    """
try:
    open("/tmp/big", "wb").write(bytes(100 * 2**20))
finally:
    os.remove("/tmp/big")""",
    "import socket; socket.create_connection(('127.0.0.1', 1))",
    "print(len([name for name in os.listdir('/proc') if name.isdigit()]))",
    "import matplotlib.pyplot as plt; plt.plot([1, 2]); print('drawn')",
    """
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/pid_max", "/proc/self/oom_adj"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("open", path)
    except OSError as error: print(error.strerror)""",
    "import multiprocessing as mp; print(mp.get_context('fork').Pool(2).map(abs, [-1, 2]))",
    "print(open('/proc/self/environ').read().strip(chr(0)), os.path.exists('/proc/self/environ'))",
    """
import signal
for number in range(1, 65):
    if number not in (32, 33):  # the C library's own
        os.kill(1, number)
print("all sent")""",
    "print('it is still there')",
]


def run(*cells: str, where: str = "in") -> list[str]:
    command = [sys.executable, "-c", PROBE, where, json.dumps(cells)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def seen(needs_sandbox):
    os.environ["A_SECRET"] = "mine"
    found = run(*(cell.strip() for cell in CELLS))
    os.environ.pop("A_SECRET")
    return found


def test_only_what_is_needed_is_there(seen):
    assert "False" in seen[0] and "mnt" not in seen[0] and "var" not in seen[0]
    assert "A_SECRET" not in seen[1] and "[]" in seen[1] and seen[1].count(sandbox.WORK) == 2
    assert seen[5].strip() == "[False, False, False, False, False, False, True]"


def test_scratch_can_be_written_and_nothing_else(seen):
    assert "here" in seen[2]
    assert "Read-only file system" in seen[3] and "Read-only file system" in seen[4]
    assert "No space left" in seen[8]


def test_no_privileges_no_network_few_processes(seen):
    assert "failed" in seen[6] and "must be superuser" in seen[6] and seen[6].count("failed") >= 2
    assert "NoNewPrivs:\\t1" in seen[7] and seen[7].count("0000000000000000") == 5
    assert "Network is unreachable" in seen[9]
    assert int(seen[10]) <= 3
    assert "open" not in seen[12] and seen[12].count("Read-only file system") >= 1  # root could change the host there


def test_the_memory_of_the_lecturers_environment_is_empty(seen):
    assert seen[14].split() == ["True"]


def test_no_signal_ends_the_first_process(seen):
    assert "all sent" in seen[15] and "it is still there" in seen[16]


def test_ordinary_work_works(seen):
    assert "drawn" in seen[11]
    assert seen[13].strip() == "[1, 2]"


def test_without_a_sandbox_there_is_no_network_either():
    found = run(
        "import socket, os\nprint(os.getcwd())\nsocket.create_connection(('127.0.0.1', 1))", "print(6 * 7)", where="out"
    )
    assert "there is no network while grading" in found[0] and found[1].strip() == "42"


@pytest.mark.parametrize("flag", [[], ["--unsandboxed"]])
def test_where_namespaces_are_refused_it_says_so(needs_sandbox, tmp_path, flag):
    from assignment_toy import RIGHT, hand_in, submission, write_source

    assignment = write_source(tmp_path / "sources")
    hand_in(tmp_path, "ada", submission(assignment, RIGHT))
    command = [sys.executable, "-m", "course_lib.assignments", "--sources", str(tmp_path / "sources"), "grade"]
    command += [str(tmp_path), *flag]
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec " + " ".join(command)
    done = subprocess.run([sys.executable, "-c", INSIDE, forbid], capture_output=True, text=True, cwd=ROOT, timeout=120)
    if flag:
        assert done.returncode == 0, done.stderr
        marks = Path(tmp_path / "marks.csv").read_text(encoding="utf-8-sig")
        assert "marked without a sandbox" in marks and ",10,0,10,15," in marks
    else:
        assert done.returncode == 1 and "Students' code cannot be shut away here" in done.stderr
        assert not (tmp_path / "marks.csv").exists()


INSIDE = """
import os, sys
from course_lib.assignments.sandbox import unshare
unshare()  # a user namespace of our own, in which no further ones are allowed
pid = os.fork()
if not pid:
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


STARTS = """
import sys
from course_lib.assignments import sandbox
from course_lib.assignments.limits import Limits
from course_lib.assignments.student import Nursery, StudentProcess

def full(*_):
    raise OSError(28, "No space left on device")

sandbox.furnish = full
try:
    StudentProcess(Limits(), Nursery())
except RuntimeError as error:
    print(type(error).__name__, error)
print(sandbox.unavailable())
"""


def test_a_disk_that_is_full_when_it_starts_is_named(needs_sandbox):
    done = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, cwd=ROOT, timeout=120)
    start, again = done.stdout.splitlines()
    assert start.startswith("RuntimeError the sandbox did not start") and "No space left" in start
    assert "No space left" in again


def test_hidden_folders_are_found_through_links(tmp_path):
    real = tmp_path / "real"
    (real / "shown" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "data").symlink_to(real / "shown" / "data")
    shown = [f"{tmp_path}/link/shown", "/etc"]
    for hidden in (tmp_path / "data", real / "shown" / "data", tmp_path / "link" / "shown" / "data"):
        assert sandbox._seen_as([str(hidden)], shown) == [f"{tmp_path}/link/shown/data"]
    assert sandbox._seen_as([str(tmp_path), f"{tmp_path}/elsewhere"], shown) == []


def test_the_data_folder_is_hidden_wherever_it_lies(needs_sandbox, monkeypatch):
    """`/usr` is shown to students; the held-out people's secret may lie below it."""
    monkeypatch.setenv("LEARNING_NORMAL_DATA", "/usr/bin")
    command = [sys.executable, "-c", PROBE, "in", json.dumps(["import os; print(os.listdir('/usr/bin'))"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout).strip() == "[]", done.stderr
