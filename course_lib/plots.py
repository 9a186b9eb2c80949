"""Every figure of the lessons. Each function draws into matplotlib axes and returns the figure or the axes.

Slices lie on the course's lattice: the patient's left is on the picture's left, the front of the head at the top.
Colours are seaborn's colour-blind palette; heat maps use `magma`, which also reads in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

GREY_RANGE = (0.0, 1.2)  # tissue lies around 0.5 by normalisation; a very bright lesion near 1.2
HEAT = "magma"
OUTLINE = "#56B4E9"  # sky blue of the colour-blind palette: visible on grey and on magma
PALETTE = [  # seaborn's "colorblind", written out: importing seaborn takes a second, and widgets have to start fast
    to_rgb(color) for color in "#0173B2 #DE8F05 #029E73 #D55E00 #CC78BC #CA9161 #FBAFE4 #949494 #ECE133 #56B4E9".split()
]
MARKERS = "oDs^vPX*<>pdhH"  # so that no line is told apart by its colour alone
WIDTH = 9.0  # inches: a notebook's column


def use_style() -> None:
    """Set the lessons' figure style: fonts, colour-blind palette, 76 dots an inch (small notebooks)."""
    import seaborn as sns

    sns.set_theme(style="whitegrid", palette="colorblind", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.dpi": 76,
            "savefig.dpi": 76,
            "axes.titlesize": 10,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def show_slice(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    title: str = "",
    sides: bool = False,
    spacing_mm: float = 2.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw one slice `(H, W)` in grey, with the outline of `mask` and, if `sides`, L, R and a 5 cm bar."""
    ax = ax or plt.gca()
    ax.imshow(image, vmin=GREY_RANGE[0], vmax=GREY_RANGE[1], cmap="gray")
    outline(mask, ax=ax)
    _bare(ax, title)
    if sides:
        height = image.shape[0]
        for x, letter in ((0.03, "L"), (0.97, "R")):
            ax.text(
                x,
                0.97,
                letter,
                color="white",
                ha="left" if letter == "L" else "right",
                va="top",
                transform=ax.transAxes,
            )
        bar = 50 / spacing_mm  # pixels in 5 cm
        ax.plot([2, 2 + bar], [height - 4] * 2, color="white", lw=2)
        ax.text(2 + bar / 2, height - 6, "5 cm", color="white", ha="center", va="bottom", fontsize=8)
    return ax


def outline(mask: np.ndarray | None, *, ax: Axes, color: str = OUTLINE) -> None:
    """Draw the border of a boolean mask `(H, W)`; nothing for an empty one."""
    if mask is not None and mask.any():
        ax.contour(mask, levels=[0.5], colors=[color], linewidths=1.2)


def show_map(
    anomaly: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    title: str = "",
    limit: float | None = None,
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw an anomaly map `(H, W)` with a colour bar from 0 to `limit` (default: its 99.8th percentile)."""
    ax = ax or plt.gca()
    limit = limit or float(np.percentile(anomaly, 99.8)) or 1.0
    picture = ax.imshow(anomaly, vmin=0, vmax=limit, cmap=HEAT)
    outline(mask, ax=ax)
    _bare(ax, title)
    bar = ax.figure.colorbar(picture, ax=ax, orientation="horizontal", fraction=0.05, pad=0.03, extend="max")
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    bar.set_label(label, fontsize=8)
    return ax


def show_slices(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None] | None = None,
    *,
    titles: Sequence[str] = (),
    columns: int = 6,
) -> Figure:
    """Draw slices in a grid, the first with L, R and a scale bar."""
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, WIDTH / columns * 1.15 * rows), squeeze=False)
    for k, ax in enumerate(axes.flat):
        ax.set_visible(k < len(images))
        if k < len(images):
            show_slice(images[k], masks[k] if masks is not None else None, sides=k == 0, ax=ax)
            ax.set_title(titles[k] if k < len(titles) else "", fontsize=9)
    fig.tight_layout()
    return fig


