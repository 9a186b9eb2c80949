"""Sentences with numbers from the run: nobody types a result into a lesson."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from course_lib.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fill(template: str, **values) -> str:
    """`template` with its `{name}` or `{name:.2f}` filled; a pair (or triple) of numbers is shown as an interval.

    `fill("AP is {ap:.2f} {ci:.2f}", ap=0.5, ci=(0.4, 0.6))` gives "AP is 0.50 [0.40, 0.60]".

    Raises:
        BadInput: a value is missing, or is given and not used.
    """
    names = {name.partition(".")[0].partition("[")[0] for _, name, _, _ in string.Formatter().parse(template) if name}
    if names != set(values):
        missing, unused = sorted(names - set(values)), sorted(set(values) - names)
        cause = "; ".join(
            f"{what}: {', '.join(which)}" for what, which in (("missing", missing), ("unused", unused)) if which
        )
        raise BadInput(f"the sentence and its values do not fit ({cause}).", field=template[:60])
    return template.format(
        **{name: _Interval(value) if isinstance(value, tuple) else value for name, value in values.items()}
    )


def say(template: str, **values) -> None:
    """Show `fill(template, ...)` as Markdown."""
    show(fill(template, **values))


def show(text: str) -> None:
    """Show Markdown text in a notebook; elsewhere print it."""
    from IPython import get_ipython
    from IPython.display import Markdown, display

    display(Markdown(text)) if get_ipython() is not None else print(text)


def show_figure(alt: str, fig: Figure | None = None) -> None:
    """Show a matplotlib figure with `alt`, which says what is to be seen in it to those who cannot see it.

    Args:
        alt: one or two sentences.
        fig: the figure; default: the current one. It is closed.
    """
    import matplotlib.pyplot as plt
    from IPython import get_ipython
    from IPython.display import display

    fig = fig or plt.gcf()
    if get_ipython() is not None:
        display(fig, metadata={"image/png": {"alt": alt}})
    else:
        print(f"[figure: {alt}]")
    plt.close(fig)


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """A Markdown table: `columns` maps a row's keys to the headings."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


class _Interval(tuple):
    """Numbers in brackets, each with the format of the whole."""

    def __format__(self, spec: str) -> str:
        return "[" + ", ".join(format(value, spec) for value in self) + "]"
