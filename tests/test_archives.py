"""Archives that lie: nothing leaves the folder, nothing grows without bound, nothing is half unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.archives import extract, safe_name
from course_lib.errors import BadInput

FILES = {"a.txt": b"first", "sub/b c.txt": b"second" * 100, "sub/deep/é.txt": b""}
FORMATS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]
PACK = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
BAD_NAMES = [
    "../out.txt",
    "/tmp/out.txt",
    "a/../../out.txt",
    "..",
    "C:/out.txt",
    "..\\out.txt",
    "a\x01b",
    "./.",
    "a" * 5000,
]


def make(folder: Path, form: str, entries) -> Path:
    """An archive of (name, bytes) in one of the formats; names are not checked."""
    entries = list(entries.items() if isinstance(entries, dict) else entries)
    path = folder / f"pack.{form}"
    buffer = io.BytesIO()
    if form == "zip":
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
            warnings.simplefilter("ignore")  # names that are there twice
            for name, content in entries:
                info = zipfile.ZipInfo("x")
                info.filename = name
                info.compress_type = zipfile.ZIP_DEFLATED
                pack.writestr(info, content)
        path.write_bytes(buffer.getvalue())
        return path
    with tarfile.open(fileobj=buffer, mode="w") as pack:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            pack.addfile(info, io.BytesIO(content))
    path.write_bytes(PACK.get(form, bytes)(buffer.getvalue()))
    return path


def refused(archive: Path, match: str | None, **options) -> BadInput:
    """It is refused, and there is nothing but the archive afterwards."""
    folder = archive.parent
    before = sorted(folder.iterdir())
    with pytest.raises(BadInput, match=match) as caught:
        extract(archive, folder / "out", **options)
    assert sorted(folder.iterdir()) == before
    assert caught.value.remedy and caught.value.file
    return caught.value


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_archive_is_unpacked(tmp_path, form):
    files = extract(make(tmp_path, form, FILES), tmp_path / "new" / "out")
    assert files == sorted(tmp_path / "new" / "out" / name for name in FILES)
    for name, content in FILES.items():
        assert (tmp_path / "new" / "out" / name).read_bytes() == content
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]


def test_an_empty_folder_is_used_and_a_full_one_is_not(tmp_path):
    archive = make(tmp_path, "zip", FILES)
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out")
    with pytest.raises(BadInput, match="not an empty folder"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:12]))
def test_names_that_lead_out_are_refused(tmp_path, form, name):
    outside = tmp_path / "inner"
    outside.mkdir()
    error = refused(make(outside, form, [("good.txt", b"x"), (name, b"bad")]), "entry")
    assert error.field == "entry"
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "A"), ("a", "./a"), ("é", "e\u0301"), ("a", "a/b"), ("a/b", "a"), ("d/a", "D/A")],
    ids=str,
)
def test_names_that_are_there_twice_are_refused(tmp_path, form, names):
    refused(make(tmp_path, form, [(name, b"x") for name in names]), "twice")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar_are_refused(tmp_path, kind):
    path = tmp_path / "pack.tar"
    with tarfile.open(path, "w") as pack:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        pack.addfile(info)
    refused(path, "link")


def test_links_and_encryption_in_zip_are_refused(tmp_path):
    path = tmp_path / "pack.zip"
    with zipfile.ZipFile(path, "w") as pack:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        pack.writestr(info, "/etc/passwd")
    refused(path, "link")
    path = make(tmp_path, "zip", {"a": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


@pytest.mark.parametrize("form", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
def test_bombs_are_refused(tmp_path, form):
    archive = make(tmp_path, form, {f"{n}.bin": bytes(2**20) for n in range(20)})
    assert archive.stat().st_size < 2**17
    refused(archive, "more than 5 MiB", limit_mib=5)
    refused(archive, "20 entries|19 entries", limit_files=19)


def test_a_zip_that_lies_about_sizes_is_refused(tmp_path):
    archive = make(tmp_path, "zip", {"a.bin": bytes(8 * 2**20)})
    content = bytearray(archive.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(content)
    refused(archive, None, limit_mib=1)


def test_a_tar_with_a_giant_header_or_size_is_refused(tmp_path):
    path = tmp_path / "pack.tar"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    path.write_bytes(info.tobuf() + bytes(2**16))
    refused(path, "more than")
    info = tarfile.TarInfo("x")
    info.size = 2**40
    path.write_bytes(info.tobuf() + bytes(2**16))
    refused(path, "more than")


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "pack.zip"
    for content in (b"", b"not an archive" * 100, b"\x1f\x8b" + bytes(100), b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        refused(path, None)
    with pytest.raises(BadInput, match="not a file"):
        extract(tmp_path / "missing.zip", tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_archive_is_refused(tmp_path, form):
    archive = make(tmp_path, form, {"a.bin": bytes(range(256)) * 400, "b.bin": bytes(range(256)) * 400})
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    refused(archive, None)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["zip", "tar.gz"]))
def test_a_flipped_byte_gives_the_same_files_or_a_refusal(tmp_path_factory, data, form):
    folder = tmp_path_factory.mktemp("flip")
    archive = make(folder, form, FILES)
    content = bytearray(archive.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    archive.write_bytes(content)
    try:
        files = extract(archive, folder / "out", limit_mib=10)
    except BadInput:
        assert [p for p in folder.iterdir()] == [archive]
    else:
        contents = {path.read_bytes() for path in files}
        assert contents <= set(FILES.values())
        assert all(path.resolve().is_relative_to((folder / "out").resolve()) for path in files)


@pytest.mark.parametrize("name", ["a", "a/b", "./a", "a b", "é", "a/", "a..b/c", ".hidden"])
def test_ordinary_names_are_safe(name):
    path = safe_name(name)
    assert not path.is_absolute() and ".." not in path.parts
