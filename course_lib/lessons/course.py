"""The whole course: `python -m course_lib.lessons.course --profile quick`.

Makes the atlas cohort, runs every lesson in order, and writes pages and tables to `output/<profile>/`. Stopped and
started again, it goes on: a lesson is run again only if its text, its parameters or the course's code have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from course_lib.errors import BadInput
from course_lib.files import atomic_write, data_folder, output_folder
from course_lib.lessons import pages, tables
from course_lib.lessons.anatomy import promised_cost
from course_lib.lessons.catalog import NOTEBOOKS, LessonFiles, lessons
from course_lib.lessons.memory import PeakMemory
from course_lib.lessons.processes import side_by_side
from course_lib.lessons.run import LessonFailed, read_notebook, run
from course_lib.library import library_digest, real_data
from course_lib.runtime import cores
from course_lib.teaching.record import read_record
from data_scripts import PROFILES

LESSON_GIB = 4  # free memory that a lesson is given: most promise to stay under 3


class Course:
    """A run of the course's lessons with one profile.

    Args:
        output: the folder of the profile: pages in `lessons/`, records in `records/`, tables beside them.
        parameters: given to every lesson: profile, seed, device.
        fresh: run lessons again even if nothing has changed.
        drive: move every control of the lessons' explorers, see `run.run`.
    """

    def __init__(self, output: Path, parameters: dict, fresh: bool = False, drive: bool = False):
        self.output, self.parameters, self.fresh, self.drive = output, parameters, fresh, drive
        self.profile = parameters["profile"]
        self.library = library_digest()
        self.cost: list[dict] = []
        self.records: list[dict] = []
        self.failures: list[str] = []

    def run(self, chosen: list[LessonFiles], workers: int = 1) -> None:
        """Run the lessons that are not done, in order; one that fails does not stop the others.

        Args:
            chosen: the lessons.
            workers: how many run at a time. Two that need the same trained network wait for one another.
        """
        os.environ["LEARNING_NORMAL_RECORDS"] = str(self.output / "records")  # for the kernels
        done = {}
        with tqdm(total=len(chosen), unit="lesson", disable=not sys.stderr.isatty()) as bar:
            for lesson, result in self._results(chosen, workers, bar):
                if isinstance(result, dict):
                    done[lesson.name] = result
                else:
                    known = isinstance(result, (BadInput, LessonFailed))
                    self.failures.append(str(result) if known else f"{lesson.name}: {type(result).__name__}: {result}")
                    self._tell(bar, f"{lesson.name}: FAILED. {self.failures[-1]}")
                bar.update()
        for lesson in (one for one in chosen if one.name in done):  # in their order, not in that of their ends
            notebook = read_notebook(lesson.notebook)
            minutes, gib = promised_cost(notebook) or (None, None)
            promised = {"promised_minutes": minutes, "promised_gib": gib}
            self.cost.append({"name": lesson.name, "title": pages.title(notebook)} | done[lesson.name] | promised)
            self.records.append(read_record(self._record(lesson)))

    def finish(self) -> None:
        """Write the tables and the list of lessons."""
        tables.write_tables(self.output, self.records, self.cost)
        pages.write_index(self.output / "lessons", self.cost, self.profile)

    def _results(self, chosen: list[LessonFiles], workers: int, bar: tqdm) -> Iterator[tuple[LessonFiles, object]]:
        """Each lesson with its minutes and memory, or with the error that ended it."""
        kept = {lesson: done for lesson in chosen if (done := self._kept(lesson))}
        for lesson, done in kept.items():
            self._tell(bar, f"{lesson.name}: done before, nothing has changed")
            yield lesson, done

        def tell(lesson: LessonFiles) -> None:
            self._tell(bar, f"{lesson.name}: running")

        todo = [lesson for lesson in chosen if lesson not in kept]
        for lesson, result in side_by_side(self.execute, todo, workers, tell):
            if isinstance(result, dict):
                self._tell(bar, f"{lesson.name}: {result['minutes']:.1f} minutes, {result['memory_gib']:.2f} GiB")
            yield lesson, result

    def _kept(self, lesson: LessonFiles) -> dict | None:
        """Minutes and memory of an earlier run from the same text, parameters and code."""
        whole = lesson.notebook.exists() and self._page(lesson).exists() and self._record(lesson).exists()
        if self.fresh or not whole:
            return None
        done = _read_mark(self._mark(lesson))
        return done if done.pop("key", None) == self._key(read_notebook(lesson.notebook)) else None

    def execute(self, lesson: LessonFiles) -> dict:
        """Run a lesson and write its page; returns its minutes and memory.

        Raises:
            BadInput: it is not built.
            LessonFailed: it did not run to its end.
        """
        for left in (self._mark(lesson), self._record(lesson)):
            left.unlink(missing_ok=True)
        key, page, started = self._key(read_notebook(lesson.notebook)), self._page(lesson), time.perf_counter()
        with PeakMemory() as memory:
            executed = run(lesson.notebook, page.with_suffix(".ipynb"), self.parameters, drive=self.drive)
        minutes = (time.perf_counter() - started) / 60
        if not self._record(lesson).exists() or not read_record(self._record(lesson))["complete"]:
            raise LessonFailed(f"{lesson.name}: it ended without lesson.summary(), so its record is not complete.")
        pages.write_page(executed, page)
        done = {"minutes": round(minutes, 2), "memory_gib": round(memory.mib / 1024, 2)}
        with atomic_write(self._mark(lesson)) as part:
            part.write_text(json.dumps({"key": key} | done, indent=1), encoding="utf-8")
        return done

    def _key(self, notebook: nbformat.NotebookNode) -> str:
        """A digest of all that a lesson's run depends on."""
        cells = [(cell["cell_type"], cell["source"]) for cell in notebook.cells]
        inputs = [cells, self.parameters, self.library, real_data(), self.drive]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _page(self, lesson: LessonFiles) -> Path:
        return self.output / "lessons" / f"{lesson.name}.html"

    def _record(self, lesson: LessonFiles) -> Path:
        return self.output / "records" / f"{lesson.number}.json"

    def _mark(self, lesson: LessonFiles) -> Path:
        return self.output / "records" / f"{lesson.name}.done.json"

    @staticmethod
    def _tell(bar: tqdm, text: str) -> None:
        """A line above the bar."""
        bar.clear()
        print(text, flush=True)


