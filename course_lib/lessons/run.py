"""Run one lesson with parameters: `python -m course_lib.lessons.run 2.1 -p profile quick -p seed 3`.

papermill does the work. Around it: typed parameters, a time limit a cell, sockets that no other run shares, one more
try when a kernel does not start, and errors that hide in widgets turned into failures.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.errors import BadInput
from course_lib.files import output_folder
from course_lib.lessons import parameters
from course_lib.lessons.catalog import lessons
from course_lib.lessons.outputs import drop_viewer_code, find_errors

# Seconds that one cell may take, also beside another lesson on a slow machine; `full` is for long runs.
CELL_SECONDS = {"quick": 600, "standard": 900, "full": 86_400}
START_SECONDS = 120  # for a kernel, on a busy machine
START_TRIES = 2
DRIVE = "from course_lib.widgets.driver import drive_all\n\nprint(drive_all())"  # the cell that moves every control


class LessonFailed(RuntimeError):
    """A lesson did not run to its end; the message names the cell and the cause, `notebook` the partial result."""

    def __init__(self, message: str, notebook: Path | None = None):
        self.notebook = notebook
        super().__init__(message + (f"\nThe notebook as far as it got: {notebook}" if notebook else ""))


def run(
    source: Path,
    target: Path,
    given: Mapping[str, object] | None = None,
    *,
    cell_seconds: float | None = None,
    on_cell: Callable[[int, NotebookNode], None] | None = None,
    drive: bool = False,
) -> NotebookNode:
    """Execute the notebook `source` with the given parameters and write it to `target`.

    `target` appears only when the whole run went well. What a failed run left is beside it, as `*.failed.ipynb`.

    Args:
        source: a notebook with a cell tagged "parameters".
        target: where the executed notebook goes.
        given: values that replace the declared ones.
        cell_seconds: time limit of a cell; by default that of the profile.
        on_cell: called with the index of each cell, and the cell, before it runs.
        drive: move every control of every explorer at the end, so that what a click would break fails now.

    Returns:
        The executed notebook.

    Raises:
        BadInput: the parameters or the notebook cannot be used; nothing was run.
        LessonFailed: an error, also inside a widget, a time limit, or a kernel that died.
    """
    notebook = read_notebook(source)
    known = parameters.declared(notebook)
    values = parameters.check(given or {}, known)
    profile = values.get("profile", known["profile"].default if "profile" in known else "standard")
    seconds = cell_seconds or CELL_SECONDS[profile]
    target.parent.mkdir(parents=True, exist_ok=True)
    target = target.absolute()
    failed, part = target.with_suffix(".failed.ipynb"), target.with_suffix(".running.ipynb")
    failed.unlink(missing_ok=True)
    try:
        executed = _execute(source, part, values, seconds, on_cell, drive)
        problems = find_errors(executed)
        if drop_viewer_code(executed):
            nbformat.write(executed, part)
    except Exception as error:  # papermill, nbclient and zmq raise a dozen types; each means that the lesson failed
        if part.exists():
            part.replace(failed)
        raise LessonFailed(f"{source.name}: {_explain(error, seconds)}", failed if failed.exists() else None) from error
    part.replace(failed if problems else target)
    if problems:
        raise LessonFailed(f"{source.name}: {problems[0]}", failed)
    return executed


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    try:
        return nbformat.read(path, 4)
    except FileNotFoundError:
        raise BadInput("this lesson is not built.", file=path, remedy="Run `make notebooks`.") from None
    except Exception as error:  # nbformat raises its own types, json's and jsonschema's
        raise BadInput(f"this is no notebook ({error}).", file=path) from error


def _execute(source: Path, part: Path, values: dict, seconds: float, on_cell, drive: bool) -> NotebookNode:
    import papermill  # 1.4 s, and only needed here
    from nbclient.exceptions import CellTimeoutError

    for attempt in range(1, START_TRIES + 1):
        with tempfile.TemporaryDirectory(prefix="lesson-", ignore_cleanup_errors=True) as folder:
            before = _children_seconds()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the libraries' own; a lesson's warnings are in its outputs
                    return papermill.execute_notebook(
                        str(_with_driver(source, Path(folder)) if drive else source.absolute()),
                        str(part),
                        parameters=values,
                        kernel_name="python3",
                        progress_bar=False,
                        start_timeout=START_SECONDS,
                        execution_timeout=seconds,
                        shutdown_kernel="immediate",  # a polite shutdown with torch takes seconds
                        cwd=str(source.parent),
                        config=kernel_config(folder),
                        **_hook(on_cell),
                    )
            except CellTimeoutError:
                # Rarely the kernel's last word gets lost, and the client waits for an idle kernel: run once more.
                idle = os.name == "posix" and _children_seconds() - before < 0.25 * seconds
                if not idle or attempt == START_TRIES:
                    raise
            except RuntimeError as error:
                if "kernel_info" not in str(error) or attempt == START_TRIES:
                    raise
    raise AssertionError("unreachable")


def _with_driver(source: Path, folder: Path) -> Path:
    """A copy of the notebook whose last cell moves every control."""
    notebook = read_notebook(source)
    notebook.cells.append(nbformat.v4.new_code_cell(DRIVE))
    copy = folder / source.name
    nbformat.write(notebook, copy)
    return copy


def _children_seconds() -> float:
    """CPU seconds of the kernels that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def kernel_config(folder: str):
    """Settings for a kernel's connection: sockets in a folder of this run's own.

    TCP ports are chosen by the client and can be taken before the kernel opens them; the default socket's name is
    shared by all runs in one folder.
    """
    from traitlets.config import Config

    config = Config()
    if os.name == "posix":
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = f"{folder}/k"
    return config


