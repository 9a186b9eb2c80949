"""SliceSet: what it holds, selects and refuses; the cache that survives damage and two builders."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from contextlib import nullcontext
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.images import bids, lattice, slice_cache
from course_lib.images.slices import SliceSet

AFFINE = np.array([[2.0, 0, 0, -98], [0, 2, 0, -134], [0, 0, 2, -72], [0, 0, 0, 1]])  # nilearn's 2 mm template
SPLIT = ("train", "val", "test")


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def make_subject(folder: Path, subject: str, family: str, seed: int = 0) -> np.ndarray:
    """A block of brain with noise; each voxel of the image is different."""
    brain = np.zeros((98, 116, 94), bool)
    brain[20:80, 30:100, 32:60] = True  # z = -8 ... 46 mm
    image = np.where(brain, np.random.default_rng(seed).uniform(0.2, 1.5, brain.shape), 0).astype(np.float32)
    save(bids.image_path(folder, subject), image)
    save(bids.brain_path(folder, subject), brain.astype(np.uint8))
    if family != "healthy":
        lesion = np.zeros_like(brain)
        lesion[30:34, 40:45, 40:50] = True
        save(bids.lesion_path(folder, subject), lesion.astype(np.uint8))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six subjects: in each split a healthy one and one with ms."""
    place = tmp_path / "toy"
    rows = []
    for n in range(6):
        rows.append(
            {"participant_id": f"sub-s{n}", "split": SPLIT[n % 3], "family": ("ms", "healthy")[n // 3], "age": n / 2}
        )
        make_subject(place, f"sub-s{n}", rows[-1]["family"], n)
    bids.write_participants(place, pd.DataFrame(rows))
    bids.write_description(place, "toy", licence="CC0", citation="Doe 2020", source="https://example.org")
    return place


def arrays(count: int = 6) -> dict[str, np.ndarray]:
    brains = np.zeros((count, 8, 8), bool)
    brains[:, 2:6, 2:6] = True
    images = np.where(brains, np.random.default_rng(0).uniform(0.2, 1, brains.shape), 0).astype(np.float32)
    return {"images": images, "masks": np.zeros_like(brains), "brains": brains}


def facts(count: int = 6) -> pd.DataFrame:
    subject = [f"s{n // 2}" for n in range(count)]
    split = [SPLIT[n // 2 % 3] for n in range(count)]
    return pd.DataFrame({"subject": subject, "slice": 0, "z_mm": 18.0, "split": split, "family": "healthy"})


# ---- the lattice ----------------------------------------------------------------------------------------------------


def test_lattice_of_a_2_mm_volume_is_indexing(tmp_path):
    image = make_subject(tmp_path, "sub-a", "healthy")
    found = lattice.axial_slices(image, AFFINE, (18,))[18]
    k = (18 + 72) // 2
    for i, j in ((10, 40), (50, 50), (37, 61)):
        x, y = -96 + 2 * j, 76 - 2 * i
        assert found[i, j] == image[(x + 98) // 2, (y + 134) // 2, k]


def test_lattice_of_a_1_mm_volume_smooths_then_takes_every_other_pixel():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = (-90, -126, -72)
    volume = np.random.default_rng(0).uniform(size=(181, 217, 181)).astype(np.float32)
    found = lattice.axial_slices(volume, affine, (18,))[18]
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    i, j = 30, 50
    x, y = -96 + 2 * j + 90, 76 - 2 * i + 126
    assert found[i, j] == pytest.approx((volume[x - 1 : x + 2, y - 1 : y + 2, 90] * weights).sum(), rel=1e-6)
    mask = volume > 0.5
    assert lattice.axial_slices(mask, affine, (18,))[18][i, j] == mask[x, y, 90]
    assert (found[:, :3] == 0).all() and (found[:, 3] != 0).any()  # x = -96 ... -92 mm is outside the volume


def test_heights_outside_the_volume_are_left_out():
    assert set(lattice.axial_slices(np.ones((98, 116, 40)), AFFINE, (-74, -72, 6, 8))) == {-72, 6}


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([3.0, 3, 3, 1]),
        np.diag([-2.0, 2, 2, 1]),
        np.diag([2.0, 2, 2, 1]) + np.eye(4, k=1),
        np.array([[2.0, 0, 0, 0.7], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
        np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 1], [0, 0, 0, 1]]),
        np.diag([np.nan, 2, 2, 1]),
        np.diag([0.0, 2, 2, 1]),
    ],
)
def test_grids_that_do_not_meet_the_lattice_are_refused(affine):
    with pytest.raises(BadInput) as caught:
        lattice.axial_slices(np.ones((98, 116, 94), np.float32), affine, (18,))
    assert caught.value.field == "affine" and "prepare_folder" in caught.value.remedy


# ---- from a folder --------------------------------------------------------------------------------------------------


def test_from_bids_holds_the_slices_and_their_facts(folder):
    slices = SliceSet.from_bids(folder, progress=False)
    heights = [z for z in lattice.STANDARD_HEIGHTS if -8 <= z <= 46]
    assert len(slices) == 6 * len(heights) and slices.image_shape == (96, 96)
    assert isinstance(slices.images, np.memmap) and slices.images.dtype == np.float32
    assert slices.masks.dtype == slices.brains.dtype == bool
    row = slices.table.iloc[3]
    volume = nibabel.load(bids.image_path(folder, row["subject"])).get_fdata()
    expected = lattice.axial_slices(volume, AFFINE, (row["z_mm"],))[row["z_mm"]]
    np.testing.assert_allclose(slices.images[3], expected, rtol=1e-6)
    assert lattice.STANDARD_HEIGHTS[row["slice"]] == row["z_mm"]
    assert ((slices.images > 0) == slices.brains).all()
    assert set(slices.table.columns) >= {
        "subject",
        "slice",
        "z_mm",
        "split",
        "family",
        "age",
        "lesion_px",
        "lesion_mm2",
    }
    assert (slices.table["lesion_px"] == slices.masks.sum((1, 2))).all()
    assert (slices.table["lesion_mm2"] == 4 * slices.table["lesion_px"]).all()
    assert (slices.name, slices.licence, slices.citation) == ("toy", "CC0", "Doe 2020")
    assert slices.families == ["healthy", "ms"] and len(slices.subjects) == 6
    slices.verify()


def test_no_subject_is_in_two_splits(folder):
    slices = SliceSet.from_bids(folder, progress=False)
    assert slices.table.groupby("subject")["split"].nunique().max() == 1


def test_the_cache_is_used_until_the_folder_changes(folder, tmp_path):
    cache = tmp_path / "cache"
    first = SliceSet.from_bids(folder, cache, progress=False)
    (built,) = cache.iterdir()
    stamp = (built / "images.npy").stat().st_mtime_ns
    again = SliceSet.from_bids(folder, cache, progress=False)
    assert (built / "images.npy").stat().st_mtime_ns == stamp and again.fingerprint == first.fingerprint
    make_subject(folder, "sub-s0", "ms", seed=99)
    changed = SliceSet.from_bids(folder, cache, progress=False)
    assert changed.fingerprint != first.fingerprint and [*cache.iterdir()] != [built]
    assert len([*cache.iterdir()]) == 1  # the earlier state is gone ...
    assert np.isfinite(first.images).all()  # ... but who has it mapped keeps it
    other = SliceSet.from_bids(folder, cache, (18,), progress=False)
    assert len(other) == 6 and len([*cache.iterdir()]) == 2


def test_two_data_sets_with_the_same_slices_have_the_same_fingerprint(folder, tmp_path):
    slices = SliceSet.from_bids(folder, progress=False)
    part = slices.select("subject in ['sub-s0', 'sub-s3']")
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    bids.write_participants(folder, table[table["participant_id"].isin(["sub-s0", "sub-s3"])])
    small = SliceSet.from_bids(folder, tmp_path / "small", progress=False)
    assert small.fingerprint == part.fingerprint != slices.fingerprint


@pytest.mark.parametrize(
    "damage", ["truncated", "cut table", "flipped fingerprint", "flipped pixels", "lost", "no json", "swapped"]
)
def test_a_damaged_cache_is_refused_by_open_and_built_again_by_from_bids(folder, tmp_path, damage):
    cache = tmp_path / "cache"
    sound = SliceSet.from_bids(folder, cache, progress=False)
    expected, content = sound.fingerprint, sound.images.copy()
    (built,) = cache.iterdir()
    images, about, table = built / "images.npy", built / "slices.json", built / "slices.tsv"
    if damage == "truncated":
        os.truncate(images, images.stat().st_size - 4)
    elif damage == "cut table":
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    elif damage == "flipped fingerprint":
        about.write_text(about.read_text().replace(expected[:6], expected[5::-1]))
    elif damage == "flipped pixels":
        with open(images, "r+b") as stream:
            stream.seek(256)
            stream.write(b"\xff" * 96 * 96 * 4)
    elif damage == "lost":
        (built / "masks.npy").unlink()
    elif damage == "no json":
        about.write_text("{")
    else:
        (built / "brains.npy").write_bytes(images.read_bytes())
    with pytest.raises(BadInput) as caught:
        SliceSet.open(built)
    assert caught.value.file == built
    again = SliceSet.from_bids(folder, cache, progress=False)
    assert again.fingerprint == expected
    np.testing.assert_array_equal(again.images, content)
    assert [path.name for path in cache.iterdir()] == [built.name]


def test_one_flipped_bit_is_found_by_verify(folder, tmp_path):
    slices = SliceSet.from_bids(folder, tmp_path / "cache", progress=False)
    (built,) = (tmp_path / "cache").iterdir()
    with open(built / "images.npy", "r+b") as stream:
        stream.seek(256 + 4 * (96 * 96 * 7 + 96 * 50 + 50))
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(BadInput, match=slices.table["subject"][7]):
        SliceSet.open(built).verify()


def _build(folder: str, cache: str, ready, results) -> None:
    ready.wait()
    results.put(SliceSet.from_bids(folder, cache, progress=False).fingerprint)


def test_two_processes_build_at_once(folder, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    builders = [
        context.Process(target=_build, args=(str(folder), str(tmp_path / "cache"), ready, results)) for _ in "ab"
    ]
    for builder in builders:
        builder.start()
    found = {results.get(timeout=60) for _ in builders}
    for builder in builders:
        builder.join(timeout=60)
        assert builder.exitcode == 0
    assert found == {SliceSet.from_bids(folder, tmp_path / "cache", progress=False).fingerprint}
    assert len([*(tmp_path / "cache").iterdir()]) == 1  # no temporary folder is left


def test_what_a_killed_builder_left_is_removed_but_not_a_living_one_s(folder, tmp_path):
    for name, age in ((".part-dead", 600), (".part-alive", 0)):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "images.npy").write_bytes(b"x")
        for path in (tmp_path / "cache" / name / "images.npy", tmp_path / "cache" / name):
            os.utime(path, (time.time() - age,) * 2)
    SliceSet.from_bids(folder, tmp_path / "cache", progress=False)
    assert [path.name for path in (tmp_path / "cache").glob(".part-*")] == [".part-alive"]


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("nan", "NaN"),
        ("background", "not 0 outside"),
        ("negative", "not positive"),
        ("corrupt", None),
        ("truncated", None),
    ],
)
def test_a_bad_image_is_named_and_nothing_is_left(folder, tmp_path, fault, word):
    path = bids.image_path(folder, "sub-s4")
    data = nibabel.load(path).get_fdata(dtype=np.float32)
    if fault == "nan":
        data[40, 60, 45] = np.nan
        save(path, data)
    elif fault == "background":
        data[2, 60, 45] = 0.5
        save(path, data)
    elif fault == "negative":
        data[40, 60, 45] = -0.1
        save(path, data)
    elif fault == "corrupt":
        path.write_bytes(b"not an image")
    else:
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadInput, match=word) as caught:
        SliceSet.from_bids(folder, tmp_path / "cache", progress=False)
    assert "sub-s4" in str(caught.value)
    assert not [*tmp_path.glob("cache/*")]


