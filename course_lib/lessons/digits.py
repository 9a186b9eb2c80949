"""Typed result digits in prose: numbers that a run should have filled in."""

from __future__ import annotations

import re

REMEDY = "fill it from the run with lesson.say, or put a definition in backticks"
_SPARED = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|<!--.*?-->|\]\([^)]*\)|https?://\S+|\bdoi:?\s*\S+|\b10\.\d{4,}/\S+",
    re.DOTALL | re.IGNORECASE,
)
_LESSON = re.compile(
    r"(?:\blessons?|\bnext:?|\bas in|\bsee|\bexercises?|^#+)\s+"
    r"\d\.\d(?:\.\d)?(?:(?:,| and| to| or|-|–)\s*\d\.\d)*",
    re.IGNORECASE | re.MULTILINE,
)
_LEVELS = ("1", "5", "95", "99", "100")  # per cent: of intervals and of allowed false positives
_CONVENTION = ("0.5", "0.125", "0.625", "0.0", "1.0")  # intensities' convention and ends of scales
_NUMBER = r"(?<![\w.,/])[-+−]?\d*\.?\d+"
_RULES = {
    "a percentage": re.compile(rf"({_NUMBER})\s?(?:%|per ?cent\b)"),
    "a ratio": re.compile(rf"({_NUMBER})(?:\s+times\b|[\s-]?fold\b)"),
    "a p-value": re.compile(r"\bp\s*[<=>≤≥]\s*(\d*\.?\d+)", re.IGNORECASE),
    "a score": re.compile(
        r"\b(?:AP|AUROC|AUPRC|AUC|Dice|IoU|precision|sensitivity|specificity)"
        r"(?:\s+(?:of|is|was|are|reaches|reached|about|only|score|=|:)|\s*[=:])*\s+(\d*\.?\d+)\b(?![.]\d)"
    ),
    "a decimal": re.compile(r"(?<![\w.,/])[-+−]?(\d*\.\d+)(?![\w.]*\d)(?!\s?(?:mm|cm|ml|T|GiB|MB|minutes)\b)"),
}


def typed_results(text: str) -> list[str]:
    """What looks like a typed result in Markdown, each as one sentence; what was found once is not found again.

    Looked at: percentages, "3 times" and "3-fold", p-values, a metric's name with a number, and decimals. Left alone:
    code, formulas, links, references, years, sizes and counts, numbers of lessons, decimals in mm, ml, GiB or minutes,
    the levels of intervals (95 %), and the course's intensity convention (0.5 and 0.125).
    """
    text = re.split(r"^## References", text, flags=re.MULTILINE)[0]
    text = _LESSON.sub(" ", _SPARED.sub(" ", text))
    found = []
    for what, rule in _RULES.items():
        for match in rule.finditer(text):
            number = match[1].lstrip("+-−")
            if not _allowed(what, number):
                found.append(f"{what}, {' '.join(match[0].split())!r}, is typed: {REMEDY}")
        text = rule.sub(" ", text)
    return found


def _allowed(what: str, number: str) -> bool:
    if what == "a percentage":
        return number in _LEVELS
    if what == "a score":
        return number in ("0", "1", "0.5")
    return what == "a decimal" and number in _CONVENTION
