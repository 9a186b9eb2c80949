"""What a sweep is asked to do: a grid file or mapping, checked as a whole before anything runs.

    name: bottlenecks              # its folder: output/sweeps/bottlenecks/
    notebook: 2.1                  # lessons by number, or paths of notebooks ...
    detectors: [DAE, {class: "my_file.py:MyDetector", latent: [16, 64]}]    # ... or detectors
    data: [atlas]                  # atlas, stroke, or folders of prepare_folder
    seed: [0, 1, 2]
    profile: quick
    parameters: {steps: [100, 400]}    # of the notebook, or of the detectors' training

Every list spans the grid: each of its values is combined with all others. A value that is a list itself is written as
a list of lists. Relative paths start where the command is given; those of notebooks and classes also where the grid
file is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import yaml

from course_lib.errors import BadInput
from course_lib.lessons import parameters as lesson_parameters

MEASURE = "course_lib.benchmark:measure_run"  # the function of a detector run
KEYS = ("name", "notebook", "detectors", "data", "seed", "profile", "parameters")
COMMON = {"data": str, "seed": int, "profile": str}
DEFAULTS = {"data": "atlas", "seed": 0, "profile": "quick"}  # of detector runs; a notebook has its own
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,63}")
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass(frozen=True)
class Run:
    """One point of the grid.

    Attributes:
        id: readable and unique in its sweep; the name of its folder.
        kind: "notebook" or "detector".
        target: the notebook's path, or the detector as `measure_run` takes it.
        parameters: the notebook's, or keyword arguments of `measure_run`.
        columns: what tables show of it, as plain values by column.
        files: whose content counts when it is asked whether a finished run is still good.
    """

    id: str
    kind: str
    target: str | dict
    parameters: dict
    columns: dict
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid, in its order. `measure`: "module:function" or "file.py:function" of a detector run."""

    name: str
    runs: list[Run]
    measure: str = MEASURE


@dataclass
class _Grid:
    """A grid on its way: the mapping, and the file that it came from."""

    given: dict
    file: Path | None = None
    columns: dict = field(default_factory=dict)

    def refuse(self, key: str, cause: str, remedy: str = "") -> BadInput:
        """An error that names file and field."""
        return BadInput(cause, file=self.file, field=key, remedy=remedy)

    def axis(self, key: str, given: object) -> list:
        """The values of a field: a list as it is, anything else as the only value."""
        values = given if isinstance(given, list) else [given]
        if not values:
            raise self.refuse(key, "the list is empty.", "Give at least one value, or leave the field out.")
        for value in values:
            self.check_plain(key, value)
        texts = [json.dumps(value, sort_keys=True) for value in values]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise self.refuse(key, f"{twice} is there twice.", "Each value of a list makes runs of its own.")
        return values

    def check_plain(self, key: str, value: object) -> None:
        """Refuse what YAML makes of slips: `1e-3` is text there, an empty value is None, 2026-01-01 a date."""
        if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
            mantissa, exponent = re.split("[eE]", value)
            number = mantissa if "." in mantissa else mantissa + ".0"
            sign = exponent if exponent[0] in "+-" else f"+{exponent}"
            raise self.refuse(key, f"YAML reads {value} as text.", f"Write {number}e{sign}.")
        if isinstance(value, (list, dict)):
            for part in value.values() if isinstance(value, dict) else value:
                self.check_plain(key, part)
        elif not isinstance(value, (str, int, float, bool)):
            raise self.refuse(key, f"{value!r} is neither a number nor text.", "Give a value.")

    def locate(self, key: str, path: str) -> Path:
        """The absolute path of a file, looked for where the command is given and where the grid file is."""
        for folder in [Path.cwd(), *([self.file.parent] if self.file else [])]:
            if (folder / path).exists():
                return (folder / path).resolve()
        raise self.refuse(key, f"there is no {path}.", "Relative paths start where the command is given.")


