"""The token explorer as a figure: slice, surprise of its tokens, healed image, map; shares marked, one token's rivals.

The panels and plates that the view shows too are made here.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from course_lib.plots import HEAT, OUTLINE, PALETTE, WIDTH
from course_lib.widgets import pictures
from course_lib.widgets.tokens.odds import Odds
from course_lib.widgets.tokens.state import Reading, TokenState, limit

SIDE = 200  # pixels of a panel, about
MOST_SURPRISING = 10.0  # nats, where the grid's colours end
BRIGHTEST = 0.5  # intensity, where the map's colours end: four robust s.d. of the brain
TRUTH = tuple(round(255 * c) for c in to_rgb(OUTLINE))
UNJUDGED = (120, 120, 120)  # tokens without brain
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
HEALTHY, LESION, REST = "healthy validation tokens", "this slice, lesion", "this slice, elsewhere"
CURVES = {HEALTHY: (to_rgb("0.35"), ""), LESION: (PALETTE[3], "o"), REST: (PALETTE[0], "s")}  # colour, marker
POINTS, EVERY = 160, 20  # of a curve; a marker at every so manieth


def tokens_figure(state: TokenState) -> Figure:
    """What the explorer shows, without sliders: four panels, the shares that each threshold marks, a token's rivals."""
    reading, odds = state.reading(), state.odds()
    fig = plt.figure(figsize=(WIDTH, 5.4), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.2, 1])
    axes = top.subplots(1, 4)
    shown = zip(axes, panels(state, reading).values(), titles(state, reading), strict=True)
    for ax, panel, title in shown:
        ax.imshow(panel, interpolation="antialiased")  # thin lines would be lost: a panel has more pixels than its axes
        ax.set_title(title, fontsize=9)
        bare(ax)
    _bar(axes[1], MOST_SURPRISING, "surprise -log p (nats)", limit(reading.tau))
    _bar(axes[3], BRIGHTEST, "|x - x'| blur(M) (intensity)")
    left, right = bottom.subfigures(1, 2, width_ratios=[1.15, 1])
    ax = left.subplots()
    draw_shares(ax, state)
    ax.axvline(max(reading.tau, state.tau_ends[0]), color="black", lw=1.4)
    draw_rivals(right, odds)
    return fig


def panels(state: TokenState, reading: Reading) -> dict[str, np.ndarray]:
    """The four pictures, uint8 RGB of one size: `slice`, `tokens`, `healed`, `map`."""
    large = zoom(state)

    def grown(panel: np.ndarray, *, outlined: bool) -> np.ndarray:
        panel = pictures.enlarge(panel, large)
        return pictures.outline(panel, state.mask, TRUTH, large) if outlined else panel

    return {
        "slice": grown(pictures.grey(state.image), outlined=True),
        "tokens": token_panel(state, reading),
        "healed": grown(pictures.grey(reading.healed), outlined=False),
        "map": grown(pictures.heat(reading.anomaly, BRIGHTEST), outlined=True),
    }


def titles(state: TokenState, reading: Reading) -> list[str]:
    """One title for each panel."""
    marked, brain = int(reading.marked.sum()), int(reading.brain.sum())
    return [
        f"slice, z = {state.z_mm:g} mm",
        f"tokens: {marked} of {brain} marked",
        f"healed: {int(reading.changed.sum())} tokens changed",
        "map",
    ]


