"""The token explorer's view: a slider for the threshold, the tokens that it marks, the healed image and the map."""

from __future__ import annotations

import math
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from course_lib.plots import HEAT
from course_lib.widgets import pictures, plates
from course_lib.widgets.explorer import (
    NOTICE,
    Explorer,
    Picture,
    choice,
    column,
    follow,
    number_table,
    picture,
    powers,
    put,
    row,
    set_ends,
    stops_slider,
    whole_slider,
)
from course_lib.widgets.tokens.figure import (
    BRIGHTEST,
    CURVES,
    EVERY,
    MOST_SURPRISING,
    TRUTH,
    draw_healthy_shares,
    panels,
    rival_texts,
    slice_shares,
    titles,
)
from course_lib.widgets.tokens.odds import Odds
from course_lib.widgets.tokens.state import NOTHING, Reading, TokenState, limit

SHARES, TILE, BAR = (460, 300), 104, (192, 52)  # pixels; of a rival's picture about
DRAWS = 19  # the highest number of a draw
_LEGEND = (
    "blue line: the lesion &nbsp; white frame: a marked token &nbsp; white dot: the token that is read &nbsp; grey: no "
    "brain, not judged &nbsp; black line on the colours: marked above"
)
PROBABLE, DRAWN = "the most probable", "drawing"


