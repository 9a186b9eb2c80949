"""The one exception that a user's own files can raise."""

from __future__ import annotations

from pathlib import Path


class BadInput(ValueError):
    """A file or a value that the course refuses, with what to do about it.

    Every reader and importer raises this one type, so that a batch can catch it, list the file and go on.

    Args:
        cause: what is wrong, in one sentence.
        file: the file or folder at fault, if there is one.
        field: the part of it at fault: a header field, a column, an argument.
        remedy: what the user can do.
    """

    def __init__(self, cause: str, *, file: str | Path | None = None, field: str = "", remedy: str = ""):
        self.cause, self.file, self.field, self.remedy = cause, file, field, remedy
        where = " ".join(part for part in (f"{file}:" if file else "", f"[{field}]" if field else "") if part)
        super().__init__(" ".join(part for part in (where, cause, remedy) if part))

    def __reduce__(self):
        """Keep the fields when a worker process sends the exception back."""
        state = (self.cause, self.file, self.field, self.remedy)
        return _rebuild, state


def _rebuild(cause, file, field, remedy) -> BadInput:
    return BadInput(cause, file=file, field=field, remedy=remedy)
