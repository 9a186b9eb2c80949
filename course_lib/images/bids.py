"""A data set on disk: one BIDS-like folder with its participants, its licence, and where each subject's files are.

    <folder>/dataset_description.json                       name, licence, citation, source
    <folder>/participants.tsv, participants.json            participant_id, split, family, ... and what they mean
    <folder>/sub-X/anat/sub-X_FLAIR.nii.gz                  the normalised image
    <folder>/derivatives/masks/sub-X/anat/sub-X_desc-brain_mask.nii.gz
    <folder>/derivatives/masks/sub-X/anat/sub-X_desc-lesion_mask.nii.gz
    <folder>/derivatives/masks/sub-X/anat/sub-X_desc-displacement_magnitude.nii.gz   (deformations only, mm)

Source: Brain Imaging Data Structure, https://bids-specification.readthedocs.io (Gorgolewski et al., Sci Data 2016).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from course_lib.errors import BadInput
from course_lib.files import atomic_write, inside

SPLITS = ("train", "val", "test")
HEALTHY = "healthy"  # the family whose subjects need no lesion mask
NEAR = "near"  # nor do those in whom nothing is marked but who are not healthy: to be used for nothing
SUFFIXES = ("FLAIR", "T1w", "T2w", "PDw", "inplaneT2", "T2starw", "CT")
BIDS_VERSION = "1.10.0"
_ID = re.compile(r"sub-[A-Za-z0-9]+")


def image_path(folder: str | Path, subject: str, suffix: str = "FLAIR") -> Path:
    """Where the image of `subject` ("sub-...") is, or is to be written. `suffix` is BIDS's name of the contrast."""
    return Path(folder) / subject / "anat" / f"{subject}_{suffix}.nii.gz"


def brain_path(folder: str | Path, subject: str) -> Path:
    """Where the brain mask of `subject` is."""
    return _mask_folder(folder, subject) / f"{subject}_desc-brain_mask.nii.gz"


def lesion_path(folder: str | Path, subject: str) -> Path:
    """Where the mask of what is abnormal in `subject` is (pathology, or an artefact)."""
    return _mask_folder(folder, subject) / f"{subject}_desc-lesion_mask.nii.gz"


def displacement_path(folder: str | Path, subject: str) -> Path:
    """Where the magnitude in mm of the deformation of `subject` is."""
    return _mask_folder(folder, subject) / f"{subject}_desc-displacement_magnitude.nii.gz"


def find_image(folder: str | Path, subject: str) -> Path:
    """The image of `subject`, whichever contrast of `SUFFIXES` it is.

    Raises:
        BadInput: there is none.
    """
    for suffix in SUFFIXES:
        path = image_path(folder, subject, suffix)
        if path.exists():
            return path
    raise BadInput(
        f"{subject} has no image.",
        file=image_path(folder, subject),
        remedy="Add the file, or take the subject out of participants.tsv.",
    )


def read_participants(folder: str | Path, *, files: bool = True) -> pd.DataFrame:
    """The table of `participants.tsv`, checked. "n/a" reads as missing.

    Args:
        folder: the data set.
        files: also check that each subject's image, brain mask and (unless healthy) lesion mask are there and
            inside the folder.

    Returns:
        One row a participant, with at least `participant_id`, `split` and `family`.

    Raises:
        BadInput: the table is missing, unreadable or empty; a column is missing; an id is repeated or is not of
            the form `sub-` and letters and digits; a split is unknown; a person is in two splits; a file is
            missing or lies outside the folder.
    """
    path = Path(folder) / "participants.tsv"
    if not path.is_file():
        raise BadInput(
            "there is no participants.tsv.", file=path, remedy="Make the data set first, or name its folder."
        )
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            dtype={"participant_id": str, "split": str, "family": str},
            na_values=["n/a"],
            keep_default_na=False,
        )
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"cannot be read as tab-separated text ({error}).", file=path) from error
    check_participants(table, path)
    if files:
        for row in table.itertuples():
            _check_files(Path(folder), row.participant_id, row.family)
    return table


def check_participants(table: pd.DataFrame, path: str | Path = "participants.tsv") -> None:
    """Refuse a table of participants that would mix subjects or splits.

    Raises:
        BadInput: see `read_participants`.
    """
    for column in ("participant_id", "split", "family"):
        if column not in table:
            raise BadInput(f"the column {column} is missing.", file=path, field=column)
        if table[column].isna().any() or (table[column].astype(str).str.strip() == "").any():
            raise BadInput(f"the column {column} has empty cells.", file=path, field=column)
    if table.empty:
        raise BadInput("there are no participants in it.", file=path)
    check_ids(table["participant_id"], path)
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise BadInput(f"unknown split {unknown}.", file=path, field="split", remedy=f"Use {', '.join(SPLITS)}.")
    check_splits(table.rename(columns={"participant_id": "subject"}), path)


