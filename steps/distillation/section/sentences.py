"""Which sentences of distillation are said, and the facts that fill them; sentences.j2 has their wording."""

from steps.distillation.section.budget_figures import COSTS, budget_name
from steps.distillation.section.budget_tables import compact_budget
from steps.distillation.section.budgets import NEAR, Budget, Reached, Series
from steps.distillation.section.completions import completions
from steps.distillation.section.facts import Distillation
from steps.distillation.section.figures import family_name
from steps.distillation.section.forecast_tables import compact_forecasts
from steps.distillation.section.forecasts import score_forecasts, scored
from steps.distillation.section.line_figures import FIRST_QUANTITIES, QUANTITIES, curve_name, place_name
from steps.distillation.section.questions import HEADINGS, compared, compared_runs, recovery_rows
from steps.distillation.section.recovery_figures import recovery_name, run_label
from steps.distillation.section.recovery_tables import compact_recovery
from steps.distillation.section.runs import Family, Recovery
from steps.distillation.section.tables import compact_diagnostics
from steps.distillation.section.wording import say
from steps.report.choice import reporting
from steps.report.claims import grouped, tally
from steps.report.tables import Estimate, Table

# So many candidates of one question are told one by one; of more the best and the worst.
FEW = 3


# --- did it recover ------------------------------------------------------------------------------


def lead(study: Distillation) -> str:
    """What the reference gained and how much of its teacher's lead that is; "" before it was measured."""
    part = study.recovery(study.main_run)
    if part.change is None:
        return ""
    return say("lead", part=part, task=study.scores.target, ahead=bool(part.share) and part.gap.value > 0)


def recovered(study: Distillation, part: Recovery) -> str:
    """Where a candidate started, where it ended, and how much of its teacher's lead that is."""
    return say("recovered", part=part, task=study.scores.target)


# --- at what price -------------------------------------------------------------------------------


def price(budget: Budget | None) -> str:
    """Tokens to the RL score, on-policy distillation beside RL itself."""
    ours, theirs = (budget.of_stage(stage) if budget else None for stage in ("opd", "rl"))
    if not ours or not theirs:
        return ""
    there = budget.reaches(theirs, "generated")
    facts = {"rl": budget.rl.name, "score": budget.score}
    facts["cost_of_rl"] = _cost(there) if there.cost is not None else None
    reached, near = (budget.reaches(ours, "generated", less) for less in (0.0, NEAR))
    if reached.cost is None:
        near = _cost(near) if near.cost is not None else None
        return say("misses_rl", **facts, most=max(ours.costs("generated")), near=near, within=NEAR)
    times = budget.cheaper(ours, theirs, "generated")
    # Where the smallest budget is enough already, the least that is needed is not known, and no ratio to it.
    known = facts["cost_of_rl"] and times and times.low > 0 and times.high < float("inf") and not reached.bound
    return say("reaches_rl", **facts, needed=_cost(reached), times=times if known else None)


def _cost(reached: Reached) -> dict:
    """A number of tokens, with its interval where that is known."""
    cost = reached.cost if isinstance(reached.cost, Estimate) else None
    within = (round(cost.low), round(cost.high)) if cost and cost.low < cost.high and not reached.bound else None
    return {"value": round(cost.value if cost else reached.cost), "within": within, "bound": reached.bound}


def prices(budget: Budget | None) -> list[str]:
    """Each method's way to the RL score."""
    return [_way(budget, series) for series in budget.series] if budget else []


def _way(budget: Budget, series: Series) -> str:
    costs = []
    for cost, (label, factor) in COSTS.items():
        reached = budget.reaches(series, cost)
        if reached.cost is None:
            continue
        if factor == 1:
            costs.append(_cost(reached) | {"label": label, "whole": True})
        else:
            value = reached.cost.value if isinstance(reached.cost, Estimate) else reached.cost
            costs.append({"value": factor * value, "bound": reached.bound, "label": label, "whole": False})
    best = series.best
    return say(
        "way_to_rl",
        name=series.name,
        budgets=len(series.budget_points),
        best=best.score,
        candidate=best.candidate.name,
        rl=budget.rl.name,
        costs=costs,
    )


# --- what was forecast ---------------------------------------------------------------------------


def forecast_lead(study: Distillation) -> str:
    """How often the forecasts were right; of a single one what it said."""
    score = score_forecasts(study.forecasts)
    if score is None:
        n, said = len(study.forecasts), sum(forecast.says for forecast in study.forecasts)
        return say("forecasts_open", n=n, said=said) if n else ""
    if score.pairs == 1:
        return say("one_forecast", forecast=scored(study.forecasts)[0])
    return say("forecasts_right", score=score)


def wrong_forecasts(study: Distillation) -> list[str]:
    """The forecasts that did not come true, and what they rested on."""
    return [say("wrong_forecast", forecast=forecast) for forecast in scored(study.forecasts) if not forecast.right]


# --- what was lost and brought back --------------------------------------------------------------


def lost(study: Distillation) -> str:
    """What the main run did to the general score, and who brought most of what its own start forgot back."""
    sentences = []
    if general := study.since_start(study.main_run, "general"):
        sentences.append(say("general_change", change=general))
    if back := brought_back(study):
        # The share is negative where still more was lost.
        sentences.append(say("brings_back", part=max(back, key=lambda part: part.share.value)))
    return " ".join(sentences)


def brought_back(study: Distillation) -> list[Recovery]:
    """Recovery of what the start forgot, of the candidates that were to bring it back: taught on the general axis by
    the root model."""
    taught = [run for run in study.runs if any(domain.axis == "general" for domain in run.domains)]
    parts = [study.restored(run) for run in taught]
    return [part for part in parts if part and part.share and part.gap.value > 0]


