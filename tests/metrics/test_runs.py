"""Counts by runs of pixels, against the label images of `overlap` and `lesions`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib.errors import BadInput
from course_lib.metrics.lesions import match
from course_lib.metrics.overlap import pixel_counts
from course_lib.metrics.runs import PixelRuns
from course_lib.metrics.scores import Scores

FEW_LEVELS = st.sampled_from([0.0, 1.0, 2.0, 3.0])


def table(slices: int, persons: int) -> pd.DataFrame:
    subjects = [f"sub-{k % persons}" for k in range(slices)]
    return pd.DataFrame({"subject": subjects, "slice": range(slices), "split": "test", "family": "ms"})


def check(scores: Scores, threshold: float, min_pixels: int) -> None:
    found = PixelRuns(scores).at(threshold, min_pixels)
    detections = replace(scores, min_component=min_pixels).detections(threshold)
    pixels, components = pixel_counts(detections, scores), match(detections, scores).by_subject()
    for name in ("tp", "fp", "fn", "tn"):
        assert getattr(found, name).tolist() == pixels[name].tolist(), name
    assert found.components.tolist() == components["detections"].tolist()
    assert found.false.tolist() == components["false"].tolist()


@settings(max_examples=150, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (3, 7, 6), elements=FEW_LEVELS),
    masks=hnp.arrays(bool, (3, 7, 6)),
    brains=hnp.arrays(bool, (3, 7, 6)),
    threshold=st.sampled_from([-1.0, 0.0, 1.0, 1.5, 3.0, 4.0]),
    min_pixels=st.integers(0, 9),
)
def test_any_small_map(maps, masks, brains, threshold, min_pixels):
    check(Scores(maps, masks, brains, table(3, 2)), threshold, min_pixels)


@pytest.mark.parametrize("min_pixels", [0, 1, 4, 30])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_smooth_maps_of_several_persons(share, min_pixels):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    maps = gaussian_filter(rng.standard_normal((12, 40, 33)), (0, 1.5, 1.5)).astype(np.float32)
    masks = gaussian_filter(rng.standard_normal((12, 40, 33)), (0, 3, 3)) > 0.15
    scores = Scores(maps, masks, rng.random(maps.shape) < 0.9, table(12, 5))
    threshold = float(np.quantile(maps, 1 - share)) if share else 99.0
    check(scores, threshold, min_pixels)


def test_a_ring_and_a_spiral_are_one_component_each():
    """Shapes whose ends meet only after many rows."""
    picture = np.array(
        [list(row) for row in ("1111111", "1000001", "1011101", "1010101", "1010001", "1011111", "0000000", "1111111")]
    ).astype(np.float32)
    scores = Scores(picture[None], np.zeros((1, 8, 7), bool), np.ones((1, 8, 7), bool), table(1, 1))
    assert PixelRuns(scores).at(1.0).components.tolist() == [2]
    check(scores, 1.0, 8)


def test_slices_and_rows_do_not_touch_around_an_edge():
    maps = np.zeros((2, 3, 3), np.float32)
    maps[0, 0, 2] = maps[0, 1, 0] = maps[0, 2, 2] = maps[1, 0, 0] = 1
    scores = Scores(maps, np.zeros(maps.shape, bool), np.ones(maps.shape, bool), table(2, 1))
    assert PixelRuns(scores).at(1.0).components.tolist() == [4]


def test_a_threshold_between_two_float32_numbers_detects_what_is_not_below_it():
    maps = np.full((1, 2, 2), 0.1, np.float32)
    scores = Scores(maps, np.zeros(maps.shape, bool), np.ones(maps.shape, bool), table(1, 1))
    runs = PixelRuns(scores)
    for threshold in (0.1, float(np.float32(0.1)), np.nextafter(float(np.float32(0.1)), 1)):
        assert runs.at(threshold).fp.tolist() == [int(scores.detections(threshold).sum())]


def test_no_threshold_is_refused():
    scores = Scores(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool), table(1, 1))
    with pytest.raises(BadInput, match="NaN"):
        PixelRuns(scores).at(float("nan"))
