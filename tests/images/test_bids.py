"""Participants, descriptions and paths: what is refused, and that what is written reads back."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.images import bids


def table(*rows: tuple[str, str, str], **columns) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["participant_id", "split", "family"]).assign(**columns)


def touch(folder, subject: str, family: str = "healthy", suffix: str = "FLAIR") -> None:
    paths = [bids.image_path(folder, subject, suffix), bids.brain_path(folder, subject)]
    for path in paths + [bids.lesion_path(folder, subject)] * (family != "healthy"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_written_participants_read_back(tmp_path):
    rows = table(("sub-a1", "train", "healthy"), ("sub-b2", "test", "ms"), age=[0.1 + 0.2, None])
    for subject, family in zip(rows["participant_id"], rows["family"], strict=True):
        touch(tmp_path, subject, family)
    bids.write_participants(tmp_path, rows, {"age": "age in years", "absent": "no such column"})
    read = bids.read_participants(tmp_path)
    pd.testing.assert_frame_equal(read, rows)
    assert "n/a" in (tmp_path / "participants.tsv").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "participants.json").read_text(encoding="utf-8")) == {
        "age": {"Description": "age in years"}
    }


def test_a_subject_called_NA_is_not_missing(tmp_path):
    bids.write_participants(tmp_path, table(("sub-NA", "train", "NA")))
    assert bids.read_participants(tmp_path, files=False)["family"].tolist() == ["NA"]


@pytest.mark.parametrize(
    ("rows", "field", "word"),
    [
        ([("sub-a", "train", "ms"), ("sub-a", "train", "ms")], "participant_id", "twice"),
        ([("sub-a", "train", "ms"), ("sub-A", "train", "ms")], "participant_id", "twice"),
        ([("sub-../a", "train", "ms")], "participant_id", "letters"),
        ([("../../etc", "train", "ms")], "participant_id", "letters"),
        ([("/etc/passwd", "train", "ms")], "participant_id", "letters"),
        ([("sub-a\\b", "train", "ms")], "participant_id", "letters"),
        ([("sub-a b", "train", "ms")], "participant_id", "letters"),
        ([("sub-é", "train", "ms")], "participant_id", "letters"),
        ([("sub-a\n", "train", "ms")], "participant_id", "letters"),
        ([("a", "train", "ms")], "participant_id", "letters"),
        ([("sub-a", "training", "ms")], "split", "unknown split"),
        ([("sub-a", "", "ms")], "split", "empty"),
        ([("sub-a", "train", None)], "family", "empty"),
        ([], "", "no participants"),
    ],
)
def test_unsound_tables_are_refused(tmp_path, rows, field, word):
    with pytest.raises(BadInput, match=word) as caught:
        bids.write_participants(tmp_path, table(*rows))
    assert caught.value.field == field and caught.value.file == tmp_path / "participants.tsv"
    assert not (tmp_path / "participants.tsv").exists()


def test_a_person_in_two_splits_is_named(tmp_path):
    rows = table(("sub-a", "train", "ms"), ("sub-b", "test", "ms"), ("sub-c", "val", "ms"), person=[7, 7, 8])
    with pytest.raises(BadInput, match="person 7 is in the splits test and train"):
        bids.check_participants(rows)
    bids.check_participants(rows.assign(person=[7, 8, 9]))


@pytest.mark.parametrize("column", ["participant_id", "split", "family"])
def test_a_missing_column_is_named(column):
    with pytest.raises(BadInput, match="missing") as caught:
        bids.check_participants(table(("sub-a", "train", "ms")).drop(columns=column))
    assert caught.value.field == column


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"participant_id\tsplit\tfamily\nsub-a\ttrain\tms\t1\t2\t3\n\x00"]
)
def test_unreadable_tables_are_refused(tmp_path, content):
    (tmp_path / "participants.tsv").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        bids.read_participants(tmp_path)
    assert caught.value.file == tmp_path / "participants.tsv"


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no participants.tsv"):
        bids.read_participants(tmp_path)


@pytest.mark.parametrize("lost", [bids.image_path, bids.brain_path, bids.lesion_path])
def test_a_missing_file_is_named(tmp_path, lost):
    bids.write_participants(tmp_path, table(("sub-a", "train", "ms")))
    touch(tmp_path, "sub-a", "ms")
    bids.read_participants(tmp_path)
    lost(tmp_path, "sub-a").unlink()
    with pytest.raises(BadInput) as caught:
        bids.read_participants(tmp_path)
    assert caught.value.file == lost(tmp_path, "sub-a") and caught.value.remedy


def test_the_healthy_need_no_lesion_mask(tmp_path):
    bids.write_participants(tmp_path, table(("sub-a", "train", "healthy")))
    touch(tmp_path, "sub-a")
    assert len(bids.read_participants(tmp_path)) == 1


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("way", ["file", "folder"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path, way):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    bids.write_participants(folder, table(("sub-a", "train", "healthy")))
    touch(folder, "sub-a")
    image = bids.image_path(folder, "sub-a")
    moved = image if way == "file" else image.parent
    outside.mkdir()
    moved.rename(outside / moved.name)
    moved.symlink_to(outside / moved.name)
    with pytest.raises(BadInput, match="leads out") as caught:
        bids.read_participants(folder)
    assert caught.value.file == image


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_inside_the_folder_is_fine(tmp_path):
    bids.write_participants(tmp_path, table(("sub-a", "train", "healthy")))
    touch(tmp_path, "sub-a")
    image = bids.image_path(tmp_path, "sub-a")
    image.rename(tmp_path / "content")
    image.symlink_to(tmp_path / "content")
    assert len(bids.read_participants(tmp_path)) == 1


def test_other_contrasts_are_found(tmp_path):
    touch(tmp_path, "sub-a", suffix="T1w")
    assert bids.find_image(tmp_path, "sub-a") == bids.image_path(tmp_path, "sub-a", "T1w")
    touch(tmp_path, "sub-a")
    assert bids.find_image(tmp_path, "sub-a").name == "sub-a_FLAIR.nii.gz"
    with pytest.raises(BadInput, match="sub-b has no image"):
        bids.find_image(tmp_path, "sub-b")


def test_description_reads_back(tmp_path):
    bids.write_description(
        tmp_path, "näme", licence="CC0", citation="Doe 2020", source="https://x.org", references=["doi:1"]
    )
    about = bids.read_description(tmp_path)
    assert about["Name"] == "näme" and about["License"] == "CC0" and about["HowToAcknowledge"] == "Doe 2020"
    assert about["SourceDatasets"] == [{"URL": "https://x.org"}] and about["ReferencesAndLinks"] == ["doi:1"]
    masks = json.loads((tmp_path / "derivatives" / "masks" / "dataset_description.json").read_text(encoding="utf-8"))
    assert masks["DatasetType"] == "derivative" and masks["GeneratedBy"]


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_broken_description_is_refused(tmp_path, content):
    (tmp_path / "dataset_description.json").write_text(content)
    with pytest.raises(BadInput) as caught:
        bids.read_description(tmp_path)
    assert caught.value.file == tmp_path / "dataset_description.json"
