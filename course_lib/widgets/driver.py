"""Move an explorer's controls without a browser: for tests, and for notebooks that nobody looks at.

`drive_all()` in a notebook's last cell walks every explorer of the notebook, as `make test` does with each lesson. What
a control breaks is then an error in the explorer's own Output, where `lessons.outputs.find_errors` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np

from course_lib.errors import BadInput
from course_lib.widgets.explorer import LIVE, Explorer


def set_control(explorer: Explorer, name: str, value=None) -> None:
    """Give a control a value, as the student would; a button is pressed.

    Raises:
        BadInput: there is no such control, or it does not take the value (ipywidgets itself would clip it).
    """
    if name not in explorer.controls:
        raise BadInput(f"there is no control {name!r}.", field="control", remedy=f"One of {list(explorer.controls)}.")
    control = explorer.controls[name]
    if isinstance(control, widgets.Button):
        control.click()
        return
    control.value = value
    if control.value != value:
        raise BadInput(f"{name} does not take {value!r}; it stands at {control.value!r}.", field="control")


def positions(control: widgets.Widget, count: int = 5) -> Sequence:
    """Values that a control can take, both ends among them; `[None]` for a button."""
    if isinstance(control, widgets.Button):
        return [None]
    if isinstance(control, (widgets.Dropdown, widgets.ToggleButtons, widgets.RadioButtons, widgets.SelectionSlider)):
        values = [value for _, value in control._options_full]
        return [values[i] for i in _spread(len(values), count)]
    if isinstance(control, widgets.Checkbox):
        return [True, False]
    if isinstance(control, widgets.FloatLogSlider):
        return [float(control.base**e) for e in np.linspace(control.min, control.max, count)]
    if isinstance(control, widgets.FloatSlider):
        return [float(x) for x in np.linspace(control.min, control.max, count)]
    if isinstance(control, widgets.IntSlider):
        return [control.min + i for i in _spread(control.max - control.min + 1, count)]
    raise BadInput(f"no positions are known for a {type(control).__name__}.", field="control")


def walk(explorer: Explorer, count: int = 5) -> int:
    """Move each control through `count` positions and back to where it was; returns the number of moves.

    Raises:
        BadInput: the explorer refuses a value that its own control offers.
    """
    moves = 0
    for name, control in explorer.controls.items():
        if control.disabled:
            continue
        if isinstance(control, widgets.Button):
            control.click()
            moves += 1
            continue
        before, stops = control.value, positions(control, count)
        for value in [*stops, before]:
            control.value = value
            if explorer.said.value:
                kind = type(explorer).__name__
                raise BadInput(f"{kind} offers {value!r} and refuses it: {explorer.said.value}", field=name)
        moves += len(stops)
    return moves


def drive_all(count: int = 5) -> str:
    """Walk every explorer of this process that is not closed.

    Returns:
        What was done, in words.
    """
    done = [(type(explorer).__name__, walk(explorer, count)) for explorer in list(LIVE) if explorer.comm is not None]
    return ", ".join(f"{name}: {moves} moves" for name, moves in sorted(done)) or "no explorer"


def _spread(length: int, count: int) -> list[int]:
    """At most `count` indices of a sequence, both ends among them."""
    return sorted({int(i) for i in np.linspace(0, length - 1, min(count, length)).round()})
