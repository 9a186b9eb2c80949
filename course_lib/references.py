"""Functions and classes by name: "module:name" or "file.py:name"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path

from course_lib.errors import BadInput


def load(reference: str, field: str = "reference"):
    """What a reference names; its module, or its file, is imported (a file anew if it has changed since).

    Args:
        reference: "module:name" or "path/to/file.py:name".
        field: what it stands for, in the error's message.

    Raises:
        BadInput: it cannot be imported, or has no such name.
    """
    place, _, name = reference.rpartition(":")
    try:
        module = _from_file(Path(place).resolve()) if place.endswith(".py") else importlib.import_module(place)
        return getattr(module, name)
    except Exception as error:  # a user's file may raise anything
        cause = f"{reference!r} cannot be imported ({type(error).__name__}: {error})."
        raise BadInput(cause, field=field, remedy="Write it as module:name or file.py:name.") from error


def _from_file(path: Path):
    """The module in a file. The same object as before if the file is the same: its classes stay comparable."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]  # two files may have one name
    name, stamp = f"own_file_{path.stem}_{place}", path.stat().st_mtime_ns
    known = sys.modules.get(name)
    if getattr(known, "__stamp__", None) == stamp:
        return known
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    module.__stamp__ = stamp
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