def _hook(on_cell) -> dict:
    if on_cell is None:
        return {}
    return {"on_cell_start": lambda cell, cell_index: on_cell(cell_index, cell)}


def _explain(error: Exception, seconds: float) -> str:
    """What went wrong, in words."""
    name = type(error).__name__
    if name == "PapermillExecutionError":
        return f"cell {error.cell_index}: {error.ename}: {error.evalue}"
    if name == "CellTimeoutError":
        return f"a cell took longer than {seconds:g} seconds."
    if name == "DeadKernelError":
        return "the kernel died, as it does when the memory is used up."
    return f"{name}: {error}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run one lesson with parameters.")
    parser.add_argument("lesson", help="a number such as 2.1, or the path of a notebook")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    parser.add_argument("-f", type=Path, metavar="FILE", help="a YAML file of parameters; -p wins over it")
    parser.add_argument("--output", type=Path, help="the executed notebook (default: output/runs/)")
    parser.add_argument("--list", action="store_true", help="show the lesson's parameters and stop")
    arguments = parser.parse_args()
    try:
        source = _find(arguments.lesson)
        if arguments.list:
            for known in parameters.declared(read_notebook(source)).values():
                print(f"{known.name}: {known.type} = {known.default!r}  {known.help}")
            return
        target = arguments.output or output_folder() / "runs" / source.name
        run(source, target, _read_yaml(arguments.f) | dict(arguments.p), on_cell=_tell)
    except (BadInput, LessonFailed) as error:
        sys.exit(f"{error}")
    print(target)


def _tell(index: int, cell: NotebookNode) -> None:
    if cell["cell_type"] == "code" and cell["source"].strip():
        print(f"cell {index}: {cell['source'].strip().splitlines()[0][:90]}", flush=True)


def _find(lesson: str) -> Path:
    return Path(lesson) if lesson.endswith(".ipynb") else lessons(only=[lesson])[0].notebook


def _read_yaml(path: Path | None) -> dict:
    import yaml

    if path is None:
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BadInput("this parameter file cannot be read.", file=path, remedy=str(error)) from error
    if not isinstance(values, dict):
        raise BadInput("a parameter file maps names to values.", file=path)
    return values


if __name__ == "__main__":
    main()
