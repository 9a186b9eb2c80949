"""Who is who, which split, which space; restart, several processes, full disks, DICOM."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.files import sha256
from course_lib.images import bids
from course_lib.images.anatomy import template
from course_lib.images.registration import has_simpleitk
from course_lib.images.slices import SliceSet
from data_scripts import folder_subjects, prepare_subject
from data_scripts.folder_subjects import Found, describe, make_subjects, pair_masks
from data_scripts.prepare_folder import collect, prepare_folder
from data_scripts.prepare_splits import draw_split

ROOT = Path("scans")


def save(path: Path, data: np.ndarray, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, template().affine if affine is None else affine), path)
    return path


def scan(path: Path, seed: int = 0, affine=None) -> Path:
    atlas = template()
    noise = np.random.default_rng(seed).normal(0, 0.03, (8, 8, 8))
    noise = np.tile(noise, (13, 15, 12))[: atlas.t1.shape[0], : atlas.t1.shape[1], : atlas.t1.shape[2]]
    data = np.where(atlas.brain, 1000 * (atlas.t1 + 0.2 + noise), 0).clip(0)
    return save(path, np.where(atlas.brain, data.clip(1), 0).astype(np.int16), affine)


def mask(path: Path, affine=None) -> Path:
    data = np.zeros(template().t1.shape, np.uint8)
    data[60:66, 60:66, 40:46] = 1
    return save(path, data, affine)


def prepare(folder: Path, out: Path, **options):
    return prepare_folder(folder, out=out, register=False, progress=False, **options)


def status(result) -> dict[str, str]:
    return {outcome.file: outcome.status for outcome in result.outcomes}


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role", "person", "visit", "contrast"),
    [
        ("sub-01/anat/sub-01_FLAIR.nii.gz", "image", "01", "", "FLAIR"),
        ("sub-01/ses-02/anat/sub-01_ses-02_run-1_T1w.nii.gz", "image", "01", "ses02run1", "T1w"),
        ("patient01_study1_raw_FLAIR.nii.gz", "image", "patient01", "study1", "FLAIR"),
        ("patient07_GOLD_STANDARD_N4_brain_regtoMNI.nii.gz", "lesion", "patient07", "", ""),
        ("patient07_T1_N4_brain_regtoMNI.nii.gz", "image", "patient07", "", "T1w"),
        ("sub-3_desc-brain_mask.nii.gz", "brain", "3", "", ""),
        ("Case 12/T2-FLAIR.nii", "image", "Case12", "", "FLAIR"),
        ("FLAIR/Müller Zoë.nii.gz", "image", "Müller Zoë", "", "FLAIR"),
        ("anna_flair_lesion_mask.nii.gz", "lesion", "anna", "", "FLAIR"),
        ("P001/image.nii.gz", "image", "P001", "", ""),
    ],
)
def test_what_a_name_says(name, role, person, visit, contrast):
    found = describe(ROOT / name, ROOT)
    assert (found.role, found.person, found.visit, found.contrast) == (role, person, visit, contrast)


def images(*names: str) -> list[Found]:
    found = [describe(ROOT / name, ROOT) for name in names]
    for one in found:
        one.digest = str(one.path)
    return found


def pairs(subjects) -> dict[str, str | None]:
    return {s.image.path.name: s.lesion.path.name if s.lesion else None for s in subjects}


def test_masks_go_to_the_image_of_their_person_and_visit():
    found = images("sub-1_ses-1_T1w.nii", "sub-1_ses-2_T1w.nii", "sub-11_T1w.nii", "anna b_t1.nii")
    subjects, refused = make_subjects(found, ROOT)
    masks = images("sub-1_ses-2_mask.nii", "sub-11_lesion.nii", "anna b rater2 mask.nii")
    assert not refused and not pair_masks(subjects, masks, [], ROOT)
    assert pairs(subjects) == {
        "sub-1_ses-1_T1w.nii": None,
        "sub-1_ses-2_T1w.nii": "sub-1_ses-2_mask.nii",
        "sub-11_T1w.nii": "sub-11_lesion.nii",
        "anna b_t1.nii": "anna b rater2 mask.nii",
    }


def test_an_ambiguous_mask_takes_its_images_out_instead_of_calling_them_healthy():
    subjects, _ = make_subjects(images("sub-1_ses-1_T1w.nii", "sub-1_ses-2_T1w.nii", "sub-2_T1w.nii"), ROOT)
    outcomes = pair_masks(subjects, images("sub-1_mask.nii"), [], ROOT)
    assert [s.name for s in subjects] == ["sub-2"]
    assert [o.status for o in outcomes] == ["refused"] * 3
    subjects, _ = make_subjects(images("sub-2_T1w.nii"), ROOT)
    pair_masks(subjects, images("sub-2_lesion_a.nii", "sub-2_lesion_b.nii"), [], ROOT)
    assert not subjects


def test_a_mask_of_nobody_and_of_another_contrast():
    subjects, _ = make_subjects(images("sub-1_FLAIR.nii"), ROOT)
    outcomes = pair_masks(subjects, images("sub-9_mask.nii", "sub-4_mask.nii"), images("sub-4_T1w.nii"), ROOT)
    assert {o.file: o.status for o in outcomes} == {"sub-9_mask.nii": "refused", "sub-4_mask.nii": "skipped"}
    assert pairs(subjects) == {"sub-1_FLAIR.nii": None}


def test_ids_are_letters_and_digits_and_never_equal():
    names = ["anna b.nii", "annab.nii", "Müller.nii", "脳.nii", "sub-01_ses-1_T1w.nii", "sub-01_ses-2_T1w.nii"]
    subjects, refused = make_subjects(images(*names), ROOT)
    assert not refused and len(subjects) == 6
    bids.check_ids([subject.name for subject in subjects])
    assert len({s.person for s in subjects}) == 5


def test_equal_files_and_equal_subjects_are_refused():
    found = images("sub-1_FLAIR.nii", "sub-2_FLAIR.nii", "a/sub-3_FLAIR.nii", "b/sub-3_FLAIR.nii")
    found[1].digest = found[0].digest
    subjects, refused = make_subjects(found, ROOT)
    assert [s.name for s in subjects] == ["sub-1"]
    assert sorted(o.file for o in refused) == ["a/sub-3_FLAIR.nii", "b/sub-3_FLAIR.nii", "sub-2_FLAIR.nii"]


def test_links_that_leave_the_folder_are_refused_and_loops_end(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    (outside / "sub-1_FLAIR.nii").write_bytes(b"x")
    (inside / "sub-2_FLAIR.nii").write_bytes(b"x")
    (inside / "sub-1_FLAIR.nii").symlink_to(outside / "sub-1_FLAIR.nii")
    (inside / "sub-3_FLAIR.nii").symlink_to(inside / "sub-2_FLAIR.nii")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "sub-4_FLAIR.nii").symlink_to(inside / "nothing")
    found, _, refused = folder_subjects.find_files(inside)
    assert [path.name for path in found] == ["sub-2_FLAIR.nii", "sub-3_FLAIR.nii"]
    assert sorted(o.file for o in refused) == ["folder", "sub-1_FLAIR.nii", "sub-4_FLAIR.nii"]
    assert all(o.remedy and str(tmp_path) not in o.file for o in refused)


def test_images_and_masks_in_one_folder_are_told_apart_by_their_names(tmp_path):
    """`IMAGES --masks IMAGES`: the masks' folder is not full of masks."""
    for name in ("sub-1_FLAIR", "sub-1_lesion", "sub-2_FLAIR"):
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
    subjects, outcomes, _ = collect(tmp_path, tmp_path, None, None)
    assert pairs(subjects) == {"sub-1_FLAIR.nii": "sub-1_lesion.nii", "sub-2_FLAIR.nii": None}
    assert outcomes == []


