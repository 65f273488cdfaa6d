"""Claims about runs that differ from the reference in one thing: the teacher, the loss, the length, the prompts."""

from collections.abc import Iterator
from itertools import permutations
from statistics import fmean

from steps.distillation.section.catalogue import TIMES
from steps.distillation.section.evidence import ends_like, higher, like, scores_here
from steps.distillation.section.facts import Distillation
from steps.distillation.section.run_claims import initial_overlap
from steps.distillation.section.runs import Run
from steps.distillation.section.statistics import share_difference
from steps.distillation.section.wording import say
from steps.report.candidates import apart, matched, settings_of
from steps.report.claims import MORE, Evidence, verdict
from steps.report.estimates import over_seeds
from steps.report.logs import ends

# Two models are of the same size when their numbers of parameters are at most so many times apart.
SAME_SIZE = 1.1


# --- teachers ------------------------------------------------------------------------------------


def teachers(study: Distillation, reference: Run) -> Iterator[Evidence]:
    start = reference.start
    taught = [reference, *study.alike("teachers")]
    style = study.trained_on(start)

    def chosen(rl: bool, larger: bool, same_style: bool = True) -> list[Run]:
        return [
            run
            for run in taught
            if len(run.teachers) == 1
            and (run.teachers[0].stage == "rl" if rl else run.teachers[0].stage == start.stage)
            and size(study, run) == ("larger" if larger else "same")
            and (study.trained_on(run.teachers[0]) == style) == same_style
        ]

    for ours in chosen(rl=True, larger=False):
        for theirs in chosen(rl=False, larger=True):
            yield from _recovers_more(study, "after_rl_over_larger", ours, theirs)
        for theirs in chosen(rl=True, larger=False, same_style=False):
            yield from _recovers_more(study, "other_style", ours, theirs)
    for ours in chosen(rl=True, larger=True):
        for theirs in chosen(rl=False, larger=True):
            if study.candidate_of(ours.teachers[0].members[0].parents[0]) is theirs.teachers[0]:
                yield from _recovers_more(study, "larger_after_rl", ours, theirs)
                yield from _times(study, ours, theirs)
    for run in chosen(rl=False, larger=True):
        yield from _teaches_nothing(study, run)


def size(study: Distillation, run: Run) -> str | None:
    """Whether a run's teacher is `larger` or `smaller` than the student, or the `same`; None where it is not known."""
    ours, theirs = study.size(run.start) or study.size(run.candidate), study.size(run.teachers[0])
    if not ours or not theirs:
        return None
    if 1 / SAME_SIZE <= theirs / ours <= SAME_SIZE:
        return "same"
    return "larger" if theirs > ours else "smaller"


def _recovers_more(study: Distillation, name: str, ours: Run, theirs: Run) -> Iterator[Evidence]:
    """Recovered shares where both are defined; changes in points where one side has no gap to recover."""
    common = set(ours.candidate.seeds) & set(theirs.candidate.seeds) or None
    parts = [study.recovery(run, common) for run in (ours, theirs)]
    if not all(part.change for part in parts):
        return
    shares = all(part.drawn for part in parts)
    if shares:
        more = share_difference(parts[0].drawn, parts[1].drawn)
    else:
        more = study.scores.change(ours.candidate, theirs.candidate, study.axis_of(ours))
    here = say("recovered_here", parts=parts, shares=shares, difference=more)
    arms, numbers = [*matched(ours.candidate, theirs.candidate)], {"recovery" if shares else "difference": more}
    yield Evidence(name, here, verdict(more, MORE), arms, numbers)


def _times(study: Distillation, ours: Run, theirs: Run) -> Iterator[Evidence]:
    """A share is so many times another where it is more than so many of it."""
    common = set(ours.candidate.seeds) & set(theirs.candidate.seeds)
    parts = [study.recovery(run, common or None) for run in (ours, theirs)]
    if not all(part.drawn for part in parts):
        return
    more = share_difference(parts[0].drawn, parts[1].drawn.times(TIMES))
    here = say("times_here", parts=parts, times=TIMES, difference=more)
    arms = [*matched(ours.candidate, theirs.candidate)]
    yield Evidence("times_after_rl", here, verdict(more, MORE), arms, {"recovery": more})


