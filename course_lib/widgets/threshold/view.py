"""The threshold explorer's view: sliders, slices with outcomes, moving operating points, and the clinic."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw

from course_lib.metrics.intervals import Interval
from course_lib.metrics.screening import SCANS
from course_lib.widgets import plates
from course_lib.widgets.explorer import (
    NOTICE,
    Explorer,
    choice,
    column,
    follow,
    number_table,
    outcome_legend,
    picture,
    powers,
    put,
    row,
    set_ends,
    stops_slider,
    whole_slider,
)
from course_lib.widgets.threshold.figure import COLOURS, draw_curves, operating_points, slice_picture
from course_lib.widgets.threshold.state import Reading, ThresholdState

ZOOM = 4
CURVES = (960, 290)  # pixels
FPR_STOPS = powers(1e-5, 0.3, ".3%")
MEDIANS = [("none", 1), ("3 x 3", 3), ("5 x 5", 5)]


class ThresholdExplorer(Explorer):
    """Look at a threshold: what it finds, what it costs, and what a clinic would make of it.

    Args:
        state: the scores, and how the explorer starts.
    """

    state: ThresholdState

    def __init__(self, state: ThresholdState):
        names = list(state.scores)
        controls = {
            "detector": choice("detector", names, state.detector),
            "beside": choice("beside it", [("none", ""), *((name, name) for name in names)], state.beside or ""),
            "family": choice("lesions", state.families, state.family),
            "scan": choice("scan", list(state.scans.items()), state.scan),
            "place": whole_slider("slice", state.place, (0, len(state.rows_of(state.scan)) - 1)),
            "fpr": stops_slider("healthy FPR", FPR_STOPS, 0.01),
            "score": stops_slider("threshold", score_stops(state), state.threshold()),
            "oracle": widgets.Button(
                description="oracle: best Dice in hindsight",
                tooltip="take the threshold of the best Dice on these very lesions",
                layout=widgets.Layout(width="auto", margin="2px 2px 2px 11em"),
            ),
            "min_pixels": whole_slider("smallest piece (px)", state.min_pixels, (0, 40)),
            "median": choice("median filter", MEDIANS, state.median),
            "prevalence": stops_slider("prevalence", powers(0.001, 0.5, ".3%"), state.prevalence),
            "miss_cost": stops_slider("a miss costs (alarms)", powers(1, 1000, ".3g"), state.miss_cost),
        }  # fmt: skip
        super().__init__(state, controls)
        height, width = state.images.shape[1:]
        self.slices = [picture(ZOOM * width, ZOOM * height) for _ in range(2)]
        self.captions = [widgets.HTML(), widgets.HTML()]
        self.curves = picture(*CURVES)
        self.table = widgets.HTML()
        self._background: dict[tuple, tuple[Image.Image, list[Callable]]] = {}
        shown = [
            widgets.VBox([c, p], layout=widgets.Layout(max_width="100%"))
            for c, p in zip(self.captions, self.slices, strict=True)
        ]
        self.second = shown[1]
        self.arrange(
            row(column(*self.controls.values()), *shown),
            widgets.HTML(outcome_legend()),
            row(self.curves, self.table),
        )
        self.show()

    def changed(self, name: str, value) -> None:
        """See `Explorer.changed`."""
        choose = {
            "detector": self.state.choose_detector,
            "beside": lambda name: self.state.choose_beside(name or None),  # a list cannot show that None is chosen
            "family": self.state.choose_family,
            "scan": self.state.choose_scan,
            "median": self.state.choose_median,
            "fpr": self.state.set_fpr,
            "score": self.state.set_score,
            "oracle": lambda _: self.state.set_oracle(),
        }
        if name in choose:
            choose[name](value)
        else:
            setattr(self.state, name, value)

    def show(self) -> None:
        """See `Explorer.show`."""
        state = self.state
        readings = [state.reading(name) for name in state.detectors]
        self._follow(readings[0])
        self.second.layout.display = "" if len(readings) == 2 else "none"
        for reading, caption, place in zip(readings, self.captions, self.slices, strict=False):
            caption.value = f"<b>{html.escape(reading.detector)}</b>, score at least {reading.threshold:.3g}"
            put(place, slice_picture(state, reading.detector, ZOOM), self._says(reading))
        put(self.curves, self._moved(readings), _curves_say(readings))
        self.table.value = readings_table(readings, state)

    def _follow(self, reading: Reading) -> None:
        """Put the controls where the state is."""
        state, controls = self.state, self.controls
        with self.quietly():
            for name in ("detector", "family", "median", "min_pixels"):
                controls[name].value = getattr(state, name)
            controls["beside"].value = state.beside or ""
            follow(controls["fpr"], reading.fpr)
            follow(controls["score"], reading.threshold, score_stops(state))
            if dict(controls["scan"].options) != state.scans:
                controls["scan"].options = list(state.scans.items())
            controls["scan"].value = state.scan
            set_ends(controls["place"], 0, len(state.rows_of(state.scan)) - 1, state.place)

    def _moved(self, readings: list[Reading]) -> Image.Image:
        """The curves with the operating points, drawn on a picture that is rendered once for each choice."""
        key = (*self.state.detectors, self.state.family, self.state.median)
        if key not in self._background:
            if len(self._background) >= 8:
                self._background.pop(next(iter(self._background)))
            self._background[key] = render_curves(self.state)
        background, places = self._background[key]
        drawn = background.copy()
        pen = ImageDraw.Draw(drawn)
        for k, reading in enumerate(readings):
            colour = tuple(int(255 * c) for c in COLOURS[k])
            for (x, y), place in zip(operating_points(self.state, reading), places, strict=True):
                if y is not None:
                    plates.dot(pen, place(x, y), colour, square=k == 1)
                elif np.isfinite(x):
                    (column_, top), (_, bottom) = place(x, None)
                    pen.line([(column_, top), (column_, bottom)], fill=(50, 50, 50), width=2)
        return drawn

    def _says(self, reading: Reading) -> str:
        detected, lesion = self.state.detected(reading.detector), self.state.lesion()
        found, false, missed = (int(x.sum()) for x in (detected & lesion, detected & ~lesion, lesion & ~detected))
        return f"{reading.detector}: in this slice {found} pixels found, {false} falsely marked, {missed} missed."


def score_stops(state: ThresholdState) -> list[tuple[str, float]]:
    """The stops of the slider in score units: 400 equal steps where a threshold of the first detector makes sense."""
    return [(f"{x:.4g}", float(x)) for x in np.linspace(*state.score_ends(state.detector), 401)]


def render_curves(state: ThresholdState) -> tuple[Image.Image, list[Callable]]:
    """The curves without operating points, as a picture, and for each axes a function from data to picture pixels.

    The last one is called with None for y and gives the two ends of an upright line.
    """
    fig = plates.blank(*CURVES)
    axes = fig.subplots(1, 3)
    draw_curves(axes, state)
    for ax in axes:
        ax.grid(alpha=0.3)
        plates.set_sizes(ax)
    image = plates.render(fig)
    return image, [plates.placer(ax, CURVES[1]) for ax in axes]


def readings_table(readings: list[Reading], state: ThresholdState) -> str:
    """The numbers as an HTML table, one column a detector; read aloud when they change."""
    persons = len(readings[0].counts.lesion)
    lines = [
        ("threshold", [f"{r.threshold:.4g}" for r in readings]),
        ("from", [html.escape(r.source) for r in readings]),
        ("healthy FPR, before small pieces are dropped", [f"{r.fpr:.3%}" for r in readings]),
        (f"<b>pixels of {persons} persons with {html.escape(state.family)}</b>", [""] * len(readings)),
        ("found / falsely marked / missed", [_counts(r) for r in readings]),
        ("Dice", [_shown(r.dice) for r in readings]),
        ("sensitivity", [_shown(r.sensitivity) for r in readings]),
        ("PPV (precision)", [_shown(r.ppv) for r in readings]),
        ("false pieces a scan", [_shown(r.false_per_scan, 1) for r in readings]),
        ("false pieces a healthy scan", [_shown(r.false_per_healthy_scan, 1) for r in readings]),
    ]
    if readings[0].clinic is not None:
        clinics = [r.clinic for r in readings]
        lines += [
            (f"<b>a clinic: {SCANS:,} scans, {state.prevalence:.2%} ill; recalled if anything is marked</b>",
             [""] * len(readings)),
            ("sensitivity, persons", [_shown(c.sensitivity) for c in clinics]),
            ("specificity, persons", [_shown(c.specificity) for c in clinics]),
            ("PPV: a recalled person is ill", [_shown(c.ppv, 3) for c in clinics]),
            ("NPV: the others are healthy", [_shown(c.npv, 4) for c in clinics]),
            ("recalled", [f"{c.recalled:.0f}" for c in clinics]),
            ("of these falsely / ill and missed", [f"{c.false_alarms:.0f} / {c.missed:.1f}" for c in clinics]),
            (f"cost in false alarms, a miss counting {state.miss_cost:.0f}", [f"{c.cost:.0f}" for c in clinics]),
        ]  # fmt: skip
    names = [r.detector for r in readings]
    return number_table(names, lines, f"95 % intervals over persons. {NOTICE}")


def _counts(reading: Reading) -> str:
    counts = reading.counts
    return " / ".join(f"{int(part.sum()):,}" for part in (counts.tp, counts.fp, counts.fn))


def _shown(interval: Interval, digits: int = 2) -> str:
    if np.isnan(interval.value):
        return "not defined"
    if np.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _curves_say(readings: list[Reading]) -> str:
    return "ROC curve, precision-recall curve and score histograms; " + "; ".join(
        f"{r.detector} at sensitivity {r.sensitivity.value:.2f}, PPV {r.ppv.value:.2f}" for r in readings
    )