def test_the_contrast_that_most_have_is_taken_and_the_others_are_listed(tmp_path):
    for name in ("sub-1_FLAIR", "sub-1_T1w", "sub-2_T1w", "sub-2_T2w"):
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
    subjects, outcomes, contrast = collect(tmp_path, None, None, None)
    assert contrast == "T1w" and [s.image.path.name for s in subjects] == ["sub-1_T1w.nii", "sub-2_T1w.nii"]
    assert sorted((o.file, o.status) for o in outcomes) == [
        ("sub-1_FLAIR.nii", "skipped"),
        ("sub-2_T2w.nii", "skipped"),
    ]
    assert collect(tmp_path, None, None, "FLAIR")[2] == "FLAIR"


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_a_split_depends_on_seed_and_person_alone():
    people = [f"sub-{n}" for n in range(2000)]
    drawn = pd.Series([draw_split(person, False, 0) for person in people]).value_counts(normalize=True)
    assert drawn["train"] == pytest.approx(0.6, abs=0.04) and drawn["val"] == pytest.approx(0.2, abs=0.03)
    ill = {draw_split(person, True, 0) for person in people}
    assert ill == {"val", "test"}
    assert [draw_split(p, False, 0) for p in people] != [draw_split(p, False, 1) for p in people]


def test_the_users_table_goes_first_and_contradictions_are_refused(tmp_path):
    for n in range(1, 6):
        scan(tmp_path / "in" / f"sub-{n}_FLAIR.nii", n)
    mask(tmp_path / "in" / "sub-2_lesion.nii")
    mask(tmp_path / "in" / "sub-3_lesion.nii")
    table = tmp_path / "who.tsv"
    table.write_text(
        "participant_id\tsplit\tfamily\n1\tval\tn/a\nsub-2\ttest\tms\nsub-3\t\thealthy\nsub-4\t\tstroke\n",
        encoding="utf-8",
    )
    result = prepare(tmp_path / "in", tmp_path / "out", participants=table)
    rows = result.table.set_index("participant_id")
    assert rows.at["sub-1", "split"] == "val" and rows.loc["sub-2", ["split", "family"]].tolist() == ["test", "ms"]
    assert set(rows.index) == {"sub-1", "sub-2", "sub-5"}
    found = status(result)
    assert found["sub-3_FLAIR.nii"] == found["sub-4_FLAIR.nii"] == found["sub-3_lesion.nii"] == "refused"
    table.write_text("participant_id\tsplit\n1\ttraining\n", encoding="utf-8")
    with pytest.raises(BadInput, match="training"):
        prepare(tmp_path / "in", tmp_path / "out", participants=table)


