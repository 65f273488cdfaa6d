"""Claims that set on-policy distillation beside other methods: RL, off-policy distillation, merging."""

from collections.abc import Iterator

from steps.distillation.section.budgets import Budget, Reached, Series
from steps.distillation.section.claim_rows import MACHINES, MOPD, claim_row, higher, scores_here
from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Family
from steps.distillation.section.wording import say
from steps.report.candidates import root_of, settings_of
from steps.report.claims import MORE, verdict
from steps.report.tables import Estimate

HALF = 0.5


def against_rl(study: Distillation) -> Iterator[dict]:
    """On-policy distillation of what RL made against that RL, from the same start."""
    ours, theirs = (study.budget.of_stage(stage) if study.budget else None for stage in ("opd", "rl"))
    if ours and theirs:
        for cost in ("generated", "steps"):
            yield from _cheaper(study.budget, ours, theirs, cost)


def _cheaper(budget: Budget, ours: Series, theirs: Series, cost: str) -> Iterator[dict]:
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
    row = claim_row(say(f"cheaper_{cost}_claim"), MACHINES, say("cheaper_there"), here, held, largest, ratio=ratio)
    yield row if finite else row | {"ratio": None}


def _cost(series: Series, reached: Reached) -> dict:
    cost = reached.cost.value if isinstance(reached.cost, Estimate) else reached.cost
    return {"name": series.name, "value": None if cost is None else round(cost), "bound": reached.bound}


def against_off_policy(study: Distillation) -> Iterator[dict]:
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
                objective = settings_of(theirs.candidate)["objective"]
                yield from higher(study, "off_policy", MOPD, ours, theirs, objective=objective)


def original_model(study: Distillation) -> Iterator[dict]:
    """The model at the bottom as the only teacher of what descends from it."""
    for run in study.runs:
        if run.stage != "opd" or run.teachers != [root_of(run.start, study.every)]:
            continue
        part = study.restored(run)
        if part and part.share:
            yield claim_row(
                say("original_claim"), MACHINES, say("original_there"), say("original_here", part=part),
                verdict(part.share, HALF), [run.candidate, run.start], share=part.share,
            )  # fmt: skip


def several_teachers(study: Distillation) -> Iterator[dict]:
    for family in study.families:
        for theirs in (run for run in family.students if run.stage == "distill"):
            for ours in (run for run in family.students if run.stage == "opd" and run.data == theirs.data):
                yield from higher(study, "many_off_policy", MOPD, ours, theirs, "both", mixed=ours.mixed)
        yield from _against_merge(study, family)


def _against_merge(study: Distillation, family: Family) -> Iterator[dict]:
    best = study.best_merge(family)
    if best is None:
        return
    for run in family.students:
        more = study.scores.change(run.candidate, best, "both") if run.stage == "opd" else None
        if more:
            yield claim_row(
                say("many_merge_claim", mixed=run.mixed), MOPD, say("many_merge_there"),
                scores_here(study, "both", run.candidate, best, more), verdict(more, MORE), [run.candidate, best],
                difference=more,
            )  # fmt: skip
