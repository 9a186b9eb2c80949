from __future__ import annotations

import json

import pytest
from ipywidgets import Widget

from course_lib.errors import BadInput
from course_lib.teaching import predictions


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNING_NORMAL_PREDICTIONS", str(tmp_path / "predictions.json"))
    yield
    Widget.close_all()


def test_guess_and_truth_are_kept_together():
    predictions.store("2.1", "ap", guess=0.5)
    predictions.store("2.1", "ap", truth=0.25)
    entry = predictions.load()["2.1/ap"]
    assert (entry["guess"], entry["truth"]) == (0.5, 0.25)
    assert entry["time"].endswith("+00:00")


def test_a_damaged_file_is_named_and_kept():
    predictions.predictions_file().write_text("{half")
    with pytest.raises(BadInput, match="predictions.json"):
        predictions.store("2.1", "ap", guess=1)
    assert predictions.predictions_file().read_text() == "{half"


@pytest.mark.parametrize(
    ("guess", "kind", "choices", "bounds"),
    [
        ("many", "number", (), None),
        (None, "number", (), None),
        (1.5, "number", (), (0, 1)),
        (float("nan"), "number", (), (0, 1)),
        ("c", "choice", ("a", "b"), None),
        (["a", "a"], "ranking", ("a", "b"), None),
        (["a"], "ranking", ("a", "b"), None),
    ],
)
def test_guesses_of_another_kind_are_refused(guess, kind, choices, bounds):
    with pytest.raises(BadInput):
        predictions.check_guess(guess, kind, choices, bounds)


def test_comparisons():
    assert "3 of 3 pairs" not in predictions.compare(["b", "a", "c"], ["a", "b", "c"], "ranking")
    assert "2 of 3 pairs" in predictions.compare(["b", "a", "c"], ["a", "b", "c"], "ranking")
    assert predictions.compare(0.3, 0.52, "number") == "You guessed 0.3. It is **0.52**, so you were 0.22 off."
    assert "you were right" in predictions.compare("a", "a", "choice")
    assert predictions.compare(None, 2.0, "number") == "It is **2**."


def test_form_commits_on_click_and_says_what_is_wrong():
    committed = []
    form = predictions.form("number", (), None, committed.append, (0, 1))
    number, (button, said) = form.children[0], form.children[1].children
    number.value = 7
    button.click()
    assert committed == []
    assert said.value == "7 is not between 0 and 1."
    number.value = 0.7
    button.click()
    assert committed == [0.7]
    assert said.value == "stored"


def test_ranking_form_has_a_place_for_each():
    committed = []
    form = predictions.form("ranking", ("a", "b"), None, committed.append)
    *places, row = form.children
    row.children[0].click()
    assert committed == []
    places[0].value, places[1].value = "b", "a"
    row.children[0].click()
    assert committed == [["b", "a"]]


def test_file_is_plain_json():
    predictions.store("2.1", "order", guess=["b", "a"], kind="ranking")
    assert json.loads(predictions.predictions_file().read_text())["2.1/order"]["guess"] == ["b", "a"]