# --- several teachers ----------------------------------------------------------------------------


def family_lead(study: Distillation, family: Family) -> str:
    """The best student of several teachers beside each of them and beside the best merge."""
    scores = study.scores
    students = [run for run in family.students if all(scores.levels(run.candidate))]
    best = scores.best(run.candidate for run in students)
    if best is None:
        return ""
    part = reporting(students)
    of_axes = [
        {"axis": axis, "task": scores.target, "level": scores.level(best, axis, part), "teacher": teacher.name}
        | {"change": scores.change(best, teacher, axis, part)}
        for axis, teacher in family.teachers.items()
    ]
    teachers = [teacher.name for teacher in family.teachers.values()]
    sentences = [say("best_student", run=best.name, students=len(students), teachers=teachers, levels=of_axes)]
    merge = study.best_merge(family)
    if merge and (change := scores.change(best, merge, "both", reporting(students) or reporting(family.merges))):
        sentences.append(say("against_merge", merge=merge.name, merges=len(family.merges), change=change))
    return " ".join(sentences)


# --- what carried it -----------------------------------------------------------------------------


def readings(study: Distillation) -> list[str]:
    """By question: each of a few candidates; of many how many rose and fell, and the best and the worst of them."""
    sentences = []
    for heading, parts in recovery_rows(study):
        if heading == HEADINGS["reference"]:
            continue
        if len(parts) <= FEW:
            sentences.append(say("answer", heading=heading, parts=[(part, run_label(part)) for part in parts]))
            continue
        # Towards a teacher below the start, much of the way is no merit.
        ranked = sorted((p for p in parts if p.share and p.gap.value > 0), key=lambda part: -part.share.value)
        ends = ranked if len(ranked) < 3 else [ranked[0], ranked[-1]]
        counts = {move: sum(part.moved == move for part in parts) for move in ("rose", "fell")}
        named = [(part, run_label(part)) for part in ends]
        sentences.append(say("answer_of_many", heading=heading, n=len(parts), **counts, parts=named))
    return sentences


def size(study: Distillation) -> str:
    """How much was run."""
    runs = [m for run in study.runs for m in run.candidate.members if m.manifest]
    return say(
        "size",
        on_policy=sum(m.stage == "opd" for m in runs),
        off_policy=sum(m.stage != "opd" for m in runs),
        seeds=sorted({m.seed for m in runs if m.seed is not None}),
        alone=sum(len(run.candidate.members) == 1 for run in study.runs),
    )


# --- for the few numbers that runs are compared by -----------------------------------------------


def metrics(study: Distillation) -> dict[str, dict]:
    return {"distillation": levels(study)}


def levels(study: Distillation) -> dict[str, dict[str, float]]:
    """Candidate → what it changed on each axis that it was to learn, and how much of the gap that is."""
    of_runs: dict[str, dict[str, float]] = {}
    for part in (part for run in (*study.runs, *study.merged) for part in study.recoveries(run)):
        for name, estimate in (("change", part.change), ("recovered", part.share)):
            if estimate:
                of_runs.setdefault(part.run.name, {})[f"{part.domain.axis}_{name}"] = round(estimate.value, 6)
    return of_runs


# --- the section ---------------------------------------------------------------------------------


def section(study: Distillation, tables: dict[str, Table], figures: dict[str, str]) -> dict:
    """What the section's template shows beside its tables and figures."""
    claims = tables.get("distillation_claims")
    compact = {
        "recovery": compact_recovery,
        "diagnostics": compact_diagnostics,
        "forecasts": compact_forecasts,
        "budget": compact_budget,
    }
    short = {
        key: of(table) for key, of in compact.items() if (table := tables.get(f"distillation_{key}")) and table.rows
    }
    part = study.recovery(study.main_run)
    leads = [recovered(study, part), price(study.budget), forecast_lead(study), lost(study)]
    return {
        "leads": [text for text in leads if text],
        "size": size(study),
        "recovery": short["recovery"] if short["recovery"].rows else None,
        "recoveries": [name for i in range(len(study.runs)) if (name := recovery_name(i)) in figures],
        "readings": readings(study),
        "curves": curves_of(study, figures),
        "diagnostics": short.get("diagnostics"),
        "places": places_of(study, figures, "overlap"),
        "more_places": places_of(study, figures, "divergence"),
        "forecasts": short.get("forecasts"),
        "wrong": wrong_forecasts(study),
        "families": [
            {"lead": family_lead(study, family), "figure": family_name(i)} for i, family in enumerate(study.families)
        ],
        "budget": short.get("budget"),
        "ways": prices(study.budget),
        "budgets": [name for cost in COSTS if (name := budget_name(cost)) in figures],
        "claims": grouped(claims) if claims else [],
        "verdicts": tally(claims) if claims else "",
        "seeds": max(len(run.candidate.members) for run in study.runs),
        "completions": completions(study),
    }


def curves_of(study: Distillation, figures: dict[str, str]) -> list[dict]:
    """By question: the curves that are shown at once and those that are folded away."""
    panels = []
    for asked in compared(study):
        names = {quantity: curve_name(quantity, asked) for quantity in QUANTITIES}
        drawn = [name for name in names.values() if name in figures]
        first = [names[quantity] for quantity in list(QUANTITIES)[:FIRST_QUANTITIES]]
        shown = [name for name in drawn if name in first]
        if drawn:
            more = [name for name in drawn if name not in shown]
            panels.append({"heading": HEADINGS[asked], "shown": shown, "more": more})
    return panels


def places_of(study: Distillation, figures: dict[str, str], column: str) -> list[str]:
    return [name for run in compared_runs(study) if (name := place_name(column, run)) in figures]