def show_maps(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    maps: Mapping[str, Sequence[np.ndarray]],
    *,
    titles: Sequence[str] = (),
    label: str | Mapping[str, str] = "anomaly",
) -> Figure:
    """One column per slice: the slice with the truth outlined, and below it each detector's map.

    Each row of maps has one colour range, from 0 to its 99.8th percentile, so that its maps compare. `label` names the
    colour bars' quantity and unit, for all rows or by the row's name.
    """
    fig, axes = _rows_of_slices(images, masks, 1 + len(maps), titles)
    axes[0, 0].set_ylabel("slice and truth", fontsize=9)
    for r, (name, anomaly) in enumerate(maps.items(), start=1):
        limit = float(np.percentile(np.stack(list(anomaly)), 99.8)) or 1.0
        for c, one in enumerate(anomaly):
            picture = axes[r, c].imshow(one, vmin=0, vmax=limit, cmap=HEAT)
            outline(masks[c], ax=axes[r, c])
            _bare(axes[r, c], "")
        axes[r, 0].set_ylabel(name, fontsize=9)
        bar = fig.colorbar(picture, ax=list(axes[r]), fraction=0.02, pad=0.01, extend="max")
        bar.set_label(label if isinstance(label, str) else label[name], fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return fig


def show_reconstructions(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    reconstructions: Mapping[str, Sequence[np.ndarray]],
    *,
    titles: Sequence[str] = (),
) -> Figure:
    """One column per slice: the slice with the truth outlined, and below it what each model makes of it."""
    fig, axes = _rows_of_slices(images, masks, 1 + len(reconstructions), titles)
    axes[0, 0].set_ylabel("input", fontsize=9)
    for r, (name, rebuilt) in enumerate(reconstructions.items(), start=1):
        for c, one in enumerate(rebuilt):
            show_slice(one, masks[c], ax=axes[r, c])
        axes[r, 0].set_ylabel(name, fontsize=9)
    return fig


def plot_history(histories: Mapping[str, pd.DataFrame], loss: str, *, ylabel: str, ax: Axes | None = None) -> Axes:
    """Training curves: a running median of the `loss` column over steps, one line per model, log scale."""
    ax = ax or plt.subplots(figsize=(WIDTH * 0.6, 3.2))[1]
    for k, (name, history) in enumerate(histories.items()):
        smooth = history[loss].rolling(15, min_periods=1, center=True).median()
        ax.plot(history["step"], smooth, label=name, color=PALETTE[k], marker=MARKERS[k], markevery=0.15)
    ax.set(xlabel="training step", ylabel=ylabel, yscale="log")
    ax.legend(frameon=True)
    ax.figure.tight_layout()
    return ax


def plot_results(
    table: pd.DataFrame,
    *,
    x: str = "family",
    series: str = "detector",
    ylabel: str,
    chance: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Points with intervals from a tidy table (`value`, `low`, `high`): groups on x, one marker per series.

    `chance` draws the level that a random map would reach, from the table's `chance` column.
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 3.6))[1]
    groups, names = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[series]))
    offsets = np.linspace(-0.32, 0.32, len(names)) if len(names) > 1 else [0.0]
    for k, name in enumerate(names):
        rows = table[table[series] == name].set_index(x).reindex(groups)
        below = (rows["value"] - rows["low"]).clip(lower=0).fillna(0)
        above = (rows["high"] - rows["value"]).clip(lower=0).fillna(0)
        position = np.arange(len(groups)) + offsets[k]
        ax.errorbar(
            position,
            rows["value"],
            yerr=[below, above],
            fmt=MARKERS[k % len(MARKERS)],
            color=PALETTE[k % 10],
            ms=5,
            lw=1.2,
            label=name,
        )
    if chance and "chance" in table and table["chance"].notna().any():
        level = table.groupby(x, sort=False)["chance"].mean().reindex(groups)
        for k, value in enumerate(level):
            ax.hlines(value, k - 0.4, k + 0.4, color="0.35", ls=":", label="chance" if k == 0 else None)
    ax.set(ylabel=ylabel, xlabel="", ylim=(0, None), xticks=range(len(groups)))
    ax.set_xticklabels(groups)
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.legend(frameon=True, fontsize=8, ncols=1, bbox_to_anchor=(1.01, 1), loc="upper left", borderaxespad=0)
    ax.figure.tight_layout()
    return ax


def plot_histograms(
    values: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    range_: tuple[float, float],
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """Outlined histograms (density) of several samples on shared bins."""
    ax = ax or plt.subplots(figsize=(WIDTH * 0.5, 3))[1]
    bins = np.linspace(*range_, 81)
    for k, (name, sample) in enumerate(values.items()):
        density, _ = np.histogram(np.clip(sample, *range_), bins=bins, density=True)
        ax.stairs(density, bins, label=name, color=PALETTE[k % 10], lw=1.3)
    ax.set(xlabel=xlabel, ylabel="density")
    if legend:
        ax.legend(fontsize=8, frameon=True)
    return ax


def show_planes(
    volume: np.ndarray, affine: np.ndarray, centre_mm: Sequence[float], *, mask: np.ndarray | None = None
) -> Figure:
    """The three orthogonal planes of a RAS+ volume through `centre_mm`, with axes in millimetres."""
    centre = np.round(np.linalg.solve(affine[:3, :3], np.asarray(centre_mm) - affine[:3, 3])).astype(int)
    start, step = affine[:3, 3], np.diag(affine)[:3]
    stop = start + step * (np.array(volume.shape) - 1)
    planes = [(0, 1, 2, "axial", "x", "y"), (0, 2, 1, "coronal", "x", "z"), (1, 2, 0, "sagittal", "y", "z")]
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, WIDTH / 3.1))
    for ax, (across, up, fixed, name, across_name, up_name) in zip(axes, planes, strict=True):
        half = step / 2  # a voxel reaches half its size beyond its centre
        centres = (start[across], stop[across], start[up], stop[up])
        extent = np.add(centres, (-half[across], half[across], -half[up], half[up]))
        index = tuple(centre[fixed] if k == fixed else slice(None) for k in range(3))
        ax.imshow(volume[index].T, origin="lower", extent=extent, vmin=GREY_RANGE[0], vmax=GREY_RANGE[1])
        if mask is not None and mask[index].any():
            ax.contour(mask[index].T, levels=[0.5], colors=[OUTLINE], linewidths=1.2, extent=centres)
        ax.set(title=name, xlabel=f"{across_name} (mm)", ylabel=f"{up_name} (mm)")
        ax.grid(False)
    fig.tight_layout()
    return fig


def _bare(ax: Axes, title: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.set_title(title)


def _rows_of_slices(images, masks, rows: int, titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """A grid whose first row shows the slices with the truth; the caller fills the others."""
    columns = len(images)
    side = min(WIDTH / (columns + 0.5), 2.2)  # inches
    size = ((columns + 0.5) * side, rows * side + 0.35)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for c in range(columns):
        show_slice(images[c], masks[c], title=titles[c] if c < len(titles) else "", sides=c == 0, ax=axes[0, c])
    return fig, axes
