"""Grade a folder of submissions: in parallel, in sandboxes, and going on where it was stopped.

The folder holds `submitted/<student>/<assignment>/<assignment>.ipynb`, as nbgrader has it, or files whose names hold
the assignment's name, such as `ada_1_metrics.ipynb`. What is written there: `graded/<student>/<assignment>.json` and
`.ipynb` (as it was run), `marks.csv`, and `manual.csv` for the points that a person gives.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from course_lib.assignments import sandbox, tables
from course_lib.assignments.foreman import work
from course_lib.assignments.limits import Limits
from course_lib.assignments.sandbox import SandboxUnavailable
from course_lib.assignments.source import Assignment, is_test
from course_lib.assignments.submission import content
from course_lib.errors import BadInput
from course_lib.files import atomic_write, inside

_HARMLESS = {"numpy", "scipy", "sklearn", "torch", "pandas", "matplotlib", "course_lib"}  # what is imported ahead


@dataclass(frozen=True)
class Submission:
    """One notebook that was handed in."""

    student: str
    assignment: Assignment
    path: Path

    def result(self, folder: Path) -> Path:
        """Where its result goes, without suffix."""
        return folder / "graded" / self.student / self.assignment.name


def grade(
    folder: Path,
    known: list[Assignment],
    *,
    chosen: list[Assignment] | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    sandboxed: bool = True,
    force: bool = False,
    tell: Callable[[str], None] = print,
) -> list[dict]:
    """Mark what is new in a folder, and write `marks.csv` and `manual.csv`; returns all results.

    A submission whose notebook, source, limits and grader are the same as last time is not marked again.

    Args:
        folder: with the submissions.
        known: all assignments that may have been handed in there.
        chosen: those to mark now, by default all; of the others the tables keep what was marked before.
        workers, limits, sandboxed: see `mark_all`.
        force: mark again what is the same.
        tell: called with each line of a report.

    Raises:
        BadInput: there is no submission, `manual.csv` cannot be used, or `workers` is less than 1.
        SandboxUnavailable: this computer has no namespaces for us, and `sandboxed` is True.
    """
    folder, limits, workers = Path(folder), limits or Limits(), _workers(workers)
    chosen = known if chosen is None else chosen
    found = submissions(folder, chosen, known)
    manual = tables.read_manual(folder, known)  # before hours of work
    jobs = [job for each in found if (job := _job(each, folder, limits, sandboxed, force, tell))]
    for path in strays(folder, known):
        tell(f"left aside, for it is no <student>/<assignment>/ of ours: {path}")
    tell(f"{len(found)} submissions, {len(jobs)} to mark")
    if jobs:
        mark_all(jobs, workers=workers, limits=limits, sandboxed=sandboxed, on_result=lambda one: tell(_line(one)))
    results = [load(each.result(folder)) or _lost(each) for each in found]
    results += marked_before(folder, [each for each in known if each not in chosen], tell)
    tables.write_manual(folder, known, results, manual)
    tables.write_marks(folder, known, results, manual)
    return results


def _job(each: Submission, folder: Path, limits: Limits, sandboxed: bool, force: bool, tell: Callable) -> dict | None:
    """What has to be done for a submission; None if it is done, or there is nothing to do."""
    stem = each.result(folder)
    inside(folder, stem)
    job = {"source": each.assignment.path, "notebook": each.path, "folder": folder, "result": stem}
    job |= {"student": each.student, "assignment": each.assignment.name}
    try:
        job["digest"] = _digest(each, folder, limits, sandboxed)
    except BadInput as error:
        tell(_line(unreadable(job, error)))
        return None
    return job if force or load(stem).get("digest") != job["digest"] else None


def submissions(folder: Path, chosen: list[Assignment], known: Iterable[Assignment] = ()) -> list[Submission]:
    """The notebooks of a folder, by student and assignment.

    Args:
        folder: with the submissions.
        chosen: the assignments that are wanted.
        known: all assignments: a file that is named after another of them is left out.

    Raises:
        BadInput: there is none, or it cannot be told which assignment a file is.
    """
    if (folder / "submitted").is_dir():
        names = {each.name: each for each in chosen}
        places = sorted((folder / "submitted").glob("*/*/"))
        found = [Submission(p.parent.name, names[p.name], _notebook(p)) for p in places if p.name in names]
    else:
        files = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
        found = [_by_name(path, chosen) for path in files if not _is_another(path, chosen, known)]
    if not found:
        remedy = (
            "Put notebooks there: submitted/<student>/<assignment>/<assignment>.ipynb, or <student>_<assignment>.ipynb."
        )
        raise BadInput("there is no submission.", file=folder, remedy=remedy)
    taken = set()
    for index, each in enumerate(found):
        if (each.student, each.assignment.name) in taken:  # two files of one student: both are marked
            found[index] = Submission(each.path.stem, each.assignment, each.path)
        taken.add((found[index].student, each.assignment.name))
    return found


def strays(folder: Path, known: list[Assignment]) -> list[Path]:
    """What lies in `submitted/` and is no folder of an assignment: a misspelt name, a file in the wrong place."""
    names = {each.name for each in known}
    top = sorted((folder / "submitted").glob("*")) if (folder / "submitted").is_dir() else []
    empty = [path for path in top if not (path.is_dir() and any(path.iterdir()))]
    return empty + [p for student in top if student.is_dir() for p in sorted(student.iterdir()) if p.name not in names]


def _notebook(place: Path) -> Path:
    """The notebook in an assignment's folder: of the right name, else the only one."""
    right = place / f"{place.name}.ipynb"
    others = [path for path in place.glob("*.ipynb") if not path.name.startswith(".")]
    return others[0] if len(others) == 1 else right


