"""The anomaly painter's view: sliders for a lesion, and for each detector what it rebuilds, its map, what it flags."""

from __future__ import annotations

import html
import math
from functools import cache

import ipywidgets as widgets
import numpy as np

from course_lib import maps as map_filters
from course_lib.widgets import pictures
from course_lib.widgets.explorer import (
    NOTICE,
    Explorer,
    Picture,
    choice,
    column,
    follow,
    number_table,
    outcome_legend,
    picture,
    put,
    row,
    set_ends,
    stops_slider,
    whole_slider,
)
from course_lib.widgets.painter.figure import flagged_panel, magnified, map_panel, rebuilt_panel, slice_panel
from course_lib.widgets.painter.state import KINDS, SETTINGS, PainterState, Reading

STEPS = {"size": 0.5, "intensity": 0.1, "texture": 0.1}
FORMS = {"size": "{:.1f} mm", "intensity": "{:+.1f} s.d.", "texture": "{:.1f} s.d."}


class PainterExplorer(Explorer):
    """Paint a lesion into a healthy slice, and see at once what each detector rebuilds and flags.

    Args:
        state: slices, detectors and the lesion as it starts.
    """

    state: PainterState

    def __init__(self, state: PainterState):
        people = [(f"healthy {n}", subject) for n, subject in enumerate(state.slices.subjects, 1)]
        (across, front), mm = state.reach_mm, state.slices.spacing_mm
        controls = {
            "subject": choice("person", people, state.subject),
            "height": whole_slider("slice", state.height, (0, state.heights - 1)),
            "kind": choice("lesion", list(KINDS), state.kind),
            "across": stops_slider("left to right (mm)", place_stops(across, mm, ("left", "right")), state.across_mm),
            "front": stops_slider("back to front (mm)", place_stops(front, mm, ("back", "front")), state.front_mm),
            **{name: stops_slider(name, [("none", 0.0)], 0.0) for name in SETTINGS},  # stops: `_follow`
            "again": widgets.Button(
                description="another shape",
                tooltip="draw another lesion with the same settings",
                layout=widgets.Layout(width="auto", margin="2px 2px 2px 9.5em"),
            ),
        }
        super().__init__(state, controls)
        high, wide = magnified(state, slice_panel(state, state.host.image), outlined=False).shape[:2]
        self.slices = [picture(wide, high) for _ in range(2)]
        self.panels = {name: [picture(wide, high) for _ in range(3)] for name in state.judges}
        self.captions = {name: [widgets.HTML() for _ in range(3)] for name in state.judges}
        self.about, self.table = [widgets.HTML() for _ in range(2)], widgets.HTML()
        self.note, self._host = widgets.HTML(), None
        self.arrange(
            row(column(*self.controls.values(), self.note), *self._framed(self.about, self.slices)),
            widgets.HTML(f"{outcome_legend()} &nbsp; blue line: the lesion"),
            row(*(self._strip(name) for name in state.judges)),
            self.table,
        )
        self.show()

    def changed(self, name: str, value) -> None:
        """See `Explorer.changed`."""
        state = self.state
        if name in SETTINGS:
            state.set(name, value)
        elif name == "across":
            state.move(value, state.front_mm)
        elif name == "front":
            state.move(state.across_mm, value)
        elif name == "again":
            state.draw_again()
        else:
            {"subject": state.choose_subject, "height": state.choose_height, "kind": state.choose_kind}[name](value)

    def show(self) -> None:
        """See `Explorer.show`."""
        state = self.state
        self._follow()
        painted = state.painted
        pixels = int(painted.mask.sum())
        self.about[0].value = f"before, z = {state.z_mm:g} mm; left is left"
        self.about[1].value = f"painted: {pixels} pixels, {state.lesion_mm2:.0f} mm²"
        self.note.value = f'<span role="status">{html.escape(state.note)}</span>'
        if self._host is not state.host:  # what has not changed is not sent again
            self._host = state.host
            healthy = magnified(state, slice_panel(state, state.host.image), outlined=False)
            _put(self.slices[0], healthy, f"The healthy slice at z = {state.z_mm:g} mm.")
        _put(self.slices[1], magnified(state, slice_panel(state, painted.image), outlined=True), self._says())
        readings = [state.reading(name) for name in state.judges]
        for reading in readings:
            self._show_detector(reading)
        heads = [f"{r.detector}: painted (before)" for r in readings]
        self.table.value = number_table(heads, numbers_lines(readings), _caption(state))

    def _show_detector(self, reading: Reading) -> None:
        state, n = self.state, reading.painted
        rebuilt, anomaly, flagged = self.panels[reading.detector]
        makes = reading.after.rebuilt is not None
        said = "reconstruction" if makes else "makes no reconstruction"
        low, high = reading.limits
        texts = [said, f"map, black {low:.2g} to bright {high:.2g}", f"flagged from {reading.threshold:.3g}"]
        for caption, text in zip(self.captions[reading.detector], texts, strict=True):
            caption.value = text
        _put(rebuilt, magnified(state, rebuilt_panel(state, reading), outlined=makes), f"{reading.detector}: {said}.")
        contrast = f"map {n.inside:.3g} in the lesion, {n.outside:.3g} elsewhere"
        _put(anomaly, magnified(state, map_panel(state, reading), outlined=True), f"{reading.detector}: {contrast}.")
        outcome = f"{n.found} pixels found, {n.false} falsely flagged, {n.missed} missed"
        _put(flagged, flagged_panel(state, reading), f"{reading.detector}: {outcome}.")

    def _follow(self) -> None:
        """Put the controls where the state is."""
        state, controls = self.state, self.controls
        with self.quietly():
            set_ends(controls["height"], 0, state.heights - 1, state.height)
            controls["subject"].value, controls["kind"].value = state.subject, state.kind
            follow(controls["across"], state.across_mm)
            follow(controls["front"], state.front_mm)
            for name in SETTINGS:
                controls[name].disabled = name not in state.settings
                if name in state.settings:
                    stops = setting_stops(name, *state.range_of(name))
                    follow(controls[name], state.settings[name], stops)

    def _strip(self, detector: str) -> widgets.VBox:
        name = widgets.HTML(f"<b>{html.escape(detector)}</b>")
        return widgets.VBox([name, *self._framed(self.captions[detector], self.panels[detector])])

    @staticmethod
    def _framed(captions, places) -> list[widgets.VBox]:
        pairs = zip(captions, places, strict=True)
        return [widgets.VBox(pair, layout=widgets.Layout(max_width="100%")) for pair in pairs]

    def _says(self) -> str:
        row_, column_ = self.state.centre
        size = self.state.lesion_mm2
        return f"The slice with a {self.state.kind} of {size:.0f} mm² at row {row_}, column {column_}, outlined."


