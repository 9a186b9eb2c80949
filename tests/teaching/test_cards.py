from __future__ import annotations

import sys
import warnings

import pytest

from course_lib.errors import BadInput
from course_lib.teaching.cards import Card


def check_prevalence(answer):
    """AP of a random score is the prevalence."""
    if abs(answer - 0.5) < 1e-9:
        return "That is the AUROC of a random score. AP depends on how rare the lesions are."
    assert 0 <= answer <= 1, "A precision lies between 0 and 1."
    return None if abs(answer - 0.05) < 1e-9 else "Look at the precision when everything is marked."


CARD = Card("1.2.1", "Chance", 1, 5, "What is the AP of a random score?", ["Mark all."], "`0.05`", check_prevalence)


def test_folds_are_details_with_summaries_and_markdown_inside():
    text = CARD.markdown()
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>") == 2
    assert "\n\n`0.05`\n\n</details>" in text
    assert "style=" not in text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0.05, "right"),
        (0.5, "AUROC of a random"),
        (7, "between 0 and 1"),
        (0.1, "everything is marked"),
        (..., "no answer"),
    ],
)
def test_the_message_names_the_misconception(answer, said):
    assert said in CARD.verdict(answer)


def test_an_answer_of_another_kind_is_not_an_error():
    assert "TypeError" in CARD.verdict("a twentieth")


def test_a_check_writes_nothing_to_stderr(capfd):
    def noisy(answer):
        warnings.warn("noise", stacklevel=2)
        print("noise", file=sys.stderr)

    assert "right" in Card("1", "t", 1, 1, "task", check=noisy).verdict(1)
    assert capfd.readouterr().err == ""


def test_difficulty_is_one_of_three():
    with pytest.raises(BadInput):
        Card("1", "t", 4, 1, "task")
