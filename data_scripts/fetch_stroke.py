"""Fetch the acute-stroke FLAIR slices and make them a data set: `python -m data_scripts.fetch_stroke`.

Downloads one panel (100 kB) and one lesion volume (10 kB) for each scan of `stroke_table.tsv`, 130 MB in all, from the
project's public repository at a fixed commit. May be stopped and started again: what is there is not fetched again.

SHA-256 of every fetched file that proved sound is kept in `<out>/sourcedata/SHA256SUMS` (`sha256sum -c` reads it); a
file that changes afterwards is fetched again, and refused if the server's file has changed. `stroke_lock.sha256` holds
the digests that were known beforehand, and `stroke_table.tsv` digests of every scan's pixels.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from course_lib.errors import BadInput
from course_lib.files import atomic_write, data_folder, inside, sha256
from course_lib.images.slices import SliceSet
from data_scripts import stroke_set
from data_scripts.stroke_panels import convert
from data_scripts.stroke_set import Scans

COMMIT = "ae553f82c24721dec4cd3bcffdd6c952257e8dba"
ADDRESS = f"https://raw.githubusercontent.com/neurolabusc/StrokeOutcomeOptimizationProjectDemo/{COMMIT}/"
LOCK = Path(__file__).resolve().parent / "stroke_lock.sha256"
PARALLEL = 4  # downloads at once
TRIES = 4
PATIENCE = 8  # failed scans in a row after which the rest is not downloaded


def fetch(
    source: str | Path = ADDRESS,
    out: str | Path | None = None,
    *,
    limit: int | None = None,
    progress: bool = True,
    tries: int = TRIES,
) -> tuple[SliceSet, list[BadInput]]:
    """Make the stroke data set in `out` from `source`.

    Args:
        source: an address with the folders PNG and NIfTI below it; a local folder with them; or the ready-made file.
        out: the data set's folder; default `<data folder>/stroke`.
        limit: only so many scans, drawn evenly from the table; a later call without it goes on. What is there of
            earlier calls stays.
        progress: show a progress bar.
        tries: how often a download is tried.

    Returns:
        The slices, and the scans that were refused or could not be fetched, one error each.

    Raises:
        BadInput: nothing could be fetched, or the folder cannot be written.
    """
    out = Path(out) if out else data_folder() / "stroke"
    text = str(source)
    if text.startswith(("http://", "https://")):
        scans, refused = _from_pairs(Downloads(text, out / "sourcedata", tries), wanted(limit), out, progress)
    elif Path(source).is_dir():
        files = Folder(Path(source))
        scans, refused = _from_pairs(files, [n for n in wanted(limit) if files.has(n)], out, progress)
    else:
        scans, refused = _from_ready(Path(source), set(wanted(limit)), out), []
    if not len(scans.ids):
        raise refused[0] if refused else BadInput("there are no scans of the table in it.", file=text)
    ready = out / stroke_set.READY
    if not (ready.exists() and Path(text).exists() and Path(text).resolve() == ready.resolve()):
        stroke_set.write_ready(ready, scans)
    return stroke_set.build(out, scans), refused


def wanted(limit: int | None = None) -> list[int]:
    """The scans to fetch: those of the table, no others. With a limit, a mixture of all splits and kinds."""
    ids = stroke_set.read_table()["id"].to_numpy()
    if limit is not None:
        ids = np.random.default_rng(0).permutation(ids)[: max(1, limit)]
    return sorted(int(number) for number in ids)


def names(number: int) -> tuple[str, str]:
    """The published names of a scan's panel and lesion volume."""
    return f"PNG/rsub-{number}_lesion.nii.png", f"NIfTI/bwsrsub-{number}_lesion.nii.gz"


class Folder:
    """A local folder with PNG and NIfTI in it."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, read_lock(LOCK)

    def has(self, number: int) -> bool:
        """Whether one of the scan's files is there."""
        return any((self.folder / name).exists() for name in names(number))

    def get(self, name: str) -> Path:
        """The file's path.

        Raises:
            BadInput: it is missing, is a link out of the folder, or has not the digest that is known for it.
        """
        path = self.folder / name
        if not path.is_file():
            raise BadInput("is not there.", file=path, remedy="Each scan needs its panel and its volume.")
        inside(self.folder, name)
        if name in self.lock and sha256(path) != self.lock[name]:
            raise _changed(path)
        return path

    def keep(self, number: int) -> None:
        """The scan's files are sound: nothing to remember of a local folder."""

    def drop(self, number: int) -> None:
        """The scan's files are not sound: a local folder is the user's, and stays as it is."""


