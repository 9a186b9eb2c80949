"""The threshold explorer as a figure: slices with outcomes, curves with the operating point, score histograms."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from course_lib.plots import PALETTE, WIDTH
from course_lib.widgets import pictures
from course_lib.widgets.threshold.state import Reading, ThresholdState

COLOURS = (PALETTE[0], PALETTE[3])  # the first and the second detector: blue, vermilion
DOTS = "oD"
LEAST_FPR = 1e-5  # where the ROC's logarithmic axis begins


def threshold_figure(state: ThresholdState) -> Figure:
    """What the explorer shows, without sliders: one row of slices, one of curves."""
    fig = plt.figure(figsize=(WIDTH, 6.6), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.15, 1])
    for ax, name in zip(top.subplots(1, len(state.detectors), squeeze=False)[0], state.detectors, strict=True):
        reading = state.reading(name)
        ax.imshow(slice_picture(state, name))
        ax.set(xticks=[], yticks=[], title=f"{name}: score at least {reading.threshold:.3g}\nDice {reading.dice}")
        ax.grid(False)
    colours = {name: np.array(colour) / 255 for name, colour in pictures.LEGEND.items()}
    hatches = {"found": "", "false alarm": "////", "missed": ""}
    handles = [
        Patch(facecolor="none" if name == "missed" else c, edgecolor=c if name == "missed" else "0.3", label=name,
              hatch=hatches[name])
        for name, c in colours.items()
    ]  # fmt: skip
    top.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    axes = bottom.subplots(1, 3)
    draw_curves(axes, state)
    for k, name in enumerate(state.detectors):
        for ax, (x, y) in zip(axes, operating_points(state, state.reading(name)), strict=True):
            if y is None:
                ax.axvline(x, color="0.2", ls="--", lw=1.2)
            else:
                ax.plot(x, y, DOTS[k], color=COLOURS[k], ms=9, mec="black", zorder=5)
    return fig


def slice_picture(state: ThresholdState, detector: str, zoom: int = 4) -> np.ndarray:
    """The slice that is shown with a detector's outcomes, (zoom H, zoom W, 3) uint8."""
    return pictures.outcomes(state.images[state.row], state.detected(detector), state.lesion(), zoom)


def draw_curves(axes: Sequence[Axes], state: ThresholdState) -> None:
    """ROC, precision and recall, and the histograms of the first detector's scores; without the operating point."""
    left, middle, right = axes
    for k, name in enumerate(state.detectors):
        ranking = state.ranking(name)
        style = {"color": COLOURS[k], "ls": "-" if k == 0 else "--", "lw": 1.6}
        left.plot(
            np.maximum(ranking.roc["fpr"], LEAST_FPR), ranking.roc["tpr"], label=f"{name}: {ranking.auroc:.3f}", **style
        )
        middle.plot(
            ranking.precision_recall["recall"],
            ranking.precision_recall["precision"],
            label=f"{name}: {ranking.ap:.3f}",
            **style,
        )
    guessing = np.logspace(np.log10(LEAST_FPR), 0, 50)
    left.plot(guessing, guessing, color="0.4", ls=":", lw=1)
    middle.axhline(ranking.prevalence, color="0.4", ls=":", lw=1)
    left.set(xlabel="false-positive rate (log)", ylabel="sensitivity", title="ROC, with AUROC", xscale="log")
    middle.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)", title="precision and recall, with AP")
    for ax in (left, middle):
        ax.set(xlim=(LEAST_FPR, 1) if ax is left else (-0.03, 1.03), ylim=(-0.03, 1.03))
        ax.legend(fontsize=7, loc="best")
    ranking = state.ranking(state.detector)
    for values, colour, style, label in (
        (ranking.healthy, "0.35", "-", "healthy pixels"),
        (ranking.lesion, PALETTE[4], "--", "lesion pixels"),
    ):
        right.stairs(np.maximum(values, 1e-7), ranking.bins, color=colour, ls=style, lw=1.6, label=label)
    top = max(ranking.healthy.max(), ranking.lesion.max())
    right.set(yscale="log", ylim=(1e-5, 3 * top), ylabel="share of the pixels", title=f"scores of {state.detector}")
    right.set(xlabel=state.unit.get(state.detector, "score"), xlim=(ranking.bins[0], ranking.bins[-1]))
    right.legend(fontsize=7, loc="upper right")


def operating_points(state: ThresholdState, reading: Reading) -> list[tuple[float, float | None]]:
    """Where a reading lies in the three axes: (FPR, sensitivity), (sensitivity, PPV), and the threshold's line.

    The line is of the first detector alone; a second one's threshold has other units, so its line lies outside.
    """
    counts = reading.counts
    fpr = counts.fp.sum() / max(counts.fp.sum() + counts.tn.sum(), 1)
    ppv = reading.ppv.value if np.isfinite(reading.ppv.value) else 1.0  # nothing is marked: the curve's left end
    line = reading.threshold if reading.detector == state.detector else float("nan")
    return [(max(fpr, LEAST_FPR), reading.sensitivity.value), (reading.sensitivity.value, ppv), (line, None)]