def _teaches_nothing(study: Distillation, run: Run) -> Iterator[Evidence]:
    axis = study.axis_of(run)
    change = study.since_start(run, axis)
    if change:
        here = scores_here(study, axis, run.candidate, run.start, change)
        yield Evidence("same_pipeline", here, ends_like(change), [run.candidate], {"difference": change})


def equal_teachers(study: Distillation, reference: Run) -> Iterator[Evidence]:
    """Runs from one start whose teachers score alike: the one with the higher forecast overlap against the other."""
    taught = [run for run in (reference, *study.alike("teachers")) if len(run.teachers) == 1]
    for ours, theirs in permutations(taught, 2):
        axis = study.axis_of(ours)
        lead = study.scores.change(ours.teachers[0], theirs.teachers[0], axis)
        overlaps = [initial_overlap(study, run) for run in (ours, theirs)]
        if lead and ends_like(lead) == "held" and all(overlaps) and apart(*overlaps).low > 0:
            yield from higher(study, "overlap_outcome", ours, theirs)


# --- the loss ------------------------------------------------------------------------------------


def supports(study: Distillation, reference: Run) -> Iterator[Evidence]:
    usual = settings_of(reference.candidate)["support"]
    if usual["kind"] != "top_k":
        return
    k = usual["k"]
    for run in study.alike("support"):
        support = settings_of(run.candidate)["support"]
        same_side = support.get("of") == usual["of"]
        if support["kind"] == "top_k" and support["k"] == 1 and same_side:
            yield from higher(study, "top1", reference, run, text=say("top1_claim", k=k))
        elif support["kind"] in ("sampled", "full") or (same_side and support["k"] != k):
            claim = f"support_{support['kind']}"
            yield from like(study, claim, run, reference, say("support_claim", support=support, k=k))
        elif support["kind"] == "top_k" and support["k"] == k and not same_side:
            text = say("side_claim", side=support["of"], usual=usual["of"], k=k)
            yield from like(study, "overlap" if support["of"] == "overlap" else "side", run, reference, text)


# --- length and prompts --------------------------------------------------------------------------


def lengths(study: Distillation, reference: Run) -> Iterator[Evidence]:
    if settings_of(reference.candidate).get("horizon"):
        return
    capped = [run for run in study.alike("horizon") if "from" not in settings_of(run.candidate)["horizon"]]
    if capped:
        shortest = min(capped, key=lambda run: settings_of(run.candidate)["horizon"]["tokens"])
        tokens = settings_of(shortest.candidate)["horizon"]["tokens"]
        yield from higher(study, "short", reference, shortest, text=say("short_claim", tokens=tokens))


def prompts(study: Distillation, reference: Run) -> Iterator[Evidence]:
    taught_on = settings_of(reference.teachers[0]).get("data")
    if reference.teachers[0].stage != "rl" or taught_on != reference.data[0]:
        return
    for run in study.alike("data"):
        if taught_on not in run.data:
            yield from higher(study, "prompts", reference, run)
        elif len(run.data) > 1:
            yield from _entropy(reference, run)


def _entropy(reference: Run, run: Run) -> Iterator[Evidence]:
    """Seeds are all that an entropy's interval can rest on: with one there is no claim."""
    sides = [ends(candidate, "entropy")[1] for candidate in matched(run.candidate, reference.candidate)]
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 2:
        return
    more = over_seeds([a - b for a, b in zip(*sides, strict=True)])
    entropy, its_entropy = (fmean(side) for side in sides)
    here = say(
        "entropy_here", run=run.name, entropy=entropy, reference=reference.name, its_entropy=its_entropy, more=more
    )
    arms = [run.candidate, reference.candidate]
    yield Evidence("entropy", here, verdict(more, MORE), arms, {"measure": more})
