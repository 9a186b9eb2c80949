"""Predictions: the student commits to a guess before a figure, and meets it again beside the truth.

A guess never blocks "run all": without one, the lesson goes on. Guesses stay on this computer, in one JSON file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from filelock import FileLock

from course_lib.errors import BadInput
from course_lib.files import atomic_write, data_folder
from course_lib.teaching.record import plain

KINDS = ("number", "choice", "ranking")


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


def form(kind: str, choices: Sequence[str], guess, on_commit, bounds: tuple[float, float] | None = None):
    """A small form: input, button, and a line that says what was stored. A click calls `on_commit(guess)`."""
    import ipywidgets as widgets  # here, so that the rest works without it

    said = widgets.Label("" if guess is None else "stored")
    button = widgets.Button(description="That is my guess", layout=widgets.Layout(width="10em"))
    if kind == "number":
        inputs = [widgets.FloatText(value=0.0 if guess is None else guess, description="guess")]
    elif kind == "choice":
        inputs = [widgets.RadioButtons(options=list(choices), value=guess, description="guess")]
    else:
        order = guess or [None] * len(choices)
        inputs = [
            widgets.Dropdown(options=list(choices), value=name, description=f"place {place}")
            for place, name in enumerate(order, 1)
        ]

    def commit(_):
        values = [item.value for item in inputs]
        try:
            on_commit(check_guess(values if kind == "ranking" else values[0], kind, choices, bounds))
            said.value = "stored"
        except BadInput as refused:
            said.value = refused.cause

    button.on_click(commit)
    return widgets.VBox([*inputs, widgets.HBox([button, said])])
