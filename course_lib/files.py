"""Files that are whole or not there: atomic writing, digests, paths that stay inside, and the course's folders."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_lib.errors import BadInput

_UMASK = os.umask(0o022)  # it can only be read by setting it: once, before there are threads
os.umask(_UMASK)
ROOT = Path(__file__).resolve().parent.parent  # the clone, when installed with `pip install -e .`


def data_folder() -> Path:
    """The folder of data sets, slice caches and trained detectors: `LEARNING_NORMAL_DATA`, or `data/` in the clone."""
    return Path(os.environ.get("LEARNING_NORMAL_DATA") or ROOT / "data")


def output_folder() -> Path:
    """The folder of rendered lessons and tables: `LEARNING_NORMAL_OUTPUT`, or `output/` in the clone."""
    return Path(os.environ.get("LEARNING_NORMAL_OUTPUT") or ROOT / "output")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it when not.

    A reader sees the old file or the new one, never half of it.

    Raises:
        BadInput: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: writers such as nibabel choose the format by it.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix="".join(path.suffixes[-2:]))
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    part = Path(name)
    try:
        yield part
        with open(part, "rb+") as stream:  # Windows syncs only what may be written
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_UMASK)
        os.replace(part, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def inside(folder: str | Path, path: str | Path) -> Path:
    """`path` (relative ones start at `folder`), if it lies in `folder` once all links are followed.

    Raises:
        BadInput: it leads out of the folder, or is the folder itself.
    """
    folder = Path(folder)
    path = folder / path  # an absolute path stays as it is
    try:
        root, place = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL in the name
        raise _leads_out(f"cannot be followed ({error}).", path) from error
    if place == root or not place.is_relative_to(root):
        raise _leads_out("leads out of its folder.", path)
    return path


def sha256(path: str | Path) -> str:
    """The SHA-256 digest of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _leads_out(cause: str, path: Path) -> BadInput:
    remedy = "Copy the file into the folder: a link, `..` or an absolute path may not leave it."
    return BadInput(cause, file=path, field="path", remedy=remedy)


def _cannot_write(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot be written ({error.strerror or error}).",
        file=path,
        remedy="Free some space, or choose another folder with LEARNING_NORMAL_DATA or LEARNING_NORMAL_OUTPUT.",
    )
