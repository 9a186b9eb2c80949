"""Token explorer: a threshold on the probability of tokens, what it marks, and what healing makes of the slice."""

from course_lib.widgets.tokens.figure import tokens_figure
from course_lib.widgets.tokens.state import TokenState
from course_lib.widgets.tokens.view import TokenExplorer

__all__ = ["TokenExplorer", "TokenState", "tokens_figure"]