class Downloads:
    """Files of an address, kept in a folder and, once they proved sound, remembered by their digests."""

    def __init__(self, address: str, folder: Path, tries: int = TRIES):
        import pooch

        pooch.get_logger().setLevel(logging.ERROR)  # one progress bar instead of 2,400 lines
        self.folder, self.sums = folder, folder / "SHA256SUMS"
        self.lock = read_lock(LOCK)
        self.known = read_lock(self.sums) | self.lock
        self.recorded = set(read_lock(self.sums))
        self.writing = threading.Lock()
        self.pooch = pooch.create(folder, address.rstrip("/") + "/", registry=None, retry_if_failed=tries - 1)
        self.downloader = pooch.HTTPDownloader(timeout=(10, 60))
        for left in [*folder.glob("PNG/tmp*"), *folder.glob("NIfTI/tmp*")]:  # by a fetch that was killed
            if time.time() - left.stat().st_mtime > 600:
                left.unlink(missing_ok=True)

    def get(self, name: str) -> Path:
        """The file's path; it is fetched if it is not there with the digest that is known for it.

        A file without a known digest (a fetch was killed before `keep`) is fetched again.

        Raises:
            BadInput: the server does not give it, or gives another one than before; the folder cannot be written.
        """
        import requests

        path = self.folder / name
        if path.exists() and self.known.get(name) == sha256(path):
            return path
        if path.exists() and name in self.recorded:
            tqdm.write(f"{path} was damaged on disk: it is fetched again.", file=sys.stderr)
        try:
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)  # pooch would, but two threads at once trip over it
            self.pooch.registry[name] = f"sha256:{self.known[name]}" if name in self.known else None
            self.pooch.fetch(name, downloader=self.downloader)
        except requests.RequestException as error:
            raise BadInput(
                f"cannot be fetched ({error}).",
                file=name,
                remedy="Check the connection and start again: what is there is kept.",
            ) from error
        except ValueError as error:  # pooch: the digest differs
            raise _changed(name) from error
        except OSError as error:
            raise BadInput(f"cannot be written ({error.strerror or error}).", file=path) from error
        return path

    def keep(self, number: int) -> None:
        """Record the digests of a scan's files. Only for files whose content was checked.

        Raises:
            BadInput: the folder cannot be written.
        """
        try:
            with self.writing, open(self.sums, "a", encoding="ascii", newline="\n") as stream:
                for name in [name for name in names(number) if name not in self.recorded]:
                    self.known[name] = sha256(self.folder / name)
                    stream.write(f"{self.known[name]}  {name}\n")
                    self.recorded.add(name)
        except OSError as error:
            raise BadInput(f"cannot be written ({error.strerror or error}).", file=self.sums) from error

    def drop(self, number: int) -> None:
        """Forget and delete a scan's files that are not sound, so that a later call fetches them again.

        A network's login page, say, comes in place of any file. Files that the lock names are what they should be.
        """
        wrong = set(names(number)) - set(self.lock)
        with self.writing:
            for name in wrong:
                (self.folder / name).unlink(missing_ok=True)
                self.known.pop(name, None)
            if wrong & self.recorded:
                self.recorded -= wrong
                left = {name: digest for name, digest in read_lock(self.sums).items() if name not in wrong}
                with atomic_write(self.sums) as part:
                    part.write_bytes("".join(f"{digest}  {name}\n" for name, digest in left.items()).encode("ascii"))


