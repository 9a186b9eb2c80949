"""What a run of a lesson leaves behind for the course's tables: one JSON file, whole at any time."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from course_lib.errors import BadInput
from course_lib.files import atomic_write, output_folder


def records_folder(profile: str) -> Path:
    """The folder of the records of a profile.

    `make course` names another one in LEARNING_NORMAL_RECORDS, so that a lesson that is opened by hand does not change
    the tables of the course.
    """
    named = os.environ.get("LEARNING_NORMAL_RECORDS")
    return Path(named) if named else output_folder() / "records" / profile


def write_record(path: Path, record: dict) -> None:
    """Write a record as JSON; numbers that are not finite become null."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(plain(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict:
    """Read a record.

    Raises:
        BadInput: the file is missing or is no record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"claims": [], "results": [], "complete": False} | record
    except (OSError, ValueError, TypeError) as error:
        raise BadInput("this is no lesson record.", file=path, remedy="Run the lesson again.") from error


def plain(value):
    """`value` as JSON's own types: NumPy's are converted, NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)
