"""Data sets by name: made or found, whole, and split by subject and person."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.images.slices import SliceSet
from data_scripts import fetch_stroke, make_atlas_cohort, open_slices, stroke_set

SHARED = Path(os.environ.get("LEARNING_NORMAL_SHARED") or Path(__file__).resolve().parents[3] / "shared" / "data")
PUBLISHED = SHARED / "stroke" / "stroke_flair_axial.npz"
need_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published slices are not here")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("LEARNING_NORMAL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LEARNING_NORMAL_STROKE", raising=False)
    return tmp_path / "data"


@pytest.fixture
def tiny(monkeypatch):
    """A cohort of eight subjects; the standard profile has four more."""
    sizes = {("train", "healthy"): (2, 3, 3), ("val", "healthy"): (1, 2, 2), ("test", "healthy"): (1, 1, 1)}
    sizes |= {
        ("val", "ms"): (1, 1, 1),
        ("test", "ms"): (1, 2, 2),
        ("test", "stroke"): (1, 1, 1),
        ("test", "spike"): (1, 2, 2),
    }
    monkeypatch.setattr(make_atlas_cohort, "SIZES", sizes)
    monkeypatch.setattr(make_atlas_cohort, "cores", lambda: 1)


def subject_level(slices: SliceSet) -> bool:
    return all(
        slices.table.groupby(column)["split"].nunique().max() == 1
        for column in ("subject", "person")
        if column in slices.table
    )


def test_the_atlas_is_made_on_first_use_and_split_by_subject(data, tiny):
    quick = open_slices("atlas", "quick", progress=False)
    assert len(quick.subjects) == 8 and len(quick) == 8 * 17 and subject_level(quick)
    assert set(quick.table["split"]) == {"train", "val", "test"}
    sick = quick.select("family == 'ms' and split == 'test'")
    assert sick.masks.any() and not (sick.masks & ~sick.brains).any()
    assert not quick.select("family == 'healthy'").masks.any()
    again = open_slices("atlas", "quick", progress=False)
    assert again.fingerprint == quick.fingerprint
    standard = open_slices("atlas", "standard", progress=False)
    assert len(standard.subjects) == 12 and set(quick.subjects) < set(standard.subjects)
    within = open_slices("atlas", "quick", progress=False)  # now a selection of the larger cohort
    assert within.fingerprint == quick.fingerprint and within.subjects == quick.subjects
    assert open_slices(data / "atlas", progress=False).fingerprint == standard.fingerprint  # a folder, by its path


@need_published
def test_stroke_is_whole_and_split_by_person(data, monkeypatch):
    monkeypatch.setenv("LEARNING_NORMAL_STROKE", str(PUBLISHED))
    slices = open_slices("stroke")
    assert len(slices) == 1221 and subject_level(slices) and "person" in slices.table
    assert len(slices.select("split == 'train' and family == 'healthy'")) == 215
    tested = slices.select("split == 'test' and family == 'stroke' and lesion_px >= 50")
    assert len(tested) == 123 and len(tested.select("mirror_z > 1")) == 90
    assert ((slices.images > 0) == slices.brains).all()
    assert slices.licence and "Absher" in slices.citation
    stamp = next((data / "stroke_ready").rglob("images.npy")).stat().st_mtime_ns
    assert open_slices("stroke").fingerprint == slices.fingerprint
    assert next((data / "stroke_ready").rglob("images.npy")).stat().st_mtime_ns == stamp  # mapped, not made again
    monkeypatch.delenv("LEARNING_NORMAL_STROKE")
    assert open_slices(PUBLISHED).fingerprint == slices.fingerprint
    sample, _ = fetch_stroke.fetch(PUBLISHED, progress=False, limit=30)
    fetched = open_slices("stroke")  # from <data>/stroke
    assert len(fetched) == 30 and fetched.fingerprint == sample.fingerprint and subject_level(fetched)
    shutil.rmtree(data / "stroke" / "derivatives")
    assert open_slices("stroke").fingerprint == sample.fingerprint  # the cache is made again
    kept = slices.table["subject"].isin(sample.subjects).to_numpy()
    assert slices.select(kept).fingerprint == sample.fingerprint


@need_published
def test_no_two_published_scans_of_a_person_are_in_two_splits():
    with np.load(PUBLISHED, allow_pickle=False) as stored:
        people = pd.DataFrame({name: stored[name] for name in ("subject", "person", "split")})
    table = stroke_set.read_table()
    assert people.groupby("person")["split"].nunique().max() == 1
    assert (table["person"].to_numpy() == people.sort_values("subject")["person"].to_numpy()).all()


@pytest.mark.parametrize("named", [None, "nowhere.npz"])
def test_absent_stroke_data_name_the_command(data, monkeypatch, named):
    if named:
        monkeypatch.setenv("LEARNING_NORMAL_STROKE", str(data / named))
    with pytest.raises(BadInput, match="python -m data_scripts.fetch_stroke") as caught:
        open_slices("stroke")
    assert caught.value.file == data / (named or "stroke")


def test_a_stroke_folder_without_its_file_names_the_command(data):
    (data / "stroke").mkdir(parents=True)
    with pytest.raises(BadInput, match="python -m data_scripts.fetch_stroke"):
        open_slices("stroke")


def test_unknown_names_and_profiles_are_refused(data):
    with pytest.raises(BadInput, match="prepare_folder"):
        open_slices(data / "nothing")
    with pytest.raises(BadInput, match="quick, standard, full"):
        open_slices("atlas", "tiny")
