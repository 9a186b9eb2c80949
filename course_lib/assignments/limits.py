"""What a submission may use."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of one submission; the defaults suit the course's assignments on a laptop.

    Args:
        cell_seconds: wall time of one cell of the student's, and of all calls of one graded cell.
        total_seconds: wall time of everything.
        memory: bytes of all the student's processes together.
        disk: bytes of files in the sandbox (they live in memory, in a tmpfs).
        processes: processes at a time.
        output: characters of one cell's output that are kept.
        restarts: how often a student's process that died is started again, without the cell that ended it.
    """

    cell_seconds: float = 60.0
    total_seconds: float = 600.0
    memory: int = 3 * 1024 * MIB
    disk: int = 512 * MIB
    processes: int = 64
    output: int = 2_000_000
    restarts: int = 3

    def plain(self) -> dict:
        """As a dictionary of numbers, for JSON."""
        return asdict(self)
