"""Colours that everybody can tell apart: what a lesson's code may use, and how far apart a palette's colours look."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import is_color_like, to_rgb

UNFIT = {"jet", "rainbow", "hsv", "RdYlGn", "Spectral", "turbo", "gist_rainbow", "gist_ncar", "nipy_spectral", "prism"}
UNFIT |= {"flag", "brg", "tab10", "tab20", "Set1", "Set2", "Set3", "Paired", "Accent", "Dark2", "Pastel1", "Pastel2"}
KEYWORDS = {"color", "c", "colors", "facecolor", "facecolors", "fc", "edgecolor", "edgecolors", "ec", "ecolor"}
KEYWORDS |= {"markerfacecolor", "mfc", "markeredgecolor", "mec", "linecolor", "hatchcolor", "labelcolor", "palette"}
_FORMAT = re.compile(r"[bgrcmy][-.:,osDdv^<>xX+*pPhH|]*|[-.:,osDdv^<>xX+*pPhH|]+[bgrcmy]")  # as in plot(x, y, "r--")
# Deuteranopia in linear RGB: Machado, Oliveira, Fernandes, IEEE TVCG 15 (2009), severity 1.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def colour_problems(tree: ast.AST) -> list[str]:
    """Colours in code that are neither `plots.PALETTE` nor grey, and colour maps that mislead."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS:
                    found += [_colour(text) for text in _texts(keyword.value) if not _fit(text)]
                elif keyword.arg == "cmap":
                    found += [_map(text) for text in _texts(keyword.value) if text.removesuffix("_r") in UNFIT]
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("plot", "errorbar", "semilogx", "loglog"):
                found += [_colour(t) for a in node.args for t in _texts(a) if _FORMAT.fullmatch(t)]
        elif isinstance(node, ast.Attribute) and node.attr.removesuffix("_r") in UNFIT & set(colormaps):
            if ast.unparse(node.value) in ("plt.cm", "cm", "matplotlib.cm"):
                found.append(_map(node.attr))
    return found


def _texts(node: ast.AST) -> Iterator[str]:
    return (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _fit(text: str) -> bool:
    """Whether a text is no colour, or a grey, or a place in the style's own cycle ("C0")."""
    if text.lower() in ("none", "auto", "face") or (text[:1] == "C" and text[1:].isdigit()) or not is_color_like(text):
        return text.removesuffix("_r") not in UNFIT
    return len(set(to_rgb(text))) == 1


def _colour(text: str) -> str:
    return f"the colour {text!r} may look like another one: use plots.PALETTE or a grey"


def _map(text: str) -> str:
    return f"the colour map {text!r} misleads: use magma, viridis or gray"


def seen_apart(palette, matrix: np.ndarray = DEUTERANOPIA) -> float:
    """The smallest CIE76 distance between two colours as a person with deuteranopia sees them.

    Args:
        palette: two or more colours that matplotlib understands.
        matrix: (3, 3), the simulation in linear RGB; the identity for full colour vision.

    Returns:
        Delta E; 2.3 is just noticeable side by side.
    """
    lab = _lab(np.array([to_rgb(colour) for colour in palette]), matrix)
    return float(min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)))


def _lab(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) in [0, 1] -> CIE L*a*b* (N, 3) under D65, seen through `matrix`."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ matrix.T, 0, 1) @ _XYZ.T / _XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
