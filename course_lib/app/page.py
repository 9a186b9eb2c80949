"""What a visitor of the app sees: the threshold explorer, over prepared scores."""

from __future__ import annotations

import os

from course_lib.widgets.explorer import NOTICE
from course_lib.widgets.threshold.store import open_state
from course_lib.widgets.threshold.view import ThresholdExplorer

FOLDER = "LEARNING_NORMAL_APP"  # the environment variable that names the prepared scores

FIRST = "ms"  # the lesions that a visitor meets first, where there are any


def show() -> None:
    """Show the page; the cell of `notebooks/apps/threshold.ipynb` calls it.

    Raises:
        BadInput: nothing is prepared.
    """
    import ipywidgets as widgets
    from IPython.display import display

    folder = os.environ.get(FOLDER)
    if not folder:
        from course_lib.app.prepare import prepared_folder

        folder = prepared_folder("atlas", "quick")
    state = open_state(folder)
    if FIRST in state.families:
        state.choose_family(FIRST)
    title = widgets.HTML(
        f"<h1>Where would you set the threshold?</h1><p>A detector has seen healthy people only. <b>{NOTICE}</b></p>"
    )
    display(widgets.VBox([title, ThresholdExplorer(state)]))
