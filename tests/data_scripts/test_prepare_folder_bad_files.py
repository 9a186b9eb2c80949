"""A folder with sound and bad files, from the command line: the bad ones are listed, the others become a data set."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from course_lib.files import sha256
from course_lib.images import bids
from course_lib.images.anatomy import template
from course_lib.images.slices import SliceSet
from course_lib.images.volumes import read_volume
from data_scripts.prepare_folder import main

GOOD = ("sub-01_FLAIR", "sub-02_FLAIR", "sub-with spaces and 脳_FLAIR")


def picture(seed: int = 0) -> np.ndarray:
    atlas = template()
    noise = np.random.default_rng(seed).normal(0, 3, atlas.t1.shape)
    return np.where(atlas.brain, 100 * atlas.t1 + 50 + noise, 0).astype(np.float32)


def save(path: Path, data: np.ndarray, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, template().affine if affine is None else affine), path)
    return path


def lesion() -> np.ndarray:
    mask = np.zeros(template().t1.shape, np.uint8)
    mask[60:66, 60:66, 40:46] = 1
    return mask


def make_bad(images: Path, masks: Path, outside: Path) -> dict[str, str]:
    """Files that have to be refused -> the subject that they belong to (BIDS names, so that nothing is guessed)."""
    image = picture(9)
    whole = save(images / "sub-half_FLAIR.nii.gz", image).read_bytes()
    (images / "sub-half_FLAIR.nii.gz").write_bytes(whole[: len(whole) // 2])
    (images / "sub-cut_FLAIR.nii.gz").write_bytes(whole[:-6])
    (images / "sub-empty_FLAIR.nii.gz").write_bytes(b"")
    (images / "sub-text_FLAIR.nii.gz").write_text("not a scan")
    save(images / "sub-nan_FLAIR.nii.gz", np.where(image > 150, np.nan, image).astype(np.float32))
    save(images / "sub-frames_FLAIR.nii.gz", np.stack([image, image], -1)[:40])
    save(images / "sub-constant_FLAIR.nii.gz", np.full(image.shape, 5.0, np.float32))
    save(images / "sub-rgb_FLAIR.nii.gz", np.zeros((20, 20, 20), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    header = nibabel.Nifti1Image(image, None)
    header.set_sform(np.zeros((4, 4)), 1)
    nibabel.save(header, images / "sub-zero_FLAIR.nii.gz")
    save(outside / "sub-link_FLAIR.nii.gz", image)
    (images / "sub-link_FLAIR.nii.gz").symlink_to(outside / "sub-link_FLAIR.nii.gz")
    for name in ("shape", "soft", "place"):
        save(images / f"sub-{name}_FLAIR.nii.gz", image)
    save(masks / "sub-shape_mask.nii.gz", lesion()[:90])
    save(masks / "sub-soft_mask.nii.gz", lesion() * np.float32(0.4))
    save(masks / "sub-place_mask.nii.gz", lesion(), template().affine @ np.diag([1, 1, 1.2, 1]))
    names = "half cut empty text nan frames constant rgb zero link shape soft place".split()
    return {f"sub-{name}": name for name in names}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    images, masks, out = root / "images", root / "masks", root / "out"
    for seed, name in enumerate(GOOD):
        save(images / f"{name}.nii.gz", picture(seed))
    save(masks / "sub-02_mask.nii.gz", lesion() * 255)
    bad = make_bad(images, masks, root / "elsewhere")
    command = [str(images), "--masks", str(masks), "--out", str(out), "--no-register", "--workers", "1"]
    main(command)
    return out, bad, command


def report(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "report.tsv", sep="\t", keep_default_na=False)


def test_the_sound_scans_become_a_data_set(prepared):
    out, _, _ = prepared
    table = bids.read_participants(out)
    assert len(table) == len(GOOD)
    ill = table[table["family"] != "healthy"]
    assert ill["participant_id"].tolist() == ["sub-02"] and ill["split"].isin(["val", "test"]).all()
    for subject in table["participant_id"]:
        image = read_volume(bids.find_image(out, subject)).data
        brain = read_volume(bids.brain_path(out, subject), kind="mask").data
        np.testing.assert_array_equal(image > 0, brain)
        assert np.median(image[brain]) == pytest.approx(0.5, abs=0.01)
        assert 1 / 8 == pytest.approx(1.4826 * np.median(np.abs(image[brain] - np.median(image[brain]))), rel=0.02)
    slices = SliceSet.from_bids(out, progress=False)
    assert set(slices.table["subject"]) == set(table["participant_id"])
    assert slices.select("subject == 'sub-02'").masks.any()


@pytest.mark.parametrize("name", "half cut empty text nan frames constant rgb zero link shape soft place".split())
def test_each_bad_file_is_listed_with_cause_and_remedy(prepared, name):
    out, bad, _ = prepared
    assert f"sub-{name}" in bad
    table = report(out)
    rows = table[table["file"].str.contains(f"sub-{name}_") & (table["status"] == "refused")]
    assert len(rows) >= 1, table[["file", "status"]].to_string()
    assert rows["cause"].str.len().gt(10).all() and rows["remedy"].str.len().gt(3).all()
    assert f"sub-{name}" not in set(bids.read_participants(out)["participant_id"])
    assert not (out / f"sub-{name}").exists() or not list((out / f"sub-{name}").rglob("*.nii.gz"))


def test_the_page_and_the_pictures_are_there(prepared):
    out, bad, _ = prepared
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "not for diagnosis" in page and all(subject in page for subject in bad)
    assert (out / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob(".part-*"))


def test_the_mask_of_255_is_taken_and_said_so(prepared):
    out, _, _ = prepared
    assert read_volume(bids.lesion_path(out, "sub-02"), kind="mask").data.sum() == 216
    assert report(out)["notes"].str.contains("255").any()


def test_a_second_run_makes_nothing_again(prepared):
    out, _, command = prepared
    files = sorted(out.rglob("sub-*.nii.gz"))
    before = [(path, path.stat().st_mtime_ns, sha256(path)) for path in files]
    table = (out / "participants.tsv").read_bytes()
    main(command)
    assert [(path, path.stat().st_mtime_ns, sha256(path)) for path in files] == before
    assert (out / "participants.tsv").read_bytes() == table


def test_two_scans_that_claim_one_subject_are_not_mixed(tmp_path):
    for seed, folder in enumerate(("a", "b")):
        save(tmp_path / "images" / folder / "sub-01_FLAIR.nii.gz", picture(seed))
    save(tmp_path / "images" / "sub-02_FLAIR.nii.gz", picture(2))
    main([str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--no-register", "--workers", "1"])
    table = report(tmp_path / "out")
    assert (table.loc[table["file"].str.contains("sub-01"), "status"] == "refused").any()
    assert "sub-02" in set(bids.read_participants(tmp_path / "out")["participant_id"])


def test_all_scans_of_a_person_are_in_one_split(tmp_path):
    for person in range(4):
        for visit in (1, 2):
            save(tmp_path / "images" / f"sub-{person}_ses-{visit}_FLAIR.nii.gz", picture(10 * person + visit))
    main([str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--no-register", "--workers", "1"])
    table = bids.read_participants(tmp_path / "out")
    assert len(table) == 8 and table["person"].nunique() == 4
    assert (table.groupby("person")["split"].nunique() == 1).all()


@pytest.mark.parametrize("where", ["images", "images/inside", "."])
def test_the_scans_are_never_written_over(tmp_path, where):
    scan = save(tmp_path / "images" / "sub-01_FLAIR.nii.gz", picture())
    before = sha256(scan)
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "images"), "--out", str(tmp_path / where), "--no-register", "--workers", "1"])
    assert caught.value.code == 2
    assert sha256(scan) == before and os.listdir(tmp_path / "images") == [scan.name]


def test_real_scans_whole_heads_and_bare_brains(shared_data, tmp_path):
    pytest.importorskip("SimpleITK")
    sample = shared_data / "ms" / "source_sample"
    images = tmp_path / "images"
    images.mkdir()
    for path in sample.glob("*FLAIR*.nii.gz"):
        (images / path.name).write_bytes(path.read_bytes())
    main([str(images), "--out", str(tmp_path / "out"), "--register", "--workers", "1"])
    table = bids.read_participants(tmp_path / "out")
    assert len(table) == 2
    ill = table[table["family"] != "healthy"].iloc[0]
    assert 1.2 < float(ill["lesion_ml"]) < 2.6  # 1.30 ml before the affine, which enlarges this brain by a half
    brain = template().brain
    for subject in table["participant_id"]:
        found = read_volume(bids.brain_path(tmp_path / "out", subject), kind="mask").data
        assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.93
