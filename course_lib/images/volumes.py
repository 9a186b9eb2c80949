"""Volumes: checked reading, orientation, resampling, intensity normalisation and writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from course_lib.errors import BadInput
from course_lib.files import atomic_write

ROBUST_SD = 1 / 8  # one robust standard deviation of the brain, after `normalise`
CENTRE = 0.5  # the brain's median, after `normalise`
FLOOR, CEILING = 1 / 255, 2.0  # the brain's range; the background is exactly 0
STORED_STEP = 1 / 8192  # resolution of images on disk (int16)
WHOLE = 1e-4  # a label may be so far from a whole number
APART = 0.1  # an image and its mask may lie so far apart, in voxels
FWHM_TO_SD = 1 / np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class Volume:
    """A volume and where it is.

    data: (X, Y, Z), float32 for an image, bool for a mask. affine: 4 x 4, voxel -> mm. path: the file it came from.
    report: everything that was changed or noted on the way.
    """

    data: np.ndarray
    affine: np.ndarray
    path: Path | None = None
    report: list[str] = field(default_factory=list)

    @property
    def spacing_mm(self) -> np.ndarray:
        """The voxel's size along each axis, in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """The voxel's volume in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    def noted(self, *notes: str, **changes: object) -> Volume:
        """A copy with other fields and more notes."""
        return replace(self, report=[*self.report, *notes], **changes)


def read_volume(
    path: str | Path,
    *,
    kind: str = "image",
    limit_mib: float = 1024,
    allow_non_finite: bool = False,
    frame: int | None = None,
    threshold: float | None = None,
    labels: Sequence[int] | None = None,
) -> Volume:
    """Read a NIfTI file with every check, turned to RAS+ (first axis to the patient's right, then front, then up).

    A mask must hold 0 and one whole positive number (1, 255, a single label): that number becomes True. Anything else
    (probabilities, several labels) needs `threshold`, True where value > threshold, or `labels`, True where the value
    is one of them.

    Args:
        path: .nii or .nii.gz.
        kind: "image" or "mask".
        limit_mib: what the file's unpacked bytes and the float32 volume may take together. Reading takes less than
            three times that at its peak.
        allow_non_finite: replace NaN and infinity by 0 and report how many there were, instead of refusing.
        frame: which volume of a 4-D file, from 0.
        threshold: for masks that are not binary.
        labels: for masks of several labels (a tumour's core and oedema, say): those that count.

    Returns:
        A `Volume`, float32 or bool, with a report of everything changed or noted.

    Raises:
        BadInput: with file, field, cause and remedy.
    """
    from course_lib.images.nifti import read_nifti  # nibabel is slow to import

    if kind not in ("image", "mask"):
        raise BadInput(f"{kind!r} is not a kind of volume.", field="kind", remedy="Take 'image' or 'mask'.")
    data, affine, notes = read_nifti(path, limit_mib=limit_mib, frame=frame)
    volume = to_ras(check_values(Volume(data, affine, Path(path), notes), allow_non_finite))
    if kind == "mask":
        return _binarise(volume, threshold, labels)
    return check_contrast(volume)


def check_values(volume: Volume, allow_non_finite: bool = False) -> Volume:
    """Refuse NaN and infinity, or replace them by 0 and say how many.

    Raises:
        BadInput: there are some and `allow_non_finite` is False.
    """
    bad = ~np.isfinite(volume.data)
    count = int(np.count_nonzero(bad))
    if not count:
        return volume
    if not allow_non_finite:
        raise BadInput(
            f"{count} of {bad.size} voxels are NaN or infinite.",
            file=volume.path,
            field="voxels",
            remedy="Find out why; if 0 is right for them, read with allow_non_finite (prepare_folder: --allow-nan).",
        )
    data = volume.data.copy(order="K")
    data[bad] = 0
    return volume.noted(f"{count} NaN or infinite voxels were set to 0", data=data)


def check_contrast(volume: Volume) -> Volume:
    """Refuse an image in which all voxels are equal.

    Raises:
        BadInput: it is.
    """
    low, high = volume.data.min(), volume.data.max()
    if low == high:
        raise BadInput(
            f"the image is constant: every voxel is {low:g}.",
            file=volume.path,
            field="voxels",
            remedy="Export the scan again: this file holds no picture.",
        )
    return volume


def _binarise(volume: Volume, threshold: float | None, chosen: Sequence[int] | None) -> Volume:
    data, notes = volume.data, []
    if threshold is not None and chosen is not None:
        raise BadInput("a threshold and labels were given.", file=volume.path, field="labels", remedy="Give one.")
    if chosen is not None:
        mask, notes = _pick(data, chosen)
    elif threshold is not None:
        mask = data > threshold
        notes.append(f"mask: True where value > {threshold:g}")
    else:
        mask = data != 0
        labels = data[mask]
        if labels.size and not _one_label(labels):
            raise BadInput(
                "the mask is not binary: " + _describe(labels),
                file=volume.path,
                field="voxels",
                remedy="Save 0 and 1, or give a threshold (prepare_folder: --mask-threshold): True above it.",
            )
        if labels.size and abs(labels[0] - 1) > WHOLE:
            notes.append(f"mask: the label {labels[0]:g} was taken as True")
    count = int(np.count_nonzero(mask))
    if count == 0:
        notes.append("the mask is empty: nothing is marked")
    elif count == mask.size:
        notes.append("the mask covers the whole volume")
    return volume.noted(*notes, data=mask)


