"""The acute-stroke data set in its final form: the committed table of facts, the 1 mm slices, the lattice's slices.

Absher J, et al. The stroke outcome optimization project: acute ischemic strokes from a comprehensive stroke center.
Scientific Data 11:839 (2024), doi 10.1038/s41597-024-03667-5.

`stroke_table.tsv` says for each scan its person, split and kind, and has a digest of its pixels. A scan that is not in
the table is never used; pixels that do not have the digest are refused. The table is made from the ready file by
`python -m data_scripts.stroke_set READY_FILE`.

On disk, in `<data>/stroke/`: `dataset_description.json`, `participants.tsv`, `stroke_flair_axial.npz` (all slices at
1 mm in one file: there is one slice a scan, and three files for each would be 3,600 files for nothing),
`derivatives/slices/` (what `SliceSet.open` maps), and in `sourcedata/` the downloads, if there were any.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.errors import BadInput
from course_lib.files import atomic_write
from course_lib.images import bids, lattice, slice_cache
from course_lib.images.slices import SliceSet
from course_lib.images.volumes import normalise
from data_scripts.stroke_panels import PICTURE, Z_MM

HERE = Path(__file__).resolve().parent
TABLE = HERE / "stroke_table.tsv"
READY = "stroke_flair_axial.npz"
LICENCE = "Data CC0; pictures BSD-2-Clause, (c) 2023 Chris Rorden (the notice is in LICENSE-pictures.txt)"
CITATION = (
    "Absher J, Goncher S, Newman-Norlund R, et al. The stroke outcome optimization project: acute ischemic strokes "
    "from a comprehensive stroke center. Scientific Data 11:839 (2024), doi 10.1038/s41597-024-03667-5. "
    "Data set: doi 10.18112/openneuro.ds004889.v1.1.2."
)
SOURCE = "https://github.com/neurolabusc/StrokeOutcomeOptimizationProjectDemo"
FAMILIES = {0: bids.HEALTHY, 1: bids.HEALTHY, 2: "stroke", 3: "near"}  # of kind
VERSION = 1  # goes up when the way from 1 mm to the lattice changes
_LARGEST = 256 << 20  # bytes of a ready-made file, unpacked: the published one has 50 MiB
_FLOATS = ("template_corr", "lesion_z", "mirror_z", "other_bright_frac")
COLUMNS = {
    "participant_id": "sub- and the number of the public release",
    "person": "number shared by scans that look like one person",
    "split": "train, val or test; no person is in two",
    "family": "stroke: lesion in the slice; healthy: no lesion in it (the person is a patient all the same); "
    "near: no lesion pixel but a lesion within 5 mm, use for nothing",
    "kind": "0 clean lesion-free slice, 1 other lesion-free slice, 2 lesion in the slice, 3 lesion within 5 mm",
    "lesion_px": "lesion pixels of 1 mm in the slice (also mm2)",
    "lesion_mm3": "volume of the whole lesion",
    "gap_mm": "distance from the slice to the lesion",
    "template_corr": "correlation with the mean brain",
    "lesion_z": "brightness of the lesion against the tissue, robust standard deviations",
    "mirror_z": "brightness of the lesion against the mirrored place; above 1 it is clearly visible",
    "other_bright_frac": "share of bright pixels outside the lesion",
    "other_bright_px": "largest bright blob outside the lesion, pixels",
}


@dataclass
class Scans:
    """Scans at 1 mm, in the table's order: numbers (N,), images (N, 189, 157) uint8, masks and brains bool."""

    ids: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    brains: np.ndarray


def read_table() -> pd.DataFrame:
    """The committed facts, one row a scan, by increasing `id`."""
    return pd.read_csv(TABLE, sep="\t", dtype={"pixels": str})


def pixel_digest(image: np.ndarray, mask: np.ndarray, brain: np.ndarray) -> str:
    """A short SHA-256 of one scan's three arrays at 1 mm."""
    state = hashlib.sha256()
    for array in (image, mask, brain):
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()[:16]


