"""The data-flow diagrams: boxes where they were put, arrows that end at boxes, a legend of what occurs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import FancyArrowPatch

from course_lib.diagrams import CONSTANT, MEANINGS, data_flow
from course_lib.errors import BadInput

BOXES = {"x": (0, 0, "data"), "E": (1, 0, "network", "encoder $E$"), "D": (1, 1, "judge"), "L": (2, 0, "loss")}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_boxes_stand_where_they_were_put_and_say_their_text():
    fig = data_flow(BOXES, [("x", "E")])
    texts = {text.get_text(): text.get_position() for text in fig.axes[0].texts}
    assert texts == {"x": (0, 0), "encoder $E$": (1, 0), "D": (1, 1), "L": (2, 0)}


def test_arrows_have_labels_and_are_dashed_where_nothing_goes_back():
    fig = data_flow(BOXES, [("x", "E", "1"), ("E", "D", "2", {"constant": True}), ("E", "L", "", {"bend": 0.3})])
    arrows = [patch for patch in fig.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert [arrow.get_linestyle() for arrow in arrows] == ["-", "--", "-"]
    assert [text.get_text() for text in fig.axes[0].texts[4:]] == ["1", "2"]
    assert fig.axes[0].texts[4].get_position() == pytest.approx((0.5, 0))


def test_an_arrow_ends_at_the_outline_of_its_box():
    fig = data_flow(BOXES, [("x", "E")])
    fig.canvas.draw()
    (arrow,) = (patch for patch in fig.axes[0].patches if isinstance(patch, FancyArrowPatch))
    box = fig.axes[0].texts[1].get_bbox_patch().get_window_extent()
    tip = arrow.get_window_extent().x1
    assert tip == pytest.approx(box.x0, abs=6)


def test_the_legend_names_what_occurs():
    def names(fig):
        return [text.get_text() for text in fig.legends[0].get_texts()]

    assert names(data_flow(BOXES, [("x", "E")])) == list(MEANINGS.values())
    few = {name: BOXES[name] for name in ("x", "E")}
    assert names(data_flow(few, [("x", "E", "", {"constant": True})])) == ["images, codes", "network", CONSTANT]


def test_what_is_unknown_is_named():
    with pytest.raises(BadInput, match="'z'"):
        data_flow(BOXES, [("x", "z")])
    with pytest.raises(BadInput, match="square"):
        data_flow({"x": (0, 0, "square")}, [])