class TokenExplorer(Explorer):
    """Move a threshold over the tokens of a slice: what is marked, healed, and left over?

    Args:
        state: models, slices, and how the explorer starts.
    """

    state: TokenState

    def __init__(self, state: TokenState):
        high, wide = state.grid
        controls = {
            "model": choice("model", list(state.models), state.model),
            "family": choice("family", state.slices.families, state.family),
            "subject": choice("person", people(state), state.subject),
            "height": whole_slider("slice", state.height, slice_ends(state)),
            "tau": stops_slider("threshold tau", tau_stops(state), state.tau),
            "calibrated": _button("calibrated threshold", "take the threshold that healthy validation slices gave"),
            "heal": choice("heal by", [PROBABLE, DRAWN], PROBABLE if state.draw is None else DRAWN),
            "draw": whole_slider("draw number", state.draw or 0, (0, max(DRAWS, state.draw or 0))),
            "row": whole_slider("token row", state.place[0] + 1, (1, high)),
            "column": whole_slider("token column", state.place[1] + 1, (1, wide)),
            "worst": _button("read the most surprising", "go to the token of this slice that surprises most"),
        }
        super().__init__(state, controls)
        shown = panels(state, state.reading())
        self.panels = {name: picture(*panel.shape[1::-1]) for name, panel in shown.items()}
        self.captions = {name: widgets.HTML() for name in shown}
        self.bars = {"tokens": picture(*BAR), "map": picture(*BAR)}
        self.shares, self.table = picture(*SHARES), widgets.HTML()
        self.rivals = picture(*rivals_panel(state.odds()).size)
        self._bars = {
            "tokens": render_bar(MOST_SURPRISING, "surprise -log p (nats)"),
            "map": render_bar(BRIGHTEST, "|x - x'| blur(M) (intensity)"),
        }
        self._plates: dict[str, tuple[Image.Image, Callable]] = {}
        self._shown: dict[str, tuple] = {}
        framed = [self._framed(name) for name in self.panels]
        self.arrange(
            row(column(*self.controls.values()), column(row(*framed[:2]), row(*framed[2:]), width="auto")),
            widgets.HTML(_LEGEND),
            row(self.shares, self.rivals, self.table),
        )
        self.show()

    def changed(self, name: str, value) -> None:
        """See `Explorer.changed`."""
        state = self.state
        acts = {
            "model": state.choose_model,
            "family": state.choose_family,
            "subject": state.choose_subject,
            "height": state.choose_height,
            "tau": state.set_tau,
            "calibrated": lambda _: state.calibrate(),
            "heal": lambda how: state.heal_by(None if how == PROBABLE else self.controls["draw"].value),
            "draw": state.heal_by,
            "row": lambda number: state.read(number - 1, state.place[1]),
            "column": lambda number: state.read(state.place[0], number - 1),
            "worst": lambda _: state.read_most_surprising(),
        }
        acts[name](value)

    def show(self) -> None:
        """See `Explorer.show`."""
        state = self.state
        self._follow()
        reading = state.reading()
        says = self._says(reading)
        for (name, panel), title in zip(panels(state, reading).items(), titles(state, reading), strict=True):
            self.captions[name].value = title
            self._put(self.panels[name], name, pictures.with_palette(panel), says[name])
        says_bar = f"Colours from 0 to {MOST_SURPRISING:g} nats."
        self._put(self.bars["tokens"], "tokens bar", self._moved_bar(reading), says_bar)
        self._put(self.bars["map"], "map bar", self._bars["map"][0], f"Colours from 0 to {BRIGHTEST:g}.")
        self._put(self.shares, "shares", self._moved_shares(reading), shares_say(state, reading))
        odds = state.odds()
        key = (state.row, state.model, state.place)
        if self._shown.get("rivals") != key:
            self._shown["rivals"] = key
            put(self.rivals, rivals_panel(odds), rivals_say(odds))
        self.table.value = numbers_table(state, reading)

    def _follow(self) -> None:
        """Put the controls where the state is."""
        state, controls = self.state, self.controls
        high, wide = state.grid
        with self.quietly():
            controls["model"].value, controls["family"].value = state.model, state.family
            if list(controls["subject"].options) != people(state):
                controls["subject"].options = people(state)
            controls["subject"].value = state.subject
            set_ends(controls["height"], *slice_ends(state), state.height, disabled=state.heights == 1)
            follow(controls["tau"], state.tau, tau_stops(state))
            controls["heal"].value = PROBABLE if state.draw is None else DRAWN
            controls["draw"].disabled = state.draw is None
            if state.draw is not None:
                set_ends(controls["draw"], 0, max(DRAWS, state.draw), state.draw)
            set_ends(controls["row"], 1, high, state.place[0] + 1)
            set_ends(controls["column"], 1, wide, state.place[1] + 1)

    def _put(self, place: Picture, name: str, drawn: Image.Image, says: str) -> None:
        """Show a picture unless it is there already: much does not change when the threshold moves."""
        content = (drawn.tobytes(), drawn.getpalette(), says)
        if self._shown.get(name) != content:
            self._shown[name] = content
            put(place, drawn, says)

    def _framed(self, name: str) -> widgets.VBox:
        parts = [self.captions[name], self.panels[name], *([self.bars[name]] if name in self.bars else [])]
        return widgets.VBox(parts, layout=widgets.Layout(max_width="100%"))

    def _moved_bar(self, reading: Reading) -> Image.Image:
        """The colour bar of the surprise with a line where marking begins."""
        background, place = self._bars["tokens"]
        drawn, at = background.copy(), limit(reading.tau)
        if at <= MOST_SURPRISING:
            (across, top), (_, bottom) = place(at, None)
            ImageDraw.Draw(drawn).line([(across, top - 4), (across, bottom + 4)], fill=(0, 0, 0), width=3)
        return drawn

    def _moved_shares(self, reading: Reading) -> Image.Image:
        """The healthy shares, rendered once for each model, with this slice's shares and the threshold."""
        state = self.state
        if state.model not in self._plates:
            self._plates[state.model] = render_shares(state)
        background, place = self._plates[state.model]
        drawn = background.copy()
        pen = ImageDraw.Draw(drawn)
        taus, shares = slice_shares(state)
        for name, share in shares.items():
            colour, marker = CURVES[name]
            colour = tuple(round(255 * part) for part in colour)
            points = [place(*point) for point in zip(taus, share, strict=True)]
            pen.line(points, fill=colour, width=2)
            for point in points[::EVERY]:
                plates.dot(pen, point, colour, square=marker == "s")
        at = max(reading.tau, state.tau_ends[0])
        pen.line([tuple(end) for end in place(at, None)], fill=(0, 0, 0), width=2)
        return drawn

    def _says(self, reading: Reading) -> dict[str, str]:
        marked, touching = reading.marked, reading.marked & reading.lesion
        return {
            "slice": f"The slice at z = {self.state.z_mm:g} mm, {self.state.family}.",
            "tokens": f"Grid of tokens: {int(marked.sum())} of {int(reading.brain.sum())} are marked, "
            f"{int(touching.sum())} of them touch the lesion.",
            "healed": f"The healed image; {int(reading.changed.sum())} tokens changed.",
            "map": "The map |x - x'| blur(M); |x - x'| is on average "
            f"{_or_none(reading.inside, '.3f')} in the lesion and {_or_none(reading.outside, '.3f')} elsewhere.",
        }


def tau_stops(state: TokenState) -> list[tuple[str, float]]:
    """The numbers that the threshold's slider stops at: nothing, ten for each power of ten, and the calibrated one."""
    calibrated = state.calibrated(state.model)
    low, high = state.tau_ends
    stops = [stop for stop in powers(low, high, ".2g") if stop[1] != calibrated]
    stops.append((f"{calibrated:.2g} cal.", calibrated))
    return [("0 (nothing)", NOTHING), *sorted(stops, key=lambda stop: stop[1])]


def slice_ends(state: TokenState) -> tuple[int, int]:
    """The ends of the slice's slider: the browser draws none whose ends are equal."""
    return 0, max(1, state.heights - 1)


def people(state: TokenState) -> list[tuple[str, str]]:
    """The present family's persons, as (label, subject)."""
    return [(f"{state.family} {number}", subject) for number, subject in enumerate(state.subjects, 1)]


