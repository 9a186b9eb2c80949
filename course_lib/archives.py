"""Unpacking zip and tar archives that came from somewhere else: nothing leaves the folder, nothing grows without bound.

An archive is unpacked as a whole or not at all. Refused: entries that lead out of the folder (absolute, `..`, drive
letters), links and devices, names that are there twice (capitals do not count), encrypted entries, damaged archives,
and more bytes or files than the limits, counted while unpacking and not as the archive claims.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from course_lib.errors import BadInput

MIB = 2**20
CHUNK = MIB
LONGEST_NAME = 4096  # bytes
_REMEDY = "Do not use this archive: get it again from its source, or unpack it yourself after looking into it."
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile)


def extract(
    archive: str | Path, folder: str | Path, *, limit_mib: float = 4096, limit_files: int = 100_000
) -> list[Path]:
    """Unpack a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz (told by its content) into a new or empty folder.

    Args:
        archive: the file.
        folder: where; it is there afterwards if all went well, and unchanged if not.
        limit_mib: all unpacked files together; the archive itself may not be larger either.
        limit_files: entries.

    Returns:
        The unpacked files, sorted.

    Raises:
        BadInput: names the archive, the entry and the reason.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput("is not an empty folder.", file=folder, field="folder", remedy="Name a new folder.")
    limit = int(limit_mib * MIB)
    try:
        if not archive.is_file():
            raise BadInput("is not a file.", file=archive, field="archive", remedy="Check the name.")
        if archive.stat().st_size > limit:
            raise BadInput("is larger than the limit.", file=archive, field="limit_mib", remedy=_REMEDY)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    except OSError as error:
        raise _cannot(archive, error) from error
    try:
        entries = _zip_entries if zipfile.is_zipfile(archive) else _tar_entries
        files = _unpack(entries(archive, limit), part, archive, limit, limit_files)
        part.chmod(0o777 & ~_umask())
        os.replace(part, folder)  # an empty folder is replaced
    except _DAMAGE as error:
        raise BadInput(f"the archive is damaged ({error}).", file=archive, field="archive", remedy=_REMEDY) from error
    except OSError as error:
        raise _cannot(archive, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / name for name in sorted(files)]


def safe_name(name: str, archive: str | Path = "") -> PurePosixPath:
    """The relative path of an entry, or a refusal.

    Raises:
        BadInput: it is empty, absolute, too long, has a drive letter, a backslash, `..` or control characters.
    """
    parts = name.rstrip("/").split("/")
    odd = any(unicodedata.category(letter) == "Cc" for letter in name)
    if not name.strip("/. ") or name.startswith("/") or odd or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise _entry("is absolute, empty, too long or has control characters", name, archive)
    if "\\" in name or ":" in parts[0] or ".." in parts:
        raise _entry("leads out of the folder, or would on another system", name, archive)
    return PurePosixPath(*[part for part in parts if part not in ("", ".")])


def _unpack(entries: Iterator, part: Path, archive: Path, limit: int, limit_files: int) -> list[PurePosixPath]:
    """Write the entries under `part`; they are (name, is a folder, opener)."""
    seen: dict[str, bool] = {}  # folded name -> is a file
    files, written = [], 0
    for count, (name, is_folder, opener) in enumerate(entries, start=1):
        if count > limit_files:
            raise BadInput(f"holds more than {limit_files} entries.", file=archive, field="archive", remedy=_REMEDY)
        path = safe_name(name, archive)
        _claim(path, is_folder, seen, archive)
        target = part / path
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with opener() as source, open(target, "xb") as sink:
            while piece := source.read(CHUNK):
                written += len(piece)
                if written > limit:
                    raise _too_large(archive, limit)
                sink.write(piece)
        files.append(path)
    return files


def _claim(path: PurePosixPath, is_folder: bool, seen: dict[str, bool], archive: Path) -> None:
    """Refuse a name that is there twice, or a file that is also a folder."""
    folded = [unicodedata.normalize("NFC", str(p)).casefold() for p in (path, *path.parents[:-1])]
    if any(seen.get(parent) for parent in folded[1:]) or (
        folded[0] in seen and not (is_folder and not seen[folded[0]])
    ):
        raise _entry("is there twice", str(path), archive)
    for parent in folded[1:]:
        seen[parent] = False
    seen[folded[0]] = not is_folder


def _zip_entries(archive: Path, limit: int) -> Iterator:
    try:
        pack = zipfile.ZipFile(archive)
    except (NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the archive cannot be read ({error}).", file=archive, field="archive", remedy=_REMEDY
        ) from error
    with pack:
        infos = pack.infolist()
        if sum(info.file_size for info in infos) > limit:
            raise _too_large(archive, limit)
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _entry("is a link or a device", info.filename, archive)
            if info.flag_bits & 1:
                raise _entry("is encrypted", info.filename, archive)
            yield info.filename, info.is_dir(), lambda info=info: _open_in_zip(pack, info, archive)


def _open_in_zip(pack: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> BinaryIO:
    try:
        return pack.open(info)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise _entry(f"cannot be read ({error})", info.filename, archive) from error


def _tar_entries(archive: Path, limit: int) -> Iterator:
    with _plain(archive) as stream:
        bounded = _Bounded(stream, archive, 2 * limit)
        with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as pack:
            for info in pack:
                if not (info.isreg() or info.isdir()) or info.issparse():
                    raise _entry("is a link, a device or a sparse file", info.name, archive)
                if info.size > limit:
                    raise _too_large(archive, limit)
                yield info.name, info.isdir(), lambda info=info: pack.extractfile(info)
        while bounded.read(CHUNK):  # to the end: tarfile stops before the checksum
            pass


@contextmanager
def _plain(archive: Path) -> Iterator[BinaryIO]:
    """The tar stream within an archive, whatever packs it."""
    with open(archive, "rb") as stream:
        start = stream.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with openers.get(start[:2], open)(archive, "rb") as stream:
        yield stream


class _Bounded:
    """A file of which `tarfile` can read and seek only so far, and hold only so much at once."""

    def __init__(self, stream: BinaryIO, archive: Path, limit: int):
        self.stream, self.archive, self.limit = stream, archive, limit

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= 4 * MIB:  # headers with a long text would be held in memory
            raise _too_large(self.archive, 4 * MIB)
        data = self.stream.read(count)
        self._check(self.stream.tell())
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        self._check(place if whence == 0 else self.stream.tell() + place)
        return self.stream.seek(place, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def _check(self, place: int) -> None:
        if place > self.limit:
            raise _too_large(self.archive, self.limit)


def _entry(what: str, name: str, archive: str | Path) -> BadInput:
    return BadInput(f"the entry {name[:200]!r} {what}.", file=archive or None, field="entry", remedy=_REMEDY)


def _too_large(archive: Path, limit: int) -> BadInput:
    return BadInput(
        f"unpacks to more than {limit / MIB:.0f} MiB.",
        file=archive,
        field="limit_mib",
        remedy="If you trust it, raise the limit. " + _REMEDY,
    )


def _cannot(archive: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot be unpacked ({error.strerror or error}).",
        file=archive,
        field="archive",
        remedy="Free some space or choose another folder; if the archive is damaged, get it again.",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