def _is_another(path: Path, chosen: Iterable[Assignment], known: Iterable[Assignment]) -> bool:
    """Whether a file's name holds the name of an assignment, and of none that is chosen."""
    return not _named(path, chosen) and bool(_named(path, known))


def _named(path: Path, among: Iterable[Assignment]) -> list[Assignment]:
    return [each for each in among if each.name in path.stem]


def _by_name(path: Path, known: list[Assignment]) -> Submission:
    matching = _named(path, known) or (known if len(known) == 1 else [])
    if len(matching) != 1:
        names = ", ".join(each.name for each in known)
        remedy = f"Rename it to <student>_<assignment>.ipynb, or choose one with --only. The assignments: {names}."
        raise BadInput("which assignment is this?", file=path, remedy=remedy)
    student = path.stem.replace(matching[0].name, "").strip("_-. ")
    return Submission(student or path.stem, matching[0], path)


def _digest(each: Submission, folder: Path, limits: Limits, sandboxed: bool) -> str:
    """Of all that decides over the marks.

    Raises:
        BadInput: there is no file that could be marked.
    """
    digest = hashlib.sha256(json.dumps([limits.plain(), sandboxed, _own_digest()]).encode())
    digest.update(each.assignment.path.read_bytes())
    digest.update(content(each.path, folder))
    return digest.hexdigest()


@cache
def _own_digest() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def load(stem: Path) -> dict:
    """A result that was written before; empty if there is none, or half of one."""
    try:
        found = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "tests" in found else {}


def marked_before(folder: Path, others: list[Assignment], tell: Callable[[str], None]) -> list[dict]:
    """The results of other assignments that are there already, if they fit the source as it is now."""
    found = []
    for each in others:
        for stem in sorted(student / each.name for student in (folder / "graded").glob("*/")):
            result = load(stem)
            if result and {*result["tests"], *result["answers"]} != set(each.points):
                tell(f"not in the tables, for {each.name} has changed since: {result['student']}")
            elif result:
                found.append(result)
    return found


def unreadable(job: dict, why: BadInput) -> dict:
    """Write and return the result of what is no notebook: nothing is marked, and the lecturer reads why."""
    result = _unmarked(job, str(why)) | {"status": "unreadable"}
    stem = Path(job["result"])
    stem.with_name(stem.name + ".ipynb").unlink(missing_ok=True)
    with atomic_write(stem.with_name(stem.name + ".json")) as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _lost(each: Submission) -> dict:
    job = {"source": each.assignment.path, "student": each.student, "assignment": each.assignment.name}
    return _unmarked(job, "the grader did not come to it")


