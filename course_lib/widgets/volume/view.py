"""The volume viewer's view: sliders for the cursor and the threshold, three planes, and what they say."""

from __future__ import annotations

from functools import lru_cache

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from course_lib.widgets import pictures
from course_lib.widgets.explorer import (
    NOTICE,
    Explorer,
    column,
    follow,
    number_table,
    picture,
    put,
    row,
    slider,
    stops_slider,
    whole_slider,
)
from course_lib.widgets.volume.state import PLANES, TRUTH, Reading, VolumeState

AXES = ("x", "y", "z")
SIDES = {"axial": "LRAP", "coronal": "LR", "sagittal": "PA"}  # letters: left, right, top, bottom of the picture
CURSOR = (236, 225, 51)  # yellow of the colour-blind palette
BAR_MM = 50


class VolumeExplorer(Explorer):
    """Look at a subject in 3-D: three planes through a cursor, the map above a threshold, the truth's outline.

    Args:
        state: the volume, and how the viewer starts.
    """

    state: VolumeState

    def __init__(self, state: VolumeState):
        super().__init__(state, _controls(state))
        self.captions = {plane: widgets.HTML() for plane in PLANES}
        self.planes = {plane: picture(*state.pixels(plane)) for plane in PLANES}
        self.legend, self.table = widgets.HTML(), widgets.HTML()
        self._drawn: dict[str, bytes] = {}
        axial, *upright = [widgets.VBox([self.captions[plane], self.planes[plane]]) for plane in PLANES]
        width = max(state.pixels(plane)[0] for plane in ("coronal", "sagittal"))
        beside = column(*upright, self.legend, self.table, width=f"{max(width, 340)}px")
        self.arrange(row(column(*self.controls.values()), axial, beside))
        self.show()

    def changed(self, name: str, value) -> None:
        """See `Explorer.changed`."""
        if name in AXES:
            self.state.set_place(AXES.index(name), value)
        elif name == "threshold":
            self.state.set_threshold(value)
        elif name == "highest":
            self.state.jump_to_highest()
        elif name == "largest":
            self.state.jump_to_lesion()
        else:
            setattr(self.state, name, value)

    def show(self) -> None:
        """See `Explorer.show`."""
        state, reading = self.state, self.state.reading()
        with self.quietly():
            for name, place in zip(AXES, reading.cursor_mm, strict=True):
                follow(self.controls[name], place)
            follow(self.controls["threshold"], state.threshold)
            for name in ("min_voxels", "overlay", "opacity", "outline"):
                self.controls[name].value = getattr(state, name)
        for plane, place in self.planes.items():
            drawn = draw_plane(state, plane)
            if self._drawn.get(plane) != drawn.tobytes():  # encoding is what costs
                self._drawn[plane] = drawn.tobytes()
                put(place, drawn, says(state, plane))
            self.captions[plane].value = f"<b>{plane}</b>, {_place(state, plane)}"
        self.legend.value = legend(state)
        self.table.value = readings_table(state, reading)


def _controls(state: VolumeState) -> dict[str, widgets.Widget]:
    words = ("x, left to right (mm)", "y, back to front (mm)", "z, down to up (mm)")
    controls = {
        name: stops_slider(words[axis], _stops(state.places_mm(axis)), state.cursor_mm[axis])
        for axis, name in enumerate(AXES)
    }
    button = {"layout": widgets.Layout(width="auto", margin="2px 2px 2px 11em")}
    lesions = state.lesion is not None and bool(state.lesion.any())
    return controls | {
        "highest": widgets.Button(
            description="jump to the highest score", tooltip="put the cursor on the brain's highest score", **button
        ),
        "largest": widgets.Button(
            description="jump to the largest lesion",
            tooltip="put the cursor in the largest lesion" if lesions else "no lesion is known in this volume",
            disabled=not lesions,
            **button,
        ),
        "threshold": threshold_slider(state),
        "min_voxels": whole_slider("min. piece (voxels)", state.min_voxels, (0, 100)),
        "overlay": _tick("map above the threshold", state.overlay),
        "opacity": slider("the map's opacity", state.opacity, (0, 1), step=0.05),
        "outline": _tick("outline of the truth", state.outline, disabled=not lesions),
    }


def threshold_slider(state: VolumeState) -> widgets.SelectionSlider:
    """A slider with 400 equal steps between the state's ends, and the threshold that it starts with."""
    return stops_slider("threshold", _stops({*np.linspace(*state.ends, 401), state.threshold}, ".4g"), state.threshold)


def _stops(values, form: str = "g") -> list[tuple[str, float]]:
    return [(format(x, form), float(x)) for x in sorted(values)]


def _tick(label: str, value: bool, **traits) -> widgets.Checkbox:
    look = {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="100%")}
    return widgets.Checkbox(value=value, description=label, **look, **traits)


# ---- planes ---------------------------------------------------------------------------------------------------------


