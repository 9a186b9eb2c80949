"""Many scans: workers that are killed, pages of the contact sheet, memory that stays flat."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pandas as pd
import psutil
import pytest

from course_lib.errors import BadInput
from course_lib.sweep.cluster import connect
from data_scripts import prepare_report, prepare_workers
from data_scripts.prepare_folder import prepare_folder

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "prepare_folder.py"


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("benchmark_prepare_folder", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def scans(benchmark, tmp_path):
    """Nine small scans and their brain masks."""
    benchmark.make_scans(tmp_path, 9)
    return tmp_path


def prepare(root: Path, out: str, **options):
    given = {"brains": root / "brains", "out": root / out, "name": "small", "register": False, "progress": False}
    return prepare_folder(root / "images", **given, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(900)  # each worker that is killed is followed by one that imports everything anew
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_scan_that_kills_its_workers_is_reported_and_a_worker_killed_once_costs_nothing(scans, monkeypatch):
    calm = prepare(scans, "calm")
    real, once = prepare_workers.attempt, scans / "killed once"

    def deadly(folder, settings, subject):  # a function of no module: it travels to the workers by value
        if subject.name == "sub-0003" or (subject.name == "sub-0005" and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(folder, settings, subject)

    monkeypatch.setattr(prepare_workers, "attempt", deadly)
    result = prepare(scans, "wild", workers=2)
    refused = {o.file: o for o in result.outcomes if o.status == "refused"}
    assert set(refused) == {"sub-0003_FLAIR.nii.gz", "sub-0003_mask.nii.gz"} and once.exists()
    assert "3 workers were killed over it" in refused["sub-0003_FLAIR.nii.gz"].cause
    assert len(result.table) == 8 and "sub-0003" not in set(result.table["participant_id"])
    same, other = contents(calm.folder), contents(result.folder)
    subjects = [name for name in same if name.startswith(("sub-", "derivatives")) and "sub-0003" not in name]
    assert subjects and all(other[name] == same[name] for name in subjects)
    monkeypatch.setattr(prepare_workers, "attempt", real)
    mended = prepare(scans, "wild")
    assert contents(mended.folder).keys() == same.keys() and len(mended.table) == 9


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def test_workers_of_a_scheduler_that_is_there_and_their_memory_stays_flat(scans, benchmark, tmp_path):
    """The table for 1000 scans is made by `tests/benchmarks/prepare_folder.py`; here 40 more may take 30 MiB more."""
    benchmark.make_scans(tmp_path / "more", 40)
    with connect(workers=2) as client:
        result = prepare(scans, "out", scheduler=client.scheduler.address)
        before = client.run(resident_mib)
        mine = resident_mib()
        prepare(tmp_path / "more", "out", scheduler=client.scheduler.address)
        after = client.run(resident_mib)
        assert resident_mib() < mine + 60  # a larger contact sheet is drawn here
    assert len(result.table) == 9 and contents(result.folder) == contents(prepare(scans, "one").folder)
    assert len(before) == 2 and min(before.values()) > 50  # both have worked
    assert all(after[worker] < before[worker] + 30 for worker in before)
    with pytest.raises(BadInput, match="no Dask scheduler answers"):
        prepare(scans, "other", scheduler="tcp://nowhere:1")


def test_contact_sheets_are_pages_and_pages_too_many_go(scans, monkeypatch):
    monkeypatch.setattr(prepare_report, "PAGE", 4)
    folder = prepare(scans, "out").folder
    names = ["contact_sheet.png", "contact_sheet_2.png", "contact_sheet_3.png"]
    assert sorted(path.name for path in folder.glob("contact_sheet*")) == names
    page = (folder / "report.html").read_text()
    places = [page.index(f'src="{name}" loading="lazy"') for name in names]
    assert places == sorted(places) and page.count("<img ") == 3
    table = pd.read_csv(folder / "participants.tsv", sep="\t").head(5)
    prepare_report.contact_sheet(folder, table)
    assert sorted(path.name for path in folder.glob("contact_sheet*")) == names[:2]
