"""The anomaly painter as a figure: the slice before and after, and a column of pictures for each detector."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from course_lib.plots import HEAT, OUTLINE, WIDTH, outline
from course_lib.widgets import pictures
from course_lib.widgets.painter.state import PainterState, Reading

SIDE = 230  # pixels of a panel, about
TRUTH = tuple(round(255 * c) for c in to_rgb(OUTLINE))
EMPTY = 235  # grey of a panel without a picture


def painter_figure(state: PainterState) -> Figure:
    """What the explorer shows, without sliders: one column for the slice, one for each detector."""
    readings = [state.reading(name) for name in state.judges]
    columns = 1 + len(readings)
    side = min(WIDTH / columns, 1.9)  # inches
    fig, axes = plt.subplots(3, columns, figsize=(side * columns, 3.6 * side + 0.6), layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    size = state.settings["size"]
    lesion = state.painted.mask[state.window]
    _show(axes[0, 0], slice_panel(state, state.host.image), f"before, z = {state.z_mm:g} mm")
    _show(axes[1, 0], slice_panel(state, state.painted.image), f"{state.kind}, size {size:g} mm", lesion)
    axes[2, 0].axis("off")
    axes[2, 0].legend(handles=_handles(), loc="center", fontsize=8, frameon=False)
    for name, ax in zip(("reconstruction", "map", "flagged"), axes[:, 1], strict=True):
        ax.set_ylabel(name)
    for reading, (top, middle, bottom) in zip(readings, axes[:, 1:].T, strict=True):
        makes = reading.after.rebuilt is not None
        _show(top, rebuilt_panel(state, reading), reading.detector, lesion if makes else None)
        if not makes:
            where = {"ha": "center", "va": "center", "transform": top.transAxes}
            top.text(0.5, 0.5, "makes no\nreconstruction", fontsize=8, **where)
        _show(middle, map_panel(state, reading), "", lesion)
        _colour_bar(middle, reading)
        _show(bottom, flagged_panel(state, reading), _result(reading))
    return fig


def slice_panel(state: PainterState, image: np.ndarray) -> np.ndarray:
    """An image (H, W) of the slice in grey, uint8 RGB, one pixel each."""
    return pictures.grey(image[state.window])


def rebuilt_panel(state: PainterState, reading: Reading) -> np.ndarray:
    """The pseudo-healthy image, uint8 RGB; plain grey where the detector makes none."""
    if reading.after.rebuilt is not None:
        return slice_panel(state, reading.after.rebuilt)
    return np.full_like(slice_panel(state, state.host.image), EMPTY)


def map_panel(state: PainterState, reading: Reading) -> np.ndarray:
    """The map on the detector's fixed colour scale, uint8 RGB; black outside the brain."""
    low, high = reading.limits
    anomaly = np.where(state.host.brain, reading.after.anomaly, low)
    return pictures.heat(anomaly[state.window] - low, high - low)


def flagged_panel(state: PainterState, reading: Reading) -> np.ndarray:
    """What is found, falsely flagged and missed, uint8 RGB, `zoom` pixels for each of the slice."""
    shown = (state.painted.image, reading.after.flagged, state.painted.mask)
    return pictures.outcomes(*(array[state.window] for array in shown), zoom(state))


def zoom(state: PainterState) -> int:
    """Pixels of a panel for one of the slice; patterns need 3."""
    rows, columns = state.window
    return max(3, round(SIDE / max(rows.stop - rows.start, columns.stop - columns.start)))


def magnified(state: PainterState, panel: np.ndarray, *, outlined: bool) -> np.ndarray:
    """A panel of one pixel each at the size of the explorer, with the lesion's outline if asked for."""
    large = pictures.enlarge(panel, zoom(state))
    return pictures.outline(large, state.painted.mask[state.window], TRUTH, zoom(state)) if outlined else large


def _show(ax: Axes, panel: np.ndarray, title: str, lesion: np.ndarray | None = None) -> None:
    ax.imshow(panel)
    outline(lesion, ax=ax)
    ax.set_title(title, fontsize=9)


def _colour_bar(ax: Axes, reading: Reading) -> None:
    colours = plt.cm.ScalarMappable(plt.Normalize(*reading.limits), HEAT)
    bar = ax.figure.colorbar(colours, ax=ax, orientation="horizontal", fraction=0.05, pad=0.02, extend="max")
    bar.ax.axvline(reading.threshold, color=OUTLINE, lw=2)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(f"anomaly; flagged from {reading.threshold:.3g} (line)", fontsize=7)


def _result(reading: Reading) -> str:
    n = reading.painted
    return f"{n.found} found, {n.false} false,\n{n.missed} missed (pixels)"


def _handles() -> list[Patch]:
    hatches = {"found": "", "false alarm": "////", "missed": ""}
    outcomes = []
    for name, colour in pictures.LEGEND.items():
        own, hollow = tuple(c / 255 for c in colour), name == "missed"
        look = {"fc": "none", "ec": own} if hollow else {"fc": own, "ec": "0.3"}
        outcomes.append(Patch(hatch=hatches[name], label=name, **look))
    return [Patch(fc="none", ec=OUTLINE, label="the lesion"), *outcomes]
