"""Is everything there that the course needs? `python -m course_lib.doctor` says, and what to do where it is not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from course_lib.errors import BadInput
from course_lib.files import ROOT, data_folder, output_folder

MEMORY_GIB = 4  # a lesson takes up to 3
DISK_GIB = 5  # cohorts, caches and trained detectors
_NAME = re.compile(r"^[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, what was found, and what to do (empty if all is well)."""

    what: str
    found: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done."""
        return not self.remedy


def report() -> list[Finding]:
    """Look at everything; takes a second or two, most of it the import of torch."""
    looks = (_python, _torch, _packages, _threads, _memory, _disk, _folders, _atlas, _gpu)
    return [finding for look in looks for finding in look()]


def check() -> None:
    """Print one line if everything is there, else a line for each thing that is not. For the first cell of a lesson.

    Raises:
        BadInput: a parameter of the lesson that runs cannot be used (plain papermill puts in whatever it is given).
    """
    from course_lib.lessons.parameters import check_namespace

    check_namespace()
    amiss = [finding for finding in report() if not finding.ok]
    print("\n".join(f"{f.what}: {f.found}. {f.remedy}" for f in amiss) or "Everything that the course needs is there.")


def _python() -> list[Finding]:
    remedy = "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer, and make the environment again."
    return [Finding("Python", f"{platform.python_version()} on {platform.system()}", remedy)]


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", f"cannot be imported ({error})", "Run `make clean`, then `make course`.")]
    finite = torch.isfinite(torch.ones(8, 8) @ torch.ones(8, 8)).all()
    return [Finding("torch", torch.__version__, "" if finite else "It computes wrongly: install it again.")]


def _packages() -> list[Finding]:
    """The course's own requirements, as its installation recorded them."""
    try:
        lines = importlib.metadata.requires("learning-normal") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("packages", "the course is not installed", "Run `pip install -e .` in the course's folder.")]
    missing, versions = [], []
    for name in (_NAME.match(line).group() for line in lines if "extra ==" not in line):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return [Finding("packages", f"missing: {', '.join(missing)}", f"Run `pip install {' '.join(missing)}`.")]
    return [Finding("packages", ", ".join(versions))]


def _threads() -> list[Finding]:
    import torch

    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    early = policy.lower() == "passive"
    remedy = "" if early else "Set OMP_WAIT_POLICY=passive before Python starts, or import course_lib before torch."
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores, OMP_WAIT_POLICY {policy}"
    return [Finding("threads", threads, remedy)]


def _memory() -> list[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available / 2**30
    remedy = "" if free >= MEMORY_GIB else f"Close other programs: a lesson takes up to {MEMORY_GIB - 1} GiB."
    return [Finding("memory", f"{free:.1f} of {memory.total / 2**30:.1f} GiB free", remedy)]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(_existing(data_folder())).free / 2**30
    remedy = "" if free >= DISK_GIB else "Free some space, or set LEARNING_NORMAL_DATA to a folder on a larger disk."
    return [Finding("disk", f"{free:.1f} GiB free for the data folder", remedy)]


def _folders() -> list[Finding]:
    return [_writable("data folder", data_folder()), _writable("output folder", output_folder())]


def _writable(what: str, folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Finding(what, str(folder))
    except OSError as error:
        variable = "LEARNING_NORMAL_DATA" if what.startswith("data") else "LEARNING_NORMAL_OUTPUT"
        return Finding(what, f"{folder} cannot be written ({error.strerror})", f"Set {variable} to another folder.")


def _atlas() -> list[Finding]:
    from course_lib.images.anatomy import template

    try:
        shape = template().t1.shape
    except (BadInput, ImportError, OSError, ValueError) as error:
        return [
            Finding("anatomy", f"the template cannot be read ({error})", "Run `pip install --force-reinstall nilearn`.")
        ]
    there = (data_folder() / "atlas" / "participants.tsv").exists()
    cohort = "the cohort is made" if there else "the cohort is made by the first lesson that needs it"
    return [Finding("anatomy", f"template of {' x '.join(map(str, shape))} voxels; {cohort}")]


def _gpu() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return [Finding("GPU", torch.cuda.get_device_name(0))]
    if shutil.which("nvidia-smi"):
        return [Finding("GPU", "there is one that torch cannot use (lessons run on the CPU)")]
    return [Finding("GPU", "none; the lessons do not need one")]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def main() -> None:
    """Command line: print the report; exit code 1 if something is to be done."""
    findings = report()
    width = max(len(finding.what) for finding in findings)
    print(f"Learning Normal in {ROOT}")
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'DO  '}{finding.what:{width}}  {finding.found}")
        if finding.remedy:
            print(f"    {'':{width}}  -> {finding.remedy}")
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


if __name__ == "__main__":
    main()