@pytest.mark.parametrize("path", [bids.brain_path, bids.lesion_path])
@pytest.mark.parametrize(("shape", "shift"), [((98, 116, 80), 0), ((98, 116, 94), 2)])
def test_a_mask_on_another_grid_is_refused(folder, path, shape, shift):
    affine = AFFINE.copy()
    affine[0, 3] += shift
    save(path(folder, "sub-s2"), np.ones(shape, np.uint8), affine)
    with pytest.raises(BadInput, match="grid") as caught:
        SliceSet.from_bids(folder, progress=False)
    assert caught.value.file == path(folder, "sub-s2")


def test_a_whole_data_set_off_the_lattice_is_refused(folder):
    for path in (bids.image_path, bids.brain_path):
        data = np.asanyarray(nibabel.load(path(folder, "sub-s5")).dataobj)
        save(path(folder, "sub-s5"), data, np.diag([3.0, 3, 3, 1]))
    with pytest.raises(BadInput, match="do not fit") as caught:
        SliceSet.from_bids(folder, progress=False)
    assert caught.value.file == bids.image_path(folder, "sub-s5")


def test_subjects_without_brain_in_the_slices_are_an_error_only_if_all_are(folder, tmp_path):
    low = np.zeros((98, 116, 94), np.uint8)
    low[20:80, 30:100, :5] = 1  # z = -72 ... -64 mm: below every slice
    for n in range(6):
        for path, data in ((bids.image_path, low * np.float32(0.5)), (bids.brain_path, low), (bids.lesion_path, low)):
            if path(folder, f"sub-s{n}").exists():
                save(path(folder, f"sub-s{n}"), data)
        with pytest.raises(BadInput, match="no slices") if n == 5 else nullcontext():
            slices = SliceSet.from_bids(folder, tmp_path / "cache", progress=False)
            assert len(slices.subjects) == 5 - n


