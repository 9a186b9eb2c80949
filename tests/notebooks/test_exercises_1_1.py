"""The exercises of lesson 1.1: each wrong answer meets the message meant for it, each right one passes."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from course_lib.images import bids

AFFINE = np.array([[2.0, 0, 0, -98], [0, 2, 0, -134], [0, 0, 2, -72], [0, 0, 0, 1]])
VOXELS = 300  # of the second tumour
VOXEL_ML = 8 / 1000  # 2 x 2 x 2 mm


@pytest.fixture(scope="module")
def cards(exercises, tmp_path_factory):
    """The lesson's exercises, with a folder that holds the second tumour's mask."""
    atlas = tmp_path_factory.mktemp("atlas")
    path = bids.lesion_path(atlas, "sub-testtumour002")
    path.parent.mkdir(parents=True)
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:15, 5:15, 5:8] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), path)
    return exercises("1.1", scan=SimpleNamespace(affine=AFFINE), atlas=atlas, voxel_ml=VOXEL_ML)


def test_every_card_is_tested_and_waits_for_an_answer(cards):
    assert cards.numbers == ["1.1.1", "1.1.2", "1.1.3"]
    assert all("no answer yet" in cards.verdict(number, ...) for number in cards.numbers)


@pytest.mark.parametrize(
    "answer",
    [
        round((18 - AFFINE[2, 3]) / AFFINE[2, 2]),
        apply_affine(np.linalg.inv(AFFINE), [0, 0, 18])[2],
        np.linalg.solve(AFFINE, [0, 0, 18, 1])[2],
        "45",
    ],
)
def test_ways_to_the_index(cards, answer):
    assert cards.verdict("1.1.1", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (9, "forgot the offset"),
        (18, "not the index"),
        (90, "Solve z ="),
        ("top", "could not use this answer"),
    ],
)
def test_wrong_indices_are_named(cards, answer, message):
    assert message in cards.verdict("1.1.1", answer)


@pytest.mark.parametrize("answer", [VOXELS * VOXEL_ML, np.float32(2.4), VOXELS * 2 * 2 * 2 / 1000])
def test_ways_to_the_volume(cards, answer):
    assert cards.verdict("1.1.2", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (VOXELS, "A voxel is not a millilitre"),
        (VOXELS * 8, "cubic millimetres"),
        (1.0, "voxels times the volume of one"),
        ("large", "could not use this answer"),
    ],
)
def test_wrong_volumes_are_named(cards, answer, message):
    assert message in cards.verdict("1.1.2", answer)


def by_halves(subjects):
    """The first half of the people trains."""
    people = sorted(set(subjects))
    return ["train" if people.index(name) < len(people) / 2 else "test" for name in subjects]


def by_chance(subjects):
    """People in random order, every second one trains."""
    people = np.random.default_rng(0).permutation(np.unique(subjects))
    return np.where(np.isin(subjects, people[::2]), "train", "test")


@pytest.mark.parametrize("answer", [by_halves, by_chance])
def test_splits_by_people(cards, answer):
    assert cards.verdict("1.1.3", answer).endswith("right.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda subjects: ["train", "test"] * (len(subjects) // 2 - 1) + ["train", "train"], "you dealt slices"),
        (lambda subjects: by_halves(sorted(set(subjects))), "one split for each slice"),
        (lambda subjects: [0 if split == "train" else 1 for split in by_halves(subjects)], "The only splits are"),
        (lambda subjects: ["train"] * len(subjects), "about half should be"),
        (by_halves(["a", "b"]), "could not use this answer"),
    ],
)
def test_wrong_splits_are_named(cards, answer, message):
    assert message in cards.verdict("1.1.3", answer)