def test_a_stray_lesion_mask_leaves_nobody_without_a_mask_healthy(tmp_path):
    """`patient1_mask` is of no image: patient01 may not be called healthy, unless the user's table says so."""
    for n in (1, 2, 3):
        scan(tmp_path / "in" / f"patient0{n}_FLAIR.nii", n)
    mask(tmp_path / "in" / "patient02_mask.nii")
    mask(tmp_path / "in" / "patient1_mask.nii")
    table = tmp_path / "who.tsv"
    table.write_text("participant_id\tfamily\npatient03\thealthy\n", encoding="utf-8")
    result = prepare(tmp_path / "in", tmp_path / "out", participants=table)
    families = result.table.set_index("participant_id")["family"].to_dict()
    assert families == {"sub-patient02": "lesion", "sub-patient03": "healthy"}
    refused = next(o for o in result.outcomes if o.file == "patient01_FLAIR.nii")
    assert "patient1_mask.nii" in refused.cause and "--participants" in refused.remedy
    (tmp_path / "in" / "patient1_mask.nii").rename(tmp_path / "in" / "patient01_mask.nii")
    families = prepare(tmp_path / "in", tmp_path / "out").table["family"].tolist()
    assert families == ["lesion", "lesion", "healthy"]


@pytest.mark.parametrize("name", ["sub-1_lesion.mgz", "sub-1_lesion.dcm", "masks/sub-1.nrrd", "masks/sub-1.dcm"])
def test_a_mask_of_another_file_type_is_refused_as_a_mask(tmp_path, name):
    (tmp_path / "masks").mkdir()
    (tmp_path / "sub-1_FLAIR.nii").write_bytes(b"x")
    (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    _, outcomes, _ = collect(tmp_path, tmp_path / "masks" if "masks" in name else None, None, None)
    assert ("lesion", "refused", "") in {(o.role, o.status, o.subject) for o in outcomes}


def test_a_folder_that_cannot_be_opened_may_hold_a_lesion_mask(tmp_path, monkeypatch):
    (tmp_path / "sub-1_FLAIR.nii").write_bytes(b"x")
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return real(path)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    _, _, outcomes = folder_subjects.find_files(tmp_path)
    assert [(o.file, o.role, o.status, o.subject) for o in outcomes] == [("closed", "lesion", "refused", "")]
    assert "cannot be opened (Permission denied)" in outcomes[0].cause


def test_a_mask_of_a_refused_image_is_nobody_elses(tmp_path):
    for name in ("a/sub-1_FLAIR", "b/sub-1_FLAIR", "sub-1_lesion", "sub-2_FLAIR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
    subjects, outcomes, _ = collect(tmp_path, None, None, None)
    assert pairs(subjects) == {"sub-2_FLAIR.nii": None} and not subjects[0].suspect
    assert {o.subject for o in outcomes if o.role == "lesion"} == {"1"}


def test_the_mask_of_an_equal_file_makes_the_kept_one_suspect(tmp_path):
    for name, content in (("sub-1_FLAIR", b"x"), ("sub-2_FLAIR", b"x"), ("sub-2_lesion", b"m"), ("sub-3_FLAIR", b"y")):
        (tmp_path / f"{name}.nii").write_bytes(content)
    subjects, _, _ = collect(tmp_path, None, None, None)
    assert {s.name: s.suspect for s in subjects} == {"sub-1": True, "sub-3": False}


def test_a_visit_without_a_lesion_of_a_patient_is_not_healthy(tmp_path):
    for n in (1, 2, 3):
        scan(tmp_path / "in" / f"sub-1_ses-{n}_FLAIR.nii", n)
    scan(tmp_path / "in" / "sub-2_FLAIR.nii", 4)
    mask(tmp_path / "in" / "sub-1_ses-1_lesion.nii")
    table = tmp_path / "who.tsv"
    table.write_text("participant_id\tfamily\nsub-1ses3\thealthy\n", encoding="utf-8")
    result = prepare(tmp_path / "in", tmp_path / "out", participants=table)
    families = result.table.set_index("participant_id")["family"].to_dict()
    assert families == {"sub-1ses1": "lesion", "sub-1ses2": "near", "sub-1ses3": "healthy", "sub-2": "healthy"}
    assert set(SliceSet.from_bids(result.folder, progress=False).table["family"]) == {"lesion", "near", "healthy"}
    (tmp_path / "in" / "sub-1_ses-1_lesion.nii").write_bytes(b"not a mask")  # the visit with the lesion is refused
    families = prepare(tmp_path / "in", tmp_path / "out").table.set_index("participant_id")["family"].to_dict()
    assert families == {"sub-1ses2": "near", "sub-1ses3": "near", "sub-2": "healthy"}


# ---- spaces ---------------------------------------------------------------------------------------------------------


def test_mni_volumes_are_recognised_and_scanner_space_is_said(tmp_path):
    scan(tmp_path / "in" / "sub-1_T2w.nii.gz", 1)
    away = template().affine.copy()
    away[:3, 3] += 70, 50, 90
    scan(tmp_path / "in" / "sub-2_T2w.nii.gz", 2, away)
    mask(tmp_path / "in" / "sub-2_seg.nii.gz", away)
    result = prepare(tmp_path / "in", tmp_path / "out")
    space = result.table.set_index("participant_id")["space"]
    assert space.to_dict() == {"sub-1": "MNI", "sub-2": "scanner"}
    notes = {o.file: " ".join(o.notes) for o in result.outcomes}
    assert "taken as MNI space already" in notes["sub-1_T2w.nii.gz"]
    assert "slice heights are the scanner's" in notes["sub-2_T2w.nii.gz"]
    assert "moved by" in notes["sub-2_T2w.nii.gz"]
    slices = SliceSet.from_bids(result.folder, progress=False)
    assert (slices.table.groupby("subject").size() == 17).all()
    assert slices.select("subject == 'sub-2'").masks.any()
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "TAKEN AS HEALTHY" in page and "not for diagnosis" in page


# ---- runs -----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_changed_file_is_made_again_and_the_others_are_kept(tmp_path):
    folder = tmp_path / "in"
    for n in (1, 2):
        scan(folder / f"sub-{n}_FLAIR.nii.gz", n)
    first = prepare(folder, tmp_path / "out")
    kept = bids.find_image(first.folder, "sub-1")
    before = kept.stat().st_mtime_ns
    scan(folder / "sub-2_FLAIR.nii.gz", 7)
    mask(folder / "sub-2_lesion.nii.gz")
    second = prepare(folder, tmp_path / "out")
    assert status(second)["sub-1_FLAIR.nii.gz"] == "unchanged" and status(second)["sub-2_FLAIR.nii.gz"] == "prepared"
    assert kept.stat().st_mtime_ns == before
    assert second.table.set_index("participant_id").at["sub-2", "family"] == "lesion"
    (folder / "sub-2_lesion.nii.gz").unlink()
    third = prepare(folder, tmp_path / "out")
    assert not bids.lesion_path(third.folder, "sub-2").exists()
    assert set(third.table["family"]) == {"healthy"}


def test_another_contrast_into_the_same_folder_is_refused(tmp_path):
    scan(tmp_path / "in" / "sub-1_FLAIR.nii", 1)
    scan(tmp_path / "in" / "sub-1_T1w.nii", 2)
    first = prepare(tmp_path / "in", tmp_path / "out", contrast="FLAIR")
    before = contents(first.folder)
    with pytest.raises(BadInput, match="holds FLAIR images, not T1w") as caught:
        prepare(tmp_path / "in", tmp_path / "out", contrast="T1w")
    assert caught.value.field == "contrast" and contents(first.folder) == before
    assert bids.find_image(prepare(tmp_path / "in", tmp_path / "t1", contrast="T1w").folder, "sub-1").match("*_T1w.*")


def test_two_processes_write_the_same_bytes_as_one(tmp_path):
    for n in (1, 2):
        scan(tmp_path / "in" / f"sub-{n}_FLAIR.nii.gz", n)
    one = prepare(tmp_path / "in", tmp_path / "one", name="same")
    two = prepare(tmp_path / "in", tmp_path / "two", name="same", workers=2)
    assert contents(one.folder) == contents(two.folder)


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, monkeypatch):
    for n in (1, 2, 3):
        scan(tmp_path / "in" / f"sub-{n}_FLAIR.nii.gz", n)
    write, count = prepare_subject.write_volume, []

    def full(path, *args, **options):
        count.append(path)
        if len(count) > 3:
            monkeypatch.setattr(nibabel, "save", no_space)
        write(path, *args, **options)

    def no_space(image, path):
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saved = nibabel.save
    monkeypatch.setattr(prepare_subject, "write_volume", full)
    with pytest.raises(BadInput, match="No space left"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".part-*"))
    monkeypatch.setattr(nibabel, "save", saved)
    monkeypatch.setattr(prepare_subject, "write_volume", write)
    result = prepare(tmp_path / "in", tmp_path / "out")
    assert status(result) == {
        "sub-1_FLAIR.nii.gz": "unchanged",
        "sub-2_FLAIR.nii.gz": "prepared",
        "sub-3_FLAIR.nii.gz": "prepared",
    }


