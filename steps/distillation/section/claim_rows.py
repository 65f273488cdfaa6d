"""Rows of the table of claims: what is said there, what is measured here, and whether it holds.

A claim `x` has the sentences `x_claim` and `x_there` in sentences.j2.
"""

from collections.abc import Iterable, Iterator

from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Run
from steps.distillation.section.wording import say
from steps.report.candidates import Candidate, matched
from steps.report.claims import MORE, NO_LESS, origin, verdict
from steps.report.tables import Estimate

RETHINKING, MACHINES, MOPD = "arXiv:2604.13016", "Thinking Machines, 27 October 2025", "arXiv:2606.30406"


def claim_row(
    claim: str,
    paper: str,
    there: str,
    here: str,
    held: str,
    candidates: Iterable[Candidate],
    **numbers: Estimate | None,
) -> dict:
    """
    Args:
        numbers: column → what the verdict rests on.
    """
    first = next(iter(numbers.values()))
    n = first.n if isinstance(first, Estimate) else None
    row = {"claim": claim, "paper": paper, "published": there, "here": here, "verdict": held, "n": n}
    return row | numbers | origin(list({candidate.name: candidate for candidate in candidates}.values()))


def ends_like(difference: Estimate, within: float = NO_LESS) -> str:
    """Held when the whole interval is no more than so far from 0, not held when all of it is farther."""
    if -within <= difference.low and difference.high <= within:
        return "held"
    return "not held" if difference.low > within or difference.high < -within else "undecided"


def levels_of(study: Distillation, axis: str, *candidates: Candidate) -> list[tuple[str, list[Estimate]]]:
    """(name, levels) of two candidates over the seeds that both have, as their difference has them."""
    sides = matched(*candidates)
    if axis == "both":
        return [(candidate.name, study.scores.levels(candidate)) for candidate in sides]
    return [(candidate.name, [level]) for candidate in sides if (level := study.scores.level(candidate, axis))]


def scores_here(study: Distillation, axis: str, ours: Candidate, theirs: Candidate, difference: Estimate) -> str:
    levels = levels_of(study, axis, ours, theirs)
    return say("scores_here", levels_of=levels, both=axis == "both", difference=difference)


def higher(
    study: Distillation, name: str, paper: str, ours: Run, theirs: Run, axis: str | None = None, **facts
) -> Iterator[dict]:
    """One run ends above another.

    Args:
        name: of the claim; facts: what its sentence asks for.
    """
    axis = axis or study.axis_of(ours)
    more = study.scores.change(ours.candidate, theirs.candidate, axis)
    if more:
        yield claim_row(
            say(f"{name}_claim", **facts),
            paper,
            say(f"{name}_there"),
            scores_here(study, axis, ours.candidate, theirs.candidate, more),
            verdict(more, MORE),
            matched(ours.candidate, theirs.candidate),
            difference=more,
        )


def like(study: Distillation, claim: str, paper: str, there: str, ours: Run, theirs: Run) -> Iterator[dict]:
    """One run ends like another."""
    axis = study.axis_of(theirs)
    more = study.scores.change(ours.candidate, theirs.candidate, axis)
    if more:
        here = scores_here(study, axis, ours.candidate, theirs.candidate, more)
        sides = matched(ours.candidate, theirs.candidate)
        yield claim_row(claim, paper, there, here, ends_like(more), sides, difference=more)
