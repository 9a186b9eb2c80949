"""Make the course's Python environment: `python course_lib/lessons/environment.py .venv`.

Run by the Makefile before anything is installed, so it needs the standard library alone. Each step looks at what is
already there: killed and started again, it goes on.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "dev,scans,book,viewer,app,cluster,grading"
# One short try: where PyTorch's own index cannot be reached, the ordinary one is asked instead of waiting.
QUICK = {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "1"}


def make(folder: Path, extras: str) -> None:
    """Create the virtual environment `folder` with torch, the course and its extras.

    Raises:
        SystemExit: a step failed; its own output says why.
    """
    python = python_of(folder)
    if not works(python):
        say(f"making a Python {platform.python_version()} environment in {folder.name}")
        call([sys.executable, "-m", "venv", str(folder)])
    uv = find_uv()
    if not uv and platform.system() == "Linux":
        uv = borrow_uv(python)
    if torch_version(python).partition("+")[0] != pinned("torch"):
        install_torch(python, uv)
    say("installing the course and what it needs")
    requirements = ["-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extras}]"]
    with_uv = [*uv, "pip", "install", "--quiet", "--python", str(python), *requirements]
    if not (uv and run(with_uv, quiet=True, **QUICK)):  # pip knows of a mirror that only its own settings name
        call([str(python), "-m", "pip", "install", "--quiet", *requirements])
    (folder / "complete").touch()


def install_torch(python: Path, uv: list[str]) -> None:
    """Install the pinned torch: its CPU build on Linux without an NVIDIA GPU, else the build for this machine.

    On Linux the ordinary index holds the CUDA build, three gigabytes that a laptop without a GPU has no use for. uv
    knows where PyTorch keeps its CPU builds, and pip does not.
    """
    torch = ["-c", str(CONSTRAINTS), "torch"]
    if platform.system() == "Linux":
        backend = "auto" if has_nvidia_gpu() else "cpu"
        say(f"installing PyTorch ({'for this GPU' if backend == 'auto' else 'CPU build'})")
        command = [*uv, "pip", "install", "--quiet", "--python", str(python), f"--torch-backend={backend}", *torch]
        if uv and run(command, quiet=True, **QUICK):
            return
        say("PyTorch's own index cannot be reached: taking the build that pip finds (it can be larger)")
    else:
        say("installing PyTorch")
    call([str(python), "-m", "pip", "install", "--quiet", *torch])


def has_nvidia_gpu() -> bool:
    """Whether `nvidia-smi` is there and finds a GPU."""
    return bool(shutil.which("nvidia-smi")) and run(["nvidia-smi", "-L"], quiet=True)


def find_uv() -> list[str]:
    """The command of the user's uv; empty if it is not installed."""
    return ["uv"] if shutil.which("uv") else []


def borrow_uv(python: Path) -> list[str]:
    """Install uv into the environment, for those who do not have it, and return its command; empty if that fails."""
    installed = run([str(python), "-m", "pip", "install", "--quiet", "uv"], quiet=True)
    return [str(python), "-m", "uv"] if installed else []


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def works(python: Path) -> bool:
    """Whether the environment's interpreter runs, is this Python and has pip; a killed run leaves half of one."""
    test = f"import sys, pip; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    return python.exists() and run([str(python), "-c", test], quiet=True)


def torch_version(python: Path) -> str:
    """The torch that is installed there, such as "2.13.0+cpu"; empty if there is none."""
    test = "from importlib.metadata import version; print(version('torch'))"
    return subprocess.run([str(python), "-c", test], capture_output=True, text=True).stdout.strip()


def pinned(package: str) -> str:
    """The version that constraints.txt gives."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def run(command: list[str], *, quiet: bool = False, **environment: str) -> bool:
    """Run a command; whether it ended well."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if quiet else {}
    return subprocess.run(command, env=os.environ | environment, **streams).returncode == 0


def call(command: list[str]) -> None:
    """Run a command that has to end well."""
    if not run(command):
        sys.exit(f"The environment is not complete: this failed:\n  {' '.join(command)}\nRun the same command again.")


def say(text: str) -> None:
    """Tell what is done now."""
    print(f"[environment] {text}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the course's Python environment.")
    parser.add_argument("folder", type=Path, help="folder of the virtual environment")
    parser.add_argument("--extras", default=EXTRAS, help="extras of pyproject.toml, separated by commas")
    arguments = parser.parse_args()
    make(arguments.folder.absolute(), arguments.extras)


if __name__ == "__main__":
    main()
