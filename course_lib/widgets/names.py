"""Names for screen readers: what ipywidgets' sliders and pictures lack."""

from __future__ import annotations

from pathlib import Path

import anywidget


class Names(anywidget.AnyWidget):
    """An invisible part of an explorer that names its sliders and pictures on the page (`names.js`)."""

    _esm = Path(__file__).with_name("names.js")
