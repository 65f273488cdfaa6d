"""Claims that intervals decide: held, not held or undecided; and how they read on the page."""

from collections import Counter

from steps.report.candidates import Candidate
from steps.report.tables import Estimate, Table

VERDICTS = ("held", "undecided", "not held")
# Higher, or lower, than another: by more than nothing.
MORE = 0.0
# "No less", in points: what a loss may at most be for one side to count as no worse than the other.
NO_LESS = 0.02


def verdict(estimate: Estimate, bar: float) -> str:
    """Held when the whole interval is above the bar, not held when all of it is below, else undecided."""
    if estimate.low > bar:
        return "held"
    return "not held" if estimate.high < bar else "undecided"


def origin(candidates: list[Candidate]) -> dict:
    """The seeds and manifests behind a claim about several candidates."""
    seeds = sorted({seed for candidate in candidates for seed in candidate.seeds})
    return {
        "seeds": " ".join(map(str, seeds)) or "–",
        "manifest": [link for candidate in candidates for link in candidate.links],
    }


def grouped(claims: Table) -> list[dict]:
    """Rows of one claim together: {"claim", "published", "verdict" over them, "rows"}."""
    of_claim: dict[str, list[dict]] = {}
    for row in claims.rows:
        of_claim.setdefault(row["claim"], []).append(row)
    groups = []
    for claim, rows in of_claim.items():
        verdicts = {row["verdict"] for row in rows}
        held = sum(row["verdict"] == "held" for row in rows)
        over_all = verdicts.pop() if len(verdicts) == 1 else f"{held} of {len(rows)}"
        groups.append({"claim": claim, "published": rows[0]["published"], "verdict": over_all, "rows": rows})
    return groups


def verdict_counts(claims: Table) -> str:
    counts = Counter(row["verdict"] for row in claims.rows)
    return ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
