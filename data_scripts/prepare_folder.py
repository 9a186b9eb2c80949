"""Turn a folder of scans into a data set of the course.

    python -m data_scripts.prepare_folder IMAGES [--masks MASKS] [--brains BRAINS] [--name NAME] [--out FOLDER]
        [--register | --no-register] [--participants TSV] [--contrast FLAIR] [--seed 0]
        [--workers 2 | --scheduler tcp://HOST:PORT]

IMAGES holds NIfTI files, BIDS or flat, or DICOM series; each image becomes a subject with a normalised image, a brain
mask (given or estimated) and a lesion mask (if there is one), at 2 mm, in MNI space where SimpleITK is installed.
Who is who is told by the names (data_scripts/folder_subjects.py says how). A file that cannot be used is listed in
report.tsv and report.html with cause and remedy, and the others go on. LOOK AT contact_sheet.png before you train.

A run that was interrupted goes on where it was: a subject whose files and settings are as before is kept.

Splits are drawn by person: a hash of seed and person puts healthy persons into train, val, test (60, 20, 20 %) and
persons with any lesion into val, test (30, 70 %), so that adding a scan moves nobody else. A table given by
--participants (participant_id, and split, family where known) goes first.

Research and teaching only, not for diagnosis.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from course_lib.errors import BadInput
from course_lib.files import data_folder
from course_lib.images import bids
from course_lib.images.registration import has_simpleitk, import_simpleitk
from course_lib.runtime import cores
from data_scripts import folder_subjects as subjects_of
from data_scripts.dicom_series import find_series
from data_scripts.folder_subjects import Found, Outcome, Subject
from data_scripts.prepare_report import NOTICE, contact_sheet, write_report
from data_scripts.prepare_splits import COLUMNS, assign, read_table
from data_scripts.prepare_subject import Settings, digest, finished
from data_scripts.prepare_workers import attempt_all

GENERATOR = "learning-normal prepare_folder"


@dataclass(frozen=True)
class Result:
    """folder: the data set. table: its participants. outcomes: one for each file."""

    folder: Path
    table: pd.DataFrame
    outcomes: list[Outcome]


def prepare_folder(
    images: str | Path,
    masks: str | Path | None = None,
    brains: str | Path | None = None,
    *,
    name: str | None = None,
    out: str | Path | None = None,
    register: bool | None = None,
    participants: str | Path | None = None,
    contrast: str | None = None,
    seed: int = 0,
    workers: int | None = 1,
    scheduler: str | None = None,
    limit_mib: float = 1024,
    allow_nan: bool = False,
    frame: int | None = None,
    mask_threshold: float | None = None,
    mask_labels: Sequence[int] | None = None,
    progress: bool = True,
) -> Result:
    """Prepare a folder of scans.

    Args:
        images: folder of NIfTI files or DICOM series.
        masks: folder of lesion masks (default: what is called mask, seg, label, lesion ... among the images).
        brains: folder of brain masks (default: as masks; estimated where there is none).
        name: of the data set; default the folder's.
        out: where to; default `<data folder>/<name>`.
        register: affine registration to MNI of what is not there yet; None: if SimpleITK is installed.
        participants: a table with participant_id (of scan or person) and split or family, or both.
        contrast: FLAIR, T1w, T1ce, T2w, PDw, T2starw, CT; default: the one that most images have.
        seed: of the splits.
        workers: processes; None: one per core; 1: this process alone. More of them are a Dask cluster.
        scheduler: address of a Dask scheduler whose workers are taken instead; they need the folders, too.
        limit_mib: memory for one file.
        allow_nan: replace NaN and infinity by 0 instead of refusing the file.
        frame: which volume of 4-D files.
        mask_threshold, mask_labels: for masks that are not binary: True above the threshold, or for these labels.
        progress: show a bar.

    Returns:
        A `Result`; the data set opens with `SliceSet.from_bids(result.folder)`.

    Raises:
        BadInput: a folder is missing or cannot be written; SimpleITK is asked for and missing; no file could be used
            (the report is written all the same); the participants' table is not sound; the data set
            in `out` has another contrast.
    """
    images = _folder(images, "IMAGES").absolute()  # as are the others: workers may have another current folder
    masks, brains = (Path(path).absolute() if path else None for path in (masks, brains))
    title = name or images.resolve().name
    folder = (Path(out) if out else data_folder() / title).absolute()
    if register:
        import_simpleitk()
    register = has_simpleitk() if register is None else register
    known = read_table(participants) if participants else None
    _claim(folder, images, title)
    subjects, outcomes, chosen = collect(images, masks, brains, contrast)
    _check_contrast(folder, chosen)
    labels = tuple(mask_labels) if mask_labels else None
    settings = Settings(register, chosen, limit_mib, allow_nan, frame, mask_threshold, labels)
    done = dict(_prepare_all(folder, settings, subjects, workers, scheduler, images, outcomes, progress))
    table = assign(subjects, done, known, seed, images, outcomes)
    facts = _facts(table, settings, seed)
    _finish(folder, images, title, table, facts, outcomes)
    return Result(folder, table, outcomes)


def _finish(folder: Path, images: Path, title: str, table: pd.DataFrame, facts: dict, outcomes: list[Outcome]) -> None:
    """Write the table, the contact sheet and the report."""
    if len(table):
        bids.write_participants(folder, table, COLUMNS)
    contact_sheet(folder, table)  # without images: those of an earlier run are removed
    write_report(folder, f"Data set {title}", facts, outcomes)
    if table.empty:
        (folder / "participants.tsv").unlink(missing_ok=True)
        refused = next((o for o in outcomes if o.status == "refused"), None)
        first = f" The first: {refused.file}: {refused.cause}" if refused else ""
        raise BadInput(f"no image could be used.{first}", file=images, remedy=f"See {folder / 'report.html'}.")


def _folder(path: str | Path, what: str) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise BadInput(
            f"{what} is not a folder.", file=path, field=what, remedy="Name the folder that holds the files."
        )
    return path


def _claim(folder: Path, images: Path, title: str) -> None:
    """Write the data set's description, or check that the folder is one of ours."""
    if folder.resolve().is_relative_to(images.resolve()) or images.resolve().is_relative_to(folder.resolve()):
        raise BadInput(
            "output and IMAGES lie in one another.", file=folder, field="out", remedy="Choose another --out."
        )
    stamp = [{"Name": GENERATOR, "Description": str(images.resolve().name)}]
    path = folder / "dataset_description.json"
    if path.exists():
        found = bids.read_description(folder).get("GeneratedBy")
        if found != stamp:
            remedy = "Choose another --name or --out, or delete the folder."
            raise BadInput("this folder holds another data set.", file=folder, field="out", remedy=remedy)
    elif folder.is_dir() and any(folder.iterdir()):
        raise BadInput("this folder is not empty.", file=folder, field="out", remedy="Choose another --name or --out.")
    licence, citation = "unknown: as the scans' own", "unknown: as the scans' own"
    if (images / "dataset_description.json").is_file():
        about = bids.read_description(images)
        licence, citation = about.get("License", licence), about.get("HowToAcknowledge", citation)
    bids.write_description(folder, title, licence=str(licence), citation=str(citation), generated_by=stamp)