def read_grid(grid: Mapping | str | Path, measure: str = MEASURE) -> Sweep:
    """Read and check a grid.

    Args:
        grid: a mapping, or the path of a YAML file.
        measure: the function of detector runs.

    Raises:
        BadInput: file and field at fault, in one sentence.
    """
    if isinstance(grid, Mapping):
        checked = _Grid(_plain(dict(grid)))
    else:
        checked = _Grid(_load(Path(grid)), Path(grid))
    unknown = [key for key in checked.given if key not in KEYS]
    if unknown:
        raise checked.refuse(str(unknown[0]), "there is no such field in a grid.", f"There are: {', '.join(KEYS)}.")
    name = checked.given.get("name", checked.file.stem if checked.file else None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise checked.refuse("name", f"{name!r} is no name for a folder.", "Use letters, digits, spaces, _ . and -.")
    if ("notebook" in checked.given) == ("detectors" in checked.given):
        raise checked.refuse("notebook", "a grid has either notebook or detectors.", "Name one of the two.")
    own = checked.given.get("parameters", {})
    if not isinstance(own, dict) or any(not isinstance(key, str) for key in own):
        raise checked.refuse("parameters", "parameters maps names to values.", "Write it as {steps: [100, 400]}.")
    for key in set(own) & set(COMMON):
        raise checked.refuse(f"parameters.{key}", "this is a field of the grid itself.", f"Write {key}: beside name:.")
    place, _, function = measure.rpartition(":")
    if place.endswith(".py"):
        measure = f"{checked.locate('measure', place)}:{function}"  # workers may have another current folder
    runs = list(_notebook_runs(checked) if "notebook" in checked.given else _detector_runs(checked, measure))
    return Sweep(name, runs, measure)


class _Loader(yaml.SafeLoader):
    """YAML without a key that is there twice, of which the last would win in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for place, key in enumerate(keys) if key in keys[:place]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> dict:
    try:
        grid = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader: plain values only
    except OSError as error:
        raise BadInput(f"this grid cannot be read ({error.strerror}).", file=path) from error
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise BadInput(f"this is no YAML: {' '.join(str(error).split())}.", file=path) from error
    if not isinstance(grid, dict):
        raise BadInput("a grid maps fields to values.", file=path, remedy=f"The fields are {', '.join(KEYS)}.")
    return grid


def _plain(value):
    """A mapping from Python with lists for tuples and text for paths, as YAML would have it."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _axes(grid: _Grid, own: dict, defaults: Mapping = {}) -> dict[str, list]:
    """The values of data, seed and profile (those that are given, or have a default) and of the own parameters."""
    axes = {}
    for key, kind in COMMON.items():
        if key not in grid.given and key not in defaults:
            continue
        axes[key] = grid.axis(key, grid.given.get(key, defaults.get(key)))
        for value in axes[key]:
            if type(value) is not kind:
                raise grid.refuse(key, f"{key} wants {kind.__name__}, not {value!r}.")
            try:
                lesson_parameters.check_value(key, value)
            except BadInput as error:
                raise grid.refuse(key, error.cause, error.remedy) from error
    return axes | {key: grid.axis(f"parameters.{key}", value) for key, value in own.items()}


def _points(axes: dict[str, list]) -> Iterator[dict]:
    """Every combination of the axes' values, the last axis fastest."""
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _notebook_runs(grid: _Grid) -> Iterator[Run]:
    from course_lib.lessons.run import read_notebook

    axes = _axes(grid, grid.given.get("parameters", {}))
    found = [_find_notebook(grid, wanted) for wanted in grid.axis("notebook", grid.given["notebook"])]
    _check_unique(grid, "notebook", [label for label, _ in found])
    for label, path in found:
        known = lesson_parameters.declared(read_notebook(path))
        for point in _points(axes):
            values = _check_point(grid, point, known)
            columns = {"notebook": label} | point
            yield Run(_id(label, point, axes, columns), "notebook", str(path), values, columns, (str(path),))


def _find_notebook(grid: _Grid, wanted: object) -> tuple[str, Path]:
    """What a notebook is called in tables, and its path."""
    from course_lib.lessons.catalog import lessons

    if isinstance(wanted, str) and wanted.endswith(".ipynb"):
        path = grid.locate("notebook", wanted)
        return path.stem, path
    if isinstance(wanted, bool) or not isinstance(wanted, (str, int, float)):
        raise grid.refuse("notebook", f"notebook is a lesson's number or a path, not {wanted!r}.")
    try:
        found = lessons(only=[str(wanted)])
    except BadInput as error:
        raise grid.refuse("notebook", error.cause, error.remedy) from error
    if len(found) > 1:
        raise grid.refuse("notebook", f"{wanted} is a part of the course.", "Name lessons, such as 2.1.")
    if not found[0].notebook.exists():
        raise grid.refuse("notebook", f"lesson {wanted} is not built.", "Run `make notebooks`.")
    return found[0].number, found[0].notebook


def _check_point(grid: _Grid, point: dict, known: dict) -> dict:
    """A point's values in the types that the notebook declares."""
    for key, value in point.items():
        name = key if key in COMMON else f"parameters.{key}"
        if key not in known:
            raise grid.refuse(name, f"the notebook has no parameter {key}.", f"There are: {', '.join(known)}.")
        kind = known[key].type.partition("[")[0]
        if kind == "list" and not isinstance(value, list):
            raise grid.refuse(name, f"{key} wants a list, not {value!r}.", "Lists span the grid: write [[1, 2]].")
        try:
            lesson_parameters.check({key: value}, known)
        except BadInput as error:
            raise grid.refuse(name, error.cause, error.remedy) from error
    return lesson_parameters.check(point, known)


def _detector_runs(grid: _Grid, measure: str) -> Iterator[Run]:
    taken = _keywords(grid, measure)
    axes = _axes(grid, grid.given.get("parameters", {}), DEFAULTS)
    files = (measure.rpartition(":")[0],) if measure.rpartition(":")[0].endswith(".py") else ()
    found = list(_detectors(grid))
    _check_unique(grid, "detectors", [label for label, *_ in found])
    for label, detector, arguments, own in found:
        for point in _points(axes):
            passed = {key: value for key, value in point.items() if key in taken}
            rest = {key: value for key, value in point.items() if key not in taken}
            _check_rest(grid, label, detector, rest, taken)
            target = detector if isinstance(detector, str) else detector | rest
            _check_detector(grid, measure, target)
            passed["data"] = _absolute(passed["data"])
            columns = {"detector": label} | point | {key: arguments[key] for key in arguments if key not in point}
            yield Run(_id(label, point, axes, columns), "detector", target, passed, columns, (*files, *own))


def _absolute(data: str) -> str:
    return data if data in lesson_parameters.EMBEDDED else str(Path(data).absolute())


def _keywords(grid: _Grid, measure: str) -> set[str]:
    """The keyword arguments of the function of a detector run."""
    import inspect

    from course_lib.references import load

    try:
        return set(inspect.signature(load(measure)).parameters) - {"detector"}
    except BadInput as error:
        raise grid.refuse("detectors", error.cause, error.remedy) from error


def _check_rest(grid: _Grid, label: str, detector: str | dict, rest: dict, taken: set[str]) -> None:
    """Parameters that are none of the function's are arguments, or the budget, of a detector given by its class."""
    for key in rest:
        if isinstance(detector, str):
            known = ", ".join(sorted(taken - set(COMMON)))
            cause = f"{label} is trained with its own budget and takes no {key}."
            raise grid.refuse(f"parameters.{key}", cause, f"There are: {known}. A detector given by class takes more.")
        if key in detector:
            cause = f"{key} is given here and with the detector {label}."
            raise grid.refuse(f"parameters.{key}", cause, "Keep one of them.")


def _check_detector(grid: _Grid, measure: str, detector: str | dict) -> None:
    if measure != MEASURE:
        return
    from course_lib.benchmark import check_detector

    try:
        check_detector(detector)
    except BadInput as error:
        raise grid.refuse("detectors", error.cause, error.remedy) from error


def _detectors(grid: _Grid) -> Iterator[tuple[str, str | dict, dict, tuple[str, ...]]]:
    """For each detector and each point of its own lists: label, what `measure_run` gets, arguments, file."""
    for entry in grid.axis("detectors", grid.given["detectors"]):
        if isinstance(entry, str) and ":" not in entry:
            yield entry, entry, {}, ()
            continue
        entry = {"class": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("class"), str) or ":" not in entry["class"]:
            remedy = "Give a name, or {class: 'file.py:MyDetector', ...} or 'module:Class' with the class's arguments."
            raise grid.refuse("detectors", f"{entry!r} is no detector.", remedy)
        reference, own = _reference(grid, entry["class"])
        name = entry.get("name", reference.rpartition(":")[2])
        if not isinstance(name, str):
            raise grid.refuse("detectors", f"name wants text, not {name!r}.")
        lists = {key: value for key, value in entry.items() if key not in ("class", "name")}
        axes = {key: grid.axis(f"detectors.{key}", value) for key, value in lists.items()}
        for point in _points(axes):
            varied = [f"{key} {value}" for key, value in point.items() if len(axes[key]) > 1]
            label = ", ".join([name, *varied])
            yield label, {"class": reference, "name": label} | point, point, own


def _reference(grid: _Grid, text: str) -> tuple[str, tuple[str, ...]]:
    """A class's reference with the absolute path of its file, and the file."""
    place, _, name = text.rpartition(":")
    if not place.endswith(".py"):
        return text, ()
    path = str(grid.locate("detectors", place))
    return f"{path}:{name}", (path,)


def _id(label: str, point: dict, axes: dict[str, list], columns: dict) -> str:
    """The label, what varies, and twelve digits of a digest of all that was asked for."""
    varied = [f"{key}={value}" for key, value in point.items() if len(axes.get(key, ())) > 1]
    digest = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()[:12]
    text = "_".join(re.sub(r"[^A-Za-z0-9.=+-]+", "-", part).strip("-") for part in [label, *varied])
    return f"{text[:80]}_{digest}"


def _check_unique(grid: _Grid, kind: str, labels: list[str]) -> None:
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise grid.refuse(kind, f"two of them are called {twice}.", "Give them names that differ.")
