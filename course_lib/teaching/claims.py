"""Claims: sentences that a lesson measures, each with its value, its interval and whether it holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from course_lib.errors import BadInput
from course_lib.teaching.prose import table


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
