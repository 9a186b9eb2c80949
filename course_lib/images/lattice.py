"""The grid of pixels that every data set shares, and how a volume is brought to it.

A slice has 96 x 96 pixels of 2 mm. Column j is x = -96 + 2 j mm, row i is y = 76 - 2 i mm (MNI): anterior is at the
top, the patient's left on the left. A detector trained on one data set can so be carried to another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from course_lib.errors import BadInput

SHAPE = (96, 96)  # rows, columns
SPACING_MM = 2.0
STANDARD_HEIGHTS = tuple(range(-14, 51, 4))  # 17 heights z in mm
_REMEDY = "Run `python -m data_scripts.prepare_folder` on it: that resamples to the course's grid."


def axial_slices(data: np.ndarray, affine: np.ndarray, heights: Sequence[float]) -> dict[float, np.ndarray]:
    """The slices of one RAS+ volume on the lattice, by height; 0 (False) where the volume does not reach.

    A volume of 2 mm is indexed. One of 1 mm is smoothed by [1 2 1] / 4 along x and y if it is not a mask, then every
    other pixel is taken. Heights outside the volume are left out.

    Args:
        data: (X, Y, Z), float or bool.
        affine: 4 x 4, voxel to mm, no rotation, 1 or 2 mm along x and y, lattice points on voxel centres.
        heights: z in mm.

    Returns:
        height -> (96, 96), of the dtype of `data`.

    Raises:
        BadInput: the volume's grid does not meet the lattice.
    """
    size = np.diag(affine)[:3]
    if not np.allclose(affine[:3, :3], np.diag(size), atol=1e-3) or (size <= 0).any():
        raise BadInput("the volume is not RAS+ along the axes.", field="affine", remedy=_REMEDY)
    step = np.rint(SPACING_MM / size[:2])
    if not (np.allclose(step * size[:2], SPACING_MM, atol=1e-3) and set(step) <= {1, 2}):
        raise BadInput(f"voxels of {size[0]:g} x {size[1]:g} mm do not fit.", field="affine", remedy=_REMEDY)
    columns = _indices(-96 + 2.0 * np.arange(SHAPE[1]), affine[0, 3], size[0])
    rows = _indices(76 - 2.0 * np.arange(SHAPE[0]), affine[1, 3], size[1])
    found = {}
    for height in heights:
        k = round((height - affine[2, 3]) / size[2])
        if not 0 <= k < data.shape[2]:
            continue
        if abs(affine[2, 3] + k * size[2] - height) > size[2] / 2 - 1e-3 and size[2] <= SPACING_MM:
            raise BadInput(f"no slice lies at z = {height:g} mm.", field="affine", remedy=_REMEDY)
        plane = data[:, :, k]  # (X, Y)
        if plane.dtype != bool:
            plane = smooth_121(plane, step == 2)
        found[height] = _take(plane, columns, rows).T
    return found


def smooth_121(plane: np.ndarray, axes: Sequence[bool] = (True, True)) -> np.ndarray:
    """Smooth (X, Y) by [1 2 1] / 4 along the chosen axes, 0 beyond the rim, before every other pixel is taken."""
    plane = plane.astype(np.float32, copy=True)
    for axis, wanted in enumerate(axes):
        if not wanted:
            continue
        moved = np.moveaxis(plane, axis, 0)
        before, after = np.zeros_like(moved), np.zeros_like(moved)
        before[1:], after[:-1] = moved[:-1], moved[1:]
        plane = np.moveaxis((before + 2 * moved + after) / 4, 0, axis)
    return plane


def _indices(places: np.ndarray, origin: float, size: float) -> np.ndarray:
    exact = (places - origin) / size
    nearest = np.rint(exact).astype(int)
    if np.abs(exact - nearest).max() > 0.02:
        raise BadInput("the lattice's points fall between its voxels.", field="affine", remedy=_REMEDY)
    return nearest


def _take(plane: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """plane[columns][:, rows], (96, 96) as x, y; 0 where an index is outside."""
    inside_x = (columns >= 0) & (columns < plane.shape[0])
    inside_y = (rows >= 0) & (rows < plane.shape[1])
    taken = np.zeros((len(columns), len(rows)), plane.dtype)
    taken[np.ix_(inside_x, inside_y)] = plane[np.ix_(columns[inside_x], rows[inside_y])]
    return taken
