"""The parameters cell of a lesson: what it declares, and a check of given values before any work is done.

A line `share: float = 0.02  # of the tokens that are marked, 0 to 1` declares name, type, default, meaning and, with
two numbers around "to", the range. Whole numbers with a default of 0 or more are never negative.
"""

from __future__ import annotations

import ast
import io
import math
import re
import sys
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_lib.errors import BadInput
from data_scripts import PROFILES

if TYPE_CHECKING:
    from nbformat import NotebookNode

TAG = "parameters"
EMBEDDED = ("atlas", "stroke")  # data sets that are called by a name
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_RANGE = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)(?![\w])")
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `seed: int = 0  # seed of everything random`."""

    name: str
    type: str
    default: object
    help: str = ""

    @property
    def range(self) -> tuple[float, float] | None:
        """The smallest and the largest value, if the comment names them."""
        found = _RANGE.search(self.help) if self.type in ("int", "float") else None
        if found:
            return float(found[1]), float(found[2])
        counts = self.type == "int" and type(self.default) is int and self.default >= 0
        return (0, math.inf) if counts else None


def declared(notebook: NotebookNode) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged "parameters", by name.

    Raises:
        BadInput: there is no such cell, or a line of it is no typed, plain assignment.
    """
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", ())]
    if len(cells) != 1:
        raise BadInput(f"a lesson has one cell tagged 'parameters', not {len(cells)}.", field=TAG)
    source = cells[0]["source"]
    comments = _comments(source)
    return {p.name: p for p in (_parameter(node, comments) for node in ast.parse(source).body)}


def check(given: Mapping[str, object], known: Mapping[str, Parameter]) -> dict[str, object]:
    """The given values in their declared types.

    Text is read as the type that is declared, so that "1e-3" is a number where a number is wanted, "007" is text
    where text is wanted, and "false" is false.

    Raises:
        BadInput: an unknown name, a wrong type, or a value that the lesson cannot use; one sentence says which.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadInput(f"unknown parameter {', '.join(unknown)}.", field=TAG, remedy=f"There are: {', '.join(known)}.")
    values = {name: _typed(known[name], value) for name, value in given.items()}
    for name, value in values.items():
        check_value(name, value)
        _check_range(known[name], value)
    if values.get("data", "atlas") not in EMBEDDED:
        values["data"] = str(Path(values["data"]).absolute())  # a lesson runs in its own folder
    return values


def check_namespace(namespace: Mapping[str, object] | None = None) -> None:
    """Check the parameters of a lesson that is running already: plain papermill puts in whatever it is given.

    Args:
        namespace: the lesson's variables, with the annotations of its parameters cell; default: those of the kernel,
            and nothing is done where there is none.

    Raises:
        BadInput: as `check`. Text is not read as a number here: the lesson has it as it is.
    """
    if namespace is None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        namespace = {} if shell is None else shell.user_ns
    for name, annotation in dict(namespace.get("__annotations__", {})).items():
        kind = getattr(annotation, "__name__", str(annotation)).partition("[")[0]
        value = namespace.get(name)
        if kind not in _TYPES or name not in namespace:
            continue  # no parameter: a variable of a lesson may be annotated, too
        if isinstance(value, str) and kind != "str":
            remedy = "Write 1.0e-3, True, [1, 2]; or use `python -m course_lib.lessons.run`, which reads text."
            raise BadInput(f"{name} wants {kind}, not the text {value!r}.", field=TAG, remedy=remedy)
        _typed(Parameter(name, kind, None), value)
        check_value(name, value)


def _check_range(parameter: Parameter, value) -> None:
    """Refuse numbers outside the declared range, and those that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{parameter.name} is a finite number, not {value}.", field=TAG)
    if parameter.range and not parameter.range[0] <= value <= parameter.range[1]:
        low, high = parameter.range
        bounds = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
        raise BadInput(f"{parameter.name} is {bounds}, not {value!r}.", field=TAG, remedy=f"It is {parameter.help}.")


def _parameter(node: ast.stmt, comments: dict[int, str]) -> Parameter:
    try:
        if not isinstance(node, ast.AnnAssign):
            raise ValueError("its type is missing")
        kind = ast.unparse(node.annotation)
        if kind.partition("[")[0] not in _TYPES:
            raise ValueError(f"its type is none of {', '.join(_TYPES)}")
        return Parameter(node.target.id, kind, ast.literal_eval(node.value), comments.get(node.end_lineno, ""))
    except (ValueError, TypeError, AttributeError) as error:
        remedy = "Write it as: name: type = value  # what it means"
        raise BadInput(f"`{ast.unparse(node)}`: {error}.", field=TAG, remedy=remedy) from error


def _typed(parameter: Parameter, value):
    kind = _TYPES[parameter.type.partition("[")[0]]
    if isinstance(value, str) and kind is not str:
        value = _read(value, kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        cause = f"{parameter.name} wants {parameter.type}, not {value!r}."
        remedy = "" if parameter.default is None else f"Its default is {parameter.default!r}."
        raise BadInput(cause, field=TAG, remedy=remedy)
    return value


def _read(text: str, kind: type):
    """`text` as a value of `kind` where it is one, else unchanged."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        return kind(text) if kind in (int, float) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_value(name: str, value) -> None:
    """Refuse values of the common parameters that no lesson can use.

    Raises:
        BadInput: an unknown profile or device, a negative seed, or a data set that is not there.
    """
    if name == "profile" and value not in PROFILES:
        raise BadInput(f"profile is {', '.join(PROFILES)}, not {value!r}.", field=TAG)
    if name == "device" and not _DEVICE.fullmatch(value):
        raise BadInput(f"device is auto, cpu, cuda, cuda:0 ... or mps, not {value!r}.", field=TAG)
    if name == "seed" and value < 0:
        raise BadInput(f"seed is 0 or more, not {value!r}.", field=TAG)
    if name == "data" and value not in EMBEDDED and not Path(value).exists():
        raise BadInput(f"data is atlas, stroke or an existing folder, not {value!r}.", field=TAG)


def _comments(source: str) -> dict[int, str]:
    """The comments of a cell by line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
