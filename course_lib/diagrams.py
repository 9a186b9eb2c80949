"""Diagrams of a method's data flow: boxes on a grid, and arrows between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from course_lib.errors import BadInput
from course_lib.plots import PALETTE

STYLES = {  # of each kind of box: outline, and the shape's name
    "data": ("0.35", "round,pad=0.45"),
    "network": (PALETTE[0], "square,pad=0.5"),
    "judge": (PALETTE[1], "square,pad=0.5"),
    "loss": (PALETTE[2], "round4,pad=0.45"),
}
MEANINGS = {
    "data": "images, codes",
    "network": "network",
    "judge": "judge (trained against it)",
    "loss": "loss or score",
}
CONSTANT = "constant: no gradient goes back"


def data_flow(
    boxes: Mapping[str, tuple], arrows: Sequence[tuple], *, size: tuple[float, float] = (8.6, 2.8), fontsize: int = 9
) -> Figure:
    """Draw boxes and the arrows between them, with a legend of the kinds that occur.

    `data_flow({"x": (0, 0, "data"), "E": (1, 0, "network", "encoder $E$"), "z": (2, 0, "data")}, [("x", "E"),
    ("E", "z", "mean")])`

    Args:
        boxes: name to `(x, y, kind)` or `(x, y, kind, text)`, y upwards; the grid's unit is up to you, as the picture
            fits itself to the boxes. Kinds are `"data"`, `"network"`, `"judge"` and `"loss"`. The text is the name
            when none is given, and may hold formulas and line breaks.
        arrows: `(from, to)`, `(from, to, label)` or `(from, to, label, options)`; options is a dict with `constant`
            (True: dashed, no gradient goes back) and `bend` (curvature, 0 is straight, about 0.3 is an arc to the
            right of its direction, negative to the left).
        size: width and height in inches.
        fontsize: of the boxes; labels are one point smaller.

    Raises:
        BadInput: an arrow starts or ends at no box, or a kind is unknown.
    """
    fig, ax = plt.subplots(figsize=size, layout="constrained")
    texts = {}
    for name, (x, y, kind, *text) in boxes.items():
        if kind not in STYLES:
            raise BadInput(f"there is no kind {kind!r}.", field=name, remedy=f"One of {list(STYLES)}.")
        texts[name] = _box(ax, x, y, kind, text[0] if text else name, fontsize)
    places = {name: text.get_position() for name, text in texts.items()}
    for side, axis in ((ax.set_xlim, 0), (ax.set_ylim, 1)):
        ends = [place[axis] for place in places.values()]
        side(min(ends) - 0.5, max(ends) + 0.5)
    ax.set_axis_off()
    options = [arrow[3] if len(arrow) > 3 else {} for arrow in arrows]
    _legend(fig, {kind for _, _, kind, *_ in boxes.values()}, any(o.get("constant") for o in options), fontsize)
    fig.canvas.draw()  # now all stands where it will stay, and the boxes have sizes, at which the arrows end
    for (start, end, *rest), option in zip(arrows, options, strict=True):
        missing = {start, end} - texts.keys()
        if missing:
            raise BadInput(f"an arrow needs the box {missing.pop()!r}.", field="arrows")
        bend, label = option.get("bend", 0.0), rest[0] if rest else ""
        _arrow(ax, texts[start], texts[end], label, option.get("constant", False), bend, fontsize)
    return fig


def _box(ax, x: float, y: float, kind: str, text: str, fontsize: int):
    edge, shape = STYLES[kind]
    pale = tuple(1 - 0.18 * (1 - channel) for channel in to_rgb(edge)) if kind != "data" else "white"
    style = {"boxstyle": shape, "facecolor": pale, "edgecolor": edge, "linewidth": 1.4}
    return ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, bbox=style, zorder=3)


def _arrow(ax, start, end, label: str, constant: bool, bend: float, fontsize: int) -> None:
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    ax.add_patch(
        FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            patchA=start.get_bbox_patch(),
            patchB=end.get_bbox_patch(),
            arrowstyle="-|>",
            mutation_scale=11,
            shrinkA=2,
            shrinkB=2,
            color="0.25",
            linestyle="--" if constant else "-",
            connectionstyle=f"arc3,rad={bend}",
            zorder=2,
        )
    )
    if label:
        # The middle of a quadratic curve whose control point lies `bend` of the length beside the line, in pixels.
        pixels, back = ax.transData.transform, ax.transData.inverted().transform
        (a, b), (c, d) = pixels((x0, y0)), pixels((x1, y1))
        place = back(((a + c) / 2 + 0.5 * bend * (d - b), (b + d) / 2 - 0.5 * bend * (c - a)))
        white = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        ax.text(*place, label, ha="center", va="center", fontsize=fontsize - 1, color="0.25", bbox=white, zorder=4)


def _legend(fig: Figure, kinds: set[str], dashed: bool, fontsize: int) -> None:
    handles = [
        Patch(facecolor="white", edgecolor=STYLES[kind][0], linewidth=1.4, label=MEANINGS[kind])
        for kind in STYLES
        if kind in kinds
    ]
    if dashed:
        handles.append(Line2D([], [], color="0.25", linestyle="--", label=CONSTANT))
    fig.legend(handles=handles, loc="outside lower center", ncol=len(handles), fontsize=fontsize - 1, frameon=False)
