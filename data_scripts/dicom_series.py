"""DICOM series as volumes, by SimpleITK (optional)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from course_lib.errors import BadInput
from course_lib.images.volumes import Volume, check_contrast, check_values, to_ras

UNEVEN = 0.05  # distances between slices may differ by so much, as a share
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts mm to the left and to the back


def find_series(files: list[Path]) -> list[tuple[Path, str, tuple[Path, ...]]]:
    """Folder, description and files of each series of more than one slice.

    Raises:
        BadInput: SimpleITK is not installed.
    """
    from course_lib.images.registration import import_simpleitk

    sitk = import_simpleitk()
    found = []
    for folder in sorted({path.parent for path in files}):
        allowed = {path for path in files if path.parent == folder}
        for series in sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))):
            names = [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)]
            names = tuple(name for name in names if name in allowed)
            if names:
                found.append((folder, _description(sitk, names[0]), names))
    return found


def _description(sitk, path: Path) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        return reader.GetMetaData("0008|103e").strip() if reader.HasMetaDataKey("0008|103e") else ""
    except RuntimeError:
        return ""  # reading it as an image will say why


def read_series(files: tuple[Path, ...], *, limit_mib: float = 1024, allow_non_finite: bool = False) -> Volume:
    """One series in RAS+.

    Raises:
        BadInput: fewer than two slices, uneven distances (a slice is missing), colours, too large, or unreadable.
    """
    from course_lib.images.registration import import_simpleitk

    sitk, folder = import_simpleitk(), files[0].parent
    if len(files) < 2:
        raise BadInput("the series has one slice.", file=folder, field="slices", remedy="Give the whole series.")
    try:
        infos = [_information(sitk, path) for path in files]
        voxels = int(np.prod(infos[0].GetSize()[:2])) * len(files)
        if voxels * 8 > limit_mib * 2**20:
            raise BadInput(f"{voxels} voxels are above the limit of {limit_mib:g} MiB.", file=folder, field="size")
        _check_distances(infos, folder)
        image = sitk.ReadImage([str(path) for path in files])
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        raise BadInput(f"the series cannot be read ({cause}).", file=folder, remedy="Export it again.") from error
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() != 3:
        raise BadInput("the series holds colours or several volumes.", file=folder, remedy="Convert it with dcm2niix.")
    data = np.asfortranarray(sitk.GetArrayFromImage(image).T, dtype=np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    volume = Volume(data, _FLIP @ affine, folder, [f"DICOM series of {len(files)} slices"])
    return check_contrast(to_ras(check_values(volume, allow_non_finite)))


def _information(sitk, path: Path):
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _check_distances(infos: list, folder: Path) -> None:
    normal = np.reshape(infos[0].GetDirection(), (3, 3))[:, 2]
    steps = np.diff([np.dot(normal, info.GetOrigin()) for info in infos])
    if np.abs(steps - np.median(steps)).max() > UNEVEN * abs(np.median(steps)) or np.median(steps) == 0:
        raise BadInput(
            f"the slices are {np.abs(steps).min():.2f} to {np.abs(steps).max():.2f} mm apart.",
            file=folder,
            field="Image Position (Patient)",
            remedy="A slice is missing, or several series are mixed: export the series again, or use dcm2niix.",
        )
