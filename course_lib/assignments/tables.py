"""The tables of a graded folder: `marks.csv`, and `manual.csv`, in which a person enters points."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from course_lib.assignments.source import Assignment, is_manual, mark_scheme
from course_lib.errors import BadInput
from course_lib.files import atomic_write

NOTHING = "(nothing)"  # stands for an answer without a word: an empty field may have been emptied by hand
CHANGED = "(the answer has changed)"
MANUAL = ("student", "assignment", "grade_id", "points", "max", "comment", "answer", "mark_scheme")
Key = tuple[str, str, str]  # student, assignment, grade_id


def read_manual(folder: Path, known: list[Assignment]) -> dict[Key, dict]:
    """What a person has entered in `manual.csv` (or `.tsv`): by student, assignment and grade_id, `points` a number
    or None, `comment` and `answer`: the text that the points were given for, or None where the field is empty.

    Spreadsheets may have saved it: separators are commas, semicolons or tabs, and `1,5` is a number.

    Raises:
        BadInput: a column is missing, or points are no number from 0 to the cell's.
    """
    path = next((path for path in (folder / "manual.csv", folder / "manual.tsv") if path.exists()), None)
    if path is None:
        return {}
    most = {(each.name, key): points for each in known for key, points in each.points.items()}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput("it is not UTF-8.", file=path, remedy="Save it as CSV UTF-8.") from None
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=head.count))
    missing = set(MANUAL[:4]) - set(reader.fieldnames or ())
    if missing:
        raise BadInput(f"there is no column {', '.join(sorted(missing))}.", file=path)
    found = {}
    for number, row in enumerate(reader, start=2):
        row = {key: _unquoted(value or "") for key, value in row.items() if isinstance(key, str)}
        place = (row["assignment"], row["grade_id"])
        points = _points(row["points"], most.get(place), path, f"row {number}, {row['student']}")
        entry = {"points": points, "comment": row.get("comment", ""), "scheme": row.get("mark_scheme", "")}
        found[row["student"], *place] = entry | {"answer": row.get("answer") or None}
    return found


def _points(text: str, most: float | None, path: Path, field: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        raise BadInput(f"{text!r} is no number of points.", file=path, field=field) from None
    if not (math.isfinite(value) and 0 <= value <= (value if most is None else most)):
        wanted = "0 or more" if most is None else f"between 0 and {most:g}"
        raise BadInput(f"{value:g} is not {wanted} points.", file=path, field=field)
    return value


def write_manual(folder: Path, known: list[Assignment], results: list[dict], entered: dict[Key, dict]) -> None:
    """Write `manual.csv`: a row for each written answer, with what is entered already.

    Points for an answer that has changed since are taken back, also if it is the stub again. Where the field of the
    answer is empty, nobody knows what the points were given for, and they stay: whoever clears the column in a
    spreadsheet loses none. They also stay while a submission cannot be read or marked. Rows that belong to no answer
    of these results stay if there are points or a comment in them.
    """
    rows, seen = [], set()
    schemes = {(each.name, key): mark_scheme(cell) for each in known for key, cell in each.cells.items()}
    for result in results:
        for grade_id, answer in result["answers"].items():
            key = (result["student"], result["assignment"], grade_id)
            text = answer["text"] if answer["text"].strip() else NOTHING
            if key in entered and result["status"] not in ("not marked", "unreadable"):
                _renew(entered[key], text)
            if not (answer["changed"] or _is_task(known, result["assignment"], grade_id)):
                continue
            entry = entered.setdefault(key, {"points": None, "comment": "", "answer": text})
            seen.add(key)
            rows.append(_row(key, entry, f"{answer['max']:g}", schemes[key[1:]]))
    for key, entry in entered.items():
        if key not in seen and (entry["points"] is not None or entry["comment"]):
            rows.append(_row(key, entry, "", entry.get("scheme", "")))
    _write(folder / "manual.csv", [list(MANUAL), *rows])


def _renew(entry: dict, answer: str) -> None:
    """Note the answer as it is now; points that were given for another one are taken back."""
    if entry["answer"] is not None and not _same(entry["answer"], answer):
        if entry["points"] is not None or entry["comment"]:
            entry["comment"] = f"{CHANGED} {entry['comment'].removeprefix(CHANGED).strip()}".strip()
        entry["points"] = None
    entry["answer"] = answer


def _row(key: Key, entry: dict, most: str, scheme: str) -> list[str]:
    points = "" if entry["points"] is None else f"{entry['points']:g}"
    return [*key, points, most, entry["comment"], entry["answer"] or "", scheme]


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()  # spreadsheets change ends of lines


def _is_task(known: list[Assignment], name: str, grade_id: str) -> bool:
    cell = next(each.cells[grade_id] for each in known if each.name == name)
    return is_manual(cell) and bool(cell["metadata"]["nbgrader"].get("task"))


def totals(result: dict, entered: dict[Key, dict], known: list[Assignment]) -> dict:
    """A result's `points` by grade_id (None where a person has to give them), `auto`, `manual`, `total` and `max`.

    An answer that the student did not touch gets 0 points, as in nbgrader.
    """
    points: dict[str, float | None] = {key: test["points"] for key, test in result["tests"].items()}
    auto, most = sum(points.values()), sum(test["max"] for test in result["tests"].values())
    manual = 0.0
    for grade_id, answer in result["answers"].items():
        most += answer["max"]
        entry = entered.get((result["student"], result["assignment"], grade_id), {}).get("points")
        if entry is None and not (answer["changed"] or _is_task(known, result["assignment"], grade_id)):
            entry = 0.0
        points[grade_id] = entry
        manual += entry or 0.0
    return {"points": points, "auto": auto, "manual": manual, "total": auto + manual, "max": most}


def write_marks(folder: Path, known: list[Assignment], results: list[dict], entered: dict[Key, dict]) -> None:
    """Write `marks.csv`: one row a submission. An empty field of a cell is one that a person still has to mark."""
    there = {result["assignment"] for result in results}
    columns = [key for each in known if each.name in there for key in each.points]
    rows = [["student", "assignment", *columns, "auto", "manual", "total", "max", "status", "seconds", "notes"]]
    for result in sorted(results, key=lambda each: (each["student"], each["assignment"])):
        sums = totals(result, entered, known)
        cells = ["" if sums["points"].get(key) is None else f"{sums['points'][key]:g}" for key in columns]
        status = result["status"]
        if status == "ok" and None in sums["points"].values():
            status = "manual points missing"
        numbers = [f"{sums[key]:g}" for key in ("auto", "manual", "total", "max")]
        notes = result["notes"] + ([] if result.get("sandbox", True) else ["marked without a sandbox"])
        rows.append([result["student"], result["assignment"], *cells, *numbers, status])
        rows[-1] += [f"{result['seconds']:.1f}", "; ".join(notes)]
    _write(folder / "marks.csv", rows)


def _write(path: Path, rows: list[list[str]]) -> None:
    """A CSV file that spreadsheets open as UTF-8, and in which no field is a formula."""
    with atomic_write(path) as part, open(part, "w", encoding="utf-8-sig", errors="replace", newline="") as stream:
        csv.writer(stream).writerows([[_quoted(field) for field in row] for row in rows])


def _quoted(field: str) -> str:
    return f"'{field}" if field[:1] in ("=", "+", "-", "@", "\t", "\r", "'") else field


def _unquoted(field: str) -> str:
    return field[1:] if field[:1] == "'" else field