def numbers_table(state: TokenState, reading: Reading) -> str:
    """The numbers of a reading as an HTML table."""
    marked, brain = int(reading.marked.sum()), int(reading.brain.sum())
    lines = [
        ("threshold tau (calibrated)", f"{reading.tau:.2g} ({state.calibrated(state.model):.2g})"),
        ("marked above a surprise of", f"{limit(reading.tau):.2f} nats" if reading.tau else "nothing is marked"),
        ("<b>tokens marked, of those with brain</b>", f"{marked} of {brain}, {_or_none(reading.share, '.1%')}"),
        ("<b>healthy validation tokens that it would mark</b>", f"{reading.healthy:.2%}"),
        ("marked tokens that touch the lesion", _or_none(reading.precision, ".0%")),
        ("the lesion's tokens that are marked", _or_none(reading.recall, ".0%")),
        ("tokens that healing changed", str(int(reading.changed.sum()))),
        ("mean |x - x'| in the lesion", _or_none(reading.inside, ".3f")),
        ("mean |x - x'| in the rest of the brain", _or_none(reading.outside, ".3f")),
        ("AP of the map, this slice only", _or_none(reading.ap, ".2f")),
    ]
    how = "the most probable tokens" if state.draw is None else f"drawing, number {state.draw}"
    caption = f"{state.model}, healed by {how}. x: the slice; x': the healed image. {NOTICE}"
    return number_table(["this slice"], [(name, [cell]) for name, cell in lines], caption)


def render_shares(state: TokenState) -> tuple[Image.Image, Callable]:
    """The healthy shares as a picture, with names for what is drawn on it; and a function from data to its pixels."""
    fig = plates.blank(*SHARES)
    ax = fig.subplots()
    draw_healthy_shares(ax, state)
    for name, (colour, marker) in CURVES.items():
        if marker:
            ax.plot([], [], color=colour, marker=marker, mec="black", label=name)
    ax.legend(fontsize=8, loc="upper left")
    ax.grid(alpha=0.3)
    plates.set_sizes(ax)
    return plates.render(fig), plates.placer(ax, SHARES[1])


def rivals_panel(odds: Odds) -> Image.Image:
    """A token and its rivals as a picture: what is decoded around the place, three in a row, texts below."""
    columns, side = 3, odds.patches.shape[1]
    large = max(1, round(TILE / side))
    wide, high = large * side + 14, large * side + 40
    drawn = Image.new("RGB", (columns * wide, 24 + high * -(-len(odds.patches) // columns)), (255, 255, 255))
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(13)
    pen.text((4, 4), f"token in row {odds.place[0] + 1}, column {odds.place[1] + 1}; expected there:", (0, 0, 0), font)
    for k, (patch, text) in enumerate(zip(odds.patches, rival_texts(odds), strict=True)):
        x, y = 4 + k % columns * wide, 24 + k // columns * high
        drawn.paste(Image.fromarray(pictures.enlarge(pictures.grey(patch), large)), (x, y))
        third = large * side // 3
        pen.rectangle([x + third, y + third, x + 2 * third - 1, y + 2 * third - 1], outline=TRUTH, width=2)
        pen.multiline_text((x, y + large * side + 2), text, (0, 0, 0), font, spacing=1)
    return drawn


def render_bar(high: float, label: str) -> tuple[Image.Image, Callable]:
    """A colour bar from 0 as a picture, and a function from values to its pixels."""
    fig = plates.blank(*BAR)
    ax = fig.subplots()
    fig.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, high), HEAT), cax=ax, orientation="horizontal")
    plates.set_sizes(ax)
    ax.tick_params(labelsize=7)
    ax.set_xlabel(label, fontsize=8)
    return plates.render(fig), plates.placer(ax, BAR[1])


def shares_say(state: TokenState, reading: Reading) -> str:
    """The curves in words."""
    shares = state.slice_share(np.array([reading.tau]))
    lesion = f", {shares['lesion'][0]:.0%} of the lesion's tokens" if "lesion" in shares else ""
    rest = f" and {shares['rest'][0]:.0%} of the others" if "rest" in shares else ""
    return f"Shares of tokens marked at tau {reading.tau:.2g}: {reading.healthy:.1%} of healthy ones{lesion}{rest}."


def rivals_say(odds: Odds) -> str:
    """A token and its rivals in words."""
    rivals = ", ".join(f"{code} with {p:.2g}" for code, p in zip(odds.rivals, odds.chances, strict=True))
    row_, column_ = odds.place
    return (
        f"Row {row_ + 1}, column {column_ + 1}: code {odds.token} with probability {odds.probability:.2g}, rank "
        f"{odds.rank}. Most probable: {rivals}."
    )


def _button(text: str, tooltip: str) -> widgets.Button:
    layout = widgets.Layout(width="auto", margin="2px 2px 2px 11em")
    return widgets.Button(description=text, tooltip=tooltip, layout=layout)


def _or_none(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "not defined"