def check_scan(number: int, image: np.ndarray, mask: np.ndarray, brain: np.ndarray, where: Path | str) -> None:
    """Refuse pixels that are not those of the table.

    Raises:
        BadInput: names the file and the scan.
    """
    expected = _digests().get(int(number))
    if expected is None:
        raise BadInput(f"scan {number} is not in the table.", file=where, remedy="Only the listed scans are used.")
    if pixel_digest(image, mask, brain) != expected:
        raise BadInput(
            f"the pixels of scan {number} are not those of the published set.",
            file=where,
            field="pixels",
            remedy="Remove the file and fetch again.",
        )


def read_ready(path: str | Path) -> Scans:
    """The slices of a ready-made file (`stroke_flair_axial.npz`); scans that are not in the table are left out.

    Raises:
        BadInput: the file is missing, damaged or of another form, or pixels differ from the table's digests.
    """
    path = Path(path)
    with _stored(path) as stored:
        ids, images = stored["subject"], stored["image"]
        masks, brains = (_unpack(stored[name], stored["shape"]) for name in ("mask", "brain"))
    shape = (len(ids), *PICTURE)
    if images.dtype != np.uint8 or images.shape != shape or masks.shape != shape or brains.shape != shape:
        raise BadInput(f"the images are {images.dtype} {images.shape}, not uint8 {shape}.", file=path, field="image")
    if len(set(ids.tolist())) != len(ids):
        raise BadInput("a scan is there twice.", file=path, field="subject")
    known = np.isin(ids, list(_digests()))
    scans = Scans(ids[known].astype(int), images[known], masks[known], brains[known])
    for row in zip(scans.ids, scans.images, scans.masks, scans.brains, strict=True):
        check_scan(*row, where=path)
    return scans


def ready_ids(path: str | Path) -> np.ndarray:
    """The scans of a ready-made file that are in the table, without reading the pixels.

    Raises:
        BadInput: the file is missing or damaged.
    """
    with _stored(Path(path)) as stored:
        ids = stored["subject"]
    return ids[np.isin(ids, list(_digests()))].astype(int)