def draw_plane(state: VolumeState, plane: str) -> Image.Image:
    """A plane with the cursor's cross, the letters of its sides and, in the axial one, a bar of 5 cm."""
    drawn = Image.fromarray(state.picture(plane))
    pen = ImageDraw.Draw(drawn)
    (width, height), (x, y), gap = drawn.size, state.cursor_pixel(plane), 7
    x, y = int(x), int(y)
    for line in ((0, y, x - gap, y), (x + gap, y, width, y), (x, 0, x, y - gap), (x, y + gap, x, height)):
        if line[0] <= line[2] and line[1] <= line[3]:  # the gap around the cursor may reach the border
            pen.line(line, fill=CURSOR)
    places = [((5, 3), "la"), ((width - 5, 3), "ra"), ((width / 2, 3), "ma"), ((width / 2, height - 4), "md")]
    for letter, (at, anchor) in zip(SIDES[plane], places, strict=False):
        _write(pen, at, letter, anchor, 15)
    if plane == "axial":
        bar = round(BAR_MM * state.scale)
        pen.rectangle((8, height - 9, 8 + bar, height - 7), fill="white", outline="black")
        _write(pen, (8 + bar / 2, height - 11), "5 cm", "md", 12)
    return drawn


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str, size: int) -> None:
    pen.text(at, text, fill="white", font=_font(size), anchor=anchor, stroke_width=2, stroke_fill="black")


@lru_cache
def _font(size: int):
    return ImageFont.load_default(size)


def _place(state: VolumeState, plane: str) -> str:
    _, _, fixed = PLANES[plane]
    number, of = state.cursor[fixed] + 1, state.image.shape[fixed]
    return f"{AXES[fixed]} = {state.cursor_mm[fixed]:g} mm, plane {number} of {of}"


def says(state: VolumeState, plane: str) -> str:
    """A plane in words, for those who cannot see it."""
    marked = int(state.cut(state.detected(), plane).sum())
    text = f"{plane} plane, {_place(state, plane)}: {marked} voxels score at least {state.threshold:.3g}"
    if state.lesion is None:
        return text + "."
    lesion = state.cut(state.lesion, plane)
    return f"{text}, {int((lesion & state.cut(state.detected(), plane)).sum())} of {int(lesion.sum())} lesion voxels."


# ---- numbers --------------------------------------------------------------------------------------------------------


def legend(state: VolumeState, *, parts: bool = True) -> str:
    """The map's colours as HTML; `parts`: also those of the outline and of the cursor."""
    (low, high), stops = state.colours, np.linspace(0, 1, 9)[None]
    colours = ", ".join("rgb({},{},{})".format(*colour) for colour in pictures.heat(stops, 1)[0])
    share = float(np.clip((state.threshold - low) / (high - low), 0, 1)) * 100
    box = '<span aria-hidden="true" style="display:inline-block;vertical-align:middle;margin:0 4px;'
    text = (
        f"map {low:.3g}{box}height:12px;width:150px;border:1px solid #8888;"
        f"background:linear-gradient(90deg,#fff {share:.1f}%,transparent {share:.1f}%),"
        f'linear-gradient(90deg,{colours})"></span>{high:.3g}, shown from {state.threshold:.3g}'
    )
    if parts:
        text += (
            f'<br>{box}height:9px;width:9px;border:2px solid rgb{TRUTH}"></span> the truth'
            f' &nbsp; {box}height:3px;width:14px;background:rgb{CURSOR}"></span> the cursor'
        )
    return f'<span style="font-size:13px;line-height:1.6">{text}</span>'


def readings_table(state: VolumeState, reading: Reading, *, cursor: bool = True) -> str:
    """The numbers as an HTML table; `cursor`: also what lies under the cursor."""
    lines = [
        ("threshold", f"{reading.threshold:.4g}"),
        ("detected", f"{reading.detected_ml:.2f} ml in {_number(reading.pieces, 'piece')}"),
    ]
    if state.lesion is not None:
        known = f"{reading.lesion_ml:.2f} ml in {_number(reading.found + reading.missed, 'piece')}"
        dice = "not defined" if np.isnan(reading.dice) else f"{reading.dice:.3f}"
        lines += [
            ("lesion", known),
            ("Dice of the volume", dice),
            ("lesion pieces found / missed", f"{reading.found} / {reading.missed}"),
            ("false pieces, without lesion", f"{reading.false}"),
        ]
    if cursor:
        x, y, z = reading.cursor_mm
        lines += [
            (f"cursor ({x:g}, {y:g}, {z:g}) mm", _under(reading)),
            ("image / map there", f"{reading.image:.3f} / {reading.anomaly:.3f}"),
        ]
    rows = [(name, [value]) for name, value in lines]
    return number_table([state.name or "this volume"], rows, f"{about(state)} {NOTICE}")


def about(state: VolumeState) -> str:
    """How large the voxels are, and what is not known."""
    x, y, z = state.spacing_mm
    if z <= 1.5 * max(x, y):
        return f"Voxels of {x:g} x {y:g} x {z:g} mm."
    return (
        f"Pixels of {x:g} x {y:g} mm, slices {z:g} mm apart. What lies between two slices is not known: "
        f"each stands for {z:g} mm, and the planes are not interpolated."
    )


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _under(reading: Reading) -> str:
    if not reading.inside:
        return "outside the brain"
    truth = {True: ", lesion", False: ", no lesion", None: ""}[reading.lesion]
    return ("detected" if reading.marked else "not detected") + truth
