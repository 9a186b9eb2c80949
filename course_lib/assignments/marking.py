"""Mark one submission: the student's cells run in a sandbox, the graded cells here.

A graded cell runs in a fresh namespace. It imports what it needs; every other name in it is the student's, fetched
from the sandbox as a plain value or as a handle. It passes if it raises nothing.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import json
import signal
import symtable
import time
import traceback
import warnings
from pathlib import Path

import nbformat

from course_lib.assignments import submission
from course_lib.assignments.agent import CUT
from course_lib.assignments.limits import Limits
from course_lib.assignments.proxy import Remote, StudentGone
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.assignments.source import HIDDEN, Assignment, is_test, regions
from course_lib.assignments.student import Nursery, StudentProcess
from course_lib.errors import BadInput
from course_lib.files import atomic_write

LONGEST = 2000  # characters of a message
_HERE = "<graded cell>"


def mark(job: dict, nursery: Nursery | None) -> dict:
    """Mark one submission and write `<result>.json` and the executed notebook `<result>.ipynb`.

    Args:
        job: `source`, `notebook`, `folder` (where the notebook has to lie), `result` (path without suffix),
            `limits`, `hidden` (more folders that no student may see), and what shall be repeated in the result
            (`student`, `assignment`, `digest`).
        nursery: where sandboxes are forked, made before this; None to run without a sandbox.

    Returns:
        What was written as JSON.
    """
    begin = time.monotonic()
    assignment = Assignment(Path(job["source"]))
    result = {key: job.get(key, "") for key in ("student", "assignment", "digest")}
    result |= {"status": "ok", "sandbox": nursery is not None, "notes": [], "tests": {}, "answers": {}}
    try:
        plan = _plan(assignment, job, result)
        if plan is not None:
            hidden = [str(assignment.path.parent), job["folder"], *job.get("hidden", ())]
            Session(assignment, plan, Limits(**job["limits"]), nursery, hidden).mark(result)
            with atomic_write(Path(job["result"] + ".ipynb")) as part:
                part.write_bytes(nbformat.writes(plan.notebook).encode("utf-8", "replace"))
    except SandboxUnavailable:
        raise
    except Exception as error:  # a fault of the grader's own: the lecturer reads of it, and the next run tries again
        result |= {"status": "not marked", "digest": "", "tests": {}, "answers": {}}
        result["notes"] = [f"the grader failed: {type(error).__name__}: {str(error)[:500]}"]
    for key, cell in assignment.cells.items():
        if is_test(cell):
            result["tests"].setdefault(key, {"points": 0.0, "message": "there is nothing to mark"})
    for key, points in assignment.points.items():
        where = result["tests"] if key in result["tests"] else result["answers"]
        where.setdefault(key, {"text": "", "changed": False})["max"] = points
    result["seconds"] = round(time.monotonic() - begin, 2)
    with atomic_write(Path(job["result"] + ".json")) as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _plan(assignment: Assignment, job: dict, result: dict) -> submission.Plan | None:
    """What is to be run; None if the student's file cannot be read. A full disk is not that file's fault."""
    try:
        return submission.plan(assignment, submission.read(Path(job["notebook"]), Path(job["folder"])))
    except BadInput as error:
        result |= {"status": "unreadable", "notes": [str(error)]}
        Path(job["result"] + ".ipynb").unlink(missing_ok=True)
        return None


class Session:
    """The marking of one submission; starts the student's process again if it dies."""

    def __init__(self, assignment: Assignment, plan: submission.Plan, limits: Limits, nursery, hidden: list[str]):
        self.assignment, self.plan, self.limits = assignment, plan, limits
        self.nursery, self.hidden = nursery, hidden
        self.deadline = time.monotonic() + limits.total_seconds
        self.left_out: dict[int, str] = {}  # cells that ended their process, and how
        self.starts, self.process, self.remote = 0, None, None

    def mark(self, result: dict) -> None:
        """Run everything and fill in the result."""
        try:
            for key, cell in self.assignment.cells.items():
                if is_test(cell):
                    result["tests"][key] = self._test(cell)
        finally:
            self._close()
        result["answers"] = {key: {"text": text, "changed": new} for key, (text, new) in self.plan.answers.items()}
        result["notes"] += self.plan.notes
        result["notes"] += [f"cell {index + 1} is left out: {why}" for index, why in sorted(self.left_out.items())]
        if time.monotonic() > self.deadline:
            result["status"] = "out of time"

    def _test(self, cell) -> dict:
        points = float(cell["metadata"]["nbgrader"]["points"])
        failed = {"points": 0.0, "message": f"all {self.limits.total_seconds:g} seconds were used up before this check"}
        if time.monotonic() > self.deadline:
            return failed
        if self.remote is None or self.remote.gone:
            try:
                self._start()
            except StudentGone as error:
                return failed | {"message": str(error)}
        found = check(cell["source"], self.remote, self.limits.cell_seconds)
        if self.remote.gone and (why := self.process.last_words()):
            found["message"] = f"your code ended its process: {why}"
        return {"points": 0.0 if found else points, **found}

    def _start(self) -> None:
        """Run the student's cells in a new process; a cell that ends it is left out, and it starts again."""
        while True:
            self._close()
            if self.starts > self.limits.restarts:
                raise StudentGone("your code ended its process too often")
            self.starts += 1
            self.process = StudentProcess(self.limits, self.nursery, self.hidden)
            for index in self.plan.run:
                if index not in self.left_out and not self._run(index):
                    break
            else:
                self.remote = self.process.serve()
                return

    def _run(self, index: int) -> bool:
        """Run one cell and keep its outputs; False if the process ended."""
        cell = self.plan.notebook.cells[index]
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise StudentGone(f"all {self.limits.total_seconds:g} seconds were used up")
        seconds = min(self.limits.cell_seconds, left)
        try:
            answer = self.process.run(cell["source"], seconds)
        except StudentGone as error:
            self.left_out[index] = str(error)
            cell["outputs"] = [_note(f"This cell ended its process: {error}. It is left out.")]
            return False
        cell["outputs"] = _outputs(answer)
        cell["execution_count"] = answer.get("count") if type(answer.get("count")) is int else None
        if answer["status"] == "timeout":
            cell["outputs"].append(_note(f"Stopped after {seconds:g} seconds."))
        if answer.get("cut"):
            cell["outputs"].append(_note(CUT))
        return True

    def _close(self) -> None:
        if self.process is not None:
            self.process.close()
        self.process = self.remote = None


