"""Parameters of pathology and artefacts: their limits, how they are drawn, and the refusal of nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from course_lib.errors import BadInput

SD = "robust s.d. of the brain"
WHOLE = ("count", "slices", "ghosts")  # parameters that are whole numbers


class Range(NamedTuple):
    """Limits of a parameter, the range from which it is drawn when not given, its unit and meaning."""

    low: float
    high: float
    draw_low: float
    draw_high: float
    unit: str
    meaning: str


def draw(known: Mapping[str, Range], rng: np.random.Generator, given: Mapping[str, float]) -> dict[str, float]:
    """All parameters of a family: those given, checked; the others drawn uniformly from their ranges.

    Each is drawn even if it is given, so that giving one leaves the others as they were. Signs of `shift_mm` are drawn.

    Raises:
        BadInput: a name is unknown, or a value is not a number within its limits.
    """
    for name in given:
        if name not in known:
            raise BadInput("there is no such parameter.", field=name, remedy=f"There is {', '.join(known)}.")
    drawn = {}
    for name, limits in known.items():
        value = float(rng.uniform(limits.draw_low, limits.draw_high + (name in WHOLE)))
        if name == "shift_mm":
            value *= float(rng.choice([-1.0, 1.0]))
        value = number(name, given[name], limits) if name in given else value
        drawn[name] = float(np.floor(value)) if name in WHOLE else value
    return drawn


def number(name: str, value: float, limits: Range) -> float:
    """`value` as a float within `limits`.

    Raises:
        BadInput: it is not.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if not limits.low <= result <= limits.high:
        raise BadInput(
            f"{value!r} is not within its limits.",
            field=name,
            remedy=f"Take {limits.low:g} to {limits.high:g} {limits.unit}.",
        )
    return result


def check_image(image: np.ndarray, unit: float, spacing_mm: float) -> None:
    """Refuse what is not a finite numeric slice or volume, and units that are not positive.

    Raises:
        BadInput: says which.
    """
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or image.dtype.kind not in "fiu":
        raise BadInput("not a numeric 2-D or 3-D array.", field="image", remedy="Give one slice or one volume.")
    if min(image.shape) < 8 or not np.isfinite(image).all():
        raise BadInput("smaller than 8 pixels, or NaN or Inf in it.", field="image", remedy="Clean the image first.")
    for name, value in (("unit", unit), ("spacing_mm", spacing_mm)):
        if not (np.isfinite(value) and value > 0):
            raise BadInput(f"{value!r} is not a positive number.", field=name)