@contextmanager
def _stored(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise BadInput(f"unpacks to more than {_LARGEST >> 20} MiB.", file=path)
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except FileNotFoundError as error:
        raise BadInput("is not there.", file=path, remedy="Run `python -m data_scripts.fetch_stroke`.") from error
    except (OSError, EOFError, KeyError, ValueError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"cannot be read ({error}).", file=path, remedy="Fetch it again.") from error


def write_ready(path: Path, scans: Scans) -> None:
    """Write scans as a ready-made file: masks and brains as bits, the same names as the published one."""
    facts = read_table().set_index("id").loc[scans.ids]
    with atomic_write(path) as part, open(part, "wb") as stream:
        np.savez_compressed(
            stream,
            subject=scans.ids.astype(np.int16),
            person=facts["person"].to_numpy(np.int16),
            split=facts["split"].map(bids.SPLITS.index).to_numpy(np.uint8),
            kind=facts["kind"].to_numpy(np.uint8),
            **{name: facts[name].to_numpy() for name in ("lesion_px", "lesion_mm3", "gap_mm", *_FLOATS)},
            image=scans.images,
            mask=np.packbits(scans.masks, axis=-1),
            brain=np.packbits(scans.brains, axis=-1),
            shape=np.array(scans.images.shape),
        )


def participants(ids: np.ndarray) -> pd.DataFrame:
    """The rows of `participants.tsv` for the scans `ids`, without the digests."""
    facts = read_table().set_index("id").loc[ids].reset_index()
    facts.insert(0, "participant_id", [f"sub-{number}" for number in facts["id"]])
    facts["family"] = facts["kind"].map(FAMILIES)
    return facts[list(COLUMNS)]


def build(folder: str | Path, scans: Scans) -> SliceSet:
    """Write description, participants and the lattice's slices of `scans` to `folder`; map the slices.

    Raises:
        BadInput: the folder cannot be written, or there are no scans.
    """
    folder = Path(folder)
    if not len(scans.ids):
        raise BadInput("there are no scans of the table in the source.", file=folder)
    references = ["doi:10.18112/openneuro.ds004889.v1.1.2", "doi:10.1038/s41597-024-03667-5"]
    about = {"licence": LICENCE, "citation": CITATION, "source": SOURCE}
    bids.write_description(folder, "stroke", **about, references=references, masks=False)
    with atomic_write(folder / "LICENSE-pictures.txt") as part:
        part.write_bytes((HERE / "stroke_pictures_LICENSE.txt").read_bytes())
    bids.write_participants(folder, participants(scans.ids), COLUMNS)
    target = _cache(folder, scans.ids)
    meta = {"name": "stroke", "key": target.name, "z_mm": [Z_MM], **about}
    slice_cache.write(target, _blocks(scans), meta, lattice.SPACING_MM)
    slice_cache.remove_stale(target, meta["z_mm"])
    return SliceSet.open(target)


def open_built(folder: str | Path, ids: np.ndarray) -> SliceSet:
    """Map the slices of the scans `ids` that `build` wrote to `folder`.

    Raises:
        BadInput: they are not there, or are damaged.
    """
    return SliceSet.open(_cache(Path(folder), ids))


def to_lattice(image: np.ndarray, mask: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One slice (189, 157) at 1 mm to (96, 96) at 2 mm, normalised by the median and MAD of its brain.

    The image is smoothed by [1 2 1] / 4 along both axes, then all three take the even mm.
    """
    smooth = lattice.smooth_121(np.where(brain, image, 0))
    placed = []
    for array in (smooth, mask, brain):
        out = np.zeros(lattice.SHAPE, array.dtype)
        out[:95, 9:88] = array[::2, ::2]  # rows y = 76, 74, ... -112; columns x = -78, -76, ... 78 mm
        placed.append(out)
    return normalise(placed[0], placed[2]), placed[1], placed[2]


def _blocks(scans: Scans) -> Iterator[slice_cache.Block]:
    table = participants(scans.ids).rename(columns={"participant_id": "subject"})
    table = table.assign(
        slice=lattice.STANDARD_HEIGHTS.index(int(Z_MM)), z_mm=Z_MM, lesion_mm2=table["lesion_px"].astype(float)
    )
    order = np.lexsort((table["family"] != bids.HEALTHY, table["split"].map(bids.SPLITS.index)))
    for rows in np.array_split(order, max(1, len(order) // 128)):
        placed = [to_lattice(scans.images[n], scans.masks[n], scans.brains[n]) for n in rows]
        image, mask, brain = (np.stack(arrays) for arrays in zip(*placed, strict=True))
        facts = table.iloc[rows].assign(brain_px=brain.sum((1, 2)))
        yield slice_cache.Block(image, mask, brain, facts)


def _cache(folder: Path, ids: np.ndarray) -> Path:
    """The table's digests fix the pixels, so they and the version are the key."""
    digests = _digests()
    text = f"{VERSION} {slice_cache.FORMAT}\n" + "\n".join(f"{n} {digests.get(n)}" for n in sorted(int(n) for n in ids))
    key = hashlib.sha256(text.encode() + TABLE.read_bytes()).hexdigest()
    return folder / "derivatives" / "slices" / key[:16]


def _digests() -> dict[int, str]:
    return _digests_of(TABLE)


@cache
def _digests_of(path: Path) -> dict[int, str]:
    table = pd.read_csv(path, sep="\t", dtype={"pixels": str})
    return dict(zip(table["id"].tolist(), table["pixels"], strict=True))


def _unpack(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, axis=-1)[..., : int(shape[-1])].astype(bool)


def make_table(ready: str | Path) -> pd.DataFrame:
    """The table of facts from the ready-made file; floats are rounded to 3 digits."""
    with np.load(ready, allow_pickle=False) as stored:
        facts = {name: stored[name] for name in ("person", "lesion_px", "lesion_mm3", "gap_mm", *_FLOATS)}
        facts["other_bright_px"] = stored["other_bright_px"].astype(int)
        masks, brains = (_unpack(stored[name], stored["shape"]) for name in ("mask", "brain"))
        rows = zip(stored["image"], masks, brains, strict=True)
        table = pd.DataFrame({"id": stored["subject"], **facts})
        table.insert(2, "split", [bids.SPLITS[n] for n in stored["split"]])
        table.insert(3, "kind", stored["kind"])
        table["pixels"] = [pixel_digest(*row) for row in rows]
    table = table.astype({name: float for name in _FLOATS}).round({name: 3 for name in _FLOATS})
    return table.sort_values("id", ignore_index=True)


if __name__ == "__main__":
    with atomic_write(TABLE) as committed:
        make_table(sys.argv[1]).to_csv(committed, sep="\t", index=False, lineterminator="\n", float_format="%g")
