"""Which code and which data sets a result depends on: digests that decide whether a finished run is kept."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

from course_lib.files import ROOT, data_folder


def library_digest() -> str:
    """A digest of the course's code and small tables, and of the Python and torch that run it."""
    digest = hashlib.sha256(f"{platform.python_version()} {version('torch')} {version('numpy')}".encode())
    for folder in ("course_lib", "data_scripts"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}".encode() + path.read_bytes())
    return digest.hexdigest()


def real_data() -> list[str]:
    """Which data sets are there beside the atlas cohort: lessons show more where they are."""
    named = os.environ.get("LEARNING_NORMAL_STROKE")
    folders = [Path(named)] if named else []
    folders += [path for path in data_folder().glob("*") if (path / "participants.tsv").exists()]
    return sorted(str(path) for path in folders if path.exists() and path.name != "atlas")
