"""Which files of a folder belong to whom: told by names alone, by rules that are stated, never by a guess.

Person: BIDS's `sub-X` in the file's name, else in its folders' (nearest first); else a word for a person and a number
(patient07, subject 3, case-12); else what is left of the name without words for contrast, mask and processing; else
the folder's name.
Visit: `ses-X`, `run-X`, or session, visit, study, timepoint and a number. Several visits are several images of one
person, and stay in one split.
Contrast: FLAIR, T1w, T1ce, T2w, PDw, T2starw, CT, from the name, else from the folders'.
Masks: what is under the masks' folder, and in the images' folder what is called mask, seg, label, lesion, roi, gt or
gold; of these, what is called brain is a brain mask. A mask belongs to the one image of its person and visit; if its
person is none of the images', to the one image with the longest common beginning of the name.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.errors import BadInput
from course_lib.images import bids

NIFTI = (".nii", ".nii.gz")
OTHER_SCANS = (".hdr", ".img", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc")
CONTRASTS = ("FLAIR", "T1w", "T2w", "T1ce", "PDw", "T2starw", "CT")
SUFFIX = {name: name for name in bids.SUFFIXES} | {"T1ce": "T1w"}
_CONTRAST_WORDS = {
    **dict.fromkeys(("flair", "t2flair"), "FLAIR"),
    **dict.fromkeys(("t1", "t1w", "t1wks", "mprage", "t1n", "bravo", "spgr"), "T1w"),
    **dict.fromkeys(("t1ce", "t1c", "t1gd"), "T1ce"),
    **dict.fromkeys(("t2", "t2w"), "T2w"),
    **dict.fromkeys(("pd", "pdw"), "PDw"),
    **dict.fromkeys(("t2star", "t2starw", "swi"), "T2starw"),
    "ct": "CT",
}
_MASK_WORDS = {"mask", "masks", "seg", "dseg", "segmentation", "label", "labels", "lesion", "lesions", "roi", "gt"}
_MASK_WORDS |= {"gold", "consensus", "annotation", "brainmask"}
_EMPTY_WORDS = {"scan", "image", "img", "volume", "vol", "mri", "mr", "anat", "raw", "nii", "brain", "standard", "n4"}
_EMPTY_WORDS |= {"desc", "space", "mni", "native", "head", "bet", "stripped", "skullstripped", "data", "the"}
_BIDS = re.compile(r"(?:^|[^A-Za-z0-9])sub-([A-Za-z0-9]+)")
_PERSON = re.compile(r"(?:^|[^A-Za-z0-9])(patient|subject|person|subj|sub|pat|case|pt|id)[-_ ]?(\d+)(?!\d)", re.I)
_VISIT = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:(ses|run)-([A-Za-z0-9]+)|(session|visit|study|timepoint|tp|run)[-_ ]?(\d+)(?!\d))", re.I
)


@dataclass
class Found:
    """One image or mask and what its name says.

    path: the file, or the folder of a DICOM series. role: image, lesion or brain. person, visit, contrast: texts,
    visit and contrast may be empty. files: of a DICOM series. digest: SHA-256 of the content.
    """

    path: Path
    role: str
    person: str
    visit: str
    contrast: str
    by_name: bool = True  # the person stands in the name as sub-X or patientNN
    files: tuple[Path, ...] = ()
    digest: str = ""


@dataclass
class Subject:
    """One image with its masks, on its way into the data set."""

    name: str  # sub-...
    person: str  # sub-... of the person, without the visit
    image: Found
    lesion: Found | None = None
    brain: Found | None = None
    suspect: bool = False  # it has no lesion mask, but its person has one that is not used


@dataclass
class Outcome:
    """What became of one file.

    status: prepared, unchanged (done by an earlier run), skipped (as asked for, or not of this contrast), refused.
    """

    file: str
    role: str
    status: str
    subject: str = ""
    notes: list[str] = field(default_factory=list)
    cause: str = ""
    remedy: str = ""

    @classmethod
    def refused(cls, file: str, role: str, error: BadInput, subject: str = "") -> Outcome:
        """A refusal with the error's cause and remedy."""
        field_text = f"[{error.field}] " if error.field else ""
        return cls(file, role, "refused", subject, [], field_text + error.cause, error.remedy)


