"""Threshold explorer and screening clinic: what a threshold finds, misses and costs, for one or two detectors."""

from course_lib.widgets.threshold.figure import threshold_figure
from course_lib.widgets.threshold.state import ThresholdState
from course_lib.widgets.threshold.view import ThresholdExplorer

__all__ = ["ThresholdExplorer", "ThresholdState", "threshold_figure"]
