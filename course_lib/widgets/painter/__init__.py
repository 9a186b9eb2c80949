"""Anomaly painter: a lesion put into a healthy slice, and what each trained detector makes of it."""

from course_lib.widgets.painter.figure import painter_figure
from course_lib.widgets.painter.state import PainterState
from course_lib.widgets.painter.view import PainterExplorer

__all__ = ["PainterExplorer", "PainterState", "painter_figure"]
