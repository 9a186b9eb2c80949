"""One published panel of the stroke project, and its lesion volume, to one slice: image, lesion mask, brain mask.

A panel shows an axial, a sagittal and a coronal FLAIR slice side by side, brain-extracted, the lesion painted red at
50 %. The axial picture is at z = +18 mm (MNI), 1 mm, 189 x 157: row r is y = 76 - r, column c is x = -78 + c mm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from course_lib.errors import BadInput
from course_lib.images.nifti import read_nifti

PICTURE = (189, 157)  # rows, columns
VOLUME = (157, 189, 136)  # voxels of 1 mm, axes left-anterior-superior
Z_MM, Z_INDEX = 18.0, 68
_ORIGIN = np.array([[-1, 0, 0, 78], [0, 1, 0, -112], [0, 0, 1, -50], [0, 0, 0, 1]], dtype=float)
_PAINT = 60  # red minus green above this: painted
_DARK = 3  # grey values up to this are background
_CLOSING = 10  # pixels
_LIMIT_MIB = 64  # of a lesion volume, unpacked
_AGAIN = "Remove it and fetch again."
_LARGEST = 4_000_000  # pixels of a panel: more is refused before it is unpacked


def convert(panel: Path, volume: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (189, 157) uint8 on the scale 0 ... 128, lesion mask and brain mask (189, 157) bool.

    Raises:
        BadInput: a file cannot be read or is not what it should be, or the painted pixels are not exactly the
            volume's slice at z = +18 mm.
    """
    image, painted = read_panel(panel)
    mask = read_lesion(volume)[::-1, ::-1, Z_INDEX].T  # (189, 157)
    if not np.array_equal(painted, mask):
        raise BadInput(
            f"{int((painted != mask).sum())} painted pixels differ from the lesion volume.",
            file=panel,
            remedy="The panel and the volume are not of one scan; it is left out.",
        )
    return image, mask, brain_mask(image, panel)


def read_panel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The axial picture (189, 157) uint8, freed of paint, and where it was painted, bool.

    The paint is half grey and half red, so the green value under it is half the grey value g. Elsewhere
    (g + 1) // 2 brings it to the same scale: 0 ... 128 everywhere.

    Raises:
        BadInput: not a readable colour picture of the expected height.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            width, height = picture.size
            if height != PICTURE[0] or width < PICTURE[1] or width * height > _LARGEST or picture.mode != "RGB":
                raise BadInput(f"is {width} x {height} {picture.mode}, not an RGB panel 189 high.", file=path)
            colours = np.asarray(picture)[:, : PICTURE[1]].astype(np.int16)  # (189, 157, 3)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"cannot be read as PNG ({error}).", file=path, remedy="Remove it and fetch again.") from error
    red, green = colours[..., 0], colours[..., 1]
    painted = red - green > _PAINT
    return np.where(painted, green, (green + 1) // 2).astype(np.uint8), painted


def read_lesion(path: Path) -> np.ndarray:
    """The lesion volume (157, 189, 136) bool, in the file's own order of axes.

    Raises:
        BadInput: not a readable NIfTI file of that size, place and type.
    """
    data, affine, _ = read_nifti(path, limit_mib=_LIMIT_MIB)  # in the file's own order, checksum tested
    if data.shape != VOLUME:
        raise BadInput(f"has shape {data.shape}, not {VOLUME}.", file=path, field="dim", remedy=_AGAIN)
    if not np.allclose(affine, _ORIGIN, atol=1e-3):
        raise BadInput("lies elsewhere in space than the pictures.", file=path, field="affine", remedy=_AGAIN)
    if not np.isfinite(data).all():
        raise BadInput("holds NaN or infinity, and is no mask.", file=path, field="voxels", remedy=_AGAIN)
    return data > 0


def brain_mask(image: np.ndarray, where: Path | str = "") -> np.ndarray:
    """The brain in a brain-extracted slice (H, W): grey > 3, opened, largest component, closed by 10, holes filled.

    Opening and closing use the cross of 5 pixels; components touch along edges.

    Raises:
        BadInput: nothing is left.
    """
    cross = ndimage.generate_binary_structure(2, 1)
    opened = ndimage.binary_opening(image > _DARK, cross)
    labels, count = ndimage.label(opened, cross)
    if count == 0:
        raise BadInput("there is no brain in the picture.", file=where or None)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = np.pad(labels == sizes.argmax(), _CLOSING + 2)  # room: the closing must not stick to the rim
    closed = ndimage.binary_closing(largest, cross, iterations=_CLOSING)
    inner = slice(_CLOSING + 2, -_CLOSING - 2)
    return ndimage.binary_fill_holes(closed[inner, inner])
