"""One scan on its way into a data set: read, find the brain, bring to the course's grid, normalise, write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from course_lib.errors import BadInput
from course_lib.files import sha256
from course_lib.images import bids
from course_lib.images.brain import Brain, find_brain, to_grid
from course_lib.images.lattice import SHAPE, SPACING_MM, STANDARD_HEIGHTS
from course_lib.images.volumes import Volume, check_pair, normalise, read_volume, resample, write_volume
from data_scripts.dicom_series import read_series
from data_scripts.folder_subjects import SUFFIX, Found, Subject

if TYPE_CHECKING:
    from course_lib.images.registration import Registration

VERSION = "1"  # raise it when the images of given files change: finished subjects are then made again
MNI_DICE = 0.85  # overlap with the template's brain from which a volume on an MNI grid is taken as registered
TEMPLATE_BOX = np.array([[-72.0, -106.0], [72.0, 72.0]])  # mm: the template's brain, x and y
TOP_MM = 80.0  # and its top
LATTICE = ((-96.0, 94.0), (-114.0, 76.0))  # mm: what the slices show, x and y
MNI_BOX = np.array([[-104, -140, -80], [104, 116, 122]])  # mm: no MNI grid reaches farther ...
MNI_CORE = np.array([[-76, -110, -50], [76, 76, 80]])  # ... or less far
LEAST_SHARE = 0.05  # of a slice's pixels that must be brain for the slice to be used
UNREGISTERED = (
    "not registered: slice heights are the scanner's (mm from its centre), so one height shows other anatomy in each "
    "subject; per-pixel statistics and detectors from other data sets do not fit"
)


@dataclass(frozen=True)
class Settings:
    """What the user chose; part of what decides whether a finished subject is kept."""

    register: bool = True
    contrast: str = ""
    limit_mib: float = 1024
    allow_nan: bool = False
    frame: int | None = None
    mask_threshold: float | None = None
    mask_labels: tuple[int, ...] | None = None


class CannotWrite(BadInput):
    """The output folder fails: this ends the run, where a bad input file does not."""


def digest(found: Found) -> str:
    """SHA-256 of a file, or over the files of a DICOM series.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        if not found.files:
            return sha256(found.path)
        return hashlib.sha256("".join(sha256(path) for path in found.files).encode()).hexdigest()
    except OSError as error:
        raise BadInput(f"cannot be opened ({error.strerror}).", file=found.path, remedy="Check its rights.") from error


def state(subject: Subject, settings: Settings) -> dict[str, object]:
    """All that the result depends on, for the side-car."""
    digests = {role: part.digest for role in ("image", "lesion", "brain") if (part := getattr(subject, role))}
    return {"version": VERSION, "inputs": digests, "settings": asdict(settings)}


