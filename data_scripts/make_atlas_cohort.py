"""Make the atlas cohort: simulated healthy and diseased brains as NIfTI in BIDS layout, without any download.

    python -m data_scripts.make_atlas_cohort [--profile quick|standard|full] [--seed 0] [--workers 2] [--folder F]

Each subject is a function of the cohort's seed and of its own id, so `quick` is a part of `standard`, which is a part
of `full`, and the files are the same whatever the number of worker processes. A run that was interrupted goes on
where it was: a subject is complete when its side-car JSON is there, which is written last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from course_lib.errors import BadInput
from course_lib.files import data_folder
from course_lib.images import anatomy, artefacts, bids, pathology
from course_lib.images.volumes import normalise, write_volume
from course_lib.runtime import cores

GENERATOR = "1"  # raise it when the images of a given seed change
PROFILES = ("quick", "standard", "full")
SIZES = {  # subjects in quick, standard, full
    ("train", "healthy"): (40, 120, 400),
    ("val", "healthy"): (8, 20, 40),
    ("test", "healthy"): (8, 24, 48),
    **{("test", family): (6, 12, 40) for family in pathology.FAMILIES + artefacts.ARTEFACTS},
    **{("val", family): (2, 4, 10) for family in pathology.FAMILIES},
}
HEIGHTS_MM = (-14, 50)  # lesions are centred between these heights, which the lessons look at

LICENCE = (
    "Simulated images: MIT, like the course. They are made from the ICBM152 2009a template, (C) 1993-2009 Louis "
    "Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University: permission to use, "
    "copy, modify, and distribute this software and its documentation for any purpose and without fee is hereby "
    "granted, provided that the above copyright notice appear in all copies."
)
CITATION = (
    "Simulated data, for teaching: no image shows a person. Template: Fonov V, Evans AC, Botteron K, Almli CR, "
    "McKinstry RC, Collins DL. Unbiased average age-appropriate atlases for pediatric studies. "
    "NeuroImage 54:313-327 (2011)."
)


def cohort_plan(
    profile: str = "standard", subjects: int | None = None, groups: Collection[tuple[str, str]] | None = None
) -> pd.DataFrame:
    """The subjects of a profile, in the order of `participants.tsv`.

    Args:
        profile: "quick", "standard" or "full".
        subjects: at most so many of each split and family, for trials.
        groups: pairs of split and family that are wanted, such as `("test", "ms")`; default: all.

    Returns:
        participant_id, split, family, and `profile`: the smallest profile that has the subject.

    Raises:
        BadInput: unknown profile.
    """
    if profile not in PROFILES:
        raise BadInput(f"{profile!r} is not a profile.", field="profile", remedy=f"Take one of {', '.join(PROFILES)}.")
    rows = []
    for (split, family), sizes in SIZES.items():
        if groups is not None and (split, family) not in groups:
            continue
        wanted = sizes[PROFILES.index(profile)]
        for index in range(1, min(wanted, subjects or wanted) + 1):
            smallest = next(name for name, size in zip(PROFILES, sizes, strict=True) if index <= size)
            rows.append((f"sub-{split}{family}{index:03d}", split, family, smallest))
    return pd.DataFrame(rows, columns=["participant_id", "split", "family", "profile"])


def make_cohort(
    folder: str | Path | None = None,
    profile: str = "standard",
    seed: int = 0,
    workers: int | None = None,
    *,
    subjects: int | None = None,
    groups: Collection[tuple[str, str]] | None = None,
    progress: bool = True,
) -> Path:
    """Make the cohort, or what is missing of it.

    `participants.tsv` lists the largest profile that is complete in the folder; with `subjects` or `groups`, just what
    was asked.

    Args:
        folder: where; `<data folder>/atlas` when not given.
        profile: "quick" (130 subjects), "standard" (312) or "full" (958); see `SIZES`.
        seed: of the whole cohort.
        workers: processes; as many as cores when not given.
        subjects, groups: fewer people, see `cohort_plan`.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        BadInput: the folder holds another cohort (other seed or generator), or cannot be written.
    """
    folder = data_folder() / "atlas" if folder is None else Path(folder)
    plan = cohort_plan(profile, subjects, groups)
    _claim(folder, seed)
    missing = [name for name in plan["participant_id"] if not is_complete(folder, name)]
    workers = min(workers or cores(), max(len(missing), 1)) if missing else 1
    done = len(plan) - len(missing)
    with tqdm(total=len(plan), initial=done, desc="atlas cohort", unit="subject", disable=not progress) as bar:
        for _ in _run(partial(make_subject, folder, seed), missing, workers):
            bar.update()
    if subjects is None and groups is None:
        plan = _largest_complete(folder, plan)
    _write_table(folder, plan)
    return folder


def make_subject(folder: Path, seed: int, name: str) -> str:
    """Make one subject's files; the side-car JSON with its parameters comes last and marks it as complete."""
    split, family = _parts(name)
    subject, image, mask, moved, parameters = simulate(seed, name)
    for old in [*_anat(folder, name).glob(".part-*"), *bids.brain_path(folder, name).parent.glob(".part-*")]:
        old.unlink()  # left by a run that was killed
    write_volume(bids.image_path(folder, name), normalise(image, subject.brain), subject.affine)
    write_volume(bids.brain_path(folder, name), subject.brain, subject.affine)
    if family != bids.HEALTHY:
        write_volume(bids.lesion_path(folder, name), mask, subject.affine)
    if moved is not None:
        steps = np.rint(moved * 64) / 64  # 1/64 mm: a short mantissa compresses well
        write_volume(bids.displacement_path(folder, name), steps, subject.affine, np.float32)
    row = {"participant_id": name, "split": split, "family": family, "lesion_ml": round(float(mask.sum()) * 0.008, 3)}
    row |= {key: round(float(value), 5) for key, value in parameters.items()}
    bids.write_json(_sidecar(folder, name), {"Modality": "MR", "Simulated": True, "Seed": seed, "Parameters": row})
    return name


