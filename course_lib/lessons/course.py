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
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from course_lib.errors import BadInput
from course_lib.files import atomic_write, data_folder, output_folder
from course_lib.lessons import pages, tables
from course_lib.lessons.anatomy import promised_cost
from course_lib.lessons.catalog import NOTEBOOKS, LessonFiles, lessons
from course_lib.lessons.memory import PeakMemory
from course_lib.lessons.run import LessonFailed, read_notebook, run
from course_lib.library import library_digest, real_data
from course_lib.teaching.record import read_record
from data_scripts import PROFILES


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

    def run(self, chosen: list[LessonFiles]) -> None:
        """Run the lessons that are not done, one after another; one that fails does not stop the others."""
        os.environ["LEARNING_NORMAL_RECORDS"] = str(self.output / "records")  # for the kernels
        with tqdm(total=len(chosen), unit="lesson", disable=not sys.stderr.isatty()) as bar:
            for lesson in chosen:
                bar.set_description(lesson.name)
                try:
                    self._run_one(lesson, bar)
                except (BadInput, LessonFailed) as error:
                    self.failures.append(str(error))
                    self._tell(bar, f"{lesson.name}: FAILED. {error}")
                bar.update()

    def finish(self) -> None:
        """Write the tables and the list of lessons."""
        tables.write_tables(self.output, self.records, self.cost)
        pages.write_index(self.output / "lessons", self.cost, self.profile)

    def _run_one(self, lesson: LessonFiles, bar: tqdm) -> None:
        notebook = read_notebook(lesson.notebook)
        mark = self.output / "records" / f"{lesson.name}.done.json"
        key = self._key(notebook)
        done = _read_mark(mark)
        if self.fresh or done.get("key") != key or not self._complete(lesson):
            mark.unlink(missing_ok=True)
            done = {"key": key} | self._execute(lesson, bar)
            with atomic_write(mark) as part:
                part.write_text(json.dumps(done, indent=1), encoding="utf-8")
            self._tell(bar, f"{lesson.name}: {done['minutes']:.1f} minutes, {done['memory_gib']:.2f} GiB")
        else:
            self._tell(bar, f"{lesson.name}: done before, nothing has changed")
        minutes, gib = promised_cost(notebook) or (None, None)
        promised = {"promised_minutes": minutes, "promised_gib": gib}
        self.cost.append({"name": lesson.name, "title": pages.title(notebook)} | done | promised)
        del self.cost[-1]["key"]
        self.records.append(read_record(self._record(lesson)))

    def _execute(self, lesson: LessonFiles, bar: tqdm) -> dict:
        """Run a lesson and write its page; returns minutes and memory."""
        self._tell(bar, f"{lesson.name}: running")
        self._record(lesson).unlink(missing_ok=True)
        started = time.perf_counter()
        with PeakMemory() as memory:
            executed = run(
                lesson.notebook,
                self._page(lesson).with_suffix(".ipynb"),
                self.parameters,
                on_cell=lambda index, _: bar.set_postfix_str(f"cell {index}"),
                drive=self.drive,
            )
        minutes = (time.perf_counter() - started) / 60
        if not self._record(lesson).exists() or not read_record(self._record(lesson))["complete"]:
            raise LessonFailed(f"{lesson.name}: it ended without lesson.summary(), so its record is not complete.")
        pages.write_page(executed, self._page(lesson))
        return {"minutes": round(minutes, 2), "memory_gib": round(memory.mib / 1024, 2)}

    def _key(self, notebook: nbformat.NotebookNode) -> str:
        """A digest of all that a lesson's run depends on."""
        cells = [(cell["cell_type"], cell["source"]) for cell in notebook.cells]
        inputs = [cells, self.parameters, self.library, real_data(), self.drive]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _complete(self, lesson: LessonFiles) -> bool:
        return self._page(lesson).exists() and self._record(lesson).exists()

    def _page(self, lesson: LessonFiles) -> Path:
        return self.output / "lessons" / f"{lesson.name}.html"

    def _record(self, lesson: LessonFiles) -> Path:
        return self.output / "records" / f"{lesson.number}.json"

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
        chosen = lessons(arguments.notebooks, arguments.only)
        with alone(output):
            if arguments.notebooks == NOTEBOOKS:  # lessons of another folder make what they need
                make_atlas(arguments.profile)
            course.run(chosen)
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
