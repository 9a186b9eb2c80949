from __future__ import annotations

import nbformat
import pytest
import yaml

from course_lib.errors import BadInput
from course_lib.lessons.parameters import check, declared


@pytest.fixture
def known(notebook):
    return declared(nbformat.read(notebook(), 4))


def test_types_defaults_and_help_are_read(known):
    assert list(known) == ["data", "profile", "seed", "device", "rate", "fast", "sizes"]
    assert (known["rate"].type, known["rate"].default, known["rate"].help) == ("float", 0.01, "learning rate")


def test_text_is_read_as_the_declared_type(known):
    given = {"rate": "1e-3", "seed": "7", "fast": "false", "sizes": "[3, 4]", "profile": "quick", "device": "cuda:1"}
    assert check(given, known) == {
        "rate": 1e-3,
        "seed": 7,
        "fast": False,
        "sizes": [3, 4],
        "profile": "quick",
        "device": "cuda:1",
    }


def test_what_yaml_makes_of_numbers(known):
    """YAML 1.1 reads 1e-3 as text."""
    given = yaml.safe_load("{rate: 1e-3, seed: 3}")
    assert isinstance(given["rate"], str)
    assert check(given, known) == {"rate": 1e-3, "seed": 3}
    assert check({"rate": 1}, known) == {"rate": 1.0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sed": 1}, "unknown parameter sed"),
        ({"seed": "one"}, "seed wants int, not 'one'"),
        ({"seed": 1.0}, "seed wants int, not 1.0"),
        ({"seed": True}, "seed wants int, not True"),
        ({"seed": -1}, "seed is 0 or more"),
        ({"rate": "fast"}, "rate wants float"),
        ({"rate": True}, "rate wants float"),
        ({"fast": 1}, "fast wants bool"),
        ({"fast": "maybe"}, "fast wants bool"),
        ({"sizes": "3"}, "sizes wants list"),
        ({"profile": "fast"}, "profile is quick, standard, full, not 'fast'"),
        ({"device": "tpu"}, "device is auto"),
        ({"data": "no/such/folder"}, "data is atlas, stroke or an existing folder"),
        ({"data": 3}, "data wants str"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(known, given, said):
    with pytest.raises(BadInput, match=said):
        check(given, known)


@pytest.mark.parametrize("source", ["seed = 0", "seed: Path = 0", "seed: int = f()", "print(1)"])
def test_a_parameters_cell_holds_typed_plain_values(notebook, source):
    with pytest.raises(BadInput, match="name: type = value"):
        declared(nbformat.read(notebook(parameters=source), 4))


def test_a_lesson_has_one_parameters_cell(notebook):
    made = nbformat.read(notebook(), 4)
    made.cells[1]["metadata"] = {}
    with pytest.raises(BadInput, match="one cell tagged"):
        declared(made)


def test_a_folder_is_found_from_where_the_command_was_given(known, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert check({"data": "mine"}, known) == {"data": str(tmp_path / "mine")}
    assert check({"data": "atlas"}, known) == {"data": "atlas"}
