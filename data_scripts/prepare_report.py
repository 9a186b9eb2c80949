"""What became of every file: report.tsv, report.html, and contact sheets of 64 subjects a page."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.files import atomic_write
from course_lib.images import bids, lattice
from data_scripts.folder_subjects import Outcome

NOTICE = "Research and teaching only, not for diagnosis."
COLUMNS = 8  # of a contact sheet
PAGE = 64  # subjects on one: of thousands, one picture would take gigabytes
_ORDER = ("refused", "prepared", "unchanged", "skipped")
_STYLE = """body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em;
padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { border-bottom: 1px solid #ccc; padding: .35em .6em;
text-align: left; vertical-align: top } ul { margin: 0; padding-left: 1.1em } .refused { background: #fdecea }
.notice { border-left: 4px solid #b00; padding-left: .8em } img { max-width: 100% } code { word-break: break-all }"""


def write_report(folder: Path, title: str, facts: dict[str, str], outcomes: list[Outcome]) -> None:
    """Write report.tsv and report.html: the refused files first."""
    outcomes = sorted(outcomes, key=lambda o: (_ORDER.index(o.status), o.file))
    table = pd.DataFrame([vars(o) | {"notes": " | ".join(o.notes)} for o in outcomes], columns=list(vars(_blank())))
    with atomic_write(folder / "report.tsv") as part:
        table.map(_one_line).to_csv(part, sep="\t", index=False, lineterminator="\n")
    sheets = [path.name for path in sheet_paths(folder, len(list(folder.glob("contact_sheet*.png")))) if path.exists()]
    with atomic_write(folder / "report.html") as part:
        part.write_text(_page(title, facts, outcomes, sheets), encoding="utf-8")


def _blank() -> Outcome:
    return Outcome("", "", "skipped")


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _page(title: str, facts: dict[str, str], outcomes: list[Outcome], sheets: list[str]) -> str:
    counts = Counter(o.status for o in outcomes)
    summary = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
    head = "".join(f"<tr><th>{_safe(k)}</th><td>{_safe(v)}</td></tr>" for k, v in facts.items())
    rows = "".join(_row(o) for o in outcomes)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_safe(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{_safe(title)}</h1>\n"
        f'<p class="notice"><strong>{NOTICE}</strong></p>\n<p>Files: {summary}.</p>\n<table>{head}</table>\n'
        "<h2>Contact sheet</h2>\n<p>Blue: brain mask. Red: lesion mask. Patient's left on the left.</p>\n"
        f"{''.join(map(_sheet, sheets))}"
        "<h2>Files</h2>\n<table><tr><th>File</th><th>What</th><th>Status</th><th>Subject</th>"
        f"<th>What was changed or noted; cause and remedy</th></tr>\n{rows}</table>\n</body></html>\n"
    )


def _sheet(name: str) -> str:
    """A contact sheet; the browser loads it when it comes into sight."""
    alt = "One slice of each subject, with outlines of brain and lesion"
    return f'<p><img src="{name}" loading="lazy" alt="{alt}"></p>\n'


def _row(o: Outcome) -> str:
    notes = f"<ul>{''.join(f'<li>{_safe(n)}</li>' for n in o.notes)}</ul>" if o.notes else ""
    cause = f"<strong>{_safe(o.cause)}</strong> {_safe(o.remedy)}" if o.cause else ""
    return (
        f'<tr class="{o.status}"><td><code>{_safe(o.file)}</code></td><td>{_safe(o.role)}</td><td>{o.status}</td>'
        f"<td>{_safe(o.subject)}</td><td>{cause}{notes}</td></tr>\n"
    )


def _safe(text: str) -> str:
    return html.escape(str(text))


def sheet_paths(folder: Path, count: int) -> list[Path]:
    """The names of `count` contact sheets: contact_sheet.png, contact_sheet_2.png, ..."""
    return [folder / f"contact_sheet{f'_{n}' if n > 1 else ''}.png" for n in range(1, count + 1)]


def contact_sheet(folder: Path, table: pd.DataFrame) -> None:
    """One slice of each subject: the one with the most lesion, else z = 18 mm, with outlines of brain and lesion.

    Subjects are on pages of 64; pages of an earlier run that are not needed any more are removed.
    """
    sheets = sheet_paths(folder, -(-len(table) // PAGE))
    for place, path in enumerate(sheets):
        _write_sheet(path, folder, table.iloc[place * PAGE : (place + 1) * PAGE])
    ours = {path for path in folder.glob("contact_sheet*.png") if re.fullmatch(r"contact_sheet(_\d+)?\.png", path.name)}
    for path in ours - set(sheets):
        path.unlink()


def _write_sheet(path: Path, folder: Path, table: pd.DataFrame) -> None:
    """One page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = int(np.ceil(len(table) / COLUMNS))
    columns = min(COLUMNS, len(table))
    figure = Figure(figsize=(1.9 * columns, 2.25 * rows + 0.3), facecolor="black")
    FigureCanvasAgg(figure)
    for place, row in enumerate(table.itertuples(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        _panel(axes, folder, row)
    figure.text(0.01, 0.003, NOTICE, color="white", fontsize=7)
    figure.subplots_adjust(0.005, 0.12 / rows, 0.995, 1 - 0.12 / rows, wspace=0.04, hspace=0.16)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110, facecolor="black", metadata={"Software": None})
    figure.clear()  # or the next page is drawn while this one still fills the memory


def _panel(axes, folder: Path, row) -> None:
    image, brain, lesion, height = _slice(folder, row.participant_id)
    axes.imshow(image, cmap="gray", vmin=0, vmax=1.2, interpolation="nearest")
    for mask, colour in ((brain, "#56b4e9"), (lesion, "#ff4040")):
        if mask.any():
            axes.contour(mask, [0.5], colors=colour, linewidths=0.8)
    title = f"{row.participant_id}\n{row.split}, {row.family}, z = {height:g} mm"
    axes.set_title(title, color="white", fontsize=6, pad=2)
    axes.axis("off")


def _slice(folder: Path, name: str):
    """Image, brain, lesion (96, 96) and the height in mm of the slice to show."""
    import nibabel

    volume = nibabel.load(bids.find_image(folder, name))
    brain = np.asarray(nibabel.load(bids.brain_path(folder, name)).dataobj) > 0
    lesion_file = bids.lesion_path(folder, name)
    lesion = np.asarray(nibabel.load(lesion_file).dataobj) > 0 if lesion_file.exists() else np.zeros_like(brain)
    data = np.asarray(volume.dataobj, np.float32)
    cut = [lattice.axial_slices(a, volume.affine, lattice.STANDARD_HEIGHTS) for a in (data, brain, lesion)]
    size = {z: (cut[2][z].sum(), -abs(z - 18) if cut[1][z].any() else -1000) for z in cut[0]}
    height = max(size, key=size.get)
    return *(part[height] for part in cut), height
