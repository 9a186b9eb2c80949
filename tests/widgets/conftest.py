"""Toy scores for explorers: two detectors, two families and healthy persons, with the lesions' truth."""

from __future__ import annotations

from dataclasses import replace

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from course_lib.metrics.scores import Scores
from course_lib.widgets.threshold import ThresholdState

SHAPE = (24, 20)


def table_of(families: dict[str, int], slices: int, split: str) -> pd.DataFrame:
    """`slices` slices of so many persons of each family."""
    rows = [
        {"subject": f"{split}-{family}{k}", "slice": z, "split": split, "family": family}
        for family, persons in families.items()
        for k in range(persons)
        for z in range(slices)
    ]
    return pd.DataFrame(rows)


def toy_scores(table: pd.DataFrame, seed: int, shape: tuple[int, int] = SHAPE) -> Scores:
    """Smooth noise in an ellipse; a bright square in slices 1 and 2 of the ill."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) - (np.array(shape)[:, None, None] - 1) / 2
    brain = (y / shape[0]) ** 2 + (x / shape[1]) ** 2 < 0.22
    brains = np.repeat(brain[None], len(table), axis=0)
    masks = np.zeros(brains.shape, bool)
    for row in np.flatnonzero((table["family"] != "healthy") & table["slice"].isin([1, 2])):
        top, left = rng.integers(6, shape[0] - 10), rng.integers(6, shape[1] - 10)
        masks[row, top : top + 4, left : left + 4] = True
    maps = gaussian_filter(rng.standard_normal(brains.shape), (0, 1, 1)) + 0.8 * masks
    return Scores(maps.astype(np.float32), masks & brains, brains, table, detector="first", data="toys")


@pytest.fixture
def make_scores():
    """`make_scores({family: persons}, slices, split, seed)`, and a change of the table before."""

    def make(families, slices, split, seed, change=lambda table: table):
        return toy_scores(change(table_of(families, slices, split)), seed)

    return make


@pytest.fixture
def state() -> ThresholdState:
    """Two detectors on 6 persons with `ms`, 5 with `stroke` and 6 healthy ones, 4 slices each."""
    test = toy_scores(table_of({"healthy": 6, "ms": 6, "stroke": 5}, 4, "test"), 0)
    well = toy_scores(table_of({"healthy": 5}, 4, "val"), 1)
    noisy = np.random.default_rng(2)
    second = replace(test, maps=2 * test.maps + noisy.normal(0, 0.6, test.maps.shape), detector="second")
    second_well = replace(well, maps=2 * well.maps + noisy.normal(0, 0.6, well.maps.shape), detector="second")
    images = np.where(test.brains, 0.5 + 0.1 * test.maps, 0).astype(np.float32)
    return ThresholdState({"first": test, "second": second}, {"first": well, "second": second_well}, images)


@pytest.fixture(autouse=True)
def close():
    yield
    ipywidgets.Widget.close_all()
    plt.close("all")