def test_a_lesion_outside_the_brain_is_refused(folder):
    lesion = np.zeros((98, 116, 94), np.uint8)
    lesion[2:5, 2:5, 40:50] = 1
    save(bids.lesion_path(folder, "sub-s1"), lesion)
    with pytest.raises(BadInput, match="wholly outside") as caught:
        SliceSet.from_bids(folder, progress=False)
    assert caught.value.file == bids.image_path(folder, "sub-s1")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_named(folder, tmp_path):
    place = tmp_path / "fixed"
    place.mkdir(mode=0o500)
    with pytest.raises(BadInput, match="cannot be written"):
        SliceSet.from_bids(folder, place / "cache", progress=False)


def test_a_full_disk_is_named(folder, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slice_cache.os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        SliceSet.from_bids(folder, tmp_path / "cache", progress=False)
    assert not [*(tmp_path / "cache").iterdir()]


# ---- from arrays, and selections ------------------------------------------------------------------------------------


def test_arrays_that_would_mislead_are_refused():
    def refused(field: str, **changes):
        with pytest.raises(BadInput) as caught:
            SliceSet(**{**arrays(), "table": facts(), **changes})
        assert caught.value.field == field, caught.value

    sound = arrays()
    refused("images", images=sound["images"].astype(np.float64))
    refused("masks", masks=sound["masks"].astype(np.uint8))
    refused("masks", masks=sound["masks"][:, :4])
    refused("brains", brains=sound["brains"][:5])
    refused("table", table=facts(4))
    refused("images", images=np.where(sound["brains"], np.float32(np.nan), 0).astype(np.float32))
    refused("images", images=np.where(sound["brains"], np.float32(np.inf), 0).astype(np.float32))
    refused("images", images=sound["images"] + np.float32(0.1))
    refused("images", images=-sound["images"])
    refused("brains", brains=np.zeros_like(sound["brains"]), images=np.zeros_like(sound["images"]))
    refused("split", table=facts().assign(split="training"))
    refused("split", table=facts().assign(split=["train", "test"] * 3))
    refused("split", table=facts().assign(person="one"))
    for column in ("subject", "slice", "z_mm", "split", "family"):
        refused(column, table=facts().drop(columns=column))


def test_other_images_with_the_table_of_a_set_are_another_set():
    first = SliceSet(**arrays(), table=facts())
    masks = first.masks.copy()
    masks[:, 3, 3] = True
    other = SliceSet(first.images * np.float32(0.5), masks, first.brains, first.table)
    assert other.fingerprint != first.fingerprint and (other.table["lesion_px"] == 1).all()
    fresh = SliceSet(other.images, masks, first.brains, facts())
    assert other.fingerprint == fresh.fingerprint
    other.verify()


def test_a_copy_of_mapped_arrays_is_checked(tmp_path):
    SliceSet(**arrays(), table=facts()).save(tmp_path / "mine")
    opened = SliceSet.open(tmp_path / "mine")
    images = opened.images.copy()
    images[2, 3, 3] = np.nan
    assert isinstance(images, np.memmap)  # as numpy has it, though it is in memory
    with pytest.raises(BadInput, match="NaN"):
        SliceSet(images, opened.masks, opened.brains, opened.table)


def test_a_cache_keeps_the_counts_that_it_was_written_with(tmp_path):
    """A data set may count lesions on a finer grid than ours; selections, and a saved one, keep that."""
    block = slice_cache.Block(**arrays(), table=facts().assign(lesion_px=7))
    slice_cache.write(tmp_path / "fine", [block], {"name": "fine"}, 2.0)
    opened = SliceSet.open(tmp_path / "fine")
    opened.select([0, 1]).save(tmp_path / "part")
    assert (opened.table["lesion_px"] == 7).all() and (SliceSet.open(tmp_path / "part").table["lesion_px"] == 7).all()


def test_a_person_in_two_splits_is_named():
    with pytest.raises(BadInput, match="person p is in the splits test and train and val"):
        SliceSet(**arrays(), table=facts().assign(person="p"))


def test_selections_compose_and_share_the_arrays():
    slices = SliceSet(**arrays(), table=facts())
    assert slices.select("split != 'val'").select([2, 0]).table["subject"].tolist() == ["s2", "s0"]
    np.testing.assert_array_equal(slices.select([4, 1, 3]).select([2, 0]).images, slices.images[[3, 4]])
    np.testing.assert_array_equal(slices.select(slices.table["split"] == "test").images, slices.images[4:6])
    np.testing.assert_array_equal(slices.select(slice(None, None, 2)).brains, slices.brains[::2])
    assert slices.select(np.arange(6) >= 2).images.base is not None  # one piece: a view, not a copy
    assert np.shares_memory(slices.select([1, 2, 3]).images, slices.images)
    assert len(slices.select([])) == 0 and slices.select([]).images.shape == (0, 8, 8)
    assert slices.select(slice(None)).fingerprint == slices.fingerprint
    assert len({slices.fingerprint, slices.select([0, 1]).fingerprint, slices.select([1, 0]).fingerprint}) == 3


@pytest.mark.parametrize("which", ["no_such == 1", "split ==", [6], [-1], [True, False], np.zeros((2, 2), int)])
def test_selections_that_make_no_sense_are_refused(which):
    with pytest.raises(BadInput) as caught:
        SliceSet(**arrays(), table=facts()).select(which)
    assert caught.value.field == "select"


def test_a_batch_is_a_new_tensor():
    torch = pytest.importorskip("torch")
    slices = SliceSet(**arrays(), table=facts())
    part = slices.select([5, 3, 1])
    batch = part.batch([2, 0, 0])
    assert batch.shape == (3, 1, 8, 8) and batch.dtype == torch.float32
    np.testing.assert_array_equal(batch[:, 0].numpy(), slices.images[[1, 5, 5]])
    batch.zero_()
    assert slices.images.any(axis=(1, 2)).all()
    assert part.batch(torch.tensor([1])).shape == part.batch(np.int64(1)).shape == (1, 1, 8, 8)


def test_batches_of_a_map_can_be_written_to(folder):
    pytest.importorskip("torch")
    slices = SliceSet.from_bids(folder, progress=False)
    before = slices.images[0].copy()
    for chosen in (slices, slices.select(slice(0, 4)), slices.select([0, 2])):
        batch = chosen.batch([0, 1])
        batch += 1  # must not reach the map, which is read-only
        assert (slices.images[0] == before).all()


def test_saved_slices_open_again(tmp_path):
    slices = SliceSet(**arrays(), table=facts().assign(age=[1.5] * 6), name="mine", spacing_mm=4.0, licence="CC0")
    slices.select("split == 'train'").save(tmp_path / "mine")
    opened = SliceSet.open(tmp_path / "mine")
    assert opened.fingerprint == slices.select([0, 1]).fingerprint
    assert (opened.name, opened.spacing_mm, opened.licence, opened.table["age"][0]) == ("mine", 4.0, "CC0", 1.5)
    assert json.loads((tmp_path / "mine" / "slices.json").read_text())["slices"] == 2


def test_facts_that_would_hide_the_table_s_own_are_renamed(folder):
    table = pd.read_csv(folder / "participants.tsv", sep="\t").assign(lesion_px=-1, z_mm=-1)
    bids.write_participants(folder, table)
    slices = SliceSet.from_bids(folder, progress=False)
    assert (slices.table["lesion_px"] >= 0).all() and (slices.table["participant_lesion_px"] == -1).all()
    assert slices.table["z_mm"].max() == 46


def test_an_example_shows_the_largest_lesion_of_a_subject_by_size(tmp_path):
    """`place` walks from the subject with the smallest lesion to the one with the largest."""
    images = np.zeros((6, 96, 96), np.float32)
    images[:, 20:70, 20:70] = 0.5
    masks = np.zeros(images.shape, bool)
    for row, size in enumerate((2, 5, 1, 9, 0, 0)):
        masks[row, 30 : 30 + size, 30 : 30 + size] = True
    table = pd.DataFrame(
        {
            "subject": ["a", "a", "b", "b", "h", "h"],
            "slice": [0, 1, 0, 1, 0, 1],
            "z_mm": [0.0, 4, 0, 4, 0, 4],
            "split": "test",
            "family": ["ms"] * 4 + ["healthy"] * 2,
        }
    )
    slices = SliceSet(images, masks, images > 0, table, name="toy")
    assert slices.example("ms", 0) == 1
    assert slices.example("ms", 1) == 3
    assert slices.example("healthy") == 5
    with pytest.raises(BadInput, match="tumour"):
        slices.example("tumour")
