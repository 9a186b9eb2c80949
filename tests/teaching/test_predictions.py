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
    number, (button, said) = form.children[0], form.children[-1].children
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
    *places, _, row = form.children
    row.children[0].click()
    assert committed == []
    places[0].value, places[1].value = "b", "a"
    row.children[0].click()
    assert committed == [["b", "a"]]


def test_file_is_plain_json():
    predictions.store("2.1", "order", guess=["b", "a"], kind="ranking")
    assert json.loads(predictions.predictions_file().read_text())["2.1/order"]["guess"] == ["b", "a"]


def entry(kind, guess, truth, **stated) -> dict:
    return {"kind": kind, "guess": guess, "truth": truth} | stated


def test_calibration_against_numbers_by_hand():
    entries = {
        "a": entry("choice", "x", "x", sure=90),
        "b": entry("choice", "x", "y", sure=90),
        "c": entry("choice", "x", "x", sure=60),
        "d": entry("choice", "x", "y"),
        "e": entry("number", 1.0, 2.0, low=0.0, high=3.0),
        "f": entry("number", 1.0, 9.0, low=0.0, high=3.0),
        "g": entry("number", 1.0, 9.0),
        "h": entry("ranking", ["p", "q", "r"], ["q", "p", "r"], sure=80),
        "i": {"kind": "choice", "guess": "x"},
    }
    table = predictions.calibration(entries)
    value = table.set_index(["measure", "stated"])["value"]
    by = table.set_index("measure")
    assert by.loc["hit rate", "value"] == 0.5 and by.loc["hit rate", "stated"] == pytest.approx(0.8)
    assert value["hit rate by confidence", 0.9] == 0.5 and value["hit rate by confidence", 0.6] == 1
    assert by.loc["Brier score", "value"] == pytest.approx((0.01 + 0.81 + 0.16) / 3)
    assert by.loc["inside the range", "value"] == 0.5 and by.loc["inside the range", "guesses"] == 2
    assert by.loc["pairs right", "value"] == pytest.approx(2 / 3) and by.loc["pairs right", "guesses"] == 1
    assert table["few"].all()


def test_wilson_interval_and_enough_guesses():
    entries = {str(k): entry("choice", "x", "x" if k < 8 else "y") for k in range(10)}
    (row,) = predictions.calibration(entries).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson, 8 of 10
    assert not row["few"]


def test_nothing_stored_gives_an_empty_table():
    assert len(predictions.calibration({})) == 0


@pytest.mark.parametrize(
    "stated",
    [
        ("choice", 49, None),
        ("choice", 101, None),
        ("number", 80, None),
        ("number", None, (2, 1)),
        ("choice", None, (1, 2)),
    ],
)
def test_confidence_that_makes_no_sense_is_refused(stated):
    with pytest.raises(BadInput):
        predictions.check_confidence(*stated)


def test_form_hands_over_how_sure_and_range():
    said = []
    form = predictions.form("choice", ("a", "b"), "a", lambda guess, **stated: said.append((guess, stated)))
    form.children[1].value = 70
    form.children[-1].children[0].click()
    form = predictions.form("number", (), 2.0, lambda guess, **stated: said.append((guess, stated)))
    form.children[1].value = "1"
    form.children[-1].children[0].click()
    assert "is not a number" in form.children[-1].children[1].value  # one end alone is no range
    form.children[2].value = "3.5"
    form.children[-1].children[0].click()
    assert said == [("a", {"sure": 70.0}), (2.0, {"low": 1.0, "high": 3.5})]
