"""People drawn from a model of a data set: their mean, their spread, who resembles whom, and painted discs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.images.people import DARKEST, People, paint_discs
from course_lib.images.slices import SliceSet

HEIGHTS = (2.0, 6.0, 10.0)


@pytest.fixture(scope="module")
def slices():
    """Thirty people of three slices: a level of each person's own, a bright spot in every slice, and noise."""
    rng = np.random.default_rng(0)
    brains = np.zeros((90, 17, 20), bool)  # 17 rows do not fill squares of two: the last is left out
    brains[:, 4:16, 4:16] = True
    level = np.repeat(rng.normal(0.5, 0.06, 30), 3)[:, None, None]
    spot = rng.normal(0, 0.03, (90, 1, 1)) * (np.arange(20) < 8)
    images = np.where(brains, level + spot + rng.normal(0, 0.01, brains.shape), 0).astype(np.float32)
    table = pd.DataFrame({"subject": np.repeat([f"sub-{k:02d}" for k in range(30)], 3), "slice": np.tile(range(3), 30)})
    table = table.assign(z_mm=np.tile(HEIGHTS, 30), split="train", family="healthy")
    return SliceSet(images, np.zeros_like(brains), brains, table)


@pytest.fixture(scope="module")
def people(slices):
    return People(slices, HEIGHTS, components=5)


def test_the_drawn_have_the_mean_and_covariance_of_the_data(slices, people):
    pooled = slices.images[:, :16].reshape(30, 3, 8, 2, 10, 2).mean((3, 5))
    drawn = people.draw(6000, np.random.default_rng(1))
    assert drawn.shape == (6000, 3, 8, 10) and drawn.dtype == np.float32
    inside = people.brains
    np.testing.assert_allclose(drawn[:, inside].mean(0), pooled[:, inside].mean(0), atol=0.005)
    np.testing.assert_allclose(drawn[:, inside].std(0), pooled[:, inside].std(0, ddof=1), rtol=0.1)
    ours, theirs = (np.corrcoef(x[:, :, 2:8, 2:8].mean((2, 3)).T) for x in (drawn, pooled))
    np.testing.assert_allclose(ours, theirs, atol=0.05)  # slices of one person go together as in the data
    assert ours[0, 1] > 0.7


def test_the_background_is_0_and_the_brain_is_not(people):
    drawn = people.draw(50, np.random.default_rng(2))
    assert (drawn[:, ~people.brains] == 0).all() and (drawn[:, people.brains] >= np.float32(DARKEST)).all()
    assert people.brains[:, 2:8, 2:8].all() and people.brains.sum() == 3 * 36
    assert people.spacing_mm == 4.0


def test_the_same_stream_draws_the_same_people(people):
    first, again = (people.draw(4, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again) and not np.array_equal(first[0], first[1])


def test_nobody_drawn_is_a_copy(slices, people):
    pooled = slices.images[:, :16].reshape(30, 3, 8, 2, 10, 2).mean((3, 5))
    drawn = people.draw(200, np.random.default_rng(4))
    nearest = np.abs(drawn[:, None] - pooled).max((2, 3, 4)).min(1)
    assert nearest.min() > 0.01


def test_a_slice_set_says_who_is_ill(people):
    rng = np.random.default_rng(5)
    images, masks = paint_discs(people.draw(3, rng), people.brains, rng, radius=(1, 2))
    both = people.slice_set(
        np.concatenate([people.draw(2, rng), images]), np.concatenate([np.zeros((2, *masks.shape[1:]), bool), masks])
    )
    assert len(both) == 15 and both.spacing_mm == 4.0
    assert both.table.groupby("family")["subject"].nunique().to_dict() == {"healthy": 2, "ill": 3}
    assert both.table["z_mm"].tolist() == list(HEIGHTS) * 5
    assert np.array_equal(both.images.reshape(5, 3, 8, 10)[2:], images)
    train = people.slice_set(images, split="train")
    assert not set(train.subjects) & set(both.subjects)


def test_discs_are_where_the_mask_says(people):
    rng = np.random.default_rng(6)
    plain = people.draw(40, rng)
    contrast = rng.uniform(0.1, 0.4, 40)
    painted, masks = paint_discs(plain, people.brains, rng, radius=(1, 2), contrast=contrast)
    assert painted.dtype == np.float32 and masks.any((2, 3)).all() and not (masks & ~people.brains).any()
    np.testing.assert_allclose(painted - plain, contrast[:, None, None, None] * masks, atol=1e-6)
    assert masks.sum((2, 3)).max() <= np.pi * 2.5**2
    dark, where = paint_discs(plain, people.brains, rng, radius=(1, 1), contrast=-5)
    assert (dark[where] == np.float32(DARKEST)).all()


def test_a_disc_larger_than_the_brain_still_finds_a_place(people):
    rng = np.random.default_rng(7)
    _, masks = paint_discs(people.draw(5, rng), people.brains, rng, radius=(9, 9), contrast=0.2)
    assert masks.any((2, 3)).all()


def test_what_cannot_be_modelled_is_refused(slices):
    with pytest.raises(BadInput, match="40 components need more than the 30 people"):
        People(slices, HEIGHTS, components=40)
    with pytest.raises(BadInput, match="more than the 0 people"):
        People(slices, [2, 99], components=5)
    masks = slices.brains.copy()
    ill = SliceSet(slices.images, masks, slices.brains, slices.table.drop(columns="digest"))
    with pytest.raises(BadInput, match="without a lesion"):
        People(ill, HEIGHTS, components=5)
