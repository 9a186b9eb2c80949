from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from course_lib.errors import BadInput
from course_lib.teaching import Lesson, predictions
from course_lib.teaching.record import read_record


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    monkeypatch.setenv("LEARNING_NORMAL_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("LEARNING_NORMAL_PREDICTIONS", str(tmp_path / "predictions.json"))
    return Lesson("2.1", profile="quick", seed=3)


def test_record_is_whole_json_at_any_time_and_complete_at_the_end(lesson):
    lesson.claim("a", "A is so", np.True_, np.float32(0.5), low=0.4, high=0.6, over="subjects")
    lesson.results(pd.DataFrame({"detector": ["PCA"], "value": [np.nan]}))
    record = json.loads(lesson.path.read_text())
    assert record["claims"][0]["value"] == 0.5
    assert record["results"] == [{"detector": "PCA", "value": None}]
    assert (record["profile"], record["seed"], record["complete"]) == ("quick", 3, False)
    lesson.summary("one line")
    assert read_record(lesson.path)["complete"]


def test_a_new_run_forgets_the_old_one(lesson):
    lesson.claim("a", "A is so", True)
    assert read_record(Lesson("2.1", profile="quick").path)["claims"] == []


def test_a_cell_can_be_run_twice_but_two_claims_need_two_names(lesson):
    lesson.claim("a", "A is so", True)
    lesson.claim("a", "A is so", False)
    assert [claim["holds"] for claim in read_record(lesson.path)["claims"]] == [False]
    with pytest.raises(BadInput, match="two claims"):
        lesson.claim("a", "Another thing", True)


def test_without_a_guess_nothing_blocks(lesson, capsys):
    lesson.predict("ap", "What will the AP be?")
    lesson.reveal("ap", 0.5)
    assert "It is **0.5**." in capsys.readouterr().out


def test_the_guess_stands_beside_the_truth(lesson, capsys):
    lesson.predict("order", "Which is best?", "ranking", ["AE", "PCA"], guess=["PCA", "AE"])
    lesson.reveal("order", ["AE", "PCA"])
    assert "0 of 1 pairs" in capsys.readouterr().out


def test_a_stored_guess_for_a_question_that_changed_is_left_out(lesson, capsys):
    lesson.predict("order", "Which is best?", "ranking", ["AE", "PCA"], guess=["PCA", "AE"])
    lesson.predict("order", "Which is best?", "ranking", ["AE", "PCA", "VAE"])
    lesson.reveal("order", ["AE", "PCA", "VAE"])
    assert "The order is **AE > PCA > VAE**." in capsys.readouterr().out


def test_confidence_is_stored_and_a_new_guess_forgets_it(lesson):
    lesson.predict("best", "Which?", "choice", ["AE", "PCA"], guess="AE", sure=80)
    assert predictions.load()["2.1/best"]["sure"] == 80
    lesson.predict("best", "Which?", "choice", ["AE", "PCA"], guess="PCA")
    assert predictions.load()["2.1/best"]["sure"] is None


def test_truth_before_question_is_refused(lesson):
    with pytest.raises(BadInput, match="not asked"):
        lesson.reveal("ap", 1)


def test_cards_are_checked_by_number(lesson, capsys):
    lesson.card(
        "2.1.1", "Sum", 1, 2, "What is 1 + 1?", check=lambda answer: None if answer == 2 else "Add, do not join."
    )
    lesson.check("2.1.1", 11)
    lesson.check("2.1.1", 2)
    out = capsys.readouterr().out
    assert "not yet. Add, do not join." in out
    assert "right." in out
    with pytest.raises(BadInput, match="no exercise"):
        lesson.check("2.1.9", 2)
