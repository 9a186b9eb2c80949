"""What all views share: controls with labels, errors that are seen, pictures of a fixed size."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import ipywidgets as widgets
from PIL import Image

from course_lib.errors import BadInput
from course_lib.widgets import pictures
from course_lib.widgets.names import Names

NOTICE = "Research and teaching only, not for diagnosis."
_NOTHING = pictures.to_png(Image.new("RGB", (1, 1)))  # voila's page cannot read an image without bytes
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
        self.add_class("ln-explorer")
        LIVE.add(self)

    def arrange(self, *parts: widgets.Widget) -> None:
        """Put the parts below each other; what was refused, errors and names for screen readers come last."""
        self.children = [*parts, self.said, self.errors, Names()]

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


def slider(label: str, value: float, ends: tuple[float, float], *, step: float, **traits):
    """A slider over real numbers."""
    return widgets.FloatSlider(value=value, min=ends[0], max=ends[1], step=step, description=label, **_look(), **traits)


def stops_slider(label: str, stops: Sequence[tuple[str, float]], value: float, **traits) -> widgets.SelectionSlider:
    """A slider over given numbers, each with its text.

    The browser rounds a `FloatSlider` to its own steps and sends that back, so a view that moves it to follow its
    state would be answered. Stops are told apart by their number, which is exact.
    """
    return widgets.SelectionSlider(options=stops, value=nearest(stops, value), description=label, **_look(), **traits)


def powers(low: float, high: float, form: str) -> list[tuple[str, float]]:
    """Round numbers from `low` to `high`, ten for each power of ten, as stops; `form` is a format such as ".3g"."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    numbers = [float(f"{m}e{e}") for e in range(first, last + 1) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    return [(format(x, form), x) for x in numbers if low <= x <= high]


def nearest(stops: Sequence[tuple[str, float]], value: float) -> float:
    """The stop that is nearest to a number."""
    return min((stop for _, stop in stops), key=lambda stop: abs(stop - value))


def follow(control: widgets.SelectionSlider, value: float, stops: Sequence[tuple[str, float]] | None = None) -> None:
    """Put a slider at the stop nearest to a value, after giving it other stops if need be. Use it inside `quietly`."""
    stops = list(control.options) if stops is None else list(stops)
    with control.hold_sync():
        if list(control.options) != stops:
            control.options = stops
        control.value = nearest(stops, value)


def whole_slider(label: str, value: int, ends: tuple[int, int], **traits):
    """A slider over whole numbers."""
    return widgets.IntSlider(value=value, min=ends[0], max=ends[1], description=label, **_look(), **traits)


class Picture(widgets.VBox):
    """A place for a PNG, at most so many pixels wide, with a sentence for those who cannot see it.

    Args:
        width, height: in pixels.

    Attributes:
        image: holds the PNG.
        says: holds the sentence; it is hidden, and becomes the picture's alternative text (`names`).
    """

    def __init__(self, width: int, height: int):
        # an Image without bytes, or with a tooltip, has no view in ipywidgets 8.1
        self.image = widgets.Image(value=_NOTHING, width=str(width), height=str(height))
        self.image.layout = widgets.Layout(width=f"{width}px", height="auto", max_width="100%", object_fit="contain")
        self.says = widgets.HTML(layout=widgets.Layout(display="none"))
        self.says.add_class("ln-says")
        super().__init__([self.image, self.says], layout=widgets.Layout(max_width="100%", flex="0 1 auto"))
        self.add_class("ln-picture")

    def put(self, drawn, says: str) -> None:
        """Show a picture (RGB array or Pillow image), and say in a sentence what is in it."""
        self.image.value = pictures.to_png(drawn)
        self.says.value = html.escape(says)


def picture(width: int, height: int) -> Picture:
    """A place for a picture."""
    return Picture(width, height)


def put(place: Picture, drawn, says: str) -> None:
    """Show a picture in its place, and say what is in it."""
    place.put(drawn, says)


def row(*children: widgets.Widget, **layout) -> widgets.Box:
    """Children side by side; those that do not fit go below."""
    look = {"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "12px"} | layout
    return widgets.Box(list(children), layout=widgets.Layout(**look))


def column(*children: widgets.Widget, width: str = "370px") -> widgets.VBox:
    """Children below each other."""
    return widgets.VBox(list(children), layout=widgets.Layout(width=width, max_width="100%", flex="0 0 auto"))


def set_ends(control, low, high, value, **traits) -> None:
    """New ends and value of a slider, in an order that it never refuses; a value outside is moved to the nearer end."""
    with control.hold_sync():
        if (control.min, control.max) != (low, high):
            control.max = max(high, control.max)
            control.min = low
            control.value = min(max(value, low), high)
            control.max = high
        for name, new in traits.items():
            setattr(control, name, new)
        control.value = min(max(value, low), high)


def number_table(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]], caption: str) -> str:
    """Numbers as an HTML table, which is read aloud when they change.

    Args:
        columns: heads, plain text.
        lines: the name of each row and its cells, HTML.
        caption: plain text below the table.
    """
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, cells in lines
    )
    return (
        f'{_STYLE}<table class="ln-readings" role="status" aria-live="polite"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


_STYLE = (
    "<style>.ln-readings{border-collapse:collapse;font-size:13px;line-height:1.45}"
    ".ln-readings th[scope=row]{text-align:left;font-weight:normal;padding-right:18px}"
    ".ln-readings td,.ln-readings th[scope=col]{text-align:right;padding:0 12px;font-variant-numeric:tabular-nums}"
    ".ln-readings tr{border-bottom:1px solid #8884}.ln-readings caption{caption-side:bottom;text-align:left;"
    "padding-top:4px}</style>"
)


def outcome_legend() -> str:
    """What the colours and patterns of `pictures.outcomes` mean, as HTML."""
    patterns = {"found": "filled", "false alarm": "hatched", "missed": "hollow"}
    return " &nbsp; ".join(
        f'<span aria-hidden="true" style="display:inline-block;width:12px;height:12px;border:2px solid rgb{colour};'
        f'background:{_pattern(name, colour)}"></span> {name} ({patterns[name]})'
        for name, colour in pictures.LEGEND.items()
    )


def _pattern(name: str, colour: tuple[int, int, int]) -> str:
    full = f"rgb{colour}"
    hatched = f"repeating-linear-gradient(135deg, {full} 0 2px, transparent 2px 4px)"
    return {"found": full, "false alarm": hatched, "missed": "none"}[name]


def _look() -> dict:
    return {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="100%")}
