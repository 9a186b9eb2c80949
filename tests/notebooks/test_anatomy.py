"""Every lesson has its anatomy, and every exercise its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from course_lib.lessons.anatomy import card_numbers, problems
from course_lib.lessons.build import read_source
from course_lib.lessons.catalog import lessons
from course_lib.lessons.tables import read_recorded

HERE = Path(__file__).parent


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_anatomy(lesson):
    assert problems(lesson) == []


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_every_exercise_is_tested(lesson):
    tests = HERE / f"test_exercises_{lesson.number.replace('.', '_')}.py"
    text = tests.read_text(encoding="utf-8") if tests.exists() else ""
    untested = [card for card in card_numbers(read_source(lesson.source)) if f'"{card}"' not in text]
    assert untested == [], f"write wrong and right answers for these in {tests.name}"


def test_the_course_records_many_claims():
    standard = [key for key in read_recorded() if key[2] == "standard"]
    assert len(standard) >= 14
