"""Names in modules and files, and what is said where there is none."""

from __future__ import annotations

import os

import pytest

from course_lib.errors import BadInput
from course_lib.references import load


def test_a_name_in_a_module_and_in_a_file(tmp_path):
    assert load("course_lib.references:load") is load
    (tmp_path / "mine.py").write_text("class Mine: pass")
    kind = load(f"{tmp_path}/mine.py:Mine")
    assert kind.__name__ == "Mine" and load(f"{tmp_path}/mine.py:Mine") is kind


def test_a_changed_file_and_another_of_the_same_name_are_read(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"WHERE = {folder!r}")
    assert [load(f"{tmp_path}/{folder}/mine.py:WHERE") for folder in "aba"] == ["a", "b", "a"]
    (tmp_path / "a" / "mine.py").write_text("class Kind: where = 'a'")
    (tmp_path / "b" / "mine.py").write_text("class Kind: where = 'b'")
    one, other = (load(f"{tmp_path}/{folder}/mine.py:Kind") for folder in "ab")
    assert one.__module__ != other.__module__ and load(f"{tmp_path}/a/mine.py:Kind") is one
    (tmp_path / "a" / "mine.py").write_text("WHERE = 'changed'")
    os.utime(tmp_path / "a" / "mine.py", ns=(1, 1))
    assert load(f"{tmp_path}/a/mine.py:WHERE") == "changed"


@pytest.mark.parametrize("reference", ["nowhere.py:x", "course_lib.nowhere:x", "course_lib.references:nothing", "x"])
def test_what_cannot_be_imported_is_named_with_its_field(reference):
    with pytest.raises(BadInput, match="cannot be imported") as refused:
        load(reference, "detector")
    assert refused.value.field == "detector" and reference in str(refused.value)


def test_a_file_that_fails_leaves_nothing_half_imported(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\nraise RuntimeError('own words')")
    for _ in range(2):
        with pytest.raises(BadInput, match="own words"):
            load(f"{file}:x")
