"""The threshold explorer's view, driven without a browser: every control, what is shown, and how long it takes."""

from __future__ import annotations

import io
import re
import statistics
import time

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from course_lib.errors import BadInput
from course_lib.widgets import driver
from course_lib.widgets.threshold import ThresholdExplorer, ThresholdState
from course_lib.widgets.threshold.figure import operating_points, slice_picture, threshold_figure
from course_lib.widgets.threshold.view import ZOOM, render_curves


def png(place) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(place.image.value)))


def cell(explorer, name: str) -> str:
    return re.search(rf">{re.escape(name)}</th><td>(.*?)</td>", explorer.table.value).group(1)


def test_each_control_changes_what_is_shown(state):
    explorer = ThresholdExplorer(state)
    for name, value in (
        ("fpr", 0.1),
        ("score", explorer.controls["score"].options[200][1]),
        ("oracle", None),
        ("min_pixels", 9),
        ("median", 3),
        ("family", "stroke"),
        ("scan", "test-healthy1"),
        ("place", 0),
        ("prevalence", 0.1),
        ("miss_cost", 100.0),
        ("detector", "second"),
        ("beside", "first"),
    ):
        before = shown(explorer)
        driver.set_control(explorer, name, value)
        assert shown(explorer) != before, f"{name} changed nothing"
        assert explorer.said.value == ""


def shown(explorer) -> tuple:
    pictures = [place.image.value for place in (*explorer.slices, explorer.curves)]
    return (*pictures, explorer.table.value)


def test_pictures_and_numbers_are_the_states(state):
    explorer = ThresholdExplorer(state)
    for stop in (0.001, 0.02, 0.3):
        driver.set_control(explorer, "fpr", stop)
        reading = state.reading()
        assert np.array_equal(png(explorer.slices[0]), slice_picture(state, "first", ZOOM))
        assert cell(explorer, "Dice").startswith(f"{reading.dice.value:.2f} [")
        counts = [int(part.sum()) for part in (reading.counts.tp, reading.counts.fp, reading.counts.fn)]
        assert cell(explorer, "found / falsely marked / missed") == " / ".join(f"{count:,}" for count in counts)
        assert cell(explorer, "healthy FPR, before small pieces are dropped") == f"{reading.fpr:.3%}"
        marked, lesion = state.detected(), state.lesion()
        assert f"{(marked & lesion).sum()} pixels found" in explorer.slices[0].says.value


def test_the_operating_point_lies_on_the_curves(state):
    """Without a smallest piece, what is drawn is a point of the drawn curves."""
    explorer = ThresholdExplorer(state)
    for stop in (0.01, 0.1):
        driver.set_control(explorer, "fpr", stop)
        (fpr, tpr), (recall, precision), (line, _) = operating_points(state, state.reading())
        ranking = state.ranking("first")
        assert np.interp(fpr, ranking.roc["fpr"], ranking.roc["tpr"]) == pytest.approx(tpr, abs=0.02)
        curve = ranking.precision_recall.sort_values("recall")
        assert np.interp(recall, curve["recall"], curve["precision"]) == pytest.approx(precision, abs=0.05)
        assert line == state.threshold()
    plain, places = render_curves(state)
    x, y = places[0](fpr, tpr)
    drawn = png(explorer.curves)
    assert (np.asarray(plain) != drawn).any(-1)[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].mean() > 0.6


def test_controls_follow_the_state(state):
    explorer = ThresholdExplorer(state)
    state.choose_family("stroke")
    state.choose_detector("second")
    state.set_oracle()
    explorer.show()
    assert explorer.controls["family"].value == "stroke" and explorer.controls["detector"].value == "second"
    stops = [value for _, value in explorer.controls["score"].options]
    nearest = min(stops, key=lambda stop: abs(stop - state.threshold()))
    assert explorer.controls["score"].value == nearest
    assert state.source.startswith("oracle"), "a slider that follows sets nothing"


