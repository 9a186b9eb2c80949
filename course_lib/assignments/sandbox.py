"""A place for a student's program, made of Linux namespaces: no network, few files, its own processes.

Works as root and as an ordinary user, with nothing installed. What is not needed does not exist inside: the new root
holds system libraries, this Python and this course's code, read-only; homes, sources with hidden tests, gradebook and
other submissions are not there. Scratch space is a small tmpfs. The course's own folder of sources is not among
what is shown.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from course_lib.files import ROOT, data_folder, output_folder

WORK = "/home/student"  # the student's working folder inside
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "fonts", "localtime", "timezone", "alternatives", "nsswitch.conf")
DEVICES = ("null", "zero", "full", "random", "urandom")
ALLOWED = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_LIBRARY_PATH")

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE, _RDONLY, _NOSUID, _NODEV, _NOEXEC = 0x1000, 0x4000, 0x40000, 1, 2, 4, 8
_DETACH = 2
_PDEATHSIG, _DUMPABLE, _CAPBSET_DROP, _NO_NEW_PRIVS, _AMBIENT = 1, 4, 24, 38, 47
_MOUNT_SETATTR, _AT_RECURSIVE, _AT_FDCWD = 442, 0x8000, -100  # one number on all of Linux's machines


class SandboxUnavailable(RuntimeError):
    """This computer does not let an ordinary program make namespaces."""


def unavailable() -> str:
    """Why this computer cannot make a sandbox, or "". It is tried in a process of its own; nothing is left behind."""
    if sys.platform != "linux":
        return "namespaces are a thing of Linux."
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="sandbox-") as root:
        pid = os.fork()
        if not pid:
            _try(root, writer)
        os.close(writer)
        with open(reader, encoding="utf-8") as stream:
            found = stream.read()
        os.waitpid(pid, 0)
    return found


def _try(root: str, writer: int) -> None:
    try:
        unshare()
        inner = os.fork()
        if inner:
            os.waitpid(inner, 0)
        else:
            furnish(root, 2**20)
            lock(10)
    except (SandboxUnavailable, OSError) as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(0)


def environment(home: str) -> dict[str, str]:
    """What a student's program finds in its environment: a short list, nothing of the lecturer's.

    Where it is forked and no new program is started, `forget_environment` has to come first.
    """
    found = {name: os.environ[name] for name in ALLOWED if name in os.environ}
    own = {"HOME": home, "TMPDIR": f"{home}/tmp", "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
    own |= {"IPYTHONDIR": f"{home}/.ipython", "MPLCONFIGDIR": f"{home}/.matplotlib", "JUPYTER_PLATFORM_DIRS": "1"}
    own |= {f"LEARNING_NORMAL_{name}": f"{home}/{name.lower()}" for name in ("DATA", "OUTPUT", "RECORDS")}
    own |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return (
        found | own | {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    )


def own_folders() -> list[str]:
    """Folders that no student's program needs, wherever they lie: lessons, tests, data with the held-out people."""
    found = [f"{ROOT}/{name}" for name in ("notebooks", "tests", "data", "output", ".git")]
    return found + [os.path.abspath(folder) for folder in (data_folder(), output_folder())]


def forget_environment() -> None:
    """Empty the environment of this process, and the memory behind `/proc/self/environ`: a fork inherits both."""
    os.environ.clear()  # from now on nothing points into that memory
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end, fields 50 and 51 of proc(5)
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)


