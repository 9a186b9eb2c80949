import numpy as np
import pandas as pd
import pytest

from course_lib.metrics.scores import Scores


def build(maps, masks, *, brains=None, subjects=None, split="test", family="ms", **more) -> Scores:
    maps = np.asarray(maps, np.float32)
    masks = np.asarray(masks)
    brains = np.ones(maps.shape, bool) if brains is None else brains
    subjects = [f"sub-{i}" for i in range(len(maps))] if subjects is None else subjects
    table = pd.DataFrame({"subject": subjects, "split": split, "family": family})
    table["slice"] = table.groupby("subject").cumcount()
    return Scores(maps=maps, masks=masks, brains=brains, table=table, **more)


@pytest.fixture
def make_scores():
    """A function (maps, masks, ...) -> Scores with a table made up around them."""
    return build


@pytest.fixture
def ill(make_scores):
    """Ten subjects of two slices, each with a brighter square."""
    rng = np.random.default_rng(0)
    maps, masks = rng.gamma(1.5, 0.1, (20, 16, 16)), np.zeros((20, 16, 16), bool)
    for i in range(20):
        y, x = rng.integers(2, 10, 2)
        masks[i, y : y + 3, x : x + 3] = True
    return make_scores(maps + 0.3 * masks, masks, subjects=np.repeat([f"ill-{i}" for i in range(10)], 2))


@pytest.fixture
def well(make_scores):
    """Eight healthy validation subjects of two slices."""
    maps = np.random.default_rng(1).gamma(1.5, 0.1, (16, 16, 16))
    subjects = np.repeat([f"well-{i}" for i in range(8)], 2)
    return make_scores(maps, np.zeros(maps.shape, bool), subjects=subjects, split="val", family="healthy")
