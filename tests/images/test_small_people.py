"""Small simulated people: the course's intensity convention, whole people in a split, lesions as announced."""

from __future__ import annotations

import numpy as np
import pytest

from course_lib.errors import BadInput
from course_lib.images.small_people import CONTRAST, small_people

COUNTS = {"healthy": 6, "bright": 5, "dark": 5, "flat": 5}


@pytest.fixture(scope="module")
def people():
    return small_people(COUNTS, split="test", seed=1)


def test_images_keep_the_convention(people):
    assert people.image_shape == (32, 32) and len(people) == 3 * 21 and len(people.subjects) == 21
    assert not people.images[~people.brains].any() and (people.images[people.brains] > 0).all()
    healthy = (people.table["family"] == "healthy").to_numpy()
    medians = [np.median(image[brain]) for image, brain in zip(people.images, people.brains, strict=True)]
    np.testing.assert_allclose(np.array(medians)[healthy], 0.5, atol=1e-6)
    assert people.brains.mean() > 0.3


def test_each_ill_person_has_a_lesion_in_two_neighbouring_slices(people):
    for subject, rows in people.table.groupby("subject"):
        ill = people.masks[rows.index].any((1, 2))
        expected = [(0, 0, 0)] if "healthy" in subject else [(1, 1, 0), (0, 1, 1)]
        assert tuple(ill.astype(int)) in expected
    assert not (people.masks & ~people.brains).any()


def test_lesions_differ_from_what_was_there_as_announced():
    """The same person is drawn without a lesion: a family's stream depends on its name, so compare within a slice."""
    for family, contrast in CONTRAST.items():
        ill = small_people({family: 30}, split="val", seed=2)
        rows = np.flatnonzero(ill.masks.any((1, 2)))
        inside = np.array([ill.images[row][ill.masks[row]].mean() for row in rows])
        spread = np.array([ill.images[row][ill.masks[row]].std() for row in rows])
        assert abs(inside.mean() - 0.5 - contrast) < 0.15
        assert (spread.max() < 1e-6) == (family == "flat")


def test_a_person_depends_on_nothing_but_seed_split_family_and_number():
    few, many = (small_people({"bright": count}, split="val", seed=3) for count in (2, 4))
    np.testing.assert_array_equal(few.images, many.images[:6])
    for other in (small_people({"bright": 2}, split="val", seed=4), small_people({"bright": 2}, split="test", seed=3)):
        assert not np.array_equal(few.images, other.images)
    assert len({image.tobytes() for image in many.images}) == len(many)


def test_people_differ_more_than_their_noise(people):
    healthy = people.images[(people.table["family"] == "healthy").to_numpy() & (people.table["slice"] == 1).to_numpy()]
    assert np.abs(healthy[0] - healthy[1]).mean() > 0.02


def test_sizes_and_wrong_calls():
    assert small_people({"healthy": 1}, side=48).image_shape == (48, 48)
    with pytest.raises(BadInput, match="unknown family"):
        small_people({"ms": 1})
    with pytest.raises(BadInput, match="does not fit"):
        small_people({"healthy": 1}, side=8)
    with pytest.raises(BadInput, match="split"):
        small_people({"healthy": 1}, split="holdout")
