"""One object for the teaching parts of a lesson. It shows them, and records the run for the course's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.errors import BadInput
from course_lib.teaching import predictions
from course_lib.teaching.cards import Card, Check
from course_lib.teaching.claims import Claim, claims_table
from course_lib.teaching.prose import fill, show, show_figure
from course_lib.teaching.record import records_folder, write_record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from course_lib.metrics.intervals import Interval

NOTICE = "*Research and teaching only, not for diagnosis.*"


class Lesson:
    """A run of a lesson: `lesson = Lesson("2.1", profile=profile, seed=seed)`.

    Making one starts the lesson's record anew; `summary()` completes it.

    Args:
        number: of the lesson, such as "2.1".
        profile: "quick", "standard" or "full".
        seed: the run's seed.
    """

    def __init__(self, number: str, *, profile: str = "standard", seed: int = 0):
        self.number, self.profile, self.seed = str(number), profile, seed
        self.claims: dict[str, Claim] = {}
        self._results: list[dict] = []
        self._questions: dict[str, dict] = {}
        self._cards: dict[str, Card] = {}
        self._save(complete=False)

    @property
    def path(self) -> Path:
        """The file of this run's record."""
        return records_folder(self.profile) / f"{self.number}.json"

    def title(self, question: str, objectives: Sequence[str], minutes: int) -> None:
        """Show the question that the lesson answers, what the reader can do after it, and its reading time."""
        goals = "\n".join(f"{place}. {goal}" for place, goal in enumerate(objectives, 1))
        show(
            f"**{question}**\n\nAfter this lesson you can\n\n{goals}\n\n*About {minutes} minutes. {NOTICE.strip('*')}*"
        )

    def say(self, template: str, **values) -> None:
        """Show a sentence whose numbers come from the run: `say("AP is {ap:.2f}", ap=ap)`. A tuple is an interval."""
        show(fill(template, **values))

    def figure(self, alt: str, fig: Figure | None = None, **values) -> None:
        """Show the current figure (or `fig`), and `alt` to those who cannot see it; its numbers as in `say`."""
        show_figure(fill(alt, **values), fig)

    def claim(
        self,
        name: str,
        statement: str,
        holds: bool,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
        over: str = "",
        because: str = "",
        seeds: int = 1,
    ) -> None:
        """Record and show a claim with what was measured. See `Claim`.

        Raises:
            BadInput: the name was used before in this lesson for another statement, or a number is not finite.
        """
        self._add_claim(Claim(name, statement, holds, value, low, high, over, because, seeds))

    def claim_interval(self, name: str, statement: str, interval: Interval, **limits) -> None:
        """Record and show the claim that an interval lies above, or below, a number. See `Claim.of_interval`.

        `lesson.claim_interval("dense-beats-copying", "The dense code has the higher AP (difference).", gap, above=0)`
        """
        self._add_claim(Claim.of_interval(name, statement, interval, **limits))

    def _add_claim(self, claim: Claim) -> None:
        before = self.claims.get(claim.name)
        if before is not None and before.statement != claim.statement:
            raise BadInput("two claims of this lesson have this name.", field=claim.name, remedy="Rename one.")
        self.claims[claim.name] = claim
        self._save(complete=False)
        measured = f" Measured: {claim.measured()}." if claim.measured() else ""
        show(f"> **Claim.** {claim.statement}{measured} In this run it **{claim.verdict()}**.")

    def predict(
        self,
        key: str,
        question: str,
        kind: str = "number",
        choices: Sequence[str] = (),
        *,
        bounds: tuple[float, float] | None = None,
        guess=None,
        sure: float | None = None,
        within: tuple[float, float] | None = None,
    ):
        """Ask for a guess, with a small form where widgets are shown; `guess=` commits one in code.

        Args:
            key: short name of the question, for `reveal`.
            question: in Markdown.
            kind: "number", "choice" or "ranking" (all choices, highest first).
            choices: the answers to choose from, or to rank.
            bounds: smallest and largest number that make sense.
            guess: a guess in code, for those who read without widgets.
            sure: with it, for a choice or a ranking, how sure: 50 to 100 per cent (that any one pair is in order).
            within: with it, for a number, the range that holds the truth with 80 per cent.
        """
        if kind not in predictions.KINDS or (kind != "number" and len(choices) < 2):
            raise BadInput(f"kind is one of {', '.join(predictions.KINDS)}; the last two need choices.", field=key)
        self._questions[key] = {"question": question, "kind": kind}
        options = f"\n\n*{'Choose' if kind == 'choice' else 'Rank'}: {', '.join(choices)}.*" if choices else ""
        show(f"**Predict.** {question}{options}")
        if guess is not None:
            stated = predictions.check_confidence(kind, sure, within)
            self._commit(key, predictions.check_guess(guess, kind, choices, bounds), **stated)
        stored = predictions.load().get(f"{self.number}/{key}", {}).get("guess")
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            usable = _usable(stored, kind, choices, bounds)
            display(
                predictions.form(
                    kind, choices, usable, lambda *args, **stated: self._commit(key, *args, **stated), bounds
                )
            )

    def reveal(self, key: str, truth) -> None:
        """Show the truth, beside the guess if one is stored."""
        if key not in self._questions:
            raise BadInput("this question was not asked in this run.", field=key, remedy="Run the cell with predict.")
        kind = self._questions[key]["kind"]
        truth = float(truth) if kind == "number" else list(truth) if kind == "ranking" else truth
        entry = predictions.load().get(f"{self.number}/{key}", {})
        guess = _usable(entry.get("guess"), kind, truth if kind == "ranking" else [entry.get("guess")], None)
        show(predictions.compare(guess, truth, kind))
        if guess is not None:
            predictions.store(self.number, key, truth=truth, profile=self.profile)

    def results(self, table: pd.DataFrame) -> None:
        """Add a tidy table (one measured number a row) to the course's results."""
        self._results += table.to_dict("records")
        self._save(complete=False)

    def card(
        self,
        number: str,
        title: str,
        difficulty: int,
        minutes: int,
        task: str,
        hints: Sequence[str] = (),
        solution: str = "",
        check: Check | None = None,
    ) -> None:
        """Show an exercise card. See `Card`."""
        self._cards[number] = Card(number, title, difficulty, minutes, task, hints, solution, check)
        show(self._cards[number].markdown())

    def check(self, number: str, answer) -> None:
        """Check an answer to a card and print one line: right, or which misconception is behind it."""
        if number not in self._cards:
            raise BadInput(f"there is no exercise {number}.", remedy="Run the cell that shows the card.")
        print(self._cards[number].verdict(answer))

    def summary(self, *lines: str) -> None:
        """Show the claims table and up to three closing lines, and complete the record."""
        if self.claims:
            show(claims_table(list(self.claims.values())))
        if lines:
            show("\n".join(f"- {line}" for line in lines))
        show(NOTICE)
        self._save(complete=True)

    def _commit(self, key: str, guess, sure=None, low=None, high=None) -> None:
        stated = {"sure": sure, "low": low, "high": high}  # None: an earlier guess's does not stay
        predictions.store(self.number, key, guess=guess, profile=self.profile, **stated, **self._questions[key])

    def _save(self, complete: bool) -> None:
        record = {
            "lesson": self.number,
            "profile": self.profile,
            "seed": self.seed,
            "complete": complete,
            "claims": [claim.record() for claim in self.claims.values()],
            "results": self._results,
        }
        write_record(self.path, record)


def _usable(guess, kind: str, choices: Sequence[str], bounds: tuple[float, float] | None):
    """A stored guess, or None if there is none or the question has changed since."""
    if guess is None:
        return None
    try:
        return predictions.check_guess(guess, kind, choices, bounds)
    except BadInput:
        return None
