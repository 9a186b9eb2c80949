"""NIfTI files, read without trusting them.

The header is checked before memory is taken, the file is read to its end so that its checksum counts, and everything
that was assumed or changed is noted. What usual readers let through is in the tests (tests/images/test_nifti.py).

Format: Cox RW, et al. A (sort of) new image data format standard: NIfTI-1. Human Brain Mapping (2004);
https://nifti.nimh.nih.gov/nifti-1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from course_lib.errors import BadInput
from course_lib.images.byte_stream import MIB, ByteStream

NUMBERS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
REFUSED = {  # datatype code -> what it is, what to do
    0: ("of no stated type", "Export the scan again."),
    1: ("single bits", "Convert it to uint8."),
    32: ("complex numbers", "Take the magnitude (or the phase) first and save that as float32."),
    128: ("RGB colours", "Save the scan's grey values, not a picture of it; or take one channel."),
    1536: ("128-bit floats", "Convert it to float32."),
    1792: ("complex numbers", "Take the magnitude (or the phase) first and save that as float32."),
    2048: ("complex numbers", "Take the magnitude (or the phase) first and save that as float32."),
    2304: ("RGBA colours", "Save the scan's grey values, not a picture of it; or take one channel."),
}
UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unit code -> mm: unknown, metre, mm, micrometre
SIZES_MM = (0.01, 100.0)  # voxel sizes that are believed
FARTHEST_MM = 10_000.0  # from the origin
FLATTEST = 1e-3  # |determinant| of the affine's unit columns below which it is called singular
EXTENSIONS = 16 * MIB  # bytes of header extensions
_EXPORT = "Export or convert the file again."


@dataclass
class Header:
    """What the checked header says.

    shape: (X, Y, Z). frames: volumes in the file. dtype: of the stored numbers. offset: where they start, in bytes.
    slope, intercept: value = slope * stored + intercept; slope None: the stored numbers are the values.
    affine: 4 x 4, voxel -> mm. notes: what was assumed or is odd.
    """

    shape: tuple[int, int, int]
    frames: int
    dtype: np.dtype
    offset: int
    slope: float | None
    intercept: float
    affine: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def voxels(self) -> int:
        """Voxels of one volume."""
        return int(np.prod(self.shape, dtype=object))


def read_nifti(
    path: str | Path, *, limit_mib: float = 1024, frame: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """One volume of a .nii or .nii.gz file, in the file's own voxel order.

    Args:
        path: the file; whether it is gzip is told by its content.
        limit_mib: what the file's unpacked bytes and the float32 volume may take together. More is refused before
            memory is taken.
        frame: which volume of a 4-D file, from 0. A 4-D file without it is refused.

    Returns:
        float32 (X, Y, Z), which may hold NaN or infinity if the file does; affine (4, 4), voxel -> mm; notes.

    Raises:
        BadInput: with file, field, cause and remedy.
    """
    limit = int(limit_mib * MIB)
    with ByteStream(path, limit) as stream:
        header = _read_header(stream)
        skipped = _pick_frame(header, frame, path) * header.voxels * header.dtype.itemsize
        total = header.offset + header.frames * header.voxels * header.dtype.itemsize
        _check_sizes(stream, header, total, limit)
        try:
            raw = np.empty(header.voxels * header.dtype.itemsize, np.uint8)
        except MemoryError as error:
            raise BadInput(
                "there is not enough memory for it.", file=path, field="dim", remedy="Close programs, or crop it."
            ) from error
        place = header.offset + stream.skip(skipped)
        place += stream.fill(raw)
        place += stream.skip(total - place)
        if place < total:
            raise BadInput(
                f"the file ends after {place} of {total} bytes.", file=path, field="file length", remedy=_EXPORT
            )
        left = stream.finish()
    if stream.gzip != str(path).lower().endswith(".gz"):
        header.notes.append(f"the file {'is' if stream.gzip else 'is not'} gzip, in spite of its name")
    if left:
        header.notes.append(f"{left} bytes after the voxels were ignored")
    return _values(raw, header, path), header.affine, header.notes


def _read_header(stream: ByteStream) -> Header:
    """Read and check the header; the stream then stands at the first voxel."""
    raw = stream.read(348)
    if len(raw) < 348:
        raise BadInput(
            f"the file has {len(raw)} bytes: less than a header.", file=stream.path, field="header", remedy=_EXPORT
        )
    order, version = _version(raw, stream)
    size = {1: 348, 2: 540}[version]
    raw += stream.read(size - len(raw))
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    try:
        nifti = kind(raw, endianness=order, check=False)
    except Exception as error:  # nibabel raises several kinds for a header it cannot take
        raise BadInput(
            f"the header cannot be read ({error}).", file=stream.path, field="header", remedy=_EXPORT
        ) from error
    shape, frames = _dimensions(nifti, stream.path)
    dtype = _datatype(nifti, order, stream.path)
    offset = _offset(nifti, size, stream)
    header = Header(shape, frames, dtype, offset, None, 0.0, np.eye(4))
    with np.errstate(all="ignore"):  # absurd numbers are refused by name below
        header.slope, header.intercept = _scaling(nifti, header.notes, stream.path)
        header.affine = _affine(nifti, shape, header.notes, stream.path)
    if int(nifti["bitpix"]) != 8 * dtype.itemsize:
        header.notes.append(f"bitpix says {int(nifti['bitpix'])}, the data type has {8 * dtype.itemsize} bits")
    return header


def _version(raw: bytes, stream: ByteStream) -> tuple[str, int]:
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(raw[:4], name)
        if size == 348 and raw[344:348] == b"n+1\0":
            return order, 1
        if size == 540 and raw[4:12] == b"n+2\0\r\n\x1a\n":
            return order, 2
    path = stream.path
    if raw[344:347] == b"ni1" or raw[4:7] == b"ni2":
        raise BadInput("is one half of a .hdr/.img pair.", file=path, field="magic", remedy="Convert it to .nii.gz.")
    if raw[128:132] == b"DICM":
        raise BadInput(
            "is a DICOM file.",
            file=path,
            field="magic",
            remedy="Give the series' folder to prepare_folder, or dcm2niix.",
        )
    raise BadInput(
        "is not a NIfTI file: its content does not start like one.",
        file=path,
        field="magic",
        remedy="Convert it to .nii.gz (for instance by dcm2niix, or by nibabel), or export it again.",
    )


def _dimensions(nifti, path: Path) -> tuple[tuple[int, int, int], int]:
    dim = [int(n) for n in nifti["dim"]]
    if not 1 <= dim[0] <= 7:
        raise BadInput(f"the number of dimensions is {dim[0]}.", file=path, field="dim[0]", remedy=_EXPORT)
    for axis, size in enumerate(dim[1 : dim[0] + 1], start=1):
        if size <= 0:
            raise BadInput(f"the size of axis {axis} is {size}.", file=path, field=f"dim[{axis}]", remedy=_EXPORT)
    sizes = dim[1 : dim[0] + 1]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) < 3:
        raise BadInput(
            f"is a picture of {len(sizes)} dimensions, not a volume.",
            file=path,
            field="dim[0]",
            remedy="Give the whole volume; a single slice needs a third dimension of 1.",
        )
    if len(sizes) > 4:
        raise BadInput(
            f"has {len(sizes)} dimensions: {' x '.join(map(str, sizes))} (a vector or tensor at each voxel?).",
            file=path,
            field="dim[0]",
            remedy="Save one scalar volume (for instance by fslroi or nibabel's slicer).",
        )
    return tuple(sizes[:3]), sizes[3] if len(sizes) == 4 else 1


def _datatype(nifti, order: str, path: Path) -> np.dtype:
    code = int(nifti["datatype"])
    if code in NUMBERS:
        return np.dtype(order + NUMBERS[code])
    what, remedy = REFUSED.get(code, (f"of unknown type {code}", _EXPORT))
    raise BadInput(f"the voxels are {what}; real numbers are needed.", file=path, field="datatype", remedy=remedy)


def _offset(nifti, size: int, stream: ByteStream) -> int:
    """Where the voxels start; passes over what lies between header and voxels."""
    offset = float(nifti["vox_offset"])
    first = size + 4
    if offset == 0:
        offset = float(first)
    if not (np.isfinite(offset) and offset == int(offset) and first <= offset <= first + EXTENSIONS):
        raise BadInput(f"the voxels start at byte {offset:g}.", file=stream.path, field="vox_offset", remedy=_EXPORT)
    stream.skip(int(offset) - size)
    return int(offset)


def _scaling(nifti, notes: list[str], path: Path) -> tuple[float | None, float]:
    slope, intercept = float(nifti["scl_slope"]), float(nifti["scl_inter"])
    if np.isinf(slope) or (np.isinf(intercept) and slope != 0 and not np.isnan(slope)):
        raise BadInput(
            f"the scaling is {slope:g} * stored + {intercept:g}.", file=path, field="scl_slope", remedy=_EXPORT
        )
    if np.isnan(slope) or slope == 0:
        notes.append(f"scl_slope is {'NaN' if np.isnan(slope) else 0}: the stored numbers were taken as they are")
        return None, 0.0
    if np.isnan(intercept):
        notes.append("scl_inter is NaN: 0 was used")
        intercept = 0.0
    return (None, 0.0) if (slope, intercept) == (1, 0) else (slope, intercept)


def _affine(nifti, shape: tuple[int, int, int], notes: list[str], path: Path) -> np.ndarray:
    """The matrix from voxels to mm: sform before qform before voxel sizes alone."""
    codes = {name: int(nifti[f"{name}_code"]) for name in ("sform", "qform")}
    sform = nifti.get_sform() if codes["sform"] > 0 else None
    if sform is not None:
        check_affine(sform, path, "sform")
    qform = _qform(nifti, path, needed=sform is None) if codes["qform"] > 0 else None
    if codes["qform"] > 0 and qform is None:
        notes.append("the qform cannot be used; the sform was")
    if sform is not None and qform is not None:
        _compare(sform, qform, shape, notes, path)
    affine = sform if sform is not None else qform
    if affine is None:
        notes.append("sform and qform are not set: which side is left is a guess (x to the left, y to the front)")
        affine = _from_sizes(nifti, path)
    return _in_mm(np.asarray(affine, float), nifti, notes, path)


def _qform(nifti, path: Path, needed: bool) -> np.ndarray | None:
    try:
        qform = nifti.get_qform()
        check_affine(qform, path, "qform")
        return qform
    except (ValueError, HeaderDataError) as error:  # BadInput is a ValueError
        if not needed:
            return None
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"the qform cannot be used ({error}).", file=path, field="qform", remedy=_EXPORT) from error


def _from_sizes(nifti, path: Path) -> np.ndarray:
    sizes = np.asarray(nifti["pixdim"][1:4], float)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise BadInput(f"the voxel sizes are {sizes.tolist()}.", file=path, field="pixdim", remedy=_EXPORT)
    return nifti.get_base_affine()


def _compare(sform: np.ndarray, qform: np.ndarray, shape, notes: list[str], path: Path) -> None:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise BadInput(
            "sform and qform disagree on which side is left.",
            file=path,
            field="sform, qform",
            remedy="Find out which is right (a scan with a marker helps), then make both the same.",
        )
    apart = corner_distance(sform, qform, shape)
    if apart > 0.1:
        notes.append(f"sform and qform disagree by up to {apart:.1f} mm; the sform was used")


def _in_mm(affine: np.ndarray, nifti, notes: list[str], path: Path) -> np.ndarray:
    code = int(nifti["xyzt_units"]) & 7
    if code not in UNITS_MM:
        notes.append(f"the unit of length has the unknown code {code}: mm was assumed")
    factor = UNITS_MM.get(code, 1.0)
    if factor != 1:
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
        notes.append(f"lengths were in {'metres' if code == 1 else 'micrometres'}: changed to mm")
    check_affine(affine, path, "affine", sizes=True)
    return affine


def check_affine(affine: np.ndarray, path: str | Path | None = None, name: str = "affine", sizes: bool = False) -> None:
    """Refuse a matrix that cannot place voxels.

    Args:
        affine: 4 x 4, voxel -> mm.
        path: the file to name.
        name: the field to name.
        sizes: also refuse voxel sizes outside 0.01 to 100 mm and places more than 10 m from the origin.

    Raises:
        BadInput: not 4 x 4, not finite, zero or singular, or of absurd size.
    """
    remedy = "Set a sound affine (nibabel: image.set_sform), or export the file again."
    affine = np.asarray(affine, float)
    if affine.shape != (4, 4):
        raise BadInput(f"the affine has the shape {affine.shape}.", file=path, field=name, remedy=remedy)
    if not np.isfinite(affine).all():
        raise BadInput("the affine holds NaN or infinity.", file=path, field=name, remedy=remedy)
    with np.errstate(all="ignore"):
        length = np.linalg.norm(affine[:3, :3], axis=0)
        flatness = abs(np.linalg.det(affine[:3, :3] / length)) if (length > 0).all() else 0.0
    if not flatness > FLATTEST:  # NaN too
        raise BadInput("the affine is zero or singular: axes coincide or vanish.", file=path, field=name, remedy=remedy)
    if sizes and not ((length >= SIZES_MM[0]) & (length <= SIZES_MM[1])).all():
        text = " x ".join(f"{n:.3g}" for n in length)
        raise BadInput(f"the voxels are {text} mm large.", file=path, field=name, remedy=remedy)
    if sizes and np.abs(affine[:3, 3]).max() > FARTHEST_MM:
        raise BadInput("the first voxel lies more than 10 m away.", file=path, field=name, remedy=remedy)


def corner_distance(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines put the corners of a volume, at most, in mm."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def _pick_frame(header: Header, frame: int | None, path: str | Path) -> int:
    if frame is None:
        if header.frames > 1:
            raise BadInput(
                f"the file holds {header.frames} volumes (4-D).",
                file=path,
                field="dim[4]",
                remedy=f"Choose one: frame=0 to frame={header.frames - 1} (prepare_folder: --frame).",
            )
        return 0
    if not 0 <= frame < header.frames:
        raise BadInput(
            f"there is no volume {frame}: the file holds {header.frames}.",
            file=path,
            field="frame",
            remedy="Count from 0.",
        )
    if header.frames > 1:
        header.notes.append(f"volume {frame} of {header.frames} was taken")
    return frame


def _check_sizes(stream: ByteStream, header: Header, total: int, limit: int) -> None:
    """Compare what the header promises with the limit and with the file, before memory is taken."""
    text = " x ".join(map(str, (*header.shape, header.frames) if header.frames > 1 else header.shape))
    if total + 4 * header.voxels > limit:
        raise BadInput(
            f"{text} voxels need {(total + 4 * header.voxels) / MIB:.0f} MiB; the limit is {limit / MIB:.0f} MiB.",
            file=stream.path,
            field="dim",
            remedy="If the size is right, crop or resample the file first, or raise the limit (limit_mib).",
        )
    if not stream.could_hold(total):
        raise BadInput(
            f"{text} voxels need {total} bytes; the file has {stream.size}{' (packed)' if stream.gzip else ''}.",
            file=stream.path,
            field="file length",
            remedy="The file was cut, or its header is wrong. Copy or export it again.",
        )


def _values(raw: np.ndarray, header: Header, path: str | Path) -> np.ndarray:
    """float32 (X, Y, Z) from the stored bytes."""
    stored = raw.view(header.dtype)
    out = np.empty(header.shape, np.float32, order="F")
    flat, rounded, overflown = out.reshape(-1, order="F"), False, 0
    # Small integers times a float32 are rounded once, in float32 as in float64.
    small = header.dtype.kind in "iu" and header.dtype.itemsize <= 2
    exact = small and header.intercept == 0 and header.slope == np.float32(header.slope or 0)
    with np.errstate(all="ignore"):
        for start in range(0, stored.size, MIB):
            block = stored[start : start + MIB]
            if block.dtype.kind in "iu" and block.dtype.itemsize >= 4 and not rounded:
                rounded = bool(block.max() > 2**24 or block.min() < -(2**24))
            values = flat[start : start + MIB]
            if header.slope is None:
                values[:] = block
            elif exact:
                np.multiply(block, np.float32(header.slope), out=values, casting="unsafe", dtype=np.float32)
            else:
                values[:] = block.astype(np.float64) * header.slope + header.intercept
            if not np.isfinite(values).all():
                overflown += int((np.isinf(values) & np.isfinite(block)).sum())
    if overflown:
        raise BadInput(
            f"{overflown} values are beyond what float32 can hold.",
            file=path,
            field="scl_slope" if header.slope is not None else "voxels",
            remedy="Rescale the image, or export it again.",
        )
    if rounded:
        header.notes.append("integers above 2^24 were rounded to float32")
    return out
