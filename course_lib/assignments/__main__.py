"""`python -m course_lib.assignments release|build|grade|feedback`: see each command's --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from course_lib.assignments.source import assignments
from course_lib.errors import BadInput


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.assignments", description=__doc__)
    parser.add_argument("--sources", type=Path, help="a folder of assignments' sources (default: the course's)")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write the students' copies into the repository")
    build.add_argument("--only", nargs="*", help="names or numbers of assignments")
    release = commands.add_parser("release", help="check the sources and write all copies into a folder")
    release.add_argument("folder", type=Path, nargs="?", help="where they go; also a course as nbgrader has it")
    release.add_argument("--only", nargs="*", help="names or numbers of assignments")
    release.add_argument("--check", action="store_true", help="write nothing; say what does not fit the sources")
    grade = commands.add_parser("grade", help="mark a folder of submissions; goes on where it was stopped")
    grade.add_argument(
        "folder", type=Path, help="with submitted/<student>/<assignment>/, or <student>_<assignment>.ipynb"
    )
    grade.add_argument("--only", nargs="*", help="names or numbers of assignments")
    grade.add_argument("--workers", type=int, help="submissions at a time (default: one a core)")
    grade.add_argument("--cell-seconds", type=float, default=60.0, help="limit of a cell (default: %(default)g)")
    grade.add_argument("--seconds", type=float, default=600.0, help="limit of a submission (default: %(default)g)")
    grade.add_argument("--memory", type=float, default=3.0, help="GiB of a submission (default: %(default)g)")
    grade.add_argument("--force", action="store_true", help="mark again what has not changed")
    grade.add_argument("--unsandboxed", action="store_true", help="run students' code with your own rights")
    feedback = commands.add_parser("feedback", help="write a page for each graded submission")
    feedback.add_argument("folder", type=Path, help="the folder that was graded")
    feedback.add_argument("--only", nargs="*", help="names or numbers of assignments")
    arguments = parser.parse_args()
    try:
        sys.exit(globals()[f"_{arguments.command}"](arguments) or None)
    except BadInput as error:
        sys.exit(f"{error}")


def _build(arguments) -> str:
    from course_lib.assignments.release import build, committed

    for assignment in assignments(arguments.sources, arguments.only):
        build(assignment)
        print(committed(assignment))
    return ""


def _release(arguments) -> str:
    from course_lib.assignments.lint import problems
    from course_lib.assignments.release import misfits, release

    chosen = assignments(arguments.sources, arguments.only)
    if arguments.check:
        return "\n".join(problem for each in chosen for problem in problems(each) + misfits(each))
    if arguments.folder is None:
        return "a folder is needed: release FOLDER"
    found = []
    for assignment in chosen:
        found += release(assignment, arguments.folder)
        print(f"{assignment.name}: {sum(assignment.points.values()):g} points", flush=True)
    return "\n".join(found)


def _grade(arguments) -> str:
    from course_lib.assignments.grade import grade
    from course_lib.assignments.limits import Limits
    from course_lib.assignments.sandbox import SandboxUnavailable

    if os.name != "posix":
        return "Grading needs Linux or macOS. On Windows, use WSL."
    limits = Limits(arguments.cell_seconds, arguments.seconds, int(arguments.memory * 2**30))
    try:
        grade(
            arguments.folder,
            assignments(arguments.sources),
            chosen=assignments(arguments.sources, arguments.only),
            workers=arguments.workers,
            limits=limits,
            sandboxed=not arguments.unsandboxed,
            force=arguments.force,
            tell=lambda line: print(line, flush=True),
        )
    except SandboxUnavailable as error:
        return (
            f"Students' code cannot be shut away here: {error}. Grade on another Linux computer, or ask its "
            "administrator for user namespaces. `--unsandboxed` runs it with your own rights: it could read and "
            "change your files."
        )
    except KeyboardInterrupt:
        return "Stopped. Started again, it goes on here."
    print(arguments.folder / "marks.csv")
    return ""


def _feedback(arguments) -> str:
    from course_lib.assignments.feedback import feedback

    chosen = assignments(arguments.sources, arguments.only)
    for path in feedback(arguments.folder, assignments(arguments.sources), chosen):
        print(path)
    return ""


if __name__ == "__main__":
    main()
