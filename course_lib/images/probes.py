"""Far-out inputs: pictures that no healthy brain resembles, in the course's intensities. What does a detector say?"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from course_lib.errors import BadInput
from course_lib.files import data_folder

UNIT = 1 / 8  # one standard deviation of a picture, as one robust one of a brain
DARKEST = 1e-3  # inside a picture nothing is 0: that is the background
SHARE = 0.75  # of the slice's side that a square picture takes


def digits(count: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Handwritten digits of scikit-learn, `(count, H, W)`, each in a square in the middle of an empty slice."""
    # Imported where it is used: it takes a second.
    from sklearn.datasets import load_digits

    pictures = load_digits().images  # (1797, 8, 8), 0 to 16
    chosen = np.random.default_rng(seed).choice(len(pictures), count, replace=False)
    return np.stack([in_a_square(pictures[k], shape) for k in chosen])


def checkerboards(brains: np.ndarray, cell: int = 8) -> np.ndarray:
    """A checkerboard inside each brain `(N, H, W)`: squares of `cell` pixels, 2 s.d. above and below the median."""
    rows, columns = np.indices(brains.shape[1:]) // cell
    board = 0.5 + 2 * UNIT * np.where((rows + columns) % 2, 1, -1)
    return np.where(brains, board, 0).astype(np.float32)


def blanks(brains: np.ndarray) -> np.ndarray:
    """Each brain `(N, H, W)` filled with its median, 0.5: an outline and nothing in it."""
    return np.where(brains, np.float32(0.5), np.float32(0))


def upside_down(images: np.ndarray) -> np.ndarray:
    """Slices `(N, H, W)` with the front of the head at the bottom; left stays left."""
    return np.ascontiguousarray(images[:, ::-1])


def chest_xrays(count: int, shape: tuple[int, int], file: str | Path | None = None, seed: int = 0) -> np.ndarray:
    """Normal chest X-rays, `(count, H, W)`, each in a square in the middle of an empty slice.

    Args:
        count: how many; fewer if the file has fewer normal ones.
        shape: of the slices.
        file: a `.npz` with `image` (N, h, w) uint8 and `label` (N,), 0 for normal, such as the course's subset of
            ChestX-ray14 (NIH Clinical Center; Wang et al., CVPR 2017). Default: what LEARNING_NORMAL_CHEST names, or
            `chest/cxr_nih.npz` in the data folder.
        seed: of the choice.

    Raises:
        BadInput: the file is not there, or holds something else.
    """
    file = Path(file or os.environ.get("LEARNING_NORMAL_CHEST") or data_folder() / "chest" / "cxr_nih.npz")
    if not file.exists():
        remedy = "It is optional. Name such a file in LEARNING_NORMAL_CHEST."
        raise BadInput("the chest X-rays are not there.", file=file, remedy=remedy)
    try:
        with np.load(file, allow_pickle=False) as content:
            pictures, labels = content["image"], content["label"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"this is no file of chest X-rays: {error}", file=file) from error
    if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
        raise BadInput(f"images {pictures.shape} and labels {labels.shape} do not fit.", file=file, field="image")
    normal = np.flatnonzero(labels == 0)
    chosen = np.random.default_rng(seed).permutation(normal)[:count]
    return np.stack([in_a_square(pictures[k], shape) for k in chosen])


def in_a_square(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (h, w), stretched to a square in the middle of a slice `(H, W)`: mean 0.5, s.d. 1/8, 0 outside.

    Raises:
        BadInput: the picture is constant, so that its contrast cannot be set.
    """
    from scipy.ndimage import zoom

    if np.ptp(picture) == 0:
        raise BadInput("the picture is constant.", field="picture")
    side = int(SHARE * min(shape))
    picture = zoom(
        np.asarray(picture, np.float64), [side / n for n in picture.shape], order=1, mode="nearest", grid_mode=True
    )
    picture = 0.5 + UNIT * (picture - picture.mean()) / picture.std()
    slice_ = np.zeros(shape, np.float32)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    slice_[top : top + side, left : left + side] = np.maximum(picture, DARKEST)
    return slice_
