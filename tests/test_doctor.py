from __future__ import annotations

import os
import subprocess
import sys

from course_lib import doctor
from course_lib.doctor import Finding


def test_all_is_well_here(capsys):
    assert [
        finding.what for finding in doctor.report() if not finding.ok and finding.what not in ("memory", "disk")
    ] == []


def test_check_says_one_line_or_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "report", lambda: [Finding("disk", "plenty")])
    doctor.check()
    assert capsys.readouterr().out == "Everything that the course needs is there.\n"
    monkeypatch.setattr(doctor, "report", lambda: [Finding("disk", "plenty"), Finding("torch", "none", "Install it.")])
    doctor.check()
    assert capsys.readouterr().out == "torch: none. Install it.\n"


def test_a_data_folder_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEARNING_NORMAL_DATA", str(tmp_path / "file" / "data"))
    assert "LEARNING_NORMAL_DATA" in doctor._folders()[0].remedy


def test_little_memory_and_disk_are_found(monkeypatch):
    monkeypatch.setattr(doctor, "MEMORY_GIB", 1e6)
    monkeypatch.setattr(doctor, "DISK_GIB", 1e6)
    assert not doctor._memory()[0].ok
    assert not doctor._disk()[0].ok


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda name: ["numpy>=2", "no-such-thing>=1; os_name=='x'"]
    )
    (finding,) = doctor._packages()
    assert finding.found == "missing: no-such-thing"


def test_command_line_exit_code():
    environment = os.environ | {"OMP_WAIT_POLICY": "active"}
    command = [sys.executable, "-m", "course_lib.doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "-> Set OMP_WAIT_POLICY=passive" in done.stdout
    assert "ok  Python" in done.stdout