def read_lock(path: Path) -> dict[str, str]:
    """The digests by name in a file as `sha256sum` writes it. A line cut short (a killed fetch) is passed over."""
    if not path.exists():
        return {}
    lines = re.findall(r"^([0-9a-f]{64})  (\S+)\n", path.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    return {name: digest for digest, name in lines}


def _changed(path: Path | str) -> BadInput:
    return BadInput(
        "is not the file that was fetched before, or that the lock file names (SHA-256 differs).",
        file=path,
        field="sha256",
        remedy="Do not use it. If the source was replaced on purpose, remove its line from SHA256SUMS.",
    )


def _from_pairs(files: Downloads | Folder, ids: list[int], out: Path, progress: bool) -> tuple[Scans, list[BadInput]]:
    """Fetch and convert the scans that the ready-made file of an earlier call does not have yet."""
    done = _already(out / stroke_set.READY)
    todo = [number for number in ids if number not in done]

    def one(number: int):
        panel, volume = (files.get(name) for name in names(number))
        try:
            row = convert(panel, volume)
            stroke_set.check_scan(number, *row, where=panel)
        except BadInput:
            files.drop(number)
            raise
        files.keep(number)
        return row

    refused: list[BadInput] = []
    misses = 0
    with tqdm(
        total=len(ids), initial=len(ids) - len(todo), desc="stroke scans", unit="scan", disable=not progress
    ) as bar:
        for number, row in _attempt(one, todo):
            bar.update()
            if not isinstance(row, BadInput):
                done[number], misses = row, 0
                continue
            refused.append(row)
            misses += 1
            if misses >= PATIENCE and isinstance(files, Downloads):  # the connection is gone
                refused.append(BadInput(f"{PATIENCE} scans in a row failed; the rest was not tried.", file=out))
                break
    return _stacked(done), refused


def _from_ready(source: Path, ids: set[int], out: Path) -> Scans:
    """The scans `ids` of a ready-made file, and those that the folder's own has already."""
    scans, own = stroke_set.read_ready(source), out / stroke_set.READY
    if own.exists() and source.resolve() == own.resolve():
        return scans
    return _stacked(_already(own) | {number: row for number, row in _rows(scans).items() if number in ids})


def _attempt(function: Callable, ids: list[int]) -> Iterable[tuple[int, object]]:
    """`function` of each id, a few at once, in order; a BadInput is given instead of raised."""

    def safe(number: int):
        try:
            return function(number)
        except BadInput as error:
            return error

    with ThreadPoolExecutor(PARALLEL) as pool:
        for start in range(0, len(ids), 2 * PARALLEL):
            piece = ids[start : start + 2 * PARALLEL]
            yield from zip(piece, pool.map(safe, piece), strict=True)


def _already(ready: Path) -> dict[int, tuple]:
    """The scans of an earlier call; none if its file is missing or damaged."""
    if not ready.exists():
        return {}
    try:
        scans = stroke_set.read_ready(ready)
    except BadInput as error:
        print(f"Made again from the downloads: {error}", file=sys.stderr)
        return {}
    return _rows(scans)


def _rows(scans: Scans) -> dict[int, tuple]:
    return {int(n): row for n, *row in zip(scans.ids, scans.images, scans.masks, scans.brains, strict=True)}


def _stacked(rows: dict[int, tuple]) -> Scans:
    """The inverse of `_rows`, in the order of the ids."""
    ids = sorted(rows)
    pixels = [np.stack(arrays) for arrays in zip(*(rows[n] for n in ids), strict=True)] if ids else [np.empty(0)] * 3
    return Scans(np.array(ids, int), *pixels)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0 if every scan is there, 1 if some were refused or nothing could be made."""
    parser = argparse.ArgumentParser(prog="python -m data_scripts.fetch_stroke", description=__doc__.split("\n")[0])
    parser.add_argument("--source", default=ADDRESS, help="address, folder with PNG and NIfTI, or ready-made .npz file")
    parser.add_argument("--out", type=Path, help="the data set's folder (default: <data folder>/stroke)")
    parser.add_argument("--limit", type=int, help="only so many scans")
    chosen = parser.parse_args(arguments)
    print(f"Acute stroke, FLAIR. Research data, not for clinical use.\nLicence: {stroke_set.LICENCE}")
    print(f"Please cite: {stroke_set.CITATION}\nSource: {chosen.source}", flush=True)
    try:
        slices, refused = fetch(chosen.source, chosen.out, limit=chosen.limit)
    except BadInput as error:
        print(f"Nothing was made: {error}", file=sys.stderr)
        return 1
    for error in refused:
        print(f"left out: {error}", file=sys.stderr)
    print(slices.table.groupby(["split", "family"], sort=False).size().to_string())
    print(f"{slices} in {chosen.out or data_folder() / 'stroke'}")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