def token_panel(state: TokenState, reading: Reading) -> np.ndarray:
    """The surprises in magma, marked tokens framed white on black, the token that is read dotted; uint8 RGB."""
    side = zoom(state) * state.factor  # pixels of a token's square
    colours = pictures.heat(reading.surprise, MOST_SURPRISING)
    colours[~reading.brain] = UNJUDGED
    panel = pictures.enlarge(colours, side)
    for row, column in np.argwhere(reading.marked):
        square = panel[row * side : (row + 1) * side, column * side : (column + 1) * side]
        _frame(square, 0, WHITE)
        _frame(square, 2, BLACK)
    image = Image.fromarray(panel)
    pen = ImageDraw.Draw(image)
    y, x = (side * (index + 0.5) for index in state.place)
    reach = max(2, side // 6)
    pen.ellipse([x - reach, y - reach, x + reach, y + reach], fill=WHITE, outline=BLACK, width=2)
    return pictures.outline(np.asarray(image), state.mask, TRUTH, zoom(state))


def zoom(state: TokenState) -> int:
    """Pixels of a panel for one of the slice."""
    return max(1, round(SIDE / max(state.slices.image_shape)))


def draw_shares(ax: Axes, state: TokenState) -> None:
    """What share of the tokens each threshold marks: of healthy ones, of the lesion's, and of the others here."""
    draw_healthy_shares(ax, state)
    taus, shares = slice_shares(state)
    for name, share in shares.items():
        colour, marker = CURVES[name]
        ax.plot(taus, share, color=colour, marker=marker, markevery=EVERY, ms=5, mec="black", lw=1.6, label=name)
    ax.legend(fontsize=7, loc="upper left")


def draw_healthy_shares(ax: Axes, state: TokenState) -> None:
    """The axes with what is the same for all slices: the shares of healthy tokens, and the calibrated threshold."""
    low, high = state.tau_ends
    taus = np.geomspace(low, high, POINTS)
    ax.plot(taus, state.healthy_share(taus), color=CURVES[HEALTHY][0], lw=1.6, label=HEALTHY)
    ax.axvline(state.calibrated(state.model), color="0.5", ls="-.", lw=1.2, label="calibrated threshold")
    ax.set(xscale="log", xlim=(low, high), ylim=(-0.03, 1.03))
    ax.set(xlabel="threshold tau (probability)", ylabel="share of tokens marked", title="what each threshold marks")
    ax.title.set_fontsize(9)


def slice_shares(state: TokenState) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Thresholds, and for each the share of this slice's tokens that it marks, by the curve's name."""
    taus = np.geomspace(*state.tau_ends, POINTS)
    return taus, {_KINDS[kind]: share for kind, share in state.slice_share(taus).items()}


_KINDS = {"lesion": LESION, "rest": REST}


def draw_rivals(fig, odds: Odds) -> None:
    """What is decoded around the place that is read, with its token and with each rival, and their probabilities."""
    axes = fig.subplots(2, -(-len(odds.patches) // 2))
    for ax in axes.flat:
        ax.axis("off")
    for ax, patch, text in zip(axes.flat, odds.patches, rival_texts(odds), strict=False):
        ax.imshow(pictures.grey(patch))
        _frame_square(ax, len(patch))
        ax.set_title(text, fontsize=8)
    row, column = odds.place
    fig.suptitle(f"the token in row {row + 1}, column {column + 1}, and what the model expects there", fontsize=9)


def rival_texts(odds: Odds) -> list[str]:
    """The token and its rivals in words, in the order of `Odds.patches`."""
    return [
        f"here: {odds.token}\np = {odds.probability:.2g}",
        *(f"code {code}\np = {p:.2g}" for code, p in zip(odds.rivals, odds.chances, strict=True)),
    ]


def bare(ax: Axes) -> None:
    """No ticks, no grid."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def _frame_square(ax: Axes, side: int) -> None:
    """The token's own square: the middle third of a patch."""
    third = side / 3
    ax.add_patch(plt.Rectangle((third - 0.5, third - 0.5), third, third, fill=False, ec=OUTLINE, lw=1.2))


def _bar(ax: Axes, high: float, label: str, line: float = math.inf) -> None:
    """A colour bar from 0 below a panel, with a line where it is asked for."""
    colours = plt.cm.ScalarMappable(plt.Normalize(0, high), HEAT)
    bar = ax.figure.colorbar(colours, ax=ax, orientation="horizontal", fraction=0.05, pad=0.02, extend="max")
    if line < high:
        bar.ax.axvline(line, color=OUTLINE, lw=2)
        label += f"\nmarked above {line:.1f} (line)"
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)


def _frame(square: np.ndarray, inset: int, colour: tuple[int, int, int]) -> None:
    """Draw a frame two pixels wide inside a square (n, n, 3), so many pixels from its border; in place."""
    inner = square[inset : len(square) - inset, inset : len(square) - inset]
    for edge in (inner[:2], inner[-2:], inner[:, :2], inner[:, -2:]):
        edge[:] = colour
