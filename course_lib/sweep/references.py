"""Functions and classes by name: "module:name" or "file.py:name"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from course_lib.errors import BadInput


def load(reference: str):
    """What a reference names; its module or file is imported.

    Raises:
        BadInput: it cannot be imported, or has no such name.
    """
    place, _, name = reference.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        return getattr(module, name)
    except Exception as error:  # a user's file may raise anything
        cause = f"{reference!r} cannot be imported ({type(error).__name__}: {error})."
        raise BadInput(cause, field="measure", remedy="Write it as module:name or file.py:name.") from error


def _from_file(path: Path):
    specification = importlib.util.spec_from_file_location(f"sweep_file_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    return module
