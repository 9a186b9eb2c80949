"""Plates: matplotlib draws a background once, and Pillow draws on it what moves. A step takes about a millisecond."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw


def blank(width: int, height: int) -> Figure:
    """A figure of so many pixels, outside pyplot's register."""
    return Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")


def render(fig: Figure) -> Image.Image:
    """The figure as a picture; afterwards the axes stand where `placer` reads them."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def set_sizes(ax: Axes) -> None:
    """Font sizes for a plate, whose pixels are few."""
    ax.title.set_fontsize(9)
    ax.tick_params(labelsize=8)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)


def placer(ax: Axes, height: int) -> Callable:
    """A function from data to pixels of the picture, which is `height` pixels high: `(x, y)` to (column, row).

    With None for y it gives the two ends of an upright line at x, the upper one first.
    """
    transform = ax.transData.frozen()
    bottom, top = ax.get_ylim()

    def place(x: float, y: float | None):
        if y is None:
            return [place(x, end) for end in (top, bottom)]
        column, from_below = transform.transform((x, y))
        return float(column), float(height - from_below)

    return place


def dot(pen: ImageDraw.ImageDraw, at: tuple[float, float], colour: tuple[int, int, int], *, square: bool) -> None:
    """A disc or a square of 11 pixels with a black border."""
    x, y = at
    box = [x - 5, y - 5, x + 5, y + 5]
    draw = pen.rectangle if square else pen.ellipse
    draw(box, fill=colour, outline=(0, 0, 0), width=1)
