"""Claims that set on-policy distillation beside other methods: RL, off-policy distillation, merging."""

from collections.abc import Iterator

from steps.distillation.section.budgets import Budget, Reached, Series
from steps.distillation.section.evidence import higher, scores_here
from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Family, Run
from steps.distillation.section.wording import say
from steps.report.candidates import root_of, settings_of
from steps.report.choice import reporting
from steps.report.claims import MORE, NO_LESS, Evidence, verdict, worst
from steps.report.tables import Estimate

HALF = 0.5


def against_rl(study: Distillation) -> Iterator[Evidence]:
    """On-policy distillation of what RL made against that RL, from the same start."""
    ours, theirs = (study.budget.of_stage(stage) if study.budget else None for stage in ("opd", "rl"))
    if ours and theirs:
        for cost in ("generated", "steps"):
            yield from _cheaper(study.budget, ours, theirs, cost)


def _cheaper(budget: Budget, ours: Series, theirs: Series, cost: str) -> Iterator[Evidence]:
    ratio = budget.cheaper(ours, theirs, cost)
    if ratio is None:
        return
    reached = [budget.reaches(series, cost) for series in (ours, theirs)]
    finite = all(0 < edge < float("inf") for edge in (ratio.value, ratio.low, ratio.high))
    here = say(
        "cheaper_here",
        costs=[_cost(series, part) for series, part in zip((ours, theirs), reached, strict=True)],
        what="tokens" if cost == "generated" else "steps",
        times=ratio if finite else None,
        percent_of_resamples=f"{100 * reached[0].share:.0f}",
    )
    held = verdict(ratio, 1 + MORE)
    if reached[1].bound and held == "held":
        held = "undecided"  # RL may have been there with less than its smallest budget
    largest = [series.budget_points[-1].candidate for series in (ours, theirs)]
    yield Evidence(f"cheaper_{cost}", here, held, largest, {"ratio": ratio if finite else None})


def _cost(series: Series, reached: Reached) -> dict:
    cost = reached.cost.value if isinstance(reached.cost, Estimate) else reached.cost
    return {"name": series.name, "value": None if cost is None else round(cost), "bound": reached.bound}


def against_off_policy(study: Distillation) -> Iterator[Evidence]:
    """From the same start, teacher and prompts."""
    usual = [
        run
        for run in study.runs
        if run.stage == "opd" and study.reference and not set(study.differs(run)) - {"from", "teachers", "data"}
    ]
    for theirs in (run for run in study.runs if run.stage == "distill"):
        for ours in usual:
            same = ours.start is theirs.start and ours.teachers == theirs.teachers and ours.data == theirs.data
            if same and len(ours.data) == 1:
                text = say("off_policy_claim", objective=settings_of(theirs.candidate)["objective"])
                yield from higher(study, "off_policy", ours, theirs, text=text)


def original_model(study: Distillation) -> Iterator[Evidence]:
    """The model at the bottom as the only teacher of what descends from it."""
    for run in study.runs:
        if run.stage != "opd" or run.teachers != [root_of(run.start, study.every)]:
            continue
        part = study.restored(run)
        if part and part.share:
            here, arms = say("original_here", part=part), [run.candidate, run.start]
            yield Evidence("original", here, verdict(part.share, HALF), arms, {"share": part.share})


def several_teachers(study: Distillation) -> Iterator[Evidence]:
    for family in study.families:
        for theirs in (run for run in family.students if run.stage == "distill"):
            for ours in (run for run in family.students if run.stage == "opd" and run.data == theirs.data):
                text = say("many_off_policy_claim", mixed=ours.mixed)
                yield from higher(study, "many_off_policy", ours, theirs, "both", text)
        yield from _against_merge(study, family)
        for run in (run for run in family.students if run.stage == "opd"):
            yield from _against_teachers(study, family, run)


def _against_merge(study: Distillation, family: Family) -> Iterator[Evidence]:
    best = study.best_merge(family)
    if best is None:
        return
    for run in family.students:
        more = study.beyond_merge(family, run.candidate) if run.stage == "opd" else None
        if more:
            here = scores_here(study, "both", run.candidate, best, more, reporting(family.merges))
            text = say("many_merge_claim", mixed=run.mixed)
            arms, numbers = [run.candidate, best], {"difference": more}
            yield Evidence("many_merge", here, verdict(more, MORE), arms, numbers, text)


def _against_teachers(study: Distillation, family: Family, run: Run) -> Iterator[Evidence]:
    """On each axis against its teacher; all must hold, and the one with the lowest end is told."""
    of_axis = [(axis, t, study.scores.change(run.candidate, t, axis)) for axis, t in family.teachers.items()]
    known = [(axis, teacher, more) for axis, teacher, more in of_axis if more]
    if not known or len(known) < len(of_axis):
        return
    axis, teacher, more = min(known, key=lambda of: of[2].low)
    here = scores_here(study, axis, run.candidate, teacher, more)
    reading = worst([verdict(difference, -NO_LESS) for *_, difference in known])
    arms = [run.candidate, *(teacher for _, teacher, _ in known)]
    yield Evidence(
        "many_teachers", here, reading, arms, {"difference": more}, say("many_teachers_claim", mixed=run.mixed)
    )
