"""The bytes of a file, plain or gzip, in bounded memory, with the checksum checked at the end."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path

import numpy as np

from course_lib.errors import BadInput

MIB = 2**20
CHUNK = MIB // 4  # bytes read or unpacked at once
SLACK = MIB  # bytes that may follow the data: some programs pad their files
GZIP = b"\x1f\x8b"
FACTOR = 1032  # deflate cannot make data smaller than this
MEMBERS = 1000  # a gzip file may be made of pieces (bgzip, pigz): so many, and one more for each KiB unpacked
_AGAIN = "Copy or download the file again; if that does not help, export it again from where it came from."


class ByteStream:
    """Reads a file from its beginning; unpacks it if its content (not its name) says that it is gzip.

    Args:
        path: a regular file; a pipe, a device or a folder is refused.
        limit: the file may not be larger than this many bytes.

    Attributes:
        gzip: whether the content is gzip.
        size: bytes on disk.

    Raises:
        BadInput: the file is missing, unreadable, empty or too large. Reading raises it for damaged files.
    """

    def __init__(self, path: str | Path, limit: int):
        self.path = Path(path)
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise BadInput("is not a file.", file=path, field="path", remedy="Name a file.")
            self.size = found.st_size
            self._file = open(self.path, "rb", buffering=0)
        except (OSError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            text = getattr(error, "strerror", None) or str(error)
            raise BadInput(f"cannot be opened ({text}).", file=path, field="path", remedy="Check the name.") from error
        if self.size == 0:
            self.close()
            raise BadInput("the file is empty (0 bytes).", file=path, field="file", remedy=_AGAIN)
        if self.size > limit:
            self.close()
            raise BadInput(
                f"the file has {self.size / MIB:.0f} MiB; the limit is {limit / MIB:.0f} MiB.",
                file=path,
                field="file",
                remedy="Crop or resample it first, or raise the limit (limit_mib).",
            )
        self.gzip = self._from_disk(2) == GZIP
        self._file.seek(0)
        self._decoder = zlib.decompressobj(wbits=31)  # gzip header, CRC-32 and length are checked by zlib
        self._packed = b""  # read from disk, not yet unpacked
        self._members, self._unpacked = 1, 0

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next `count` bytes, or fewer at the end."""
        pieces = []
        while count > 0 and (piece := self._some(min(count, CHUNK))):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> int:
        """Pass over `count` bytes; returns how many there were."""
        done = 0
        while done < count and (piece := self._some(min(count - done, CHUNK))):
            done += len(piece)
        return done

    def fill(self, target: np.ndarray) -> int:
        """Fill a uint8 array with the next bytes; returns how many there were."""
        done = 0
        while done < target.size and (piece := self._some(min(target.size - done, CHUNK))):
            target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return done

    def finish(self) -> int:
        """Read to the end, so that the checksum is checked; returns the bytes that were left, at most `SLACK`.

        Raises:
            BadInput: the checksum is wrong, the end is missing, or more than `SLACK` bytes follow the data.
        """
        left = self.skip(SLACK + 1)
        if left > SLACK:
            raise BadInput(
                f"more than {SLACK / MIB:.0f} MiB of other bytes follow the voxels.",
                file=self.path,
                field="file length",
                remedy="The header's dimensions and the file do not belong together. " + _AGAIN,
            )
        return left

    def could_hold(self, count: int) -> bool:
        """Whether `count` unpacked bytes can come from a file of this size."""
        return count <= (self.size * FACTOR if self.gzip else self.size)

    def _some(self, count: int) -> bytes:
        """At least 1 and at most `count` bytes; none at the end."""
        if not self.gzip:
            return self._from_disk(count)
        while True:
            if self._decoder.eof and not self._next_member():
                return b""
            packed = self._packed or self._from_disk(CHUNK)
            if not packed:
                raise self._damaged("it ends too early", "gzip trailer")
            try:
                piece = self._decoder.decompress(packed, count)
            except zlib.error as error:
                raise self._damaged(str(error), "gzip data") from error
            self._packed = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            self._unpacked += len(piece)
            if piece:
                return piece

    def _next_member(self) -> bool:
        while not (rest := self._packed.lstrip(b"\0")):  # zeros may follow a gzip member
            self._packed = self._from_disk(CHUNK)
            if not self._packed:
                return False
        self._packed = rest
        self._members += 1
        if self._members > MEMBERS + self._unpacked // 1024:
            raise self._damaged("it is made of a great many small pieces", "gzip data")
        self._decoder = zlib.decompressobj(wbits=31)
        return True

    def _from_disk(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except OSError as error:
            raise BadInput(
                f"cannot be read ({error.strerror}).", file=self.path, field="file", remedy=_AGAIN
            ) from error

    def _damaged(self, what: str, field: str) -> BadInput:
        return BadInput(f"the compressed file is damaged: {what}.", file=self.path, field=field, remedy=_AGAIN)
