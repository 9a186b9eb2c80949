"""The parameters cell of a lesson: what it declares, and a check of given values before any work is done."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from course_lib.errors import BadInput
from data_scripts import PROFILES

TAG = "parameters"
EMBEDDED = ("atlas", "stroke")  # data sets that are called by a name
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `seed: int = 0  # seed of everything random`."""

    name: str
    type: str
    default: object
    help: str = ""


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
        _check_value(name, value)
    if values.get("data", "atlas") not in EMBEDDED:
        values["data"] = str(Path(values["data"]).absolute())  # a lesson runs in its own folder
    return values


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
        raise BadInput(cause, field=TAG, remedy=f"Its default is {parameter.default!r}.")
    return value


def _read(text: str, kind: type):
    """`text` as a value of `kind` where it is one, else unchanged."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        return kind(text) if kind in (int, float) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check_value(name: str, value) -> None:
    """Refuse values of the common parameters that no lesson can use."""
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