def unshare() -> None:
    """Leave the host's users, mounts, processes (for children) and network. This process must have one thread.

    Raises:
        SandboxUnavailable: the kernel, a container or a policy forbids it.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable("namespaces are a thing of Linux.")
    user, group = os.geteuid(), os.getegid()
    _libc("unshare", _NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise SandboxUnavailable(f"user ids cannot be mapped ({error.strerror}).") from None


def furnish(root: str, disk: int, hidden: Iterable[str] = ()) -> None:
    """Make the new root on the empty folder `root` and move there. To be called in the first process of the sandbox.

    Args:
        root: an empty folder of the host.
        disk: bytes for all files that are written inside.
        hidden: folders that are masked, should they lie in what is shown (a course cloned into `/usr/local`), also if
            a link leads there.

    Raises:
        SandboxUnavailable: a mount is refused.
    """
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, f"size={disk},mode=755")
    for path in ("tmp", "dev/shm", "dev/pts", "proc", "etc", WORK[1:], f"{WORK[1:]}/tmp"):
        os.makedirs(f"{root}/{path}")
    shown = _shown()
    masked = _seen_as(hidden, shown)
    for path in shown:
        _show(path, root)
    for path in masked:
        if os.path.isdir(f"{root}{path}"):
            _mount("tmpfs", f"{root}{path}", "tmpfs", _RDONLY | _NOSUID | _NODEV, "size=4k,mode=555")
    _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    for name in DEVICES:
        Path(f"{root}/dev/{name}").touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _BIND)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    _mount("devpts", f"{root}/dev/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")  # `!ls` in a cell wants a terminal
    name = "student"
    Path(f"{root}/etc/passwd").write_text(f"{name}:x:{os.getuid()}:{os.getgid()}::{WORK}:/bin/sh\n")
    Path(f"{root}/etc/group").write_text(f"{name}:x:{os.getgid()}:\n")
    os.chdir(root)
    _libc("pivot_root", b".", b".")
    _libc("umount2", b".", _DETACH)
    os.chdir(WORK)


def lock(processes: int) -> None:
    """Give up every capability for good, shut `/proc`, and limit the number of processes where the kernel can."""
    settings = {"user/max_user_namespaces": 0}
    if _kernel() >= (6, 14):  # before, this was the whole computer's; a watcher counts processes as well
        settings["kernel/pid_max"] = max(301, 4 * processes + 100)
    for path, value in settings.items():
        try:
            Path(f"/proc/sys/{path}").write_text(str(value))
        except OSError:
            pass
    _read_only("/proc")  # root's processes could change the host's settings there, even without capabilities
    for capability in range(64):
        _prctl(_CAPBSET_DROP, capability)  # those beyond the kernel's last one are refused, rightly
    _prctl(_AMBIENT, 4)
    if _prctl(_NO_NEW_PRIVS, 1):
        raise SandboxUnavailable("privileges cannot be given up.")
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _libc("capset", header, nothing)


def limit(memory: int, processes: int) -> None:
    """Limits that the kernel itself keeps, for this process and its children."""
    import resource  # not on Windows, where sources can still be released

    wanted = {"DATA": memory, "FSIZE": 256 * 2**20, "CORE": 0, "NOFILE": 1024}
    if os.geteuid():  # the kernel does not count root's processes; of an ordinary user it counts threads, too
        wanted["NPROC"] = 4 * processes + 100
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                resource.setrlimit(kind, (value, value))
            except (OSError, ValueError):  # macOS refuses some
                pass


def die_with_parent() -> None:
    """Be killed when the parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        _prctl(_PDEATHSIG, signal.SIGKILL)


def hide_memory(hidden: bool) -> None:
    """Whether other processes of the same user may look into this one."""
    if sys.platform == "linux":
        _prctl(_DUMPABLE, 0 if hidden else 1)


def _shown() -> list[str]:
    """Paths of the host that are seen inside, read-only."""
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, str(Path(os.path.realpath(sys.executable)).parents[1])]
    course = [f"{ROOT}/{name}" for name in ("course_lib", "data_scripts")]
    system = [f"/{name}" for name in SYSTEM] + [f"/etc/{name}" for name in ETC]
    links = [path for path in system if os.path.islink(path)]
    paths = {path for path in system + prefixes + course if path not in links and os.path.exists(path) and path != "/"}
    inner = {path for path in paths if any(path != other and Path(path).is_relative_to(other) for other in paths)}
    return sorted(links) + sorted(paths - inner)


def _seen_as(hidden: Iterable[str], shown: Iterable[str]) -> list[str]:
    """Under which paths hidden folders would be seen inside. Links are followed on both sides."""
    found, real = [], {path: os.path.realpath(path) for path in shown if not os.path.islink(path)}
    for folder in map(os.path.realpath, hidden):
        inner = [path for path in real if Path(folder).is_relative_to(real[path])]
        found += [os.path.normpath(f"{path}/{os.path.relpath(folder, real[path])}") for path in inner]
    return found


def _show(path: str, root: str) -> None:
    target = f"{root}{path}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if stat.S_ISDIR(os.stat(path).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        Path(target).touch()
    _mount(path, target, None, _BIND | _REC)
    _read_only(target)


def _read_only(target: str) -> None:
    """Make a mount read-only, without set-uid and devices, and all that is mounted below it."""
    attributes = struct.pack("QQQQ", _RDONLY | _NOSUID | _NODEV, 0, 0, 0)
    path = target.encode()
    _libc("syscall", _MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, len(attributes))


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    source, target, kind, data = (None if text is None else text.encode() for text in (source, target, kind, data))
    _libc("mount", source, target, kind, flags, data)


def _libc(name: str, *arguments) -> None:
    typed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*typed):
        error = os.strerror(ctypes.get_errno())
        raise SandboxUnavailable(f"the system refuses `{name}` ({error}).")


def _prctl(*arguments: int) -> int:
    typed = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]]
    return ctypes.CDLL(None, use_errno=True).prctl(*typed)
