"""Family and split of each prepared scan: as the user's table says, else by lesion mask and a hash of the person."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from course_lib.errors import BadInput
from course_lib.images import bids
from data_scripts import folder_subjects as subjects_of
from data_scripts.folder_subjects import Outcome, Subject

SHARES = {"healthy": (("train", 0.6), ("val", 0.2), ("test", 0.2)), "lesion": (("val", 0.3), ("test", 0.7))}
LESION = "lesion"  # the family of subjects with a lesion, if the user names no other
COLUMNS = {
    "participant_id": "the scan: person and visit",
    "split": "train, val (thresholds) or test",
    "family": "healthy: nothing is marked, or there was no mask; near: nothing is marked, but the person has a lesion "
    "in another visit, use for nothing; else the kind of abnormality",
    "person": "the person: all scans of a person are in one split",
    "space": "MNI: as given; registered: affine to MNI; scanner: slice heights are the scanner's",
    "lesion_ml": "volume of the lesion mask in ml, after resampling (at the template's size if registered)",
    "lesion_mask": "given, or none (then the subject was taken as healthy)",
}


def read_table(path: str | Path) -> pd.DataFrame:
    """The user's table of participants: participant_id, with split or family or both.

    Raises:
        BadInput: it cannot be read, lacks a column, repeats an id, or has an unknown split.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).replace({"n/a": "", "nan": ""})
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read as tab-separated text ({error}).", file=path) from error
    if "participant_id" not in table or not {"split", "family"} & set(table):
        remedy = "Give the columns participant_id and split or family, separated by tabs."
        raise BadInput("a column is missing.", file=path, field="participant_id, split, family", remedy=remedy)
    table["participant_id"] = [i if i.startswith("sub-") else f"sub-{i}" for i in table["participant_id"]]
    bids.check_ids(table["participant_id"], path)
    for column in ("split", "family"):
        table[column] = table[column].str.strip() if column in table else ""
    unknown = sorted(set(table["split"]) - {*bids.SPLITS, ""})
    if unknown:
        raise BadInput(f"unknown split {unknown}.", file=path, field="split", remedy=f"Use {', '.join(bids.SPLITS)}.")
    return table.set_index("participant_id")


def assign(
    subjects: list[Subject],
    done: dict[str, dict],
    known: pd.DataFrame | None,
    seed: int,
    images: Path,
    outcomes: list[Outcome],
) -> pd.DataFrame:
    """Family and split of each subject in `done`; refuses those that the user's table contradicts.

    Nobody is called healthy who may be a patient: without a mask, a visit of a person who has a lesion mask in another
    is `near`, and if a lesion mask may be of any image, all images without one are refused. The table comes first.
    """
    rows, suspects, strays = [], _suspects(subjects, done), _strays(outcomes)
    for subject in [s for s in subjects if s.name in done]:
        lesion_ml, told = done[subject.name]["lesion_ml"], _told(known, subject, "family")
        unmarked = bids.NEAR if subject.person in suspects else bids.HEALTHY
        family = told or (LESION if lesion_ml else unmarked)
        if error := _contradiction(family, lesion_ml) or (_unsure(strays) if not (told or subject.lesion) else None):
            _refuse(subject, error, images, outcomes)
            continue
        rows.append(
            {
                "participant_id": subject.name,
                "split": _told(known, subject, "split"),
                "family": family,
                "person": subject.person,
                "space": done[subject.name]["space"],
                "lesion_ml": lesion_ml,
                "lesion_mask": "given" if subject.lesion else "none",
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    ill = set(table.loc[table["family"] != bids.HEALTHY, "person"])
    for person, group in table.groupby("person"):
        told = sorted(set(group["split"]) - {""})
        if len(told) > 1:
            cause = f"the table puts {person} into {' and '.join(told)}."
            error = BadInput(cause, field="split", remedy="Put all scans of a person into one split.")
            for subject in [s for s in subjects if s.name in set(group["participant_id"])]:
                _refuse(subject, error, images, outcomes)
            table = table.drop(index=group.index)
        else:
            table.loc[group.index, "split"] = told[0] if told else draw_split(person, person in ill, seed)
    return table.reset_index(drop=True)


def _suspects(subjects: list[Subject], done: dict[str, dict]) -> set[str]:
    """Persons with a lesion, or with a lesion mask that is not used."""
    return {
        s.person
        for s in subjects
        if s.suspect or (s.lesion is not None and (s.name not in done or done[s.name]["lesion_ml"]))
    }


def _strays(outcomes: list[Outcome]) -> list[str]:
    """Refused lesion masks of which it is not known whose they are."""
    return [o.file for o in outcomes if (o.role, o.status, o.subject) == ("lesion", "refused", "")]


def _contradiction(family: str, lesion_ml: float) -> BadInput | None:
    if family == bids.NEAR or (family == bids.HEALTHY) != bool(lesion_ml):
        return None
    what = "a lesion is marked" if lesion_ml else "no lesion mask marks anything"
    return BadInput(f"the table says {family}, but {what}.", field="family", remedy="Correct one of them.")


def _unsure(strays: list[str]) -> BadInput | None:
    if not strays:
        return None
    return BadInput(
        f"it has no lesion mask, and {len(strays)} lesion masks are refused and may be its own ({strays[0]} first).",
        field="masks",
        remedy="Correct the masks' names or files, or state family healthy for this image in --participants.",
    )


def _told(known: pd.DataFrame | None, subject: Subject, column: str) -> str:
    for name in (subject.name, subject.person):
        if known is not None and name in known.index and known.at[name, column]:
            return str(known.at[name, column])
    return ""


def _refuse(subject: Subject, error: BadInput, images: Path, outcomes: list[Outcome]) -> None:
    """Replace the subject's outcomes by a refusal."""
    outcomes[:] = [o for o in outcomes if o.subject != subject.name]
    for part in (subject.image, subject.lesion, subject.brain):
        if part is not None:
            outcomes.append(Outcome.refused(subjects_of.relative(part.path, images), part.role, error, subject.name))


def draw_split(person: str, ill: bool, seed: int) -> str:
    """The split of a person: a function of seed and id alone, but for whether a lesion is known.

    u = SHA-256(seed, person) / 2^64 is uniform in [0, 1); the first split whose cumulated share exceeds it is taken.
    """
    u = int.from_bytes(hashlib.sha256(f"{seed} {person}".encode()).digest()[:8], "big") / 2**64
    total = 0.0
    for split, share in SHARES["lesion" if ill else "healthy"]:
        total += share
        if u < total:
            return split
    return "test"
