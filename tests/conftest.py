"""Tests write nowhere but into a temporary folder, and find real scans if someone has put them beside the clone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_SCRATCH = tempfile.TemporaryDirectory(prefix="learning-normal-tests-", ignore_cleanup_errors=True)
for _name in ("DATA", "OUTPUT", "RECORDS", "PREDICTIONS"):
    # Before any test module is imported; processes that tests start inherit it.
    os.environ[f"LEARNING_NORMAL_{_name}"] = str(Path(_SCRATCH.name) / _name.lower())
os.environ.pop("LEARNING_NORMAL_STROKE", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans for tests: LEARNING_NORMAL_SHARED, or `shared/data` beside the clone; else a skip."""
    folder = Path(os.environ.get("LEARNING_NORMAL_SHARED") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real scans beside the clone")
    return folder