def _read_mark(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def how_many(wanted: int | None = None) -> int:
    """How many lessons run at a time: what is wanted, else one a core, as far as the free memory goes.

    Raises:
        BadInput: less than one is wanted.
    """
    if wanted is not None and wanted < 1:
        raise BadInput(f"workers is 1 or more, not {wanted}.", field="workers")
    return wanted or max(1, min(cores(), int(psutil.virtual_memory().available / 2**30 / LESSON_GIB)))


def print_tables(course: Course) -> None:
    """Print what the pixels say (average precision, best Dice) and the claims; the files hold every number."""
    results = tables.results_text(tables.results_table(course.records))
    for heading, text in results.items():
        if heading == "results" or ", pixel, AP, " in heading or ", best Dice, oracle (dataset)" in heading:
            print(f"\n{heading}\n{text}")
    claims = tables.claims_text(course.records)
    if claims:
        print(f"\nClaims\n{claims}\n\n{tables.claims_line(course.records)}")
    if course.cost:
        print(f"\nCost ({course.profile}; promised for standard)\n{tables.cost_text(course.cost)}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run the course and write its pages and tables.")
    parser.add_argument("--profile", choices=PROFILES, default="standard", help="how much to compute")
    parser.add_argument("--seed", type=int, default=0, help="given to every lesson")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--only", nargs="+", metavar="LESSON", help="numbers such as 2.1, or of parts such as 2")
    parser.add_argument("--workers", type=int, help="lessons at a time (default: one a core, as far as memory goes)")
    parser.add_argument("--output", type=Path, help="folder of pages and tables (default: output/<profile>)")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="folder of parts and of claims.tsv")
    parser.add_argument("--fresh", action="store_true", help="run lessons again even if nothing has changed")
    parser.add_argument("--drive", action="store_true", help="move every control of the explorers (for tests)")
    parser.add_argument("--accept-claims", action="store_true", help="record which claims hold, from this run")
    arguments = parser.parse_args()
    output = (arguments.output or output_folder() / arguments.profile).absolute()
    parameters = {name: getattr(arguments, name) for name in ("profile", "seed", "device")}
    course = Course(output, parameters, arguments.fresh, arguments.drive)
    try:
        workers, chosen = how_many(arguments.workers), lessons(arguments.notebooks, arguments.only)
        with alone(output):
            if arguments.notebooks == NOTEBOOKS:  # lessons of another folder make what they need
                make_atlas(arguments.profile)
            course.run(chosen, workers)
            course.finish()
    except BadInput as error:
        sys.exit(f"{error}")
    print_tables(course)
    sys.exit(conclude(course, arguments.accept_claims, arguments.notebooks / tables.RECORDED.name))


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Wait until no other run works in this folder, such as one whose terminal was closed."""
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Another run is at work in {output}: waiting for it to end.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def make_atlas(profile: str) -> None:
    """Make the atlas cohort of a profile, or what is missing of it."""
    from data_scripts.make_atlas_cohort import make_cohort

    print(f"Atlas cohort ({profile}) in {data_folder() / 'atlas'}", flush=True)
    make_cohort(data_folder() / "atlas", profile, progress=sys.stderr.isatty())


def conclude(course: Course, accept: bool, recorded: Path = tables.RECORDED) -> int:
    """Print where everything is and what failed; returns the exit code."""
    if accept:
        tables.accept_claims(course.records, recorded)
    failures, notes = tables.compare_claims(course.records, recorded)
    dear, slow = tables.compare_cost(course.cost, course.profile)
    failures, notes = failures + dear, notes + slow
    print(f"\nLessons: {course.output / 'lessons' / 'index.html'}\nTables:  {course.output}")
    for note in notes:
        print(f"note: {note}")
    for failure in course.failures + failures:
        print(f"FAILED: {failure}")
    print(f"{len(course.records)} lessons done, {len(course.failures)} failed. {pages.NOTICE}")
    return 1 if course.failures or failures else 0


if __name__ == "__main__":
    main()