def _check_contrast(folder: Path, chosen: str) -> None:
    """Refuse to put images of two contrasts into one data set: it could not be told which a subject's image is."""
    suffix = subjects_of.SUFFIX.get(chosen, "FLAIR")
    for path in sorted(folder.glob("sub-*/anat/sub-*.nii.gz")):
        held = path.name.removesuffix(".nii.gz").rpartition("_")[2]
        if held != suffix:
            raise BadInput(
                f"this folder holds {held} images, not {suffix}.",
                file=folder,
                field="contrast",
                remedy=f"Choose another --name or --out, or --contrast {held}, or delete the folder.",
            )


def collect(
    images: Path, masks: str | Path | None, brains: str | Path | None, contrast: str | None
) -> tuple[list[Subject], list[Outcome], str]:
    """Find the files and say who is who.

    In a masks' folder of its own every file is a mask. Where images and masks lie in one folder, the names tell.

    Returns:
        Subjects with their masks; outcomes of the files that are not used; the contrast.
    """
    given = {role: _folder(path, role) for role, path in (("lesion", masks), ("brain", brains)) if path}
    own = {role: path for role, path in given.items() if not images.resolve().is_relative_to(path.resolve())}
    found, outcomes = _found(images, None, [path.resolve() for path in own.values()])
    for role, path in own.items():
        more, refused = _found(path, role, [])
        found = [f for f in found if f.role != role] + more
        outcomes += refused
    scans = [f for f in found if f.role == "image"]
    chosen = subjects_of.choose_contrast(scans, contrast)
    scans, others = subjects_of.split_contrast(scans, chosen, contrast is not None)
    for other in others:
        note = f"another contrast ({other.contrast or 'not told by its name'}): choose it with --contrast"
        outcomes.append(Outcome(subjects_of.relative(other.path, images), "image", "skipped", notes=[note]))
    subjects, refused = subjects_of.make_subjects(scans, images)
    outcomes += refused
    outcomes += subjects_of.pair_masks(subjects, [f for f in found if f.role != "image"], others, images, scans)
    return sorted(subjects, key=lambda s: s.name), outcomes, chosen


