"""The course's tables, gathered from the lessons' records: results, claims, cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from course_lib.files import atomic_write
from course_lib.lessons.catalog import NOTEBOOKS
from course_lib.teaching.claims import Claim, claims_table
from course_lib.teaching.prose import table

RECORDED = NOTEBOOKS / "claims.tsv"  # which claims hold, in the repository: lesson, claim, profile, holds
WORDS = {"yes": True, "no": False, "either": None}  # "either", set by hand: too close to call with so little computing
OPTIONAL = "real "  # so begin the names of claims on real scans: a computer without those scans cannot measure them
SEEDS = 3  # so many trainings or draws of the data a claim should stand on
QUICK_MINUTES, SLOWER = 3, 3  # a lesson's limit in the quick profile; times the promised minutes in the standard one
_PIVOT = ["lesson", "data", "level", "metric", "protocol"]


def results_table(records: list[dict]) -> pd.DataFrame:
    """All results, one measured number a row, with the lesson first."""
    rows = [{"lesson": record["lesson"], **row} for record in records for row in record["results"]]
    return pd.DataFrame(rows)


def claims_frame(records: list[dict]) -> pd.DataFrame:
    """All claims, one a row."""
    columns = ["lesson", "claim", "statement", "holds", "value", "low", "high", "over", "seeds", "because"]
    columns += ["profile", "seed"]
    rows = [
        {"lesson": r["lesson"], "profile": r["profile"], "seed": r["seed"], "claim": claim["name"], **claim}
        for r in records
        for claim in r["claims"]
    ]
    return pd.DataFrame(rows, columns=columns)


def results_text(results: pd.DataFrame) -> dict[str, str]:
    """The results as Markdown tables by heading.

    Rows that have a detector, a family and a metric become one table a metric: detectors down, families across, each
    number with its interval. Others are listed as they are.
    """
    if results.empty:
        return {}
    if not {"detector", "family", "value", *_PIVOT} <= set(results.columns):
        return {"results": _listing(results)}
    results = results.assign(text=[_number(row) for row in results.to_dict("records")])
    groups = results.fillna({name: "" for name in _PIVOT}).groupby(_PIVOT, sort=False)
    return {", ".join(str(part) for part in key if part): _pivot(group) for key, group in groups}


def claims_text(records: list[dict]) -> str:
    """The claims of each lesson as a Markdown table."""
    parts = []
    for record in records:
        if record["claims"]:
            claims = [Claim(**claim) for claim in record["claims"]]
            parts.append(f"## Lesson {record['lesson']}\n\n{claims_table(claims)}")
    return "\n\n".join(parts)


def claims_line(records: list[dict]) -> str:
    """How many claims there are, hold, and were measured over several seeds."""
    claims = [Claim(**claim) for record in records for claim in record["claims"]]
    hold, several = sum(claim.holds for claim in claims), sum(claim.seeds >= SEEDS for claim in claims)
    return f"{len(claims)} claims, {hold} hold, {several} over at least {SEEDS} seeds."


def cost_text(cost: list[dict]) -> str:
    """Minutes and memory of each lesson as a Markdown table, measured beside promised (for `standard`)."""
    rows = [
        {
            "name": row["name"],
            "minutes": f"{row['minutes']:.1f}",
            "promised": _plain(row.get("promised_minutes")),
            "memory": f"{row['memory_gib']:.2f}",
            "under": _plain(row.get("promised_gib")),
        }
        for row in cost
    ]
    heads = {"name": "lesson", "minutes": "minutes", "promised": "promised", "memory": "GiB", "under": "promised GiB"}
    return table(rows, heads)


def compare_cost(cost: list[dict], profile: str) -> tuple[list[str], list[str]]:
    """What a run cost against what the lessons promise.

    Returns:
        The failures (more memory than promised, in `quick` and `standard`), and notes (far slower than promised: a note
        only, because computers differ).
    """
    failures, notes = [], []
    for row in cost if profile != "full" else ():
        gib, minutes = row.get("promised_gib"), row.get("promised_minutes")
        if gib is not None and row["memory_gib"] > gib:
            failures.append(f"{row['name']} took {row['memory_gib']:.2f} GiB and promises {gib:g}")
        limit = QUICK_MINUTES if profile == "quick" else minutes and SLOWER * minutes
        if limit and row["minutes"] > limit:
            notes.append(f"{row['name']} took {row['minutes']:.1f} minutes, more than {limit:g}")
    return failures, notes


def write_tables(folder: Path, records: list[dict], cost: list[dict]) -> None:
    """Write results, claims and cost, each as CSV and as Markdown."""
    results = results_table(records)
    pieces = [f"## {heading}\n\n{text}" for heading, text in results_text(results).items()]
    _write(folder / "results.csv", results.to_csv(index=False) if len(results) else "")
    _write(folder / "results.md", "\n\n".join(["# Results", *pieces]) + "\n")
    _write(folder / "claims.csv", claims_frame(records).to_csv(index=False))
    _write(folder / "claims.md", f"# Claims\n\n{claims_line(records)}\n\n{claims_text(records)}\n")
    _write(folder / "cost.csv", pd.DataFrame(cost).to_csv(index=False))
    _write(folder / "cost.md", f"# Cost\n\n{cost_text(cost)}\n")


def compare_claims(records: list[dict], path: Path = RECORDED) -> tuple[list[str], list[str]]:
    """What differs from the recorded claims, for the lessons and the profile of `records`.

    Returns:
        The failures (a claim that was recorded as holding does not hold, or is not measured any more, unless it needs
        real scans), and notes.
    """
    found = {(r["lesson"], c["name"], r["profile"]): bool(c["holds"]) for r in records for c in r["claims"]}
    ran = {(r["lesson"], r["profile"]) for r in records}
    recorded = {key: holds for key, holds in read_recorded(path).items() if (key[0], key[2]) in ran}
    missing = [key for key in recorded if key not in found and not key[1].startswith(OPTIONAL)]
    failures = [f"{_name(key)} is recorded but was not measured" for key in missing]
    notes = [f"{_name(key)} is new: record it with --accept-claims" for key in found if key not in recorded]
    for key in found.keys() & recorded.keys():
        if recorded[key] is None:
            continue
        if recorded[key] and not found[key]:
            failures.append(f"{_name(key)} was recorded as holding and does not hold in this run")
        elif found[key] and not recorded[key]:
            notes.append(f"{_name(key)} was recorded as not holding and holds in this run")
    return sorted(failures), sorted(notes)


def accept_claims(records: list[dict], path: Path = RECORDED) -> None:
    """Record the claims of these lessons and this profile as they are now; an "either" stays."""
    before, word = read_recorded(path), {holds: word for word, holds in WORDS.items()}
    ran = {(r["lesson"], r["profile"]) for r in records}
    kept = {key: holds for key, holds in before.items() if (key[0], key[2]) not in ran or key[1].startswith(OPTIONAL)}
    for record in records:
        for claim in record["claims"]:
            key = (record["lesson"], claim["name"], record["profile"])
            kept[key] = bool(claim["holds"]) if before.get(key, True) is not None else None
    lines = ["lesson\tclaim\tprofile\tholds"]
    lines += ["\t".join([*key, word[holds]]) for key, holds in sorted(kept.items())]
    _write(path, "\n".join(lines) + "\n")


def read_recorded(path: Path = RECORDED) -> dict[tuple[str, str, str], bool | None]:
    """The recorded claims: (lesson, claim, profile) to whether it holds, None for "either". Empty without a file."""
    if not path.exists():
        return {}
    rows = pd.read_csv(path, sep="\t", dtype=str).itertuples(index=False)
    return {(row.lesson, row.claim, row.profile): WORDS[row.holds] for row in rows}


def _pivot(group: pd.DataFrame) -> str:
    by = [name for name in ("detector", "postprocess", "seeds") if name in group and group[name].nunique() > 1]
    families = list(dict.fromkeys(group["family"].fillna("all")))
    rows: dict[tuple, dict] = {}
    for row in group.fillna({"family": "all"}).to_dict("records"):
        key = tuple(str(row[name]) for name in by or ["detector"])
        rows.setdefault(key, dict(zip(by or ["detector"], key, strict=True)))[row["family"]] = row["text"]
    columns = {name: name for name in [*(by or ["detector"]), *families]}
    return table(list(rows.values()), columns)


def _listing(frame: pd.DataFrame) -> str:
    rows = [{name: _short(value) for name, value in row.items()} for row in frame.to_dict("records")]
    return table(rows, {name: name for name in frame.columns})


def _number(row: dict) -> str:
    text = _short(row["value"])
    low, high = row.get("low"), row.get("high")
    return text if pd.isna(low) or pd.isna(high) else f"{text} [{_short(low)}, {_short(high)}]"


def _short(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) and pd.notna(value) else "" if pd.isna(value) else str(value)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _name(key: tuple[str, str, str]) -> str:
    return f"claim {key[1]} of lesson {key[0]} ({key[2]})"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
