"""The latent explorer's view: a slider along a path of codes, the decoded picture, and what lies near."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from course_lib.widgets import pictures, plates
from course_lib.widgets.explorer import (
    NOTICE,
    Explorer,
    choice,
    column,
    follow,
    number_table,
    picture,
    put,
    row,
    stops_slider,
)
from course_lib.widgets.latent.figure import POINT, draw_codes, panels, path, where
from course_lib.widgets.latent.state import MODES, STEP_ENDS, T_ENDS, LatentState, Near

SIDE = 190  # pixels of a panel, about
PLATE = (430, 360)  # pixels
PANELS = ("A", "A, rebuilt", "B", "B, rebuilt", "decoded", "cross-fade", "nearest code", "nearest picture")
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class LatentExplorer(Explorer):
    """Walk through the codes of healthy slices: what is decoded, and is anything healthy near?

    Args:
        state: the codes, and how the explorer starts.
    """

    state: LatentState

    def __init__(self, state: LatentState):
        people = [(f"person {n}", s) for n, s in enumerate(dict.fromkeys(state.subjects), 1)]
        modes = [("from A to B", MODES[0]), ("along a direction", MODES[1])]
        count = len(state.deviations)
        controls = {
            "mode": choice("path", modes, state.mode),
            "a": choice("A", people, state.subjects[state.a]),
            "a_height": stops_slider("height of A", self._heights(state, state.a), state.a),
            "b": choice("B", people, state.subjects[state.b]),
            "b_height": stops_slider("height of B", self._heights(state, state.b), state.b),
            "t": stops_slider("t: 0 is A, 1 is B", _stops(*T_ENDS, 0.05, "{:.2f}"), state.t),
            "direction": choice("direction", [(_share(state, k), k) for k in range(count)], state.direction),
            "step": stops_slider("steps from A", _stops(*STEP_ENDS, 0.1, "{:+.1f} s.d."), state.step),
        }
        super().__init__(state, controls)
        high, wide = self._panel(state.images[0]).shape[:2]
        self.panels = {name: picture(wide, high) for name in PANELS}
        self.captions = {name: widgets.HTML() for name in PANELS}
        self._framed = {
            name: widgets.VBox([self.captions[name], self.panels[name]], layout=widgets.Layout(max_width="100%"))
            for name in PANELS
        }
        self.plate, self.table = picture(*PLATE), widgets.HTML()
        self._background: tuple[Image.Image, Callable, float] | None = None
        self._shown: dict[str, tuple[bytes, str]] = {}
        framed = list(self._framed.values())
        self.arrange(row(column(*self.controls.values()), self.plate), row(*framed[:4]), row(*framed[4:]), self.table)
        self.show()

    def changed(self, name: str, value) -> None:
        """See `Explorer.changed`."""
        state = self.state
        if name in ("a", "b"):
            before = state.heights[state.a if name == "a" else state.b]
            rows = state.rows_of(value)
            value = int(rows[np.abs(state.heights[rows] - before).argmin()])  # the same height, if that person has it
        choose = {
            "mode": state.choose_mode,
            "a": state.choose_a,
            "a_height": state.choose_a,
            "b": state.choose_b,
            "b_height": state.choose_b,
            "t": state.set_t,
            "direction": state.choose_direction,
            "step": state.set_step,
        }
        choose[name](value)

    def show(self) -> None:
        """See `Explorer.show`."""
        state = self.state
        self._follow()
        shown = panels(state)
        for name, frame in self._framed.items():
            frame.layout.display = "" if name in shown else "none"
            if name in shown:
                self._put(name, *shown[name])
        put(self.plate, self._moved(), self._says())
        self.table.value = distance_table(state)

    def _follow(self) -> None:
        """Put the controls where the state is."""
        state, controls = self.state, self.controls
        between = state.mode == "interpolate"
        with self.quietly():
            for name, value in (("mode", state.mode), ("direction", state.direction)):
                controls[name].value = value
            for name, end in (("a", state.a), ("b", state.b)):
                controls[name].value = state.subjects[end]
                follow(controls[f"{name}_height"], end, self._heights(state, end))
            follow(controls["t"], state.t)
            follow(controls["step"], state.step)
            for name in ("b", "b_height", "t"):
                controls[name].disabled = not between
            for name in ("direction", "step"):
                controls[name].disabled = between

    def _put(self, name: str, more: str, image: np.ndarray) -> None:
        """Show a panel, unless it is there already: A, B and their reconstructions seldom change."""
        content = (image.tobytes(), more)
        if self._shown.get(name) == content:
            return
        self._shown[name] = content
        text = f"{html.escape(name)}<br>{html.escape(more) or '&nbsp;'}"
        self.captions[name].value = f'<div style="line-height:1.3">{text}</div>'
        put(self.panels[name], pictures.with_palette(self._panel(image)), f"{name}: {more}." if more else f"{name}.")

    @staticmethod
    def _panel(image: np.ndarray) -> np.ndarray:
        return pictures.enlarge(pictures.grey(image), max(1, round(SIDE / max(image.shape))))

    @staticmethod
    def _heights(state: LatentState, end: int) -> list[tuple[str, int]]:
        return [(f"{state.heights[r]:g} mm", int(r)) for r in state.rows_of(state.subjects[end])]

    def _moved(self) -> Image.Image:
        """The codes, which are rendered once, with the path, its ends and the point."""
        state = self.state
        if self._background is None:
            self._background = render_codes(state)
        background, place, reach = self._background
        drawn = background.copy()
        pen = ImageDraw.Draw(drawn)
        pen.line([place(*np.clip(end, -reach, reach)) for end in path(state)], fill=BLACK, width=2)
        font = ImageFont.load_default(15)
        ends = [("A", state.a)] + ([("B", state.b)] if state.mode == "interpolate" else [])
        for name, end in ends:
            x, y = place(*state.places(state.codes[end][None])[0])
            plates.dot(pen, (x, y), WHITE, square=name == "B")
            pen.text((x + 8, y - 22), name, fill=BLACK, font=font, stroke_width=2, stroke_fill=WHITE)
        at = place(*np.clip(state.point().place, -reach, reach))
        plates.dot(pen, at, tuple(round(255 * c) for c in POINT), square=False)
        return drawn

    def _says(self) -> str:
        x, y = self.state.point().place
        return (
            f"The codes of {len(self.state.codes)} slices along their first two principal directions. The point, at "
            f"{where(self.state)}, lies at {x:.1f} and {y:.1f} s.d."
        )


def render_codes(state: LatentState) -> tuple[Image.Image, Callable, float]:
    """The codes as a picture, a function from s.d. to its pixels, and where its axes end, in s.d."""
    fig = plates.blank(*PLATE)
    ax = fig.subplots()
    draw_codes(ax, state)
    ax.grid(alpha=0.3)
    plates.set_sizes(ax)
    image = plates.render(fig)
    return image, plates.placer(ax, PLATE[1]), ax.get_xlim()[1]


def distance_table(state: LatentState) -> str:
    """What is nearest to the point, how far it is, and whether that is far, as an HTML table."""
    point, usual = state.point(), state.usual
    columns = [
        ("code (s.d. of its numbers)", point.in_code, usual["codes"]),
        ("decoded picture (s.d. of the brain)", point.in_picture, usual["decoded"]),
    ]
    if point.in_faded is not None:
        columns.append(("cross-fade (s.d. of the brain)", point.in_faded, usual["slices"]))
    nears: list[Near] = [near for _, near, _ in columns]
    others = "of persons other than A" + (" and B" if state.mode == "interpolate" else "")
    lines = [
        ("nearest healthy training slice", [html.escape(state.name_of(n.row)) for n in nears]),
        ("how far it is", [f"{n.distance:.2f}" for n in nears]),
        (f"nearest {others}", [html.escape(state.name_of(n.other_row)) for n in nears]),
        ("how far that one is", [f"{n.other_distance:.2f}" for n in nears]),
        ("usual: a healthy slice to its nearest of another person", [f"{length:.2f}" for _, _, length in columns]),
        ("healthy slices whose nearest is nearer", [f"{n.percentile:.0f} %" for n in nears]),
    ]
    caption = (
        f"Codes: RMS over {int(state.lively.sum())} of {state.codes.shape[1]} code numbers, each in its s.d. over the "
        f"{len(state.codes)} coded slices. Pictures: RMS over {int(state.brain.sum())} pixels, in robust s.d. of the "
        "brain; usual for the decoded picture: decoded healthy slices, which are as smooth. " + NOTICE
    )
    return number_table([name for name, _, _ in columns], lines, caption)


def _share(state: LatentState, k: int) -> str:
    return f"{k + 1}: {state.explained[k]:.0%} of the variance"


def _stops(low: float, high: float, step: float, form: str) -> list[tuple[str, float]]:
    values = [round(low + k * step, 6) for k in range(round((high - low) / step) + 1)]
    return [(form.format(value), value) for value in values]