def _pick(data: np.ndarray, chosen: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """Where the value is one of the chosen labels, and what became of each value that there is."""
    there, counts = np.unique(data[data != 0], return_counts=True)
    taken = np.array([np.abs(value - np.asarray(chosen)).min(initial=np.inf) <= WHOLE for value in there], bool)
    notes = [
        f"mask: {n} voxels of label {value:g} were taken" for value, n in zip(there[taken], counts[taken], strict=True)
    ]
    if not taken.all():
        others = there[~taken]
        text = ", ".join(f"{value:g}" for value in others[:5]) + (", ..." if len(others) > 5 else "")
        notes.append(f"mask: {counts[~taken].sum()} voxels of other values ({text}) were not taken")
    return np.isin(data, there[taken]), notes


def _one_label(labels: np.ndarray) -> bool:
    low, high = labels.min(), labels.max()
    return low == high and low > 0 and abs(low - round(float(low))) <= WHOLE and round(float(low)) >= 1


def _describe(labels: np.ndarray) -> str:
    whole = bool((np.abs(labels - np.rint(labels)) <= WHOLE).all())
    kind = "several labels" if whole else "values between labels (probabilities?)"
    return f"{kind} from {labels.min():g} to {labels.max():g}."


def to_ras(volume: Volume) -> Volume:
    """Flip and permute the axes so that they point right, front and up as nearly as can be. No interpolation."""
    from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation

    axes = "".join(aff2axcodes(volume.affine))
    orientation = io_orientation(volume.affine)
    data = np.ascontiguousarray(apply_orientation(volume.data, orientation))
    affine = volume.affine @ inv_ornt_aff(orientation, volume.data.shape)
    notes = [] if axes == "RAS" else [f"axes were {axes}: flipped or exchanged to RAS"]
    cosines = np.abs(np.diag(affine[:3, :3])) / np.linalg.norm(affine[:3, :3], axis=0)
    turned = np.degrees(np.arccos(np.clip(cosines, 0, 1))).max()
    if turned > 0.5:
        notes.append(f"the axes are turned by up to {turned:.1f} degrees against the scanner's")
    return volume.noted(*notes, data=data, affine=affine)


def check_pair(image: Volume, mask: Volume) -> None:
    """Refuse a mask that is not on its image's grid.

    Raises:
        BadInput: other shape; or the corners lie more than a tenth of a voxel apart.
    """
    from course_lib.images.nifti import corner_distance

    remedy = "Resample the mask to the image's grid with the tool that made it, and look at the result."
    if image.data.shape != mask.data.shape:
        raise BadInput(
            f"the mask has {_by(mask.data.shape)} voxels, its image {_by(image.data.shape)}.",
            file=mask.path,
            field="dim",
            remedy=remedy,
        )
    apart = corner_distance(image.affine, mask.affine, image.data.shape)
    if apart > APART * image.spacing_mm.min():
        raise BadInput(
            f"the mask lies elsewhere than its image: corners are up to {apart:.2f} mm apart.",
            file=mask.path,
            field="affine",
            remedy=remedy,
        )


def resample(volume: Volume, affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    """Bring a volume to another grid by linear interpolation; 0 (False) outside it.

    Where the new voxels are larger, the volume is smoothed first, so that fine detail does not turn into false
    patterns: a Gaussian along each of its axes whose FWHM is sqrt(f^2 - 1) old voxels, f = new size / old size (for
    f = 2 nearly the [1 2 1] / 4 of the slice lattice). Masks are not smoothed, which would shrink small lesions: they
    are interpolated and are True where the result is at least 1/2.

    Args:
        volume: float or bool.
        affine: 4 x 4, voxel -> mm, of the new grid.
        shape: of the new grid.

    Returns:
        float32 or bool on the new grid. The report says what a mask lost or gained.
    """
    from scipy import ndimage

    moving = np.linalg.solve(volume.affine, np.asarray(affine, float))  # new voxel -> old voxel
    steps = np.linalg.norm(moving[:3, :3], axis=1)  # old voxels along each old axis per new voxel
    sd = FWHM_TO_SD * np.sqrt(np.maximum(steps**2 - 1, 0))
    is_mask = volume.data.dtype == bool
    data = volume.data.astype(np.float32)
    if sd.max() > 0.05 and not is_mask:
        data = ndimage.gaussian_filter(data, sd, mode="constant", truncate=3)
    out = _interpolate(data, moving, tuple(shape))
    if not is_mask:
        return volume.noted(data=out, affine=np.asarray(affine, float))
    result = Volume(out >= 0.5 - 1e-6, np.asarray(affine, float), volume.path, list(volume.report))
    before, after = volume.data.sum() * volume.voxel_ml, result.data.sum() * result.voxel_ml
    if before and not after:
        return result.noted(f"mask: all of its {before:.2g} ml was lost in resampling: it is smaller than a voxel")
    if abs(after - before) > 0.05 * before:
        return result.noted(f"mask: {before:.2f} ml became {after:.2f} ml in resampling")
    return result


def _interpolate(data: np.ndarray, moving: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    from scipy import ndimage

    square, shift = moving[:3, :3], moving[:3, 3]
    whole = np.rint(moving)
    if np.abs(moving - whole).max() < 1e-4:  # the new voxels' centres are old ones: no interpolation
        square, shift = whole[:3, :3], whole[:3, 3]
    return ndimage.affine_transform(data, square, shift, shape, np.float32, order=1, mode="constant", cval=0)


def normalise(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Robust intensity normalisation over the brain: x = 0.5 + (v - median) / (8 * 1.4826 * MAD), clipped.

    Args:
        image: any shape, any units.
        brain: bool, same shape.

    Returns:
        float32, same shape: exactly 0 outside the brain; inside it at least 1/255 and at most 2.

    Raises:
        BadInput: the brain is empty, not bool or of another shape; values in it are not finite; more than half of
            them are equal (MAD 0), as in a constant image.
    """
    if image.shape != brain.shape:
        raise BadInput(
            f"image {image.shape} and brain mask {brain.shape} differ in shape.",
            field="brain",
            remedy="Resample the mask to the image's grid.",
        )
    if brain.dtype != bool:
        raise BadInput(f"the brain mask is {brain.dtype}, not bool.", field="brain", remedy="Pass `mask > 0`.")
    values = image[brain].astype(np.float32)
    if values.size == 0:
        raise BadInput("the brain mask is empty.", field="brain", remedy="Give a mask, or another scan.")
    if not np.isfinite(values).all():
        raise BadInput(
            "the brain holds NaN or infinite values.", field="voxels", remedy="Find out why, or leave them out of it."
        )
    median = np.median(values)
    with np.errstate(over="ignore"):
        spread = 1.4826 * np.median(np.abs(values - median))
    if spread == 0:
        raise BadInput(
            "the image is constant in the brain, or more than half of it is: it cannot be normalised.",
            field="voxels",
            remedy="Check that this is a scan and not a mask, and that its grey values were not cut off.",
        )
    if not np.isfinite(spread):
        raise BadInput("the grey values are too far apart for float32.", field="voxels", remedy="Rescale the image.")
    out = np.zeros(image.shape, dtype=np.float32)
    with np.errstate(over="ignore"):
        out[brain] = np.clip(CENTRE + ROBUST_SD * (values - median) / spread, FLOOR, CEILING)
    return out


def write_volume(path: str | Path, data: np.ndarray, affine: np.ndarray, dtype=None) -> None:
    """Write a NIfTI file, whole or not at all, the same bytes for the same content.

    Masks become uint8. Float images become int16 in steps of 1/8192, so 0 stays exactly 0, and every value of at
    least 1/255 stays positive; what is read back is within 1/16384 and is written again as the same bytes.

    Args:
        path: ends in .nii or .nii.gz (gzip level 1, without time or name).
        data: bool; float between -4 and 4 (normalised); or any real type with `dtype`.
        affine: 4 x 4, voxel -> mm.
        dtype: store as this type, unscaled; values must fit.

    Raises:
        BadInput: values are not finite or do not fit; the folder cannot be written or the disk is full.
    """
    import nibabel

    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise BadInput("NaN or infinity would be written.", file=path, field="voxels", remedy="Replace them first.")
    if data.dtype == bool:
        image = nibabel.Nifti1Image(data.astype(np.uint8), affine)
    elif dtype is None and data.dtype.kind == "f":
        stored = np.rint(data / STORED_STEP)
        _check_fit(stored, np.int16, path)
        image = nibabel.Nifti1Image(stored.astype(np.int16), affine)
        image.header.set_slope_inter(STORED_STEP, 0)
    else:
        dtype = np.dtype(dtype or data.dtype)
        _check_fit(data, dtype, path)
        image = nibabel.Nifti1Image(data.astype(dtype), affine, dtype=dtype)
    image.header.set_xyzt_units("mm")
    with atomic_write(path) as part:
        nibabel.save(image, part)


def _check_fit(data: np.ndarray, dtype, path: str | Path) -> None:
    dtype = np.dtype(dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype) if dtype.kind == "f" else None
    if limits is None:
        raise BadInput(f"{dtype} cannot be stored.", file=path, field="dtype", remedy="Take a real numeric type.")
    if data.size and (data.min() < limits.min or data.max() > limits.max):
        raise BadInput(
            f"values from {data.min():g} to {data.max():g} do not fit {dtype}.",
            file=path,
            field="voxels",
            remedy="Normalise the image first, or pass dtype=np.float32.",
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