def check_ids(ids: Sequence[str] | pd.Series, path: str | Path = "participants.tsv") -> None:
    """Refuse ids that are repeated, or that could name another folder.

    Raises:
        BadInput: an id is not `sub-` followed by letters and digits, or is there twice (capitals do not count:
            some file systems do not tell them apart).
    """
    ids = pd.Series(list(ids), dtype=str)
    wrong = [name for name in ids if not _ID.fullmatch(name)]
    if wrong:
        raise BadInput(
            f"{wrong[0]!r} cannot be a participant's id.",
            file=path,
            field="participant_id",
            remedy="BIDS ids are 'sub-' followed by letters and digits only.",
        )
    twice = ids[ids.str.lower().duplicated()].tolist()
    if twice:
        raise BadInput(
            f"{twice[0]} is there twice.", file=path, field="participant_id", remedy="Give each scan one id."
        )


def check_splits(table: pd.DataFrame, path: str | Path = "") -> None:
    """Refuse a table in which a subject, or a person, is in more than one split.

    Two scans of one person in training and test make a detector look better than it is.

    Args:
        table: with the columns `subject` and `split`, and `person` where persons are known.
        path: the file to name.

    Raises:
        BadInput: names the first of them and its splits.
    """
    for column in ("subject", "person"):
        if column not in table:
            continue
        splits = table.dropna(subset=[column]).groupby(column)["split"].agg(lambda values: sorted(set(values)))
        mixed = splits[splits.map(len) > 1]
        if len(mixed):
            raise BadInput(
                f"{column} {mixed.index[0]} is in the splits {' and '.join(mixed.iloc[0])} ({len(mixed)} such).",
                file=path or None,
                field="split",
                remedy=f"Put all slices of a {column} into one split.",
            )


def write_participants(folder: str | Path, table: pd.DataFrame, columns: Mapping[str, str] | None = None) -> None:
    """Write `participants.tsv`, and `participants.json` with what each column means; each is whole or not there.

    Args:
        folder: the data set.
        table: one row a participant; checked as by `read_participants`, but for the files.
        columns: a description of each column.

    Raises:
        BadInput: the table is not sound, or the folder cannot be written.
    """
    path = Path(folder) / "participants.tsv"
    check_participants(table, path)
    if columns is not None:
        meaning = {name: {"Description": text} for name, text in columns.items() if name in table}
        write_json(Path(folder) / "participants.json", meaning)
    with atomic_write(path) as part:
        table.to_csv(part, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def write_description(
    folder: str | Path,
    name: str,
    *,
    licence: str,
    citation: str,
    source: str = "",
    references: Sequence[str] = (),
    masks: bool = True,
    generated_by: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write `dataset_description.json` of a data set, and of `derivatives/masks`.

    Args:
        folder: the data set.
        name: its name.
        licence: the terms it may be used under.
        citation: what a user has to cite.
        source: the address of the original data, if any.
        references: DOIs or addresses.
        masks: whether the data set has `derivatives/masks`.
        generated_by: which programs made it, BIDS's `GeneratedBy`.
    """
    description: dict[str, object] = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": licence,
        "HowToAcknowledge": citation,
        "ReferencesAndLinks": list(references),
    }
    if source:
        description["SourceDatasets"] = [{"URL": source}]
    if generated_by:
        description["GeneratedBy"] = list(generated_by)
    write_json(Path(folder) / "dataset_description.json", description)
    if not masks:
        return
    derived = {
        "Name": f"{name}: masks",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": licence,
        "GeneratedBy": [{"Name": "Learning Normal"}],
    }
    write_json(Path(folder) / "derivatives" / "masks" / "dataset_description.json", derived)


def read_description(folder: str | Path) -> dict[str, object]:
    """The content of `dataset_description.json`.

    Raises:
        BadInput: it is missing, or is not a JSON object.
    """
    path = Path(folder) / "dataset_description.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read ({error}).", file=path, remedy="Make the data set again.") from error
    if not isinstance(description, dict):
        raise BadInput("is not a JSON object.", file=path, remedy="Make the data set again.")
    return description


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _mask_folder(folder: str | Path, subject: str) -> Path:
    return Path(folder) / "derivatives" / "masks" / subject / "anat"


def _check_files(folder: Path, subject: str, family: str) -> None:
    needed = [find_image(folder, subject), brain_path(folder, subject)]
    lesion = lesion_path(folder, subject)
    if family not in (HEALTHY, NEAR) or lesion.exists():
        needed.append(lesion)
    for path in needed:
        inside(folder, path.relative_to(folder))
        if not path.is_file():
            raise BadInput(
                f"{subject} ({family}) lacks this file.",
                file=path,
                remedy="Add the file, or take the subject out of participants.tsv.",
            )
