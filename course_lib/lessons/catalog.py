"""Which lessons there are, and where their files lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from course_lib.errors import BadInput
from course_lib.files import ROOT

NOTEBOOKS = ROOT / "notebooks"
_NUMBERED = re.compile(r"\d+\.\d+_")  # assignments have sources too, but no lesson's number


@dataclass(frozen=True)
class LessonFiles:
    """The files of one lesson: `notebooks/<part>/source/1.0_welcome.py` and `notebooks/<part>/1.0_welcome.ipynb`."""

    source: Path

    @property
    def notebook(self) -> Path:
        """The executed notebook, built from the source."""
        return self.source.parent.parent / f"{self.source.stem}.ipynb"

    @property
    def number(self) -> str:
        """Such as "1.0"."""
        return self.source.stem.partition("_")[0]

    @property
    def name(self) -> str:
        """Such as "1.0_welcome"."""
        return self.source.stem

    @property
    def called(self) -> set[str]:
        """What a lesson may be asked for by: its number, its name, and the number of its part, such as "1"."""
        return {self.number, self.name, self.number.partition(".")[0]}


def lessons(folder: Path = NOTEBOOKS, only: list[str] | None = None) -> list[LessonFiles]:
    """The lessons in the order of their numbers; with `only`, those of these numbers ("2.1"), names or parts ("2").

    Raises:
        BadInput: an asked-for lesson does not exist.
    """
    found = [LessonFiles(path) for path in folder.glob("*/source/*.py") if _NUMBERED.match(path.name)]
    found.sort(key=lambda lesson: ([int(part) for part in lesson.number.split(".") if part.isdigit()], lesson.name))
    if not only:
        return found
    unknown = [name for name in only if not any(name in lesson.called for lesson in found)]
    if unknown:
        known = ", ".join(lesson.number for lesson in found)
        raise BadInput(f"there is no lesson {', '.join(unknown)}.", field="lesson", remedy=f"There are: {known}.")
    return [lesson for lesson in found if lesson.called & set(only)]