def numbers_lines(readings: list[Reading]) -> list[tuple[str, list[str]]]:
    """The rows of the table: each number on the painted slice and, in brackets, on the slice before."""

    def line(name: str, show) -> tuple[str, list[str]]:
        return name, [f"{show(r.painted)} &nbsp; ({show(r.healthy)})" for r in readings]

    return [
        line("Dice of the flagged pixels", lambda n: _or_none(n.dice, ".2f")),
        line("share of the lesion that is flagged", lambda n: _or_none(n.share, ".0%")),
        line("pixels found / falsely flagged / missed", lambda n: f"{n.found} / {n.false} / {n.missed}"),
        line("map in the lesion / elsewhere", lambda n: f"{_or_none(n.inside, '.2g')} / {_or_none(n.outside, '.2g')}"),
        line("times brighter in the lesion", lambda n: _or_none(n.times, ".1f")),
        line("image score", lambda n: f"{n.score:.3g}"),
        line("healthy validation slices that score less", lambda n: f"{n.percentile:.0f} %"),
    ]


def place_stops(reach: float, step: float, sides: tuple[str, str]) -> list[tuple[str, float]]:
    """Places from `-reach` to `reach` mm, with their side in words."""
    places = [k * step for k in range(-round(reach / step), round(reach / step) + 1)]
    return [(f"{abs(x):g} {sides[x > 0]}" if x else "middle", x) for x in places]


@cache
def setting_stops(name: str, low: float, high: float) -> list[tuple[str, float]]:
    """The numbers that a setting's slider stops at, both ends among them."""
    step = STEPS[name]
    values = [round(low + k * step, 6) for k in range(round((high - low) / step) + 1)]
    return [(FORMS[name].format(value), value) for value in values]


def _caption(state: PainterState) -> str:
    slices = len(next(iter(state.judges.values())).scores)
    return (
        f"Before: the healthy slice, with the same pixels counted as lesion. A pixel is flagged if it scores like "
        f"the highest {state.fpr:.2%} of the brain pixels of {slices} healthy validation slices, which also set the "
        f"colours. Post-processing of the maps: {map_filters.describe(state.steps)}. {NOTICE}"
    )


def _or_none(value: float, form: str) -> str:
    return "not defined" if math.isnan(value) else format(value, form)


def _put(place: Picture, panel: np.ndarray, says: str) -> None:
    """A dozen pictures change at each step: PNGs with a palette are made in half the time."""
    put(place, pictures.with_palette(panel), says)
