"""The volume viewer as a figure: three planes with axes in millimetres, the cursor, the map's colours."""

from __future__ import annotations

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from course_lib.plots import HEAT, OUTLINE, WIDTH
from course_lib.widgets.volume.state import PLANES, VolumeState
from course_lib.widgets.volume.view import AXES, CURSOR, SIDES, about

CURSOR_COLOUR = tuple(level / 255 for level in CURSOR)
_NAMES = ("x, left to right (mm)", "y, back to front (mm)", "z, down to up (mm)")


def volume_figure(state: VolumeState) -> Figure:
    """What the viewer shows, without sliders: the three planes through the cursor, and the numbers above them."""
    sizes = np.array(state.image.shape) * state.spacing_mm
    widths = [sizes[across] for across, _, _ in PLANES.values()]
    tallest = max(sizes[up] for _, up, _ in PLANES.values())
    height = (WIDTH - 1.6) * tallest / sum(widths) + 2.0  # inches: the planes, and room for words and colours
    fig = plt.figure(figsize=(WIDTH, height), layout="constrained")
    axes = fig.subplots(1, len(PLANES), width_ratios=widths)
    for ax, plane in zip(axes, PLANES, strict=True):
        _draw_plane(ax, state, plane)
    _draw_colours(fig, axes, state)
    handles = [Line2D([], [], color=CURSOR_COLOUR, lw=1.5, label="cursor")]
    if state.outline and state.lesion is not None:
        handles.insert(0, Patch(facecolor="none", edgecolor=OUTLINE, lw=1.5, label="truth"))
    fig.legend(handles=handles, loc="lower right", fontsize=8, facecolor="0.3", labelcolor="white")
    fig.suptitle(_words(state), fontsize=9)
    return fig


def _draw_plane(ax: Axes, state: VolumeState, plane: str) -> None:
    across, up, fixed = PLANES[plane]
    half, place = state.spacing_mm / 2, state.cursor_mm
    x, y = state.places_mm(across), state.places_mm(up)
    left, right, low, high = x[0] - half[across], x[-1] + half[across], y[0] - half[up], y[-1] + half[up]
    ax.imshow(state.coloured(plane), extent=(left, right, low, high), interpolation="nearest")
    truth = state.truth(plane)
    if truth is not None and truth.any():  # a line, not pixels: those would get lost where the figure is small
        rows, columns = truth.shape
        x = left + (np.arange(columns) + 0.5) / state.scale
        y = high - (np.arange(rows) + 0.5) / state.scale
        ax.contour(x, y, truth, levels=[0.5], colors=[OUTLINE], linewidths=1)
    ax.axvline(place[across], color=CURSOR_COLOUR, lw=0.7)
    ax.axhline(place[up], color=CURSOR_COLOUR, lw=0.7)
    places = [(0.03, 0.97, "left", "top"), (0.97, 0.97, "right", "top"), (0.5, 0.97, "center", "top"),
              (0.5, 0.03, "center", "bottom")]  # fmt: skip
    for letter, (x, y, ha, va) in zip(SIDES[plane], places, strict=False):
        shadow = [withStroke(linewidth=2, foreground="black")]
        ax.text(x, y, letter, color="white", ha=ha, va=va, transform=ax.transAxes, path_effects=shadow)
    ax.set(title=f"{plane}, {AXES[fixed]} = {place[fixed]:g} mm", xlabel=_NAMES[across], ylabel=_NAMES[up])
    ax.title.set_fontsize(9)
    ax.tick_params(labelsize=7)
    ax.xaxis.label.set_fontsize(8)
    ax.yaxis.label.set_fontsize(8)
    ax.grid(False)


def _draw_colours(fig: Figure, axes, state: VolumeState) -> None:
    colours = ScalarMappable(Normalize(*state.colours), HEAT)
    place = {"location": "bottom", "fraction": 0.06, "aspect": 50, "shrink": 0.7, "pad": 0.02, "anchor": (0.2, 1)}
    bar = fig.colorbar(colours, ax=list(axes), **place)
    bar.ax.axvline(state.threshold, color=OUTLINE, lw=2)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(f"map, shown from the threshold {state.threshold:.3g} (line)", fontsize=8)


def _words(state: VolumeState) -> str:
    reading = state.reading()
    text = f"score at least {reading.threshold:.3g}: {reading.detected_ml:.2f} ml in {reading.pieces} pieces"
    if reading.found is not None:
        dice = "not defined" if np.isnan(reading.dice) else f"{reading.dice:.2f}"
        lesions = (
            f"lesion {reading.lesion_ml:.2f} ml in {reading.found + reading.missed} pieces, {reading.missed} missed"
        )
        text += f", {reading.false} without lesion; {lesions}; Dice {dice}"
    return f"{text}\n{fill(f'{state.name}. {about(state)}' if state.name else about(state), 110)}"
