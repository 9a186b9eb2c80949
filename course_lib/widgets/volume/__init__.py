"""Volume viewer: a subject in three orthogonal planes, with its anomaly map above a threshold."""

from course_lib.widgets.volume.figure import volume_figure
from course_lib.widgets.volume.niivue import niivue_viewer, volume_viewer
from course_lib.widgets.volume.state import VolumeState
from course_lib.widgets.volume.view import VolumeExplorer

__all__ = ["VolumeExplorer", "VolumeState", "niivue_viewer", "volume_figure", "volume_viewer"]
