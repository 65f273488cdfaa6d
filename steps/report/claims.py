"""A claim is data: what a paper says, with its number and where; what decides it here, and whether that may be counted.

An interval reads held, not held or undecided. The verdict is that reading where the arms have three independent seeds
and equal budgets; else it says what is missing, and no tally counts it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steps.report.budgets import too_small, unequal
from steps.report.candidates import Candidate, clusters
from steps.report.language import tr
from steps.report.sentences import Sentences
from steps.report.tables import Column, Estimate, Table

say = Sentences(Path(__file__).parent)

VERDICTS = ("held", "undecided", "not held")
# Verdicts that are none, in the order in which the page counts them.
OPEN = ("one seed", "two seeds", "other budgets", "too short", "not measured")
# Higher, or lower, than another: by more than nothing.
MORE = 0.0
# "No less", in points: what a loss may at most be for one side to count as no worse than the other.
NO_LESS = 0.02
# Fewer independent seeds say nothing of the next one.
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what decides it here.

    Attributes:
        name: by which evidence names it.
        text: the claim, in one sentence.
        published: what was found there, with its number.
        paper: the source, and the place in it where it is known.
        decides: the arms and the statistic that decide it here.
        equal: the budgets that all arms must have alike, of `steps.report.budgets.BUDGETS`.
        least: the least that each arm must have of a budget for the claim to be tried at all.
    """

    name: str
    text: str
    published: str
    paper: str
    decides: str
    equal: tuple[str, ...] = ()
    least: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What was measured of a claim, once.

    Attributes:
        claim: its name.
        here: what was measured, in words.
        reading: of VERDICTS, what the interval says alone.
        arms: what is compared.
        numbers: column → what the reading rests on, the first of them with n.
        text, published: the claim's own where they are empty; with what is particular here where they are not.
        units: independent units that the interval rests on where these are no seeds of the arms: clusters of runs.
        among: what the arms have in common.
    """

    claim: str
    here: str
    reading: str
    arms: list[Candidate]
    numbers: Mapping[str, Estimate | float | None]
    text: str = ""
    published: str = ""
    units: int | None = None
    among: str = ""


def verdict(estimate: Estimate, bar: float) -> str:
    """Held when the whole interval is above the bar, not held when all of it is below, else undecided."""
    if estimate.low > bar:
        return "held"
    return "not held" if estimate.high < bar else "undecided"


def worst(readings: Iterable[str]) -> str:
    """What several intervals say together, all of which must hold."""
    return max(readings, key=VERDICTS.index)


def independent(arms: Iterable[Candidate]) -> int | None:
    """How many independent seeds the arm with fewest has, of the seeds that all have; None where none was trained.

    Seeds that share a trained start or teacher are one.
    """
    trained = [arm for arm in arms if arm.stage != "model"]
    common = set.intersection(*({m.seed for m in arm.members} for arm in trained)) if trained else set()
    counted = [
        len(set(clusters([m.rests_on for m in arm.members if not common or m.seed in common]))) for arm in trained
    ]
    return min(counted, default=None)


def settle(
    reading: str,
    arms: list[Candidate],
    equal: Iterable[str] = (),
    least: Mapping[str, float] | None = None,
    units: int | None = None,
) -> tuple[str, str]:
    """(verdict, why it is none): the reading where the arms have seeds enough, equal budgets and a fair length."""
    seeds = independent(arms) if units is None else units
    if seeds is not None and seeds < LEAST_SEEDS:
        runs = max(len(arm.members) for arm in arms)
        return OPEN[max(seeds, 1) - 1], say("few_seeds", seeds=seeds, least=LEAST_SEEDS, runs=runs)
    if short := too_small(arms, least or {}):
        return "too short", say("budgets", apart=short)
    apart = unequal(arms, equal)
    return ("other budgets", say("budgets", apart=apart)) if apart else (reading, "")


def table_of(
    name: str, caption: str, columns: list[Column], claims: Sequence[Claim], evidence: Iterable[Evidence]
) -> Table:
    """All claims in their order, a row for each time that one was measured, and one that says so where it was not.

    Args:
        columns: those of the numbers.
    """
    told: dict[str, list[Evidence]] = {claim.name: [] for claim in claims}
    for one in evidence:
        told[one.claim].append(one)
    head = [Column("verdict", "verdict"), Column("claim", "claim"), Column("here", "here")]
    head += [Column("published", "there"), Column("paper", "paper"), Column("among", "among")]
    tail = [Column("reading", "interval alone"), Column("why", "why not decided"), Column("n", "n", "integer")]
    tail += [Column("seeds", "seeds"), Column("manifest", "manifest", "links")]
    rows = []
    for claim in claims:
        rows += [_row(claim, one) for one in told[claim.name]] or [_absent(claim)]
    return Table(name, caption, [*head, *columns, *tail], rows)


def _row(claim: Claim, one: Evidence) -> dict:
    arms = list({arm.name: arm for arm in one.arms}.values())
    settled, why = settle(one.reading, arms, claim.equal, claim.least, one.units)
    first = next(iter(one.numbers.values()))
    return {
        "verdict": settled,
        "claim": one.text or tr(claim.text),
        "here": one.here,
        "published": one.published or tr(claim.published),
        "paper": tr(claim.paper),
        "among": one.among,
        "reading": one.reading,
        "why": why,
        "n": first.n if isinstance(first, Estimate) else None,
        **one.numbers,
        **origin(arms),
    }


def _absent(claim: Claim) -> dict:
    return {
        "verdict": "not measured",
        "claim": tr(claim.text),
        "here": "",
        "published": tr(claim.published),
        "paper": tr(claim.paper),
        "why": say("absent", decides=tr(claim.decides)),
        "seeds": "–",
    }


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
        counts = Counter(row["verdict"] for row in rows)
        over_all = rows[0]["verdict"] if len(counts) == 1 else f"{counts['held']} of {len(rows)}"
        groups.append({"claim": claim, "published": rows[0]["published"], "verdict": over_all, "rows": rows})
    return groups


def tally(claims: Table) -> str:
    """How many comparisons were decided, and how; and how many were not, and why."""
    counts = Counter(row["verdict"] for row in claims.rows)
    decided, left = ([(counts[name], name) for name in names if counts[name]] for names in (VERDICTS, OPEN))
    return say("tally", of=sum(n for n, _ in decided), decided=decided, open=left)