def find_files(root: Path) -> tuple[list[Path], list[Path], list[Outcome]]:
    """All NIfTI files under `root`, all files that may be DICOM, and what is refused for where or what it is.

    Links to folders are not followed; links that leave the folder are refused. A folder that cannot be opened counts as
    a lesion mask that is refused: one of any image may lie in it, and its person must not pass for healthy.
    """
    nifti, dicom, outcomes = [], [], []
    base = root.resolve()

    def closed(error: OSError) -> None:
        cause = BadInput(f"this folder cannot be opened ({error.strerror}).", remedy="Check its rights.")
        outcomes.append(Outcome.refused(relative(Path(error.filename), root), "lesion", cause))

    for folder, folders, names in os.walk(root, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            path = Path(folder, name)
            if path.is_symlink():
                folders.remove(name)
                _check_link(path, base, root, outcomes)
        for name in sorted(names):
            path, lower = Path(folder, name), name.lower()
            if name.startswith("."):
                continue
            if lower.endswith(OTHER_SCANS):
                error = BadInput("is not NIfTI.", remedy="Convert it to .nii.gz (nibabel, dcm2niix, ITK-SNAP).")
                outcomes.append(Outcome.refused(relative(path, root), describe(path, root).role, error))
            elif lower.endswith(NIFTI) and _check_link(path, base, root, outcomes):
                nifti.append(path)
            elif _is_dicom(path) and _check_link(path, base, root, outcomes):
                dicom.append(path)
    return nifti, dicom, outcomes


def _check_link(path: Path, base: Path, root: Path, outcomes: list[Outcome]) -> bool:
    try:
        inside = path.resolve(strict=True).is_relative_to(base)
        cause = "leads out of the folder."
    except (OSError, RuntimeError):
        inside, cause = False, "is a link to nothing, or to itself."
    if not inside:
        error = BadInput(cause, remedy="Copy the file into the folder: a link may not leave it.")
        role = describe(path, root).role
        outcomes.append(Outcome.refused(relative(path, root), "link" if role == "image" else role, error))
    return inside


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() not in ("", ".dcm", ".ima") and not path.suffix[1:].isdigit():
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def relative(path: Path, root: Path) -> str:
    """The path from `root` on, with forward slashes, so that reports do not name a user's home."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def describe(path: Path, root: Path, role: str | None = None, text: str = "") -> Found:
    """What the name of a file under `root` says. `role` None: image or mask, told by the name."""
    stem = unicodedata.normalize("NFC", _stem(path))
    parents = [unicodedata.normalize("NFC", part) for part in reversed(path.relative_to(root).parts[:-1])]
    words = [*_words(stem), *_words(text)]
    if role is None:
        role = "image" if not _MASK_WORDS & set(words) else "brain" if _names_brain(words) else "lesion"
    person, by_name = _person(stem, parents)
    visits = [visit for part in [*reversed(parents), stem] for visit in _visits(part)]
    contrast = next((c for part in [words, *map(_words, parents)] for c in _contrasts(part)), "")
    return Found(path, role, person, "".join(dict.fromkeys(visits)), contrast, by_name)


def _stem(path: Path) -> str:
    name = path.name
    for end in (".gz", ".nii"):
        name = name[: -len(end)] if name.lower().endswith(end) else name
    return name


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[^\W_]+", text)]


def _names_brain(words: list[str]) -> bool:
    lesion = {"lesion", "lesions", "gold", "gt", "consensus"}
    return bool({"brain", "brainmask", "bet"} & set(words)) and not lesion & set(words)


def _contrasts(words: Iterable[str]) -> list[str]:
    known = [_CONTRAST_WORDS[word] for word in words if word in _CONTRAST_WORDS]
    return sorted(known, key=lambda c: c != "FLAIR")  # T2-FLAIR is a FLAIR


def _person(stem: str, parents: list[str]) -> tuple[str, bool]:
    for pattern in (_BIDS, _PERSON):
        for part in [stem, *parents]:
            match = pattern.search(part)
            if match:
                return "".join(match.groups()), True
    for part in [stem, *parents]:
        kept = [w for w in re.findall(r"[^\W_]+", _VISIT.sub(" ", part)) if not _says_nothing(w.lower())]
        if kept:
            return " ".join(kept), False
    return stem, False


def _says_nothing(word: str) -> bool:
    return word in _CONTRAST_WORDS or word in _MASK_WORDS or word in _EMPTY_WORDS


def _visits(part: str) -> list[str]:
    return ["".join(text for text in match.groups() if text) for match in _VISIT.finditer(part)]


def choose_contrast(images: list[Found], wanted: str | None) -> str:
    """The contrast of the data set: the wanted one, else the one that most images have (FLAIR first in a tie)."""
    if wanted:
        return wanted
    order = [*CONTRASTS, ""]
    return min(order, key=lambda c: (-sum(image.contrast == c for image in images), order.index(c)))


def split_contrast(images: list[Found], contrast: str, wanted: bool) -> tuple[list[Found], list[Found]]:
    """The images of the contrast and the others. With `wanted`, images that do not say theirs belong to it."""
    belongs = [image.contrast == contrast or (wanted and not image.contrast) for image in images]
    return tuple([image for image, own in zip(images, belongs, strict=True) if own == side] for side in (True, False))


def make_subjects(images: list[Found], root: Path) -> tuple[list[Subject], list[Outcome]]:
    """One subject an image; two images of one person and visit are refused, and so are two equal files."""
    outcomes, kept, seen = [], [], {}
    for image in images:
        first = seen.setdefault(image.digest, image)
        if first is not image:
            error = BadInput(f"is the same file as {relative(first.path, root)}.", remedy="Keep one of them.")
            outcomes.append(Outcome.refused(relative(image.path, root), "image", error))
        else:
            kept.append(image)
    groups: dict[tuple[str, str], list[Found]] = {}
    for image in kept:
        groups.setdefault((image.person.casefold(), image.visit.casefold()), []).append(image)
    people = _labels({person for person, _ in groups})
    subjects = []
    for (person, visit), members in groups.items():
        if len(members) > 1:
            names = ", ".join(relative(m.path, root) for m in members)
            error = BadInput(
                f"{len(members)} images are of one subject and visit: {names}.",
                field="subject",
                remedy="Keep one, or tell visits apart in the names (ses-01, ses-02; run-1, run-2).",
            )
            outcomes += [Outcome.refused(relative(m.path, root), "image", error) for m in members]
            continue
        name = f"sub-{people[person]}"
        subjects.append(Subject(name + "".join(re.findall(r"[a-z0-9]+", visit)), name, members[0]))
    return _unique(subjects, root, outcomes), outcomes


def _labels(people: set[str]) -> dict[str, str]:
    """Letters and digits for each person; those that come out equal get a digest of their name."""
    plain = {person: _ascii(person) for person in people}
    counts: dict[str, int] = {}
    for label in plain.values():
        counts[label] = counts.get(label, 0) + 1
    return {
        person: label if label and counts[label] == 1 else f"{label}x{hashlib.sha256(person.encode()).hexdigest()[:8]}"
        for person, label in plain.items()
    }


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]", "", plain)


def _unique(subjects: list[Subject], root: Path, outcomes: list[Outcome]) -> list[Subject]:
    """Refuse the rare ids that come out equal, such as person `a`, visit `b1` and person `ab1`."""
    kept: dict[str, Subject] = {}
    for subject in subjects:
        if subject.name in kept:
            error = BadInput(f"its id {subject.name} is taken.", field="subject", remedy="Rename the file.")
            outcomes.append(Outcome.refused(relative(subject.image.path, root), "image", error))
        else:
            kept[subject.name] = subject
    return list(kept.values())


def pair_masks(
    subjects: list[Subject], masks: list[Found], others: list[Found], root: Path, scans: Sequence[Found] = ()
) -> list[Outcome]:
    """Give each mask to its subject. A subject whose masks are not clear is taken out of `subjects`.

    Without that, a patient whose mask could not be assigned would count as healthy. For the same reason the other
    images of the person of an unused lesion mask are marked as suspect.

    Args:
        subjects: changed in place.
        masks: lesion and brain masks.
        others: images of other contrasts, so that their masks are skipped and not refused.
        root: for names in outcomes.
        scans: all images, also refused ones: their masks are of no other image, but for one with equal content.

    Returns:
        Outcomes of what is not used. One of a mask without `subject` may be of any image.
    """
    outcomes: list[Outcome] = []
    own = _grouped(subjects, lambda subject: _who(subject.image))
    of_others, people = set(map(_who, others)), {*own, *map(_who, scans)}
    unclear: dict[str, BadInput] = {}
    for mask in masks:
        found = _candidates(mask, own.get(_who(mask), []), subjects)
        file = relative(mask.path, root)
        if not found and _who(mask) in of_others:
            outcomes.append(Outcome(file, mask.role, "skipped", notes=["its image has another contrast"]))
        elif not found:
            error = BadInput(
                "belongs to no image.", field="name", remedy="Give mask and image the same sub-X (or patientNN) part."
            )
            outcomes.append(Outcome.refused(file, mask.role, error, mask.person if _who(mask) in people else ""))
        elif len(found) > 1 or getattr(found[0], mask.role) is not None:
            what = ", ".join(subject.name for subject in found)
            cause = f"could belong to {what}." if len(found) > 1 else f"is a second {mask.role} mask of {what}."
            error = BadInput(cause, field="name", remedy="Name the visit in both names, or keep one mask an image.")
            outcomes.append(Outcome.refused(file, mask.role, error, what))
            unclear |= dict.fromkeys([subject.name for subject in found], error)
        else:
            setattr(found[0], mask.role, mask)
    for subject in [s for s in subjects if s.name in unclear]:
        subjects.remove(subject)
        for part in (subject.image, subject.lesion, subject.brain):
            if part is not None:
                error = BadInput("it is not clear which mask belongs to this image.", field="masks")
                error.remedy = unclear[subject.name].remedy
                outcomes.append(Outcome.refused(relative(part.path, root), part.role, error, subject.name))
    used = {id(subject.lesion) for subject in subjects}
    left = {_who(mask) for mask in masks if mask.role == "lesion" and id(mask) not in used}
    equal = _grouped(scans, lambda scan: scan.digest)
    for subject in subjects:
        images = [subject.image, *equal.get(subject.image.digest, [])]
        subject.suspect = subject.lesion is None and not left.isdisjoint(map(_who, images))
    return outcomes


def _who(one: Found) -> str:
    return one.person.casefold()


def _grouped(items: Iterable, key: Callable[[object], str]) -> dict[str, list]:
    groups: dict[str, list] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _candidates(mask: Found, own: list[Subject], subjects: list[Subject]) -> list[Subject]:
    """The subjects that a mask may be of, from those of its person (`own`), else from all."""
    exact = [subject for subject in own if subject.image.visit.casefold() == mask.visit.casefold()]
    if exact:
        return exact
    if own:  # a mask without a visit, or images without one
        return own if not mask.visit or not any(subject.image.visit for subject in own) else []
    if mask.by_name:
        return []
    lengths = {subject.name: _common(mask, subject.image) for subject in subjects}
    best = max(lengths.values(), default=0)
    return [subject for subject in subjects if best and lengths[subject.name] == best]


def _common(one: Found, other: Found) -> int:
    """How many words two persons' names share from the start on."""
    words = list(zip(_words(one.person), _words(other.person), strict=False))
    return next((n for n, (a, b) in enumerate(words) if a != b), len(words))
