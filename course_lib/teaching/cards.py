"""Exercise cards: task, folded hints, folded solution, and a check whose messages name the misconception."""

from __future__ import annotations

import contextlib
import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from course_lib.errors import BadInput

DIFFICULTIES = {1: "easy", 2: "medium", 3: "hard"}

Check = Callable[[object], "str | None"]


@dataclass(frozen=True)
class Card:
    """One exercise.

    Attributes:
        number: such as "2.1.3": lesson and exercise.
        title: what it is about, in a few words.
        difficulty: 1 easy, 2 medium, 3 hard.
        minutes: a student's time.
        task: what to do, in Markdown.
        hints: from a nudge to almost everything; each is folded on its own.
        solution: in Markdown, folded.
        check: `check(answer)` returns None if the answer is right, else a message that names the misconception behind
            it. An AssertionError counts as such a message.
    """

    number: str
    title: str
    difficulty: int
    minutes: int
    task: str
    hints: Sequence[str] = ()
    solution: str = ""
    check: Check | None = None

    def __post_init__(self):
        if self.difficulty not in DIFFICULTIES:
            raise BadInput(f"difficulty is 1, 2 or 3, not {self.difficulty!r}.", field=self.number)

    def markdown(self) -> str:
        """The card as Markdown with `<details>` folds, which GitHub, JupyterLab and plain pages all show."""
        kind = f"{DIFFICULTIES[self.difficulty]}, about {self.minutes} minutes"
        parts = [f"### Exercise {self.number}: {self.title}", f"*{kind}*", _clean(self.task)]
        parts += [fold(f"Hint {place}", hint) for place, hint in enumerate(self.hints, 1)]
        if self.solution:
            parts.append(fold("Solution", self.solution))
        return "\n\n".join(parts)

    def verdict(self, answer) -> str:
        """What the check says about an answer. Nothing that it does reaches stderr.

        Without an answer yet (`...` or None) it says so, so that "run all" goes through.
        """
        if answer is None or answer is ...:
            return f"Exercise {self.number}: no answer yet."
        if self.check is None:
            raise BadInput("this exercise has no check.", field=self.number)
        message = run_check(self.check, answer)
        return f"Exercise {self.number}: {'not yet. ' + message if message else 'right.'}"


def run_check(check: Check, answer) -> str:
    """The check's message, empty for a right answer. Warnings and stderr of the check are dropped."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            message = check(answer)
        except AssertionError as refused:
            return str(refused) or "That is not it."
        except Exception as error:  # the student's own function may raise anything
            return (
                f"The check could not use this answer ({type(error).__name__}: {error}). Is it of the kind asked for?"
            )
    return message or ""


def fold(title: str, text: str) -> str:
    """Markdown `text` folded under a title."""
    return f"<details>\n<summary>{title}</summary>\n\n{_clean(text)}\n\n</details>"


def _clean(text: str) -> str:
    return textwrap.dedent(text).strip()
