"""What a grid may say, and the sentence for everything that it may not."""

from __future__ import annotations

import sys

import pytest

from course_lib import sweep
from course_lib.errors import BadInput
from course_lib.sweep.grid import read_grid


@pytest.fixture
def grid_file(tmp_path, toy):
    """A function that writes a grid file beside the toy notebook."""

    def write(text: str):
        path = tmp_path / "grid.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_list_spans_the_grid_in_its_order(grid_file):
    grid = read_grid(grid_file("notebook: toy.ipynb\nseed: [2, 1]\nparameters: {factor: [0.5, 2], sizes: [[1, 2]]}\n"))
    assert grid.name == "grid" and len({run.id for run in grid.runs}) == 4
    assert [(run.parameters["seed"], run.parameters["factor"]) for run in grid.runs] == [
        (2, 0.5),
        (2, 2.0),
        (1, 0.5),
        (1, 2.0),
    ]
    assert all(run.parameters["sizes"] == [1, 2] for run in grid.runs)
    assert grid.runs[0].id.startswith("toy_seed=2_factor=0.5_")


def test_detectors_with_lists_become_several_with_names_that_differ(measure, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Mine: ...\n")
    monkeypatch.chdir(tmp_path)
    given = {"class": "mine.py:Mine", "latent": [16, 64], "channels": [[8, 16]]}
    grid = read_grid(
        {"name": "g", "detectors": ["DAE", given], "seed": range(2), "parameters": {"heights": 2}}, measure
    )
    assert [run.columns["detector"] for run in grid.runs[::2]] == ["DAE", "Mine, latent 16", "Mine, latent 64"]
    first = grid.runs[2]
    assert first.target == {
        "class": f"{tmp_path / 'mine.py'}:Mine",
        "name": "Mine, latent 16",
        "latent": 16,
        "channels": [8, 16],
    }
    assert first.parameters == {"data": "atlas", "seed": 0, "profile": "quick", "heights": 2}
    assert str(tmp_path / "mine.py") in first.files


def test_an_argument_that_is_called_like_an_axis_of_the_grid_makes_no_two_runs_one(measure, tmp_path):
    (tmp_path / "mine.py").write_text("class Mine: ...\n")
    given = {"class": f"{tmp_path}/mine.py:Mine", "seed": 5}
    grid = read_grid({"name": "g", "detectors": [given], "seed": [0, 1, 2]}, measure)
    assert len({run.id for run in grid.runs}) == 3
    assert [run.columns["seed"] for run in grid.runs] == [run.parameters["seed"] for run in grid.runs] == [0, 1, 2]
    assert all(run.target["seed"] == 5 for run in grid.runs)


def test_long_labels_give_runs_names_of_their_own(measure):
    given = {"class": "course_lib.detectors.pca:PCA", "name": "x" * 90}
    grid = read_grid({"name": "g", "detectors": [given], "seed": range(5000)}, measure)
    assert len({run.id for run in grid.runs}) == 5000


def test_a_training_budget_goes_to_a_class_and_is_refused_for_a_name(measure):
    given = {"class": "course_lib.detectors.pca:PCA", "components": 4}
    grid = read_grid({"name": "g", "detectors": [given], "parameters": {"steps": [1, 2]}}, measure)
    assert [run.target["steps"] for run in grid.runs] == [1, 2] and "steps" not in grid.runs[0].parameters
    with pytest.raises(BadInput, match="parameters.steps.*DAE is trained with its own budget"):
        read_grid({"name": "g", "detectors": ["DAE"], "parameters": {"steps": 3}}, measure)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("notebook: toy.ipynb\nsed: 1", r"\[sed\] there is no such field"),
        ("notebook: toy.ipynb\nseed: 1e3", r"\[seed\] YAML reads 1e3 as text. Write 1.0e\+3"),
        ("notebook: toy.ipynb\nparameters: {factor: [1e-3]}", r"\[parameters.factor\] YAML reads 1e-3 .*1.0e-3"),
        ("notebook: toy.ipynb\nseed: []", r"\[seed\] the list is empty"),
        ("notebook: toy.ipynb\nseed: [0, 1, 0]", r"\[seed\] 0 is there twice"),
        ("notebook: toy.ipynb\nseed: 0\nseed: 1", "seed is there twice"),
        ("notebook: toy.ipynb\nseed: one", r"\[seed\] seed wants int, not 'one'"),
        ("notebook: toy.ipynb\nseed: true", r"\[seed\] seed wants int, not True"),
        ("notebook: toy.ipynb\nseed: -1", r"\[seed\] seed is 0 or more"),
        ("notebook: toy.ipynb\nseed:", r"\[seed\] None is neither"),
        ("notebook: toy.ipynb\nprofile: fast", r"\[profile\] profile is quick, standard, full"),
        ("notebook: toy.ipynb\ndata: nowhere", r"\[data\] data is atlas, stroke or an existing folder"),
        ("notebook: toy.ipynb\ndata: atlas", r"\[data\] the notebook has no parameter data"),
        ("notebook: toy.ipynb\nparameters: {rate: 1}", r"\[parameters.rate\] the notebook has no parameter rate"),
        ("notebook: toy.ipynb\nparameters: {factor: two}", r"\[parameters.factor\] factor wants float, not 'two'"),
        ("notebook: toy.ipynb\nparameters: {sizes: [1, 2]}", r"\[parameters.sizes\] .*wants a list.*\[\[1, 2\]\]"),
        ("notebook: toy.ipynb\nparameters: {seed: 1}", r"\[parameters.seed\] this is a field of the grid itself"),
        ("notebook: toy.ipynb\nparameters: [1]", r"\[parameters\] parameters maps names"),
        ("notebook: toy.ipynb\nname: a/b", r"\[name\] 'a/b' is no name for a folder"),
        ("notebook: nowhere.ipynb", r"\[notebook\] there is no nowhere.ipynb"),
        ("notebook: 9.9", r"\[notebook\] there is no lesson 9.9"),
        ("notebook: 2", r"\[notebook\] 2 is a part of the course"),
        ("notebook: {a: 1}", r"\[notebook\] notebook is a lesson's number"),
        ("seed: 1", r"\[notebook\] a grid has either notebook or detectors"),
        ("notebook: 2.1\ndetectors: DAE", r"\[notebook\] a grid has either"),
        ("detectors: DAEE", r"\[detectors\] no detector is called 'DAEE'"),
        ("detectors: [DAE, DAE]", r'\[detectors\] "DAE" is there twice'),
        ("detectors: [{latent: 3}]", r"\[detectors\] .* is no detector"),
        ("detectors: nowhere.py:Mine", r"\[detectors\] there is no nowhere.py"),
        ("detectors: course_lib.detectors.pca:PCB", r"\[detectors\] .*cannot be imported"),
        ("detectors: {class: 'course_lib.detectors.pca:PCA', width: 3}", r"\[detectors\] PCA takes no width"),
        ("detectors: {class: 'course_lib.detectors.pca:PCA', components: []}", r"\[detectors.components\] the list"),
        ("- 1", "a grid maps fields to values"),
        ("a: [", "this is no YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_file_and_field(grid_file, text, said):
    with pytest.raises(BadInput, match=said) as caught:
        read_grid(grid_file(text))
    assert str(caught.value.file).endswith("grid.yaml") and "\n" not in str(caught.value)


def test_two_detectors_of_one_name_are_refused():
    one = {"class": "course_lib.detectors.pca:PCA", "name": "P", "components": 4}
    with pytest.raises(BadInput, match="two of them are called P"):
        read_grid({"name": "g", "detectors": [one, one | {"components": 8}]})


def test_a_wrong_grid_starts_nothing(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        sweep.run(tmp_path / "none.yaml", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lessons_are_found_by_their_numbers():
    grid = read_grid({"name": "g", "notebook": [2.1, "1.0"], "profile": "quick"})
    assert [run.columns["notebook"] for run in grid.runs] == ["2.1", "1.0"]
    assert grid.runs[0].target.endswith("2.1_autoencoders.ipynb")


def test_the_package_imports_little():
    """Each worker and each run starts a process that imports it."""
    import subprocess

    code = (
        "import sys, course_lib.sweep.attempt; print([n for n in ('torch', 'pandas', 'nbformat') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
