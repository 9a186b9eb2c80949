from __future__ import annotations

import nbformat
import pytest
import yaml

from course_lib.errors import BadInput
from course_lib.lessons.catalog import lessons
from course_lib.lessons.parameters import Parameter, check, check_namespace, declared


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
        ({"rate": [0.1, 0.2]}, r"rate wants float, not \[0.1, 0.2\]"),
        ({"sizes": 3}, "sizes wants list, not 3"),
        ({"rate": float("nan")}, "rate is a finite number, not nan"),
        ({"rate": "inf"}, "rate is a finite number, not inf"),
        ({"seed": None}, "seed wants int, not None"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(known, given, said):
    with pytest.raises(BadInput, match=said):
        check(given, known)


@pytest.mark.parametrize(
    ("line", "value", "said"),
    [
        ("steps: int = 100  # of the training", -5, "steps is 0 or more, not -5. It is of the training."),
        ("share: float = 0.1  # of the tokens, 0 to 0.5", 0.6, "share is 0 to 0.5, not 0.6. It is of the tokens"),
        ("share: float = 0.1  # of the tokens, 0 to 0.5", "-1e-9", "share is 0 to 0.5"),
        ("shift: int = 0  # pixels, -3 to 3", -4, "shift is -3 to 3, not -4"),
    ],
)
def test_a_number_outside_its_range_is_refused(notebook, line, value, said):
    known = declared(nbformat.read(notebook(parameters=line), 4))
    name = line.partition(":")[0]
    with pytest.raises(BadInput, match=said):
        check({name: value}, known)
    assert check({name: known[name].default}, known) == {name: known[name].default}


def test_a_range_is_two_numbers_around_to_and_nothing_else():
    for text in ("turned by 20 degrees to the left", "2.1 to", "from seed to seed", "level1 to 3x", ""):
        assert Parameter("a", "float", 1.0, text).range is None
    assert Parameter("a", "float", 1.0, "degrees, -90 to 90").range == (-90, 90)
    assert Parameter("a", "str", "x", "1 to 3").range is None


# ---- all lessons ----------------------------------------------------------------------------------------------------

COMMON = {"data": "str", "profile": "str", "seed": "int", "device": "str"}
BUILT = [lesson.notebook for lesson in lessons() if lesson.notebook.exists()]


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)
def test_every_lesson_declares_the_same_and_papermill_shows_it(path, capsys):
    from papermill import inspect_notebook
    from papermill.inspection import display_notebook_help

    known = declared(nbformat.read(path, 4))
    assert {name: parameter.type for name, parameter in list(known.items())[:4]} == COMMON
    assert [known[name].default for name in COMMON] == ["atlas", "standard", 0, "cpu"]
    assert all(len(parameter.help) > 10 for parameter in known.values())
    assert all(parameter.range for name, parameter in known.items() if parameter.type == "int")
    shown = inspect_notebook(str(path))
    assert {n: (p["inferred_type_name"], p["help"].lstrip("# ")) for n, p in shown.items()} == {
        name: (parameter.type, parameter.help) for name, parameter in known.items()
    }
    assert display_notebook_help(Context(), str(path), {}) == 0  # what `papermill --help-notebook` prints
    printed = capsys.readouterr().out
    assert all(f"{name}: {parameter.type}" in printed for name, parameter in known.items())
    for name, parameter in known.items():
        wrong = {"int": "one", "float": [1.0], "str": 3, "bool": 2, "list": 1, "dict": 1}[parameter.type]
        with pytest.raises(BadInput, match=f"{name} wants {parameter.type}"):
            check({name: wrong}, known)


class Context:
    """What click hands to papermill's help."""

    command = type("command", (), {"get_usage": staticmethod(lambda _: "Usage: papermill")})


# ---- without the course's runner ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"profile": "fast"}, "profile is quick, standard, full, not 'fast'"),
        ({"seed": 1.5}, "seed wants int, not 1.5"),
        ({"rate": "1e-3"}, "rate wants float, not the text '1e-3'. Write 1.0e-3"),
        ({"fast": "false"}, "fast wants bool, not the text 'false'"),
        ({"data": "nowhere"}, "data is atlas, stroke or an existing folder"),
    ],
)
def test_plain_papermill_ends_at_the_first_cell_with_one_sentence(notebook, tmp_path, given, said):
    import papermill

    path = notebook("from course_lib.lessons.parameters import check_namespace\ncheck_namespace()", "1 / 0")
    with pytest.raises(papermill.PapermillExecutionError) as failed:
        papermill.execute_notebook(str(path), str(tmp_path / "out.ipynb"), parameters=given, progress_bar=False)
    assert failed.value.ename == "BadInput" and said in failed.value.evalue


def test_right_values_and_other_annotated_names_pass():
    variables = {"seed": 3, "rate": 1, "data": "atlas", "lesson": object(), "n": 2, "sizes": [1]}
    kinds = {"seed": int, "rate": float, "data": str, "lesson": object, "late": int, "sizes": list[int]}
    check_namespace(variables | {"__annotations__": kinds})
    check_namespace()  # where there is no kernel
    with pytest.raises(BadInput, match="sizes wants list"):
        check_namespace(variables | {"sizes": 2, "__annotations__": kinds})


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
