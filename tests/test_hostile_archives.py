"""Archives made to do harm, beside the ordinary refusals of test_archives.py."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.archives import extract, safe_name
from course_lib.errors import BadInput

FILES = {"scan.nii": b"voxels" * 100, "sub dir/Läsion 脳.nii": b"", "sub dir/deep/a.txt": b"a"}


def make_zip(path: Path, entries: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, data in entries:
            pack.writestr(name, data)
    return path


def member(name: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as pack:
        for info, data in members:
            pack.addfile(info, io.BytesIO(data))
    return path


def refused(archive: Path, **limits) -> BadInput:
    """Expect a refusal with all its parts, and that nothing was written anywhere around the archive."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(BadInput) as caught:
        extract(archive, archive.parent / "inner", **limits)
    assert sorted(archive.parent.rglob("*")) == before
    error = caught.value
    assert error.cause and error.remedy and error.field and str(error.file) == str(archive)
    return error


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_safe_name_stays_in_its_folder(name):
    try:
        path = safe_name(name)
    except BadInput:
        return
    root = Path("/data/set").resolve()
    assert path.parts and (root / path).resolve().is_relative_to(root) and (root / path).resolve() != root


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_modes_of_the_archive_do_not_count(tmp_path):
    info, data = member("tool", b"#!")
    info.mode = 0o6777
    (found,) = extract(make_tar(tmp_path / "a.tar", [(info, data)]), tmp_path / "out")
    assert stat.S_IMODE(found.stat().st_mode) & 0o6111 == 0


def test_a_name_does_not_tell_the_format(tmp_path):
    path = make_zip(tmp_path / "download.tar.gz", list(FILES.items()))
    assert {str(p.relative_to(tmp_path / "out")) for p in extract(path, tmp_path / "out")} == set(FILES)


def test_the_limit_is_what_is_unpacked_not_what_is_packed(tmp_path):
    big = bytes(2**20)
    for archive in (
        make_zip(tmp_path / "a.zip", [(f"{i}.bin", big) for i in range(4)]),
        make_tar(tmp_path / "a.tar.gz", [member(f"{i}.bin", big) for i in range(4)], "w:gz"),
    ):
        assert refused(archive, limit_mib=3.9).field == "limit_mib"
        assert len(extract(archive, tmp_path / archive.name.replace(".", "-"), limit_mib=4)) == 4


def test_too_many_entries(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [(f"{i}", b"") for i in range(12)])
    assert "entries" in refused(archive, limit_files=11).cause
    assert len(extract(archive, tmp_path / "out", limit_files=12)) == 12


def test_entries_that_share_one_piece_of_data(tmp_path):
    """Overlapping entries unpack to far more than the archive holds (Fifield D. USENIX WOOT 2019)."""
    path = make_zip(tmp_path / "a.zip", [("a.bin", bytes(2**20)), ("b.bin", bytes(2**20))])
    raw = bytearray(path.read_bytes())
    second = raw.rfind(b"PK\1\2")
    raw[second + 42 : second + 46] = bytes(4)  # the second entry points at the first one's data
    path.write_bytes(bytes(raw))
    refused(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_promises_a_tebibyte(tmp_path, pack):
    info, _ = member("a.bin")
    info.size = 2**40
    path = tmp_path / "a.tar.gz"
    path.write_bytes(pack(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**24)))
    assert refused(path, limit_mib=4).field == "limit_mib"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_of_many_megabytes(tmp_path, form):
    """Long names are held in memory by tarfile before anyone can look at them."""
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", 1) as stream:
        stream.write(tarfile.TarInfo("x" * 2**24).tobuf(form) + bytes(1024))
    refused(path)


FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=3)


@FUZZ
@given(kind=st.sampled_from(["zip", "gz"]), flips=FLIPS, cut=st.one_of(st.just(1.0), st.floats(0, 1)))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_archive_is_refused_or_right(tmp_path_factory, kind, flips, cut):
    """Contents carry checksums in zip and gzip. Names do not in zip: they may differ."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "a"
    if kind == "zip":
        make_zip(path, list(FILES.items()))
    else:
        make_tar(path, [member(name, data) for name, data in FILES.items()], "w:gz")
    raw = bytearray(path.read_bytes())
    raw = raw[: max(1, round(len(raw) * cut))]
    for place, bit in flips:
        raw[int(place * (len(raw) - 1))] ^= 1 << bit
    path.write_bytes(bytes(raw))
    try:
        found = extract(path, folder / "out")
    except BadInput:
        assert [p.name for p in folder.iterdir()] == ["a"]
        return
    if kind == "gz":
        assert {str(p.relative_to(folder / "out")): p.read_bytes() for p in found} == FILES
    else:
        assert all(p.is_relative_to(folder / "out") and p.read_bytes() in FILES.values() for p in found)
