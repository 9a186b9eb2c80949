from __future__ import annotations

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # assignment_toy.py

from course_lib.assignments import sandbox


@pytest.fixture(scope="session")
def sandboxed() -> bool:
    """Whether students' code can be shut away on this computer; honest submissions are marked without, too."""
    return not sandbox.unavailable()


@pytest.fixture(scope="session")
def needs_sandbox(sandboxed):
    if not sandboxed:
        pytest.skip(f"no place to shut away hostile code: {sandbox.unavailable()}")