def _found(root: Path, role: str | None, without: list[Path]) -> tuple[list[Found], list[Outcome]]:
    nifti, dicom, outcomes = subjects_of.find_files(root)
    found = [subjects_of.describe(path, root, role) for path in nifti if not _within(path, without)]
    for outcome in outcomes:
        outcome.role = role or outcome.role
    kinds = {path: role or subjects_of.describe(path, root).role for path in dicom}
    for path in [path for path in dicom if kinds[path] != "image"]:
        error = BadInput("is DICOM: masks have to be NIfTI.", remedy="Convert it to .nii.gz.")
        outcomes.append(Outcome.refused(subjects_of.relative(path, root), kinds[path], error))
    dicom = [path for path in dicom if kinds[path] == "image"]
    if dicom:
        found += _series(dicom, root, outcomes)
    usable = []
    for one in found:
        try:
            one.digest = digest(one)
            usable.append(one)
        except BadInput as error:
            outcomes.append(Outcome.refused(subjects_of.relative(one.path, root), one.role, error))
    return usable, outcomes


def _within(path: Path, folders: list[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _series(files: list[Path], root: Path, outcomes: list[Outcome]) -> list[Found]:
    try:
        series = find_series(files)
    except BadInput as error:
        outcomes.append(Outcome.refused(f"{len(files)} DICOM files", "image", error))
        return []
    found = []
    for folder, text, names in series:
        one = subjects_of.describe(folder / "series", root, "image", text)
        one.path, one.files = folder, names
        found.append(one)
    return found


def _prepare_all(
    folder, settings, subjects, workers, scheduler, images, outcomes, progress
) -> Iterator[tuple[str, dict]]:
    """Name and side-car of each subject that could be prepared; outcomes of all are added."""
    kept = {s.name: known for s in subjects if (known := finished(folder, s, settings))}
    todo = [s for s in subjects if s.name not in kept]
    results: dict[str, tuple] = {name: (known, None) for name, known in kept.items()}
    with tqdm(total=len(subjects), initial=len(kept), desc=folder.name, unit="scan", disable=not progress) as bar:
        for name, known, error in attempt_all(folder, settings, todo, workers or cores(), scheduler):
            bar.update()
            results[name] = (known, error)
    for subject in subjects:
        known, error = results[subject.name]
        outcomes += _outcomes(subject, known, error, "unchanged" if subject.name in kept else "prepared", images)
        if known:
            yield subject.name, known


def _outcomes(subject: Subject, known: dict | None, error: BadInput | None, status: str, images: Path) -> list[Outcome]:
    """One for each file of the subject. The file at fault gets the cause; its companions say which that is."""
    result = []
    for part in (subject.image, subject.lesion, subject.brain):
        if part is None:
            continue
        file = subjects_of.relative(part.path, images)
        if error is None:
            notes = known["notes"] if part.role == "image" else []
            result.append(Outcome(file, part.role, status, subject.name, list(notes)))
        elif error.file is None or Path(error.file) == part.path or part.role == "image":
            at_fault = error.file is None or Path(error.file) == part.path
            cause = error if at_fault else BadInput(f"its mask is refused: {error.cause}", remedy=error.remedy)
            result.append(Outcome.refused(file, part.role, cause, subject.name))
        else:
            cause = BadInput("its image, or another mask of it, is refused.", remedy="See there.")
            result.append(Outcome.refused(file, part.role, cause, subject.name))
    return result


def _facts(table: pd.DataFrame, settings: Settings, seed: int) -> dict[str, str]:
    """What the report says above the list of files."""
    facts = {
        "Contrast": settings.contrast or "not told by the names: files are called FLAIR; state it with --contrast",
        "Registration": "affine to MNI" if settings.register else "none",
        "Splits": f"by person, seed {seed}: " + ", ".join(f"{(table['split'] == s).sum()} {s}" for s in bids.SPLITS),
    }
    empty = [s for s in bids.SPLITS if not (table["split"] == s).any()]
    if empty:
        facts["Empty splits"] = f"{', '.join(empty)}: add subjects, or state splits with --participants"
    near = table.loc[table["family"] == bids.NEAR, "participant_id"]
    if len(near):
        facts["Use for nothing"] = (
            f"{len(near)} of the family {bids.NEAR}: nothing is marked, but another visit of the person has a mask"
        )
    assumed = table.loc[(table["lesion_mask"] == "none") & (table["family"] == bids.HEALTHY), "participant_id"]
    if len(assumed):
        facts["TAKEN AS HEALTHY"] = (
            f"{len(assumed)} without a lesion mask ({', '.join(assumed[:8])}{' ...' if len(assumed) > 8 else ''}). "
            "If they are patients, leave them out: they would teach a detector that disease is normal"
        )
    scanner = (table["space"] == "scanner").sum()
    if scanner:
        facts["Slice heights"] = f"of {scanner} are the scanner's, not MNI's: one height shows other anatomy in each"
    return facts


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Turn a folder of scans into a data set of the course.", epilog=NOTICE)
    parser.add_argument("images", type=Path, help="folder of NIfTI files (BIDS or flat) or DICOM series")
    parser.add_argument("--masks", type=Path, help="folder of lesion masks")
    parser.add_argument("--brains", type=Path, help="folder of brain masks (default: estimated)")
    parser.add_argument("--name", help="of the data set (default: the folder's name)")
    parser.add_argument("--out", type=Path, help="default: <data folder>/<name>")
    parser.add_argument("--register", action=argparse.BooleanOptionalAction, help="default: if SimpleITK is installed")
    parser.add_argument("--participants", type=Path, help="table with participant_id and split, family")
    parser.add_argument("--contrast", choices=subjects_of.CONTRASTS, help="default: the one that most images have")
    parser.add_argument("--seed", type=int, default=0, help="of the splits")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="use the workers of this Dask scheduler")
    parser.add_argument("--limit-mib", type=float, default=1024, help="memory for one file")
    parser.add_argument("--allow-nan", action="store_true", help="replace NaN and infinity by 0")
    parser.add_argument("--frame", type=int, help="which volume of 4-D files, from 0")
    parser.add_argument("--mask-threshold", type=float, help="for soft masks: True above it")
    parser.add_argument("--mask-labels", type=int, nargs="+", help="for masks of several labels: those that count")
    try:
        result = prepare_folder(**vars(parser.parse_args(arguments)))
    except BadInput as error:
        parser.exit(2, f"{error}\n")
    refused = [o for o in result.outcomes if o.status == "refused"]
    for outcome in refused:
        print(f"refused: {outcome.file}: {outcome.cause} {outcome.remedy}")
    print(f"{len(result.table)} scans in {result.folder}; {len(refused)} files refused.")
    print(f"Look at {result.folder / 'contact_sheet.png'} and report.html. {NOTICE}")


if __name__ == "__main__":
    main()