def finished(folder: Path, subject: Subject, settings: Settings) -> dict | None:
    """The side-car of a subject that an earlier run finished from the same inputs, else None."""
    try:
        known = json.loads(sidecar(folder, subject, settings).read_text(encoding="utf-8"))["Prepared"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    files = [image_path(folder, subject, settings), bids.brain_path(folder, subject.name)]
    if known["lesion_ml"]:
        files.append(bids.lesion_path(folder, subject.name))
    same = known["from"] == json.loads(json.dumps(state(subject, settings)))  # tuples become lists
    return known if same and all(path.exists() for path in files) else None


def image_path(folder: Path, subject: Subject, settings: Settings) -> Path:
    """Where the subject's image goes."""
    return bids.image_path(folder, subject.name, SUFFIX.get(settings.contrast, "FLAIR"))


def sidecar(folder: Path, subject: Subject, settings: Settings) -> Path:
    """Where the subject's side-car goes; it is written last."""
    path = image_path(folder, subject, settings)
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def prepare(folder: Path, settings: Settings, subject: Subject) -> dict:
    """Prepare one subject and write it.

    Returns:
        What the side-car holds: notes, lesion_ml, space, from.

    Raises:
        BadInput: an input file is refused. CannotWrite: the output cannot be written.
    """
    image, lesion, brain = _read(subject, settings)
    image, lesion, brain, space, notes = to_course_grid(image, lesion, brain, settings.register)
    _check_brain(brain, subject.image.path)
    if lesion is not None:
        lesion = _check_lesion(lesion, brain, notes)
    normal = normalise(image.data, brain.data)
    notes.insert(0, "normalised: 0.5 + (v - median) / (8 * 1.4826 * MAD) over the brain, clipped to 1/255 ... 2")
    known = {
        "from": state(subject, settings),
        "space": space,
        "lesion_ml": round(float(lesion.data.sum() * lesion.voxel_ml), 3) if lesion is not None else 0,
        "notes": list(dict.fromkeys([*image.report, *_named("lesion", lesion), *_named("brain", brain), *notes])),
    }
    try:
        _write(folder, settings, subject, normal, image.affine, lesion, brain, known)
    except BadInput as error:
        raise CannotWrite(error.cause, file=error.file, field=error.field, remedy=error.remedy) from error
    return known


def _named(role: str, volume: Volume | None) -> list[str]:
    return [] if volume is None else [f"{role}: {note}" for note in volume.report]


def _read(subject: Subject, settings: Settings) -> tuple[Volume, Volume | None, Volume | None]:
    source = subject.image
    if source.files:
        image = read_series(source.files, limit_mib=settings.limit_mib, allow_non_finite=settings.allow_nan)
    else:
        image = read_volume(
            source.path, limit_mib=settings.limit_mib, allow_non_finite=settings.allow_nan, frame=settings.frame
        )
    masks = []
    for found in (subject.lesion, subject.brain):
        if found is None:
            masks.append(None)
            continue
        own = {"threshold": settings.mask_threshold, "labels": settings.mask_labels} if found.role == "lesion" else {}
        mask = read_volume(found.path, kind="mask", limit_mib=settings.limit_mib, **own)
        check_pair(image, mask)
        masks.append(mask)
    return image, *masks


def to_course_grid(image: Volume, lesion: Volume | None, brain: Volume | None, register: bool):
    """Bring image and masks to 2 mm voxels on even millimetres, in MNI space if that can be had.

    Each is interpolated once, from its own grid to the last one.

    Returns:
        image, lesion, brain on the new grid; space ("MNI", "registered" or "scanner"); notes.
    """
    from course_lib.images.anatomy import template

    notes, found = [], None
    if brain is None:
        found = find_brain(image.data, image.affine, register)
        brain = Volume(found.mask, image.affine, image.path)
        notes.append(found.how)
    else:
        notes.append("brain mask: as given")
    if not brain.data.any():
        raise BadInput("the brain mask is empty.", file=brain.path, field="brain", remedy="Give another, or none.")
    parts = [part for part in (image, lesion, brain) if part is not None]
    space, to_mni = _space(image, brain, found, register, notes)
    if space == "scanner":
        parts = _to_scanner_grid(parts, notes)
    else:
        atlas = template()
        parts = [resample(p.noted(affine=to_mni @ p.affine), atlas.affine, atlas.brain.shape) for p in parts]
        notes.append(f"resampled to {SPACING_MM:g} mm voxels on the template's grid")
    return parts[0], parts[1] if lesion is not None else None, parts[-1], space, notes


def _space(image: Volume, brain: Volume, found: Brain | None, register: bool, notes: list[str]):
    """The space to use ("MNI", "registered", "scanner") and the matrix to MNI mm."""
    overlap = mni_overlap(image, brain)
    if overlap is not None and (overlap >= MNI_DICE or not register):
        low = "" if overlap >= MNI_DICE else ", which is LOW: look at the contact sheet, or use --register"
        notes.append(
            "taken as MNI space already, not registered again: the grid is one of MNI's, and the brain's overlap with "
            f"the template's is {overlap:.2f} (Dice){low}"
        )
        return "MNI", np.eye(4)
    if not register:
        notes.append(UNREGISTERED)
        return "scanner", np.eye(4)
    if overlap is not None:
        notes.append(
            f"the grid is one of MNI's, but the brain's overlap with the template's is only {overlap:.2f} (Dice; "
            f"{MNI_DICE} is asked): registered again"
        )
    registration = found.registration if found else None
    if registration is None:
        registration = _registration(image, brain)
    notes.append(f"registered: {registration}")
    return "registered", registration.to_mni


def _registration(image: Volume, brain: Volume) -> Registration:
    from course_lib.images.registration import register

    work = to_grid(image)
    return register(work.data, work.affine, brain=resample(brain, work.affine, work.data.shape).data)


def mni_overlap(image: Volume, brain: Volume) -> float | None:
    """Dice of the brain with the template's where they lie; None if the grid is not one that MNI volumes have."""
    from course_lib.images.anatomy import template

    square = image.affine[:3, :3]
    last = image.affine @ [*np.array(image.data.shape) - 1.0, 1]
    box = np.array([image.affine[:3, 3], last[:3]])
    straight = np.allclose(square, np.diag(np.diag(square)), atol=1e-3)
    if not straight or not ((MNI_BOX[0] <= box[0]) & (box[0] <= MNI_CORE[0])).all():
        return None
    if not ((MNI_CORE[1] <= box[1]) & (box[1] <= MNI_BOX[1])).all():
        return None
    atlas = template()
    mask = resample(Volume(brain.data, brain.affine), atlas.affine, atlas.brain.shape).data
    return float(2 * (mask & atlas.brain).sum() / (mask.sum() + atlas.brain.sum()))


def _to_scanner_grid(parts: list[Volume], notes: list[str]) -> list[Volume]:
    """2 mm along the scanner's axes, moved by whole voxels if the brain would not lie on the lattice of slices."""
    image = to_grid(parts[0])
    parts = [image, *(resample(part, image.affine, image.data.shape) for part in parts[1:])]
    notes.append(f"resampled to {SPACING_MM:g} mm voxels along the scanner's axes")
    if not parts[-1].data.any():
        raise BadInput("the brain mask is smaller than a voxel.", file=parts[-1].path, field="brain")
    box = _box_mm(parts[-1])
    low, high = np.array(LATTICE).T
    reaches = box[0, 2] <= STANDARD_HEIGHTS[2] and box[1, 2] >= STANDARD_HEIGHTS[-3]
    if reaches and (box[0, :2] >= low).all() and (box[1, :2] <= high).all():
        return parts
    shift = np.append(np.rint((TEMPLATE_BOX.sum(0) - box.sum(0)[:2]) / 4) * 2, TOP_MM - box[1, 2])
    notes.append(
        "the brain did not lie where the slices are: moved by "
        f"{', '.join(f'{s:+.0f}' for s in shift)} mm (right, front, up) so that its middle and top are the template's"
    )
    moved = np.eye(4)
    moved[:3, 3] = shift
    return [part.noted(affine=moved @ part.affine) for part in parts]


def _box_mm(mask: Volume) -> np.ndarray:
    ends = np.array([(n.min(), n.max()) for n in np.nonzero(mask.data)], float).T  # (2, 3)
    return ends * SPACING_MM + mask.affine[:3, 3]


def _check_brain(brain: Volume, path: Path) -> None:
    """Refuse a brain that no slice of the course would show."""
    levels = [round((z - brain.affine[2, 3]) / SPACING_MM) for z in STANDARD_HEIGHTS]
    areas = [brain.data[:, :, k].sum() for k in levels if 0 <= k < brain.data.shape[2]]
    if max(areas, default=0) < LEAST_SHARE * np.prod(SHAPE):
        raise BadInput(
            "the brain reaches none of the course's slices.",
            file=path,
            field="brain",
            remedy="Look at the mask and at the affine; register the scan (--register), or give a brain mask.",
        )


def _check_lesion(lesion: Volume, brain: Volume, notes: list[str]) -> Volume | None:
    """Note what lies outside the brain; refuse a lesion that does so wholly; None if nothing is marked."""
    if not lesion.data.any():
        lost = [note for note in lesion.report if "lost in resampling" in note]
        if lost:
            raise BadInput(lost[0].removeprefix("mask: ") + ".", file=lesion.path, field="lesion")
        notes += [f"lesion: {note}" for note in lesion.report]
        return None
    outside = float((lesion.data & ~brain.data).sum() / lesion.data.sum())
    if outside == 1:
        raise BadInput(
            "what is marked lies wholly outside the brain.",
            file=lesion.path,
            field="lesion",
            remedy="Check that image and mask belong together, and look at the brain mask.",
        )
    if outside > 0.01:
        notes.append(f"lesion: {100 * outside:.0f} % of it lies outside the brain mask and is not scored")
    return lesion


def _write(folder, settings, subject: Subject, normal, affine, lesion, brain, known) -> None:
    path, name = image_path(folder, subject, settings), subject.name
    for place in (path.parent, bids.brain_path(folder, name).parent):
        for part in place.glob(".part-*"):
            part.unlink(missing_ok=True)  # left by a run that was killed
    sidecar(folder, subject, settings).unlink(missing_ok=True)
    write_volume(path, normal, affine)
    write_volume(bids.brain_path(folder, name), brain.data, affine)
    if lesion is not None:
        write_volume(bids.lesion_path(folder, name), lesion.data, affine)
    else:
        bids.lesion_path(folder, name).unlink(missing_ok=True)
    bids.write_json(sidecar(folder, subject, settings), {"Prepared": known})