def check(source: str, remote: Remote, seconds: float) -> dict:
    """Run a graded cell. Empty if it passes, else `message`, `hidden`, and the failing line if a student may see it."""
    remote.restart_clock()
    space = {"__name__": "__main__", "__builtins__": builtins}
    try:
        with _alarm(2 * seconds), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            for name in free_names(source):
                with contextlib.suppress(NameError):
                    space[name] = remote.ask("get", name=name)
            exec(compile(source, _HERE, "exec"), space)  # the course's own text, never a student's
    except (Exception, SystemExit) as error:
        return _failure(source, error)
    return {}


def _failure(source: str, error: BaseException) -> dict:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _HERE]
    line = lines[0] if lines else 0
    kind = type(error).__name__
    text = str(error)[:LONGEST]
    if isinstance(error, AssertionError):
        message = text or "a check failed"
    else:
        message = text if isinstance(error, StudentGone) else f"{kind}: {text}" if text else kind
    hidden = bool(line) and HIDDEN in regions(source)[line - 1][1]
    return {"message": message, "hidden": hidden, "line": "" if hidden or not line else _statement(source, line)}


def _statement(source: str, line: int) -> str:
    """The top-level statement that a line is in."""
    for node in ast.parse(source).body:
        if node.lineno <= line <= node.end_lineno:
            return "\n".join(
                each for each, kind in regions(source)[node.lineno - 1 : node.end_lineno] if HIDDEN not in kind
            )
    return ""


def free_names(source: str) -> list[str]:
    """The names of a graded cell that it neither binds nor imports, and that are not builtin."""
    table = symtable.symtable(source, _HERE, "exec")
    bound = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: set[str] = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    below = list(table.get_children())
    while below:
        inner = below.pop()
        below += inner.get_children()
        outer = [symbol for symbol in inner.get_symbols() if symbol.is_global()]
        used |= {symbol.get_name() for symbol in outer}
        bound |= {symbol.get_name() for symbol in outer if symbol.is_assigned()}  # `global x`, or := in a list
    return sorted(name for name in used - bound if not hasattr(builtins, name) and name != "__name__")


@contextlib.contextmanager
def _alarm(seconds: float):
    """Raise TimeoutError in the grader's own code, should a check never end."""

    def ring(*_):
        raise TimeoutError("this check takes too long with your code")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _note(text: str):
    return nbformat.v4.new_output("stream", name="stderr", text=f"[{text}]\n")


def _outputs(answer: dict) -> list:
    """A cell's outputs, those that are well formed."""
    made = []
    for output in answer.get("outputs", []):
        try:
            kind = output.pop("output_type")
            output = nbformat.v4.new_output(kind, **output)
            nbformat.validate(output, ref=kind, version=4)
        except Exception:  # the student's process may send anything
            continue
        made.append(output)
    return made
