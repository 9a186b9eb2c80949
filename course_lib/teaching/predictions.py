"""Predictions: the student commits to a guess before a figure, and meets it again beside the truth.

A guess never blocks "run all": without one, the lesson goes on. Guesses stay on this computer, in one JSON file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pandas as pd
from filelock import FileLock
from scipy.stats import binomtest

from course_lib.errors import BadInput
from course_lib.files import atomic_write, data_folder
from course_lib.teaching.record import plain

KINDS = ("number", "choice", "ranking")
RANGE = 0.8  # how often a stated range is meant to hold the truth
FEW = 10  # with fewer guesses no calibration can be judged


def predictions_file() -> Path:
    """Where guesses are kept: LEARNING_NORMAL_PREDICTIONS, or `predictions.json` in the data folder."""
    return Path(os.environ.get("LEARNING_NORMAL_PREDICTIONS") or data_folder() / "predictions.json")


def load() -> dict[str, dict]:
    """All stored guesses by "lesson/key"; none if there is no file.

    Raises:
        BadInput: the file is damaged; it is kept as it is.
    """
    path = predictions_file()
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(
            "the stored predictions cannot be read.", file=path, remedy="Rename or delete this file."
        ) from error


def store(lesson: str, key: str, **fields) -> None:
    """Add `fields` (guess, truth, ...) to the entry of a question. Safe with two notebooks at once."""
    path = predictions_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path) + ".lock", timeout=20):
        entries = load()
        entry = entries.setdefault(f"{lesson}/{key}", {})
        entry.update(plain(fields))
        entry["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        with atomic_write(path) as part:
            part.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_guess(guess, kind: str, choices: Sequence[str], bounds: tuple[float, float] | None = None):
    """The guess in the kind's own type: a float, one of the choices, or a list of all of them, first = highest.

    Raises:
        BadInput: it is none of these; the message says what was expected.
    """
    if kind == "number":
        try:
            number = float(guess)
        except (TypeError, ValueError):
            raise BadInput(f"{guess!r} is not a number.", field="guess") from None
        if bounds and not bounds[0] <= number <= bounds[1]:
            raise BadInput(f"{number:g} is not between {bounds[0]:g} and {bounds[1]:g}.", field="guess")
        return number
    if kind == "choice":
        if guess not in choices:
            raise BadInput(f"{guess!r} is not one of: {', '.join(choices)}.", field="guess")
        return guess
    ranking = list(guess)
    if sorted(map(str, ranking)) != sorted(map(str, choices)):
        raise BadInput(f"a ranking names each of these once: {', '.join(choices)}.", field="guess")
    return ranking


def compare(guess, truth, kind: str) -> str:
    """How the guess and the truth compare, in one sentence of Markdown."""
    if kind == "ranking":
        shown = " > ".join(truth)
        if guess is None:
            return f"The order is **{shown}**."
        right, pairs = concordant_pairs(guess, truth)
        return f"You ranked {' > '.join(guess)}. The order is **{shown}**: {right} of {pairs} pairs are right."
    shown = f"{truth:.3g}" if kind == "number" else str(truth)
    if guess is None:
        return f"It is **{shown}**."
    if kind == "number":
        return f"You guessed {guess:.3g}. It is **{shown}**, so you were {abs(guess - truth):.2g} off."
    return f"You chose {guess}. It is **{shown}**: {'you were right' if guess == truth else 'a surprise, then'}."


def concordant_pairs(guess: Sequence[str], truth: Sequence[str]) -> tuple[int, int]:
    """How many pairs stand in the same order in both rankings, and how many pairs there are."""
    place = {name: rank for rank, name in enumerate(guess)}
    pairs = list(combinations(truth, 2))
    return sum(place[first] < place[second] for first, second in pairs), len(pairs)


def check_confidence(kind: str, sure: float | None = None, within: tuple[float, float] | None = None) -> dict:
    """How sure a guess is, as stored: `sure` in per cent, or `low` and `high`; empty if nothing was said.

    Args:
        kind: of the question.
        sure: for a choice or a ranking, 50 to 100 per cent; for a ranking, that any one pair stands in the right order.
        within: for a number, a range that is meant to hold the truth with 80 per cent.

    Raises:
        BadInput: out of range, or it does not fit the kind.
    """
    if (within is not None and kind != "number") or (sure is not None and kind == "number"):
        raise BadInput("a number has a range (within), a choice and a ranking a percentage (sure).", field="confidence")
    if sure is not None and not 50 <= sure <= 100:
        raise BadInput(f"how sure is between 50 and 100 per cent, not {sure:g}.", field="sure")
    if within is not None and not (math.isfinite(within[0]) and within[0] <= within[1] < math.inf):
        raise BadInput("a range has a lower and an upper end, in this order.", field="within")
    if within is not None:
        return {"low": float(within[0]), "high": float(within[1])}
    return {} if sure is None else {"sure": float(sure)}


def calibration(entries: dict[str, dict]) -> pd.DataFrame:
    """How well guesses and stated confidence fit the truth.

    The Brier score is the mean of (p - o)^2 over choices, with p the stated probability and o 1 for a hit, else 0: 0 is
    perfect, and 0.25 is what always saying 50 per cent gives (Brier, Monthly Weather Review 78, 1950).

    Args:
        entries: as of `load()`; those without guess or truth are left out.

    Returns:
        One row a measure: `kind`, `measure` ("hit rate", "hit rate by confidence", "Brier score", "inside the range",
        "pairs right"), `stated` (mean stated probability, NaN where none was), `value`, `low`, `high` (Wilson's 95 per
        cent interval of a share; the pairs of one ranking count as if independent), `guesses`, and `few`: fewer than
        `FEW` of them, too few to judge.
    """
    known = [e for e in entries.values() if e.get("guess") is not None and e.get("truth") is not None]
    choices = [(e["guess"] == e["truth"], _share(e)) for e in known if e.get("kind") == "choice"]
    rows = [_share_row("choice", "hit rate", choices)]
    said = [(hit, p) for hit, p in choices if p is not None]
    for level in sorted({round(p, 1) for _, p in said}):
        some = [(hit, p) for hit, p in said if round(p, 1) == level]
        rows.append(_share_row("choice", "hit rate by confidence", some))
    if said:
        brier = sum((p - hit) ** 2 for hit, p in said) / len(said)
        rows.append(_row("choice", "Brier score", None, brier, None, None, len(said)))
    ranges = [(e["low"] <= e["truth"] <= e["high"], RANGE) for e in known if e.get("low") is not None]
    rows.append(_share_row("number", "inside the range", ranges))
    rankings = [e for e in known if e.get("kind") == "ranking" and sorted(e["guess"]) == sorted(e["truth"])]
    counts = [(*concordant_pairs(e["guess"], e["truth"]), _share(e)) for e in rankings]
    pairs = [(k < right, p) for right, all_, p in counts for k in range(all_)]
    rows.append(_share_row("ranking", "pairs right", pairs, len(rankings)))
    columns = ["kind", "measure", "stated", "value", "low", "high", "guesses", "few"]
    return pd.DataFrame([row for row in rows if row], columns=columns)


def _share(entry: dict) -> float | None:
    return None if entry.get("sure") is None else entry["sure"] / 100


def _share_row(kind: str, measure: str, pairs: list[tuple[bool, float | None]], guesses: int | None = None):
    """The row of a share of hits, None without any; `pairs` are (hit, stated probability)."""
    if not pairs:
        return None
    hits, stated = sum(hit for hit, _ in pairs), [p for _, p in pairs if p is not None]
    ends = binomtest(int(hits), len(pairs)).proportion_ci(method="wilson")
    mean = sum(stated) / len(stated) if stated else None
    return _row(kind, measure, mean, hits / len(pairs), ends.low, ends.high, guesses or len(pairs))


def _row(kind, measure, stated, value, low, high, guesses) -> dict:
    ends = {"low": low, "high": high}
    return {"kind": kind, "measure": measure, "stated": stated, "value": value, **ends} | {
        "guesses": guesses,
        "few": guesses < FEW,
    }


def form(kind: str, choices: Sequence[str], guess, on_commit, bounds: tuple[float, float] | None = None):
    """A small form: input, how sure, button, and a line that says what was stored.

    A click calls `on_commit(guess)`, with `sure=`, or `low=` and `high=`, where the student has said so. Labels are
    shown whole, and it fits a phone.
    """
    import ipywidgets as widgets  # here, so that the rest works without it

    look = {"style": {"description_width": "initial"}, "layout": widgets.Layout(width="100%", max_width="28em")}
    said = widgets.Label("" if guess is None else "stored")
    button = widgets.Button(description="That is my guess", layout=widgets.Layout(width="12em"))
    if kind == "number":
        inputs = [widgets.FloatText(value=0.0 if guess is None else guess, description="guess", **look)]
        ends = [widgets.Text(description=f"{end}, 80 % range (optional)", **look) for end in ("low", "high")]
    else:
        levels = [("not said", None), *((f"{p} %", p) for p in range(50, 101, 10))]
        ends = [widgets.Dropdown(options=levels, index=0, description="how sure (optional)", **look)]
        if kind == "choice":
            inputs = [widgets.RadioButtons(options=list(choices), value=guess, description="guess", **look)]
        else:
            order = guess or [None] * len(choices)
            inputs = [
                widgets.Dropdown(options=list(choices), value=name, description=f"place {place}", **look)
                for place, name in enumerate(order, 1)
            ]

    def commit(_):
        values = [item.value for item in inputs]
        try:
            value = check_guess(values if kind == "ranking" else values[0], kind, choices, bounds)
            on_commit(value, **_stated(kind, [item.value for item in ends]))
            said.value = "stored"
        except BadInput as refused:
            said.value = refused.cause

    button.on_click(commit)
    row = widgets.HBox([button, said], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([*inputs, *ends, row])


def _stated(kind: str, values: list) -> dict:
    """What the optional fields of a form say."""
    if kind != "number":
        return check_confidence(kind, sure=values[0])
    if not any(text.strip() for text in values):
        return {}
    return check_confidence(kind, within=tuple(check_guess(text, "number", ()) for text in values))