def _line(result: dict) -> str:
    points = sum(test["points"] for test in result["tests"].values())
    most = sum(test["max"] for test in result["tests"].values())
    return f"{result['student']} {result['assignment']}: {points:g} of {most:g}, {result['status']}"


def mark_all(
    jobs: list[dict],
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    sandboxed: bool = True,
    on_result: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Mark notebooks, several at a time.

    Args:
        jobs: for each `source` (the assignment's .py), `notebook`, `folder` (in which the notebook must lie),
            `result` (path without suffix: `.json` and the executed `.ipynb` are written there); also `student`,
            `assignment` and `digest`, which are repeated in the result.
        workers: how many at a time; by default one a core.
        limits: what a submission may use.
        sandboxed: False runs them without namespaces, see `student`.
        on_result: called with each result as it comes.

    Returns:
        The results in the order of the jobs: `status`, `notes`, `seconds`, `tests` (by grade_id: `points`, `max` and,
        if it failed, `message`, `hidden`, `line`) and `answers` (by grade_id: `text`, `changed`, `max`).

    Raises:
        BadInput: `workers` is less than 1.
        SandboxUnavailable: this computer has no namespaces for us, and `sandboxed` is True.
    """
    workers = _workers(workers)
    if sandboxed and (why := sandbox.unavailable()):  # before any earlier result is removed
        raise SandboxUnavailable(why.rstrip("."))
    limits = (limits or Limits()).plain()
    paths = ("source", "notebook", "folder", "result")
    jobs = [job | {key: os.path.abspath(job[key]) for key in paths} for job in jobs]
    for job in jobs:
        Path(job["result"]).parent.mkdir(parents=True, exist_ok=True)
        Path(job["result"] + ".json").unlink(missing_ok=True)
    # The graders' environment is a clean one: they would not know where the lecturer keeps data.
    sent = [job | {"limits": limits, "unsandboxed": not sandboxed, "hidden": sandbox.own_folders()} for job in jobs]
    found: dict[int, dict] = {}
    for index, wrong in work(sent, workers, _imports({job["source"] for job in jobs})):
        found[index] = _result(jobs[index], wrong)
        if on_result:
            on_result(found[index])
    return [found[index] for index in range(len(jobs))]


def _workers(asked: int | None) -> int:
    """How many submissions are marked at a time.

    Raises:
        BadInput: fewer than one.
    """
    if asked is not None and asked < 1:
        raise BadInput(f"workers is 1 or more, not {asked}.", field="workers")
    return asked or os.cpu_count() or 1


def _result(job: dict, wrong: str) -> dict:
    return load(Path(job["result"])) or _unmarked(job, wrong or "the grader wrote nothing")


def _unmarked(job: dict, why: str) -> dict:
    """The result of a submission that could not be marked; it is tried again the next time."""
    assignment, failed = Assignment(Path(job["source"])), {"points": 0.0, "message": "not marked"}
    about = {key: str(job.get(key, "")) for key in ("student", "assignment")} | {"digest": "", "seconds": 0.0}
    tests = {key: failed | {"max": most} for key, most in assignment.points.items() if is_test(assignment.cells[key])}
    answers = {"text": "", "changed": False}
    answers = {key: answers | {"max": most} for key, most in assignment.points.items() if key not in tests}
    return about | {"status": "not marked", "notes": [why], "tests": tests, "answers": answers}


def _imports(sources: Iterable[str]) -> list[str]:
    """Modules that the sources import, to be imported once for all."""
    names = set()
    for path in sources:
        for cell in Assignment(Path(path)).notebook.cells:
            if cell["cell_type"] == "code":
                names |= _imported(cell["source"])
    return sorted(name for name in names if name.partition(".")[0] in _HARMLESS)


def _imported(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # magics
        return set()
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
