"""What a lesson uses to teach: claims, predictions, living numbers, exercise cards."""

from course_lib.teaching.claims import Claim
from course_lib.teaching.lesson import Lesson

__all__ = ["Claim", "Lesson"]