def test_side_by_side(state):
    explorer = ThresholdExplorer(state)
    assert explorer.second.layout.display == "none"
    driver.set_control(explorer, "beside", "second")
    assert explorer.second.layout.display == "" and explorer.table.value.count('<th scope="col">') == 2
    driver.set_control(explorer, "beside", "")
    assert state.beside is None and explorer.second.layout.display == "none"


def test_walking_every_control_breaks_nothing(state):
    explorer = ThresholdExplorer(state)
    assert driver.walk(explorer, 4) > 30
    assert explorer.errors.outputs == () and explorer.said.value == ""


def test_everything_has_a_name(state):
    explorer = ThresholdExplorer(state)
    assert all(control.description for control in explorer.controls.values())
    assert explorer.curves.says.value.startswith("ROC") and explorer.slices[0].says.value
    assert 'role="status"' in explorer.table.value and "not for diagnosis" in explorer.table.value


def test_the_figure_shows_the_same(state):
    state.choose_beside("second")
    fig = threshold_figure(state)
    axes = [ax for sub in fig.subfigs for ax in sub.axes]
    assert len(axes) == 5
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes[2:])
    assert np.array_equal(axes[0].images[0].get_array(), slice_picture(state, "first"))
    (point,) = [line for line in axes[2].lines if line.get_marker() == "o"]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == operating_points(state, state.reading())[0]
    fig.canvas.draw()


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_is_said_below(state):
    explorer = ThresholdExplorer(state)
    state.choose_scan = lambda _: (_ for _ in ()).throw(BadInput("there is no <such> scan."))
    explorer.controls["scan"].value = "test-ms1"
    assert "&lt;such&gt;" in explorer.said.value and 'role="alert"' in explorer.said.value


def test_any_other_error_is_not_swallowed(state):
    explorer = ThresholdExplorer(state)
    state.set_fpr = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):  # without a kernel an Output lets it through
        explorer.controls["fpr"].value = 0.3


def test_the_driver_refuses_what_a_control_does_not_take(state):
    explorer = ThresholdExplorer(state)
    with pytest.raises(BadInput, match="no control"):
        driver.set_control(explorer, "volume", 1)
    with pytest.raises(BadInput, match="does not take"):
        driver.set_control(explorer, "min_pixels", 10_000)  # ipywidgets clips it silently
    with pytest.raises(BadInput, match="no positions"):
        driver.positions(ipywidgets.Text())


def test_all_explorers_are_driven(state):
    explorer = ThresholdExplorer(state)
    said = driver.drive_all(2)
    assert re.search(r"ThresholdExplorer: \d+ moves", said)
    explorer.close()


# ---- speed ----------------------------------------------------------------------------------------------------------


def test_a_step_is_quick(state):
    """A small state, so that only the view's own work counts; `tests/benchmarks/widgets.py` has 10^7 scores."""
    explorer = ThresholdExplorer(state)
    taken = []
    for _, stop in explorer.controls["fpr"].options[::2]:
        began = time.process_time()
        explorer.controls["fpr"].value = stop
        taken.append(time.process_time() - began)
    assert statistics.median(taken) < 0.05


def test_a_second_look_costs_no_new_curves(state, monkeypatch):
    explorer = ThresholdExplorer(state)
    driver.walk(explorer, 3)
    monkeypatch.setattr("course_lib.widgets.threshold.view.render_curves", None)  # to render would be an error
    explorer.controls["fpr"].value = 0.2


def test_persons_with_several_scans_are_persons(make_scores):
    def two_scans_of_one_person(table):
        person = table["subject"].replace("test-ms5", "test-ms4")
        return table.assign(person=person)

    test = make_scores({"healthy": 5, "ms": 6}, 3, "test", 0, two_scans_of_one_person)
    state = ThresholdState({"a": test}, {"a": make_scores({"healthy": 5}, 3, "val", 1)}, test.maps)
    state.set_fpr(0.2)
    assert len(state.reading().counts.tp) == 5
    assert state.ranking("a").ill_scans.tolist() == [1, 1, 1, 1, 2]
    assert len(state.scans) == 11, "each scan can be looked at"
