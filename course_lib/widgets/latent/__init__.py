"""Latent explorer: walk through the codes of healthy slices, decode, and see how far from any of them one is."""

from course_lib.widgets.latent.figure import latent_figure
from course_lib.widgets.latent.state import LatentState
from course_lib.widgets.latent.view import LatentExplorer

__all__ = ["LatentExplorer", "LatentState", "latent_figure"]
