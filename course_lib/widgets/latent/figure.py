"""The latent explorer as a figure: the codes with the path, the ends, the decoded picture and what is nearest."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots import PALETTE, WIDTH
from course_lib.widgets import pictures
from course_lib.widgets.latent.state import STEP_ENDS, T_ENDS, LatentState

POINT = PALETTE[3]  # vermilion
HEIGHTS = "viridis"  # the colours of the slices' heights
FRAMES = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)  # of t
STEPS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)  # of s.d.


def latent_figure(state: LatentState) -> Figure:
    """What the explorer shows, without sliders: the codes, the pictures at the point, and stations of the path."""
    between = state.mode == "interpolate"
    fig = plt.figure(figsize=(WIDTH, 7.4 if between else 5.8), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.35, 1] if between else [2.7, 1])
    left, right = top.subfigures(1, 2, width_ratios=[1, 1.2])
    ax = left.subplots()
    draw_codes(ax, state)
    draw_path(ax, state)
    shown = panels(state)
    axes = right.subplots(2, (len(shown) + 1) // 2)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, (more, image)) in zip(axes.flat, shown.items(), strict=False):
        ax.imshow(pictures.grey(image))
        ax.set_title(f"{name}\n{more}", fontsize=7)
    _draw_stations(bottom, state)
    return fig


def panels(state: LatentState) -> dict[str, tuple[str, np.ndarray]]:
    """The pictures at the point: what each is, more about it, and its pixels (H, W); walking, there is no B."""
    point, between = state.point(), state.mode == "interpolate"
    shown = {}
    for end, row in (("A", state.a), ("B", state.b)) if between else (("A", state.a),):
        shown[end] = state.name_of(row), state.images[row]
        shown[f"{end}, rebuilt"] = "", state.rebuilt(row)
    shown["decoded"] = where(state), point.picture
    if between:
        shown["cross-fade"] = where(state), point.faded
    for name, near in (("nearest code", point.in_code), ("nearest picture", point.in_picture)):
        shown[name] = state.name_of(near.row), state.images[near.row]
    return shown


def where(state: LatentState) -> str:
    """The point's position on its path, in words."""
    if state.mode == "interpolate":
        return f"t = {state.t:.2f}"
    return f"{state.step:+.1f} s.d., direction {state.direction + 1}"


def draw_codes(ax: Axes, state: LatentState) -> None:
    """The codes along the first two principal directions, coloured by the slices' height; no path and no point."""
    places = state.places(state.codes)
    dots = ax.scatter(*places.T, c=state.heights, cmap=HEIGHTS, s=9, lw=0)
    reach = np.abs(places).max() + 1.5
    shares = [*state.explained, 0.0]
    ax.set(
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        xlabel=f"principal direction 1 (s.d.), {shares[0]:.0%} of the variance",
        ylabel=f"principal direction 2 (s.d.), {shares[1]:.0%} of the variance",
        title=f"codes of {len(places)} healthy training slices",
    )
    bar = ax.figure.colorbar(dots, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label("height z (mm)", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def path(state: LatentState) -> np.ndarray:
    """The ends of the path as it is seen along the first two directions, (2, 2) in s.d.; it is straight."""
    ends = T_ENDS if state.mode == "interpolate" else STEP_ENDS
    return state.places(np.stack([state.code_at(position) for position in ends]))


def draw_path(ax: Axes, state: LatentState) -> None:
    """The path, A, B, and the point; what lies beyond the axes is drawn at their border."""
    reach = ax.get_xlim()[1]
    ax.plot(*np.clip(path(state), -reach, reach).T, color="black", lw=1.2, ls="--")
    ends = [("A", state.a, "o")] + ([("B", state.b, "s")] if state.mode == "interpolate" else [])
    for name, row, marker in ends:
        x, y = state.places(state.codes[row][None])[0]
        ax.plot(x, y, marker, mfc="white", mec="black", ms=8)
        halo = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
        ax.annotate(name, (x, y), (7, 7), textcoords="offset points", fontsize=10, weight="bold", bbox=halo)
    x, y = np.clip(state.point().place, -reach, reach)
    ax.plot(x, y, "D", color=POINT, mec="black", ms=9, zorder=5)


def _draw_stations(fig, state: LatentState) -> None:
    """What is decoded along the path, and for an interpolation the cross-fade below."""
    fading = state.mode == "interpolate"
    positions = FRAMES if fading else STEPS
    decoded = state.decode(np.stack([state.code_at(p) for p in positions]))
    axes = fig.subplots(2 if fading else 1, len(positions), squeeze=False)
    for k, position in enumerate(positions):
        rows = [decoded[k]]
        if fading:
            rows.append((1 - position) * state.images[state.a] + position * state.images[state.b])
        for ax, image in zip(axes[:, k], rows, strict=True):
            ax.imshow(pictures.grey(image))
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        axes[0, k].set_title(f"t = {position:g}" if fading else f"{position:+g} s.d." if position else "A", fontsize=9)
    axes[0, 0].set_ylabel("decoded")
    if fading:
        axes[1, 0].set_ylabel("cross-fade")
