"""Claims: sentences that a lesson measures, each with its value, its interval and whether it holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from course_lib.errors import BadInput
from course_lib.teaching.prose import table

if TYPE_CHECKING:
    from course_lib.metrics.intervals import Interval


@dataclass(frozen=True)
class Claim:
    """A measurable sentence and what this run found.

    Attributes:
        name: short, unique in its lesson, such as "dense-beats-copying".
        statement: the sentence.
        holds: whether it was found to hold.
        value: what was measured, such as a difference in AP; None where there is no one number.
        low, high: the ends of the interval of `value`, or None.
        over: what the interval is over, such as "subjects" or "seeds".
        seeds: how many trainings or draws of the data the value averages.
        because: why it does not hold, where that is known.
    """

    name: str
    statement: str
    holds: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None
    over: str = ""
    because: str = ""
    seeds: int = 1

    def __post_init__(self):
        if not self.name or not self.statement:
            raise BadInput("a claim needs a name and a statement.", field="claim")
        if not isinstance(self.holds, (bool, np.bool_)):
            raise BadInput(f"holds must be True or False, not {self.holds!r}.", field=self.name)
        numbers = [number for number in (self.value, self.low, self.high) if number is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise BadInput(f"the value and its interval must be finite, not {numbers}.", field=self.name)
        if (self.low is None) != (self.high is None) or (self.low is not None and self.low > self.high):
            raise BadInput("an interval needs a lower and an upper end, in this order.", field=self.name)
        if self.low is not None and not self.over:
            raise BadInput("say what the interval is over, such as over='subjects'.", field=self.name)

    @classmethod
    def of_interval(
        cls,
        name: str,
        statement: str,
        interval: Interval,
        *,
        above: float | None = None,
        below: float | None = None,
        over: str = "subjects",
        because: str = "",
    ) -> Claim:
        """The claim that a quantity lies above, or below, a number: it holds if its whole interval does.

        Args:
            name, statement, because: as the attributes; `because` is kept only if the claim does not hold.
            interval: of `course_lib.metrics.intervals` or `course_lib.evaluation.paired_difference`.
            above, below: the number; give one of them (both: between).
            over: what the interval's `subjects` are, such as "persons" or "lesions".

        Raises:
            BadInput: neither or no sensible limit is given.
        """
        if above is None and below is None:
            raise BadInput("say above or below which number it should lie.", field=name)
        holds = (above is None or interval.low > above) and (below is None or interval.high < below)
        several = f" and {interval.seeds} seeds" if interval.seeds > 1 else ""
        return cls(
            name,
            statement,
            bool(holds),
            interval.value,
            interval.low,
            interval.high,
            f"{interval.subjects} {over}{several}",
            "" if holds else because,
            interval.seeds,
        )

    def measured(self) -> str:
        """The value and the interval as text, such as "0.31 [0.25, 0.38] over subjects"."""
        text = "" if self.value is None else f"{self.value:.3g}"
        return text if self.low is None else f"{text} [{self.low:.3g}, {self.high:.3g}] over {self.over}".strip()

    def verdict(self) -> str:
        """Either "holds", or "does not hold" with the reason."""
        return "holds" if self.holds else "does not hold" + (f" ({self.because})" if self.because else "")

    def record(self) -> dict:
        """The claim as plain values."""
        return asdict(self)


def claims_table(claims: list[Claim]) -> str:
    """The claims as a Markdown table."""
    rows = [{"statement": c.statement, "measured": c.measured(), "verdict": c.verdict()} for c in claims]
    return table(rows, {"statement": "claim", "measured": "measured", "verdict": "in this run"})
