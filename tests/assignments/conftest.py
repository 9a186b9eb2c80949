from __future__ import annotations

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # assignment_toy.py

from course_lib.assignments import sandbox

if os.name != "posix":  # grading needs Linux or macOS; sources are checked and released anywhere
    collect_ignore = ["test_grade.py", "test_hostile.py", "test_marking.py", "test_nbgrader.py", "test_proxy.py"]
    collect_ignore += ["test_sandbox.py", "test_mutants.py", "test_contest.py"]


@pytest.fixture(scope="session")
def sandboxed() -> bool:
    """Whether students' code can be shut away on this computer; honest submissions are marked without, too."""
    return not sandbox.unavailable()


@pytest.fixture(scope="session")
def needs_sandbox(sandboxed):
    if not sandboxed:
        pytest.skip(f"no place to shut away hostile code: {sandbox.unavailable()}")
