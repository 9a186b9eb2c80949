"""The figures show what they were given: outlines, colour ranges, intervals, labels."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from course_lib import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    images = rng.random((3, 24, 24)).astype(np.float32)
    masks = np.zeros((3, 24, 24), bool)
    masks[1, 8:12, 8:12] = True
    return images, masks


def outlines(ax):
    return [c for c in ax.collections if type(c).__name__ == "QuadContourSet"]


def test_a_slice_is_drawn_as_it_lies_with_the_outline_of_its_mask(case):
    images, masks = case
    ax = plots.show_slice(images[1], masks[1], sides=True)
    assert np.array_equal(ax.images[0].get_array(), images[1])
    assert ax.images[0].origin == "upper"
    assert len(outlines(ax)) == 1
    assert {text.get_text() for text in ax.texts} == {"L", "R", "5 cm"}
    (bar,) = ax.lines
    assert np.ptp(bar.get_xdata()) * 2.0 == 50  # mm


def test_an_empty_mask_has_no_outline(case):
    images, masks = case
    assert outlines(plots.show_slice(images[0], masks[0])) == []


def test_maps_of_one_detector_share_their_colour_range_and_have_a_labelled_bar(case):
    images, masks = case
    maps = {"one": images, "two": 100 * images}
    fig = plots.show_maps(images, masks, maps, titles=["a", "b", "c"], label={"one": "s.d.", "two": "residual"})
    pictures = [ax for ax in fig.axes if ax.images and ax.get_label() != "<colorbar>"]
    ranges = [ax.images[0].get_clim() for ax in pictures]
    assert ranges[3:6] == [ranges[3]] * 3
    assert ranges[6:] == [ranges[6]] * 3
    assert ranges[6][1] == pytest.approx(100 * ranges[3][1], rel=1e-5)
    assert [ax.get_ylabel() for ax in fig.axes if ax.get_label() == "<colorbar>"] == ["s.d.", "residual"]


def test_results_show_every_value_its_interval_and_chance():
    table = pd.DataFrame(
        {
            "family": ["ms", "ms", "stroke", "stroke"],
            "detector": ["a", "b", "a", "b"],
            "value": [0.5, 0.2, 0.1, 0.4],
            "low": [0.4, np.nan, 0.05, 0.3],
            "high": [0.6, np.nan, 0.2, 0.5],
            "chance": [0.01, 0.01, 0.02, 0.02],
        }
    )
    ax = plots.plot_results(table, ylabel="AP")
    first, second = ax.containers
    assert np.allclose(first.lines[0].get_ydata(), [0.5, 0.1])
    assert np.allclose(second.lines[0].get_ydata(), [0.2, 0.4])
    ends = first.lines[2][0].get_segments()
    assert np.allclose(sorted(point[1] for point in ends[0]), [0.4, 0.6])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["ms", "stroke"]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"a", "b", "chance"}


def test_planes_are_in_millimetres():
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -20, -30, -10
    volume = np.zeros((20, 30, 10), np.float32)
    volume[12, 20, 6] = 1  # at (4, 10, 2) mm
    fig = plots.show_planes(volume, affine, (4, 10, 2))
    for ax in fig.axes:
        assert ax.images[0].get_array().max() == 1
        assert "(mm)" in ax.get_xlabel()
    assert fig.axes[0].images[0].get_extent() == [-21, 19, -31, 29]
