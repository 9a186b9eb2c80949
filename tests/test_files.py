"""Files are whole or not there, and paths stay in their folder."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.errors import BadInput
from course_lib.files import atomic_write, inside, sha256

# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_new_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a b é.tsv"
    with atomic_write(path) as part:
        part.write_text("all of it")
        assert not path.exists() and part.suffix == ".tsv"
    assert path.read_text() == "all of it" and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_the_mode_is_the_usual_one(tmp_path):
    with atomic_write(tmp_path / "a") as part:
        part.write_text("1")
    (tmp_path / "b").write_text("1")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_the_old_file_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(BadInput if isinstance(error, OSError) else type(error)):
        with atomic_write(path) as part:
            part.write_text("half")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_and_a_read_only_disk(small_disk):
    path = small_disk / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(BadInput, match="No space left") as caught:
        with atomic_write(path) as part:
            part.write_bytes(bytes(2**20))
    assert caught.value.file == path and "Free some space" in caught.value.remedy
    assert path.read_bytes() == b"old" and list(small_disk.iterdir()) == [path]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(BadInput, match="Read-only"):
        with atomic_write(path) as part:
            part.write_bytes(b"new")
    assert path.read_bytes() == b"old"


NOBODY = """
import os, sys
from course_lib.errors import BadInput
from course_lib.files import atomic_write
if os.geteuid() == 0:
    os.setuid(65534)
try:
    with atomic_write(sys.argv[1]) as part:
        part.write_text("new")
except BadInput as error:
    print("refused", error)
"""


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_a_folder_that_the_user_may_not_write(tmp_path):
    folder = tmp_path / "fixed"
    folder.mkdir()
    path = folder / "a.txt"
    path.write_text("old")
    for place in (folder, *list(tmp_path.parents)[:2]):
        place.chmod(0o555 if place == folder else place.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", NOBODY, str(path)], capture_output=True, text=True, timeout=60)
    folder.chmod(0o755)
    assert done.stdout.startswith("refused") and "Permission denied" in done.stdout, done.stdout + done.stderr
    assert path.read_text() == "old"


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"content" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"content" * 100_000).hexdigest()


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "sub/a b é.nii", "sub/../a.nii", "not there", "..a/b.."])
def test_paths_in_the_folder(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name
    assert inside(tmp_path, tmp_path / name) == tmp_path / name


@pytest.mark.parametrize("name", ["../a.nii", "sub/../../a.nii", "/etc/passwd", "..", ".", "", "a\0b"])
def test_paths_that_leave_the_folder(tmp_path, name):
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(BadInput) as caught:
        inside(folder, name)
    assert caught.value.field == "path" and caught.value.remedy and caught.value.file == folder / name


def test_a_folder_beside_with_a_longer_name_is_outside(tmp_path):
    with pytest.raises(BadInput):
        inside(tmp_path / "set", tmp_path / "set2" / "a.nii")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links(tmp_path):
    folder, secret = tmp_path / "set", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    (secret / "a.nii").write_text("1")
    (folder / "real.nii").write_text("1")
    (folder / "door").symlink_to(secret)
    (folder / "file.nii").symlink_to(secret / "a.nii")
    (folder / "fine.nii").symlink_to(folder / "real.nii")
    (folder / "circle").symlink_to(folder / "circle")
    assert inside(folder, "fine.nii") == folder / "fine.nii"
    for name in ("door/a.nii", "file.nii", "door"):
        with pytest.raises(BadInput, match="leads out"):
            inside(folder, name)
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may be reached by a link
    assert inside(tmp_path / "alias", "real.nii") == Path(tmp_path / "alias" / "real.nii")