def simulate(seed: int, name: str):
    """One subject's images, before normalisation.

    The anatomy and the noise of a diseased subject are those of a healthy one of the same stream: what differs is
    the lesion, which is put in before bias and noise. Artefacts come after them.

    Returns:
        The healthy `Subject`; image (98, 116, 94); mask; displacement in mm or None; all parameters.
    """
    family = _parts(name)[1]
    digest = hashlib.sha256(f"learning-normal atlas {seed} {name}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32).tolist())
    body, lesion = rng.spawn(2)
    subject = anatomy.healthy_subject(body)
    parameters, moved = dict(subject.parameters), None
    where = np.zeros(subject.brain.shape, dtype=bool)
    where[:, :, slice(*(round((z - subject.affine[2, 3]) / anatomy.SPACING_MM) for z in HEIGHTS_MM))] = True
    options = {"brain": subject.brain, "unit": subject.unit, "where": where}
    image, mask, drawn = subject.image, np.zeros_like(where), {}
    if family in pathology.FAMILIES:
        done = pathology.place(subject.clean, family, lesion, tissue=subject.tissue, **options)
        image, mask, moved, drawn = subject.again(done.image), done.mask, done.displacement_mm, done.parameters
    elif family in artefacts.ARTEFACTS:
        image, mask = artefacts.corrupt(subject.image, family, lesion, drawn=drawn, **options)
    for axis, letter in enumerate("xyz"):
        if f"centre_{letter}" in drawn:
            voxel = drawn.pop(f"centre_{letter}")
            parameters[f"centre_{letter}_mm"] = voxel * anatomy.SPACING_MM + subject.affine[axis, 3]
    return subject, image, mask, moved, parameters | drawn


def is_complete(folder: str | Path, name: str) -> bool:
    """Whether all files of a subject are there."""
    files = [_sidecar(folder, name), bids.image_path(folder, name), bids.brain_path(folder, name)]
    if _parts(name)[1] != bids.HEALTHY:
        files.append(bids.lesion_path(folder, name))
    return all(path.exists() for path in files)


def _run(task, names: list[str], workers: int) -> Iterable[str]:
    """`task` of each name, in this process or in `workers` others, one thread each."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for name in names:
                yield task(name)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has run torch can hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for done in as_completed([pool.submit(task, name) for name in names]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _claim(folder: Path, seed: int) -> None:
    """Write the folder's description, or check that its cohort is this one."""
    stamp = {"Name": "learning-normal make_atlas_cohort", "Version": GENERATOR, "Description": f"seed {seed}"}
    path = folder / "dataset_description.json"
    if path.exists():
        found = bids.read_description(folder).get("GeneratedBy")
        if found == [stamp]:
            return
        if any(folder.glob("sub-*")):
            what = f"{found[0].get('Description')}, version {found[0].get('Version')}" if found else "unknown origin"
            raise BadInput(
                f"this folder holds another cohort ({what}); wanted: seed {seed}, version {GENERATOR}.",
                file=folder,
                field="seed",
                remedy="Delete the folder, or name another one with --folder.",
            )
    name = "Learning Normal atlas cohort (simulated)"
    bids.write_description(
        folder,
        name,
        licence=LICENCE,
        citation=CITATION,
        source="https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
        references=["https://doi.org/10.1016/j.neuroimage.2010.07.033"],
        generated_by=[stamp],
    )


def _largest_complete(folder: Path, plan: pd.DataFrame) -> pd.DataFrame:
    for profile in reversed(PROFILES):
        larger = cohort_plan(profile)
        if len(larger) > len(plan) and all(is_complete(folder, name) for name in larger["participant_id"]):
            return larger
    return plan


def _write_table(folder: Path, plan: pd.DataFrame) -> None:
    """`participants.tsv` from the subjects' side-cars, `participants.json` with meaning and unit of each column."""
    rows = [json.loads(_sidecar(folder, name).read_text())["Parameters"] for name in plan["participant_id"]]
    known = describe_columns()
    table = plan.merge(pd.DataFrame(rows).drop(columns=["split", "family"]), on="participant_id", validate="1:1")
    table = table[[name for name in known if name in table]]
    bids.write_participants(folder, table)
    bids.write_json(folder / "participants.json", {name: known[name] for name in table})


def describe_columns() -> dict[str, dict[str, str]]:
    """Description and unit of every column that `participants.tsv` can have, in its order."""
    columns = {
        "participant_id": ("the subject; its files are made from this and the cohort's seed", ""),
        "split": ("train, val (thresholds) or test", ""),
        "family": ("healthy, a pathology, or an artefact", ""),
        "profile": ("the smallest profile that has this subject: quick, standard or full", ""),
        "lesion_ml": ("volume of the lesion mask", "ml"),
        **anatomy.MEANINGS,
    }
    columns |= {f"centre_{axis}_mm": (f"centre of the first lesion, {axis}", "mm, MNI") for axis in "xyz"}
    texts: dict[str, list[str]] = {}
    for family, known in (pathology.PARAMETERS | artefacts.PARAMETERS).items():
        for name, limits in known.items():
            texts.setdefault(name, []).append(f"{family}: {limits.meaning} ({limits.unit})")
            columns.setdefault(name, ("", limits.unit))
    result = {}
    for name, (text, unit) in columns.items():
        result[name] = {"Description": text or "; ".join(texts[name]), **({"Units": unit} if unit else {})}
    return result


def _parts(name: str) -> tuple[str, str]:
    """Split and family in a subject's id."""
    for split, family in SIZES:
        if name.startswith(f"sub-{split}{family}") and name[-3:].isdigit() and len(name) == 7 + len(split + family):
            return split, family
    raise BadInput(f"{name!r} is no subject of the atlas cohort.", field="participant_id")


def _anat(folder: str | Path, name: str) -> Path:
    return bids.image_path(folder, name).parent


def _sidecar(folder: str | Path, name: str) -> Path:
    return _anat(folder, name) / f"{name}_FLAIR.json"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the atlas cohort (simulated brains, no download).")
    parser.add_argument("--profile", choices=PROFILES, default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    parser.add_argument("--folder", type=Path, default=None, help="default: the data folder's atlas")
    parser.add_argument("--subjects", type=int, default=None, help="at most so many of each split and family")
    options = parser.parse_args(arguments)
    try:
        folder = make_cohort(options.folder, options.profile, options.seed, options.workers, subjects=options.subjects)
    except BadInput as error:
        parser.exit(2, f"{error}\n")
    print(f"{len(pd.read_csv(folder / 'participants.tsv', sep=chr(9)))} subjects in {folder}")


if __name__ == "__main__":
    main()
