"""What was measured of a claim of the catalogue: scores here, how they read, which arms they are of."""

from collections.abc import Iterator

from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Run
from steps.distillation.section.wording import say
from steps.report.candidates import Candidate, matched
from steps.report.claims import MORE, NO_LESS, Evidence, verdict
from steps.report.tables import Estimate


def ends_like(difference: Estimate, within: float = NO_LESS) -> str:
    """Held when the whole interval is no more than so far from 0, not held when all of it is farther."""
    if -within <= difference.low and difference.high <= within:
        return "held"
    return "not held" if difference.low > within or difference.high < -within else "undecided"


def levels_of(
    study: Distillation, axis: str, *candidates: Candidate, part: int | None = None
) -> list[tuple[str, list[Estimate]]]:
    """(name, levels) of two candidates over the seeds that both have, as their difference has them."""
    sides = matched(*candidates)
    if axis == "both":
        return [(candidate.name, study.scores.levels(candidate, part)) for candidate in sides]
    return [(candidate.name, [level]) for candidate in sides if (level := study.scores.level(candidate, axis, part))]


def scores_here(
    study: Distillation, axis: str, ours: Candidate, theirs: Candidate, difference: Estimate, part: int | None = None
) -> str:
    levels = levels_of(study, axis, ours, theirs, part=part)
    return say("scores_here", levels_of=levels, both=axis == "both", difference=difference)


def higher(
    study: Distillation, claim: str, ours: Run, theirs: Run, axis: str | None = None, text: str = ""
) -> Iterator[Evidence]:
    """One run ends above another."""
    axis = axis or study.axis_of(ours)
    more = study.scores.change(ours.candidate, theirs.candidate, axis)
    if more:
        here = scores_here(study, axis, ours.candidate, theirs.candidate, more)
        arms = [*matched(ours.candidate, theirs.candidate)]
        yield Evidence(claim, here, verdict(more, MORE), arms, {"difference": more}, text)


def like(study: Distillation, claim: str, ours: Run, theirs: Run, text: str) -> Iterator[Evidence]:
    """One run ends like another."""
    axis = study.axis_of(theirs)
    more = study.scores.change(ours.candidate, theirs.candidate, axis)
    if more:
        here = scores_here(study, axis, ours.candidate, theirs.candidate, more)
        yield Evidence(
            claim, here, ends_like(more), [*matched(ours.candidate, theirs.candidate)], {"difference": more}, text
        )
