"""What all views share: controls with labels, errors that are seen, pictures of a fixed size."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakSet

import ipywidgets as widgets

from course_lib.errors import BadInput
from course_lib.widgets import pictures

NOTICE = "Research and teaching only, not for diagnosis."
LIVE: WeakSet[Explorer] = WeakSet()  # those that exist in this process, for `driver.drive_all`


class Explorer(widgets.VBox):
    """Controls, and pictures and text that follow them.

    A subclass defines `changed`, which puts one control's value into the state, and `show`, which shows the state.
    A value that the state refuses (`BadInput`) is said in a line below; any other error is kept in `errors`, an Output,
    where the student sees it and the course's tests find it: an exception in a widget's callback goes nowhere else.

    Args:
        state: what the controls change.
        controls: widgets with a value, or buttons, by name.

    Attributes:
        state, controls: as given.
        said: the line that says what was refused.
        errors: the Output that holds errors.
    """

    def __init__(self, state, controls: Mapping[str, widgets.Widget]):
        super().__init__()
        self.state, self.controls = state, dict(controls)
        self.said, self.errors = widgets.HTML(), widgets.Output()
        self._listening = True
        for name, control in self.controls.items():
            if isinstance(control, widgets.Button):
                control.on_click(lambda _, name=name: self._act(name, None))
            else:
                control.observe(lambda change, name=name: self._act(name, change["new"]), "value")
        LIVE.add(self)

    def changed(self, name: str, value) -> None:
        """Put the value of a control into the state; None for a button that was pressed."""
        raise NotImplementedError

    def show(self) -> None:
        """Show the state: pictures, numbers, and where the controls stand."""
        raise NotImplementedError

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Controls that are set inside do not call `changed`: for a view that follows its state."""
        before, self._listening = self._listening, False
        try:
            yield
        finally:
            self._listening = before

    def _act(self, name: str, value) -> None:
        if not self._listening:
            return
        try:
            self.changed(name, value)
            self.show()
            self.said.value = ""
        except BadInput as refused:
            self.said.value = f'<span role="alert">{html.escape(str(refused))}</span>'
        except Exception:
            with self.errors:
                raise


def choice(label: str, options, value=None, **traits) -> widgets.Dropdown:
    """A list to choose from; `options` are texts or (text, value) pairs."""
    return widgets.Dropdown(options=options, value=value, description=label, **_look(), **traits)


def log_slider(label: str, value: float, ends: tuple[float, float], *, step: float = 0.05, **traits):
    """A slider over powers of ten, from `10 ** ends[0]` to `10 ** ends[1]`."""
    return widgets.FloatLogSlider(
        value=value, base=10, min=ends[0], max=ends[1], step=step, description=label, **_look(), **traits
    )


def slider(label: str, value: float, ends: tuple[float, float], *, step: float, **traits):
    """A slider over real numbers."""
    return widgets.FloatSlider(value=value, min=ends[0], max=ends[1], step=step, description=label, **_look(), **traits)


def whole_slider(label: str, value: int, ends: tuple[int, int], **traits):
    """A slider over whole numbers."""
    return widgets.IntSlider(value=value, min=ends[0], max=ends[1], description=label, **_look(), **traits)


def picture(width: int, height: int, says: str = "") -> widgets.Image:
    """A place for a PNG, at most `width` x `height` pixels wide; `says` is for those who cannot see it."""
    layout = widgets.Layout(width=f"{width}px", height="auto", max_width="100%", object_fit="contain", flex="0 1 auto")
    return widgets.Image(format="png", width=str(width), height=str(height), layout=layout, tooltip=says)


def put(place: widgets.Image, drawn, says: str) -> None:
    """Show a picture (RGB array or Pillow image) in its place, and say what is in it."""
    place.value = pictures.to_png(drawn)
    place.tooltip = says


def row(*children: widgets.Widget, **layout) -> widgets.Box:
    """Children side by side; those that do not fit go below."""
    look = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "12px"} | layout
    return widgets.Box(list(children), layout=widgets.Layout(**look))


def column(*children: widgets.Widget, width: str = "340px") -> widgets.VBox:
    """Children below each other."""
    return widgets.VBox(list(children), layout=widgets.Layout(width=width, max_width="100%", flex="0 0 auto"))


def _look() -> dict:
    return {"style": {"description_width": "9.5em"}, "layout": widgets.Layout(width="100%")}
