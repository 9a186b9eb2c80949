"""The volume in NiiVue, which draws in the browser with WebGL2; in our own planes where ipyniivue is absent."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ipywidgets as widgets
import numpy as np

from course_lib.errors import BadInput
from course_lib.images.volumes import write_volume
from course_lib.plots import GREY_RANGE
from course_lib.widgets.explorer import Explorer, column, follow, row, slider
from course_lib.widgets.volume.state import VolumeState
from course_lib.widgets.volume.view import CURSOR, VolumeExplorer, legend, readings_table, threshold_slider

INSTALL = 'pip install "learning-normal[viewer]"'
HEIGHT = 420  # pixels


class NiivueExplorer(Explorer):
    """A subject in NiiVue: click to move its cursor, scroll through slices, turn the rendered head.

    The browser draws; the kernel moves the overlay's threshold and counts. The files that NiiVue reads lie in a
    temporary folder that lives as long as the viewer.

    Args:
        state: the volume, and how the viewer starts.

    Attributes:
        viewer: the NiiVue widget.
        folder: where the two files are.

    Raises:
        BadInput: ipyniivue is not installed.
    """

    state: VolumeState

    def __init__(self, state: VolumeState):
        ipyniivue = _library()
        controls = {
            "threshold": threshold_slider(state),
            "opacity": slider("the map's opacity", state.opacity, (0, 1), step=0.05),
        }
        super().__init__(state, controls)
        self._shift = state.colours[0]  # NiiVue's colours begin at 0
        self._folder = tempfile.TemporaryDirectory(prefix="learning-normal-viewer-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.viewer = ipyniivue.NiiVue(
            height=HEIGHT,
            slice_type=ipyniivue.SliceType.MULTIPLANAR,
            is_radiological_convention=False,  # the patient's left is on the picture's left
            is_nearest_interpolation=True,  # nothing is made up between the slices
            is_slice_mm=True,
            crosshair_width=0.5,
            crosshair_color=(*(level / 255 for level in CURSOR), 1.0),
            font_color=(1.0, 1.0, 1.0, 1.0),
            show_all_orientation_markers=True,
            multiplanar_layout=ipyniivue.MultiplanarType.GRID,
            multiplanar_show_render=ipyniivue.ShowRender.ALWAYS,
            multiplanar_pad_pixels=16,  # else the letters of two planes touch
        )
        self.viewer.load_volumes(self._volumes(ipyniivue))
        self.viewer.scene.crosshair_pos = [float(x) for x in (state.cursor + 0.5) / state.image.shape]
        self.legend, self.table = widgets.HTML(), widgets.HTML()
        side = column(*self.controls.values(), self.legend, self.table)
        wide = widgets.VBox([self.viewer], layout=widgets.Layout(flex="1 1 480px", min_width="320px"))
        self.arrange(row(side, wide))
        self.show()

    def changed(self, name: str, value) -> None:
        """See `Explorer.changed`."""
        if name == "threshold":
            self.state.set_threshold(value)
        else:
            self.state.opacity = value

    def show(self) -> None:
        """See `Explorer.show`."""
        with self.quietly():
            follow(self.controls["threshold"], self.state.threshold)
            self.controls["opacity"].value = self.state.opacity
        overlay = self.viewer.volumes[1]
        overlay.cal_min, overlay.opacity = self.state.threshold - self._shift, self.state.opacity
        small = self.state.min_voxels
        note = f"<br>pieces below {small} voxels are drawn but not counted" if small > 1 else ""
        self.legend.value = legend(self.state, parts=False) + note
        self.table.value = readings_table(self.state, self.state.reading(), cursor=False)

    def _volumes(self, ipyniivue) -> list:
        state = self.state
        low, high = state.colours
        overlay = np.where(state.brain, state.anomaly - low, 0).astype(np.float32)
        files = {"image": state.image, "map": overlay}
        for name, data in files.items():
            write_volume(self.folder / f"{name}.nii.gz", data, state.affine, np.float32)
        image = ipyniivue.Volume(
            path=self.folder / "image.nii.gz", colormap="gray", cal_min=GREY_RANGE[0], cal_max=GREY_RANGE[1]
        )
        anomaly = ipyniivue.Volume(
            path=self.folder / "map.nii.gz",
            colormap="magma",
            colormap_type=ipyniivue.ColormapType.ZERO_TO_MAX_TRANSPARENT_BELOW_MIN,
            cal_min=state.threshold - low,
            cal_max=high - low,
            opacity=state.opacity,
        )
        return [image, anomaly]


def niivue_viewer(state: VolumeState) -> NiivueExplorer:
    """The volume in NiiVue, its map as an overlay above a threshold slider.

    Raises:
        BadInput: ipyniivue is not installed; the message has the command.
    """
    return NiivueExplorer(state)


def volume_viewer(state: VolumeState, prefer_niivue: bool = True) -> Explorer:
    """The volume in NiiVue where ipyniivue is installed and wanted, else in our own three planes."""
    if prefer_niivue and has_niivue():
        return niivue_viewer(state)
    return VolumeExplorer(state)


def has_niivue() -> bool:
    """Whether ipyniivue is installed."""
    try:
        _library()
    except BadInput:
        return False
    return True


def _library():
    try:
        import ipyniivue
    except ImportError:
        raise BadInput("ipyniivue is not installed.", field="viewer", remedy=f"Run `{INSTALL}`.") from None
    return ipyniivue
