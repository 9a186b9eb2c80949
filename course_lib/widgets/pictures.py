"""Pictures for widgets: slices and outcomes as RGB arrays, and their PNG. A step takes about a millisecond.

Colours are those of the colour-blind palette, and each outcome has a pattern of its own as well: found pixels are
filled, false alarms hatched, missed pixels hollow.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from course_lib.plots import GREY_RANGE

FOUND, FALSE, MISSED = (2, 158, 115), (222, 143, 5), (204, 120, 188)  # green, orange, purple of the palette
LEGEND = {"found": FOUND, "false alarm": FALSE, "missed": MISSED}


def grey(image: np.ndarray, limits: tuple[float, float] = GREY_RANGE) -> np.ndarray:
    """`(H, W)` intensities as uint8 RGB `(H, W, 3)`, dark to bright over `limits`."""
    low, high = limits
    level = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def heat(anomaly: np.ndarray, limit: float) -> np.ndarray:
    """`(H, W)` anomalies as uint8 RGB `(H, W, 3)` in magma, from 0 to `limit`."""
    level = (np.clip(anomaly / max(limit, 1e-12), 0, 1) * 255).astype(np.uint8)
    return _magma()[level]


def enlarge(picture: np.ndarray, zoom: int) -> np.ndarray:
    """Each pixel as `zoom` x `zoom` equal ones: `(H, W, ...)` to `(zoom H, zoom W, ...)`."""
    return np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1)


def outcomes(image: np.ndarray, detected: np.ndarray, lesion: np.ndarray, zoom: int = 4) -> np.ndarray:
    """A slice with what was found, falsely marked and missed.

    Args:
        image: (H, W) intensities.
        detected, lesion: (H, W) bool.
        zoom: pixels of the picture for one of the slice, in each direction; patterns need 3 or more.

    Returns:
        (zoom H, zoom W, 3) uint8.
    """
    picture = enlarge(grey(image), zoom)
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    hatched = (rows + columns) % 6 < 3
    border = (rows % zoom == 0) | (columns % zoom == 0)
    for where, pattern, colour in (
        (detected & lesion, True, FOUND),
        (detected & ~lesion, hatched, FALSE),
        (lesion & ~detected, border, MISSED),
    ):
        picture[enlarge(where, zoom) & pattern] = colour
    return picture


def outline(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], zoom: int) -> np.ndarray:
    """The picture `(zoom H, zoom W, 3)` with the border of a mask `(H, W)` drawn one pixel wide; a new array."""
    inside = np.pad(enlarge(np.asarray(mask, bool), zoom), 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    drawn = picture.copy()
    drawn[inside[1:-1, 1:-1] & ~core] = colour
    return drawn


def to_png(picture: np.ndarray | Image.Image) -> bytes:
    """A uint8 RGB array, or a Pillow image, as PNG; weakly compressed, which is fast."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


_INDEX = np.zeros(1 << 24, np.uint8)  # of each RGB colour; only the pages that are used take memory


def with_palette(picture: np.ndarray) -> Image.Image:
    """A uint8 RGB array as a Pillow image with a palette: the same colours, and its PNG takes half the time.

    Pictures of more than 256 colours stay RGB. For explorers that show many pictures at each step.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    colours = image.getcolors(256)
    if colours is None:
        return image
    palette = np.array([colour for _, colour in colours], np.uint8)  # (n, 3)
    pixels, colours = (
        rgb[..., 0].astype(np.uint32) << 16 | rgb[..., 1].astype(np.uint32) << 8 | rgb[..., 2]
        for rgb in (np.asarray(image), palette)
    )
    _INDEX[colours] = np.arange(len(palette))  # what earlier pictures left elsewhere is not read
    numbered = Image.fromarray(_INDEX[pixels])
    numbered.putpalette(palette.tobytes())
    return numbered


def _magma() -> np.ndarray:
    """The colours of magma, (256, 3) uint8."""
    from matplotlib import colormaps

    return (np.asarray(colormaps["magma"].colors) * 255).round().astype(np.uint8)