def test_folders_that_cannot_take_the_output_are_refused(tmp_path):
    scan(tmp_path / "in" / "sub-1_FLAIR.nii.gz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        prepare(tmp_path / "in", tmp_path / "file" / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="not empty"):
        prepare(tmp_path / "in", tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["thesis.txt"]
    with pytest.raises(BadInput, match="not a folder"):
        prepare(tmp_path / "nothing", tmp_path / "out")


def test_a_folder_without_a_usable_image_says_why(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub-1_FLAIR.nii.gz").write_bytes(b"not a scan")
    with pytest.raises(BadInput, match="no image could be used.*sub-1_FLAIR"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert "sub-1_FLAIR.nii.gz" in (tmp_path / "out" / "report.tsv").read_text()
    for name in ("contact_sheet.png", "contact_sheet_2.png", "contact_sheet_of_mine.png"):
        (tmp_path / "out" / name).write_bytes(b"")
    with pytest.raises(BadInput, match="no image could be used"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["contact_sheet_of_mine.png"]


def test_registration_without_simpleitk_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    scan(tmp_path / "in" / "sub-1_FLAIR.nii.gz")
    with pytest.raises(BadInput, match="pip install"):
        prepare_folder(tmp_path / "in", out=tmp_path / "out", register=True, progress=False)
    assert not (tmp_path / "out").exists()
    result = prepare_folder(tmp_path / "in", out=tmp_path / "out", progress=False)  # not asked for: goes on without
    assert result.table["space"].tolist() == ["MNI"]


# ---- DICOM ----------------------------------------------------------------------------------------------------------


def write_series(folder: Path, leave_out: int | None = None) -> None:
    import SimpleITK as sitk

    atlas = template()
    data = (1000 * np.where(atlas.brain, atlas.t1 + 0.2, 0)).astype(np.int16)[:, ::-1, 5:85]  # (X, Y from the front, Z)
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(data.shape[2]):
        if k == leave_out:
            continue
        picture = sitk.GetImageFromArray(data[::-1, :, k].T.copy())  # rows to the back, columns to the left: LPS
        picture.SetSpacing([2.0, 2.0])
        place = f"-96\\-96\\{-72 + 2 * (k + 5)}"
        for tag, value in {
            "0008|0060": "MR",
            "0008|103e": "ax FLAIR",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{k + 1}",
            "0020|0032": place,
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
            "0018|0050": "2",
        }.items():
            picture.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:03d}.dcm"))
        writer.Execute(picture)


@pytest.mark.skipif(not has_simpleitk(), reason="SimpleITK is not installed")
def test_dicom_series_are_read_and_one_with_a_gap_is_refused(tmp_path):
    write_series(tmp_path / "in" / "patient 1" / "flair")
    write_series(tmp_path / "in" / "patient 2" / "flair", leave_out=40)
    result = prepare(tmp_path / "in", tmp_path / "out")
    assert result.table["participant_id"].tolist() == ["sub-patient1"]
    assert [o.file for o in result.outcomes if o.status == "refused"] == ["patient 2/flair"]
    image = nibabel.load(bids.find_image(result.folder, "sub-patient1"))
    brain = np.asarray(nibabel.load(bids.brain_path(result.folder, "sub-patient1")).dataobj) > 0
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S") and brain.sum() * 0.008 > 1500
