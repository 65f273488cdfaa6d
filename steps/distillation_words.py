"""Distillation in words, all of them computed: the first screen's sentence and those of the section."""

from statistics import fmean

from steps.claims import grouped, percent, points, verdict_counts
from steps.distillation import Budget, Distillation, Family, Forecast, Reached, Recovery, Run, Series
from steps.distillation_figures import (
    BELOW,
    COSTS,
    FIRST_QUANTITIES,
    HEADINGS,
    QUANTITIES,
    budget_name,
    compared,
    curve_name,
    family_name,
    place_name,
    recovery_label,
    recovery_name,
    recovery_rows,
)
from steps.distillation_tables import (
    NEAR,
    compact_budget,
    compact_diagnostics,
    compact_forecasts,
    compact_recovery,
)
from steps.tables import Estimate, Table, cell_text, number_text
from steps.text import plain_prompt, shorten

PROMPT_CHARS, RESPONSE_CHARS = 700, 500
# So many arms of one question are told one by one; of more the best and the worst.
FEW = 3
# Runs whose samples stand side by side.
SIDE_BY_SIDE = 6
AXIS_NAMES = {"target": "the target", "general": "the general axis"}


def main_run(found: Distillation) -> Run:
    """The run that the section opens with: the reference or, where none is on-policy, the first."""
    return found.reference or found.runs[0]


def unit(found: Distillation, axis: str) -> str:
    if axis != "target":
        return "the general score"
    return f"pass@1 on {found.target}" if found.target else "the target, greedy"


# --- did it recover ------------------------------------------------------------------------------


def first_screen(found: Distillation) -> str:
    """What the reference gained and how much of its teacher's lead that is; "" before it was measured."""
    run = main_run(found)
    part = found.recovery(run)
    if part is None or part.change is None:
        return ""
    told = f"Distillation ({run.name}) from {run.start.name} with {part.domain.teacher.name} as the teacher:"
    told += f" {points(part.change)} in {unit(found, part.domain.axis)}"
    lead = part.share and part.gap.value > 0
    return told + (f", {shares(part.share)} of the teacher's lead." if lead else ".")


def shares(share: Estimate) -> str:
    return f"{cell_text('percent', share)} %"


def recovered(found: Distillation, part: Recovery) -> str:
    """Where an arm started, where it ended, and how much of its teacher's lead that is."""
    run = part.run
    how = "its own answers" if run.stage == "opd" else "the teacher's answers"
    who = f"{run.name}, which starts at {run.start.name} and learns from {part.domain.teacher.name} on {how},"
    if part.change is None:
        return f"{who} has not been measured on {AXIS_NAMES[part.domain.axis]}."
    what = f"{unit(found, part.domain.axis)} {percent(part.before)} → {percent(part.after)}, {points(part.change)}"
    verb = {"rose": "gains", "fell": "loses"}.get(part.reads, "does not move beyond chance")
    return f"{who} {verb}: {what}. {_of_gap(part)}"


def _of_gap(part: Recovery) -> str:
    teacher = f"the teacher ({percent(part.teacher)})"
    if part.share is None:
        return f"What {teacher} had more cannot be told from nothing: {points(part.gap)}."
    if part.gap.value < 0:
        return f"Towards {teacher}, which scores below the start, it goes {shares(part.share)} of the way."
    return f"Of the gap to {teacher} it recovers {shares(part.share)}."


# --- at what price -------------------------------------------------------------------------------


def price(found: Distillation) -> str:
    """Tokens to the RL score, on-policy distillation beside RL itself."""
    budget = found.budget
    of_stage = {series.stage: series for series in reversed(budget.series)} if budget else {}
    if not {"opd", "rl"} <= of_stage.keys():
        return ""
    ours, theirs = of_stage["opd"], of_stage["rl"]
    score = f"the score of RL ({budget.rl.name}, {percent(budget.score)})"
    there = found.reaches(theirs, "generated")
    of_rl = f"; RL from the same start takes {_cost(there)}" if there.cost is not None else ""
    reached, near = (found.reaches(ours, "generated", less) for less in (0.0, NEAR))
    if reached.cost is not None:
        text = f"It reaches {score} with {_cost(reached)} tokens generated{of_rl}"
        times = found.cheaper(ours, theirs, "generated")
        # Where the smallest budget is enough already, the least that is needed is not known, and no ratio to it.
        known = times and 0 < times.low and times.high < float("inf") and not reached.bound
        return f"{text}, {cell_text('number', times)} times as many." if of_rl and known else f"{text}."
    most = max(dose.generated for dose in ours.doses)
    text = f"With up to {most:,} tokens generated it does not reach {score}"
    if near.cost is not None:
        text += f", but comes within {100 * NEAR:.0f} points of it with {_cost(near)}"
    return f"{text}{of_rl}."


def _cost(reached: Reached) -> str:
    """A number of tokens, with its interval where that is known."""
    cost = reached.cost if isinstance(reached.cost, Estimate) else None
    if cost and cost.low < cost.high and not reached.bound:
        return f"{round(cost.value):,} [{round(cost.low):,}, {round(cost.high):,}]"
    return f"{'at most ' if reached.bound else ''}{round(cost.value if cost else reached.cost):,}"


def prices(found: Distillation) -> list[str]:
    """Each method's way to the RL score."""
    budget = found.budget
    return [text for series in budget.series if (text := _way(found, budget, series))] if budget else []


def _way(found: Distillation, budget: Budget, series: Series) -> str:
    best = max(series.doses, key=lambda dose: dose.score.value)
    doses = len(series.doses)
    text = f"{series.name}, {doses} budget{'s' if doses > 1 else ''}: at best {cell_text('percent', best.score)} %"
    text += f" ({best.arm.name})"
    told = []
    for cost, (label, factor) in COSTS.items():
        reached = found.reaches(series, cost)
        if reached.cost is None:
            continue
        if factor == 1:
            told.append(f"{_cost(reached)} {label}")
        else:
            value = reached.cost.value if isinstance(reached.cost, Estimate) else reached.cost
            told.append(f"{'at most ' if reached.bound else ''}{number_text('number', factor * value)} {label}")
    if not told:
        return f"{text}; the score of {budget.rl.name} is not reached."
    return f"{text}; at the score of {budget.rl.name} with {', '.join(told)}."


# --- what was forecast ---------------------------------------------------------------------------


def forecast_lead(found: Distillation) -> str:
    """How often the forecasts were right; of a single one what it said."""
    score = found.score_forecasts()
    if score is None:
        said = sum(forecast.says for forecast in found.forecasts)
        n = len(found.forecasts)
        return f"Of {n} forecasts {said} said that it would help; no outcome is known yet." if n else ""
    if score.pairs == 1:
        (forecast,) = found.scored_forecasts
        return f"Before training the forecast said that it {_said(forecast)}; {_came(forecast)}."
    text = f"Of {score.pairs} forecasts made before training, {score.right} came true:"
    text += f" {cell_text('percent', score.accuracy)} %. Always the commoner outcome would have been right for"
    text += f" {number_text('percent', score.commoner)} %, a blind guess for {number_text('percent', score.guess)} %"
    return text + (f" (Cohen's kappa {score.kappa:.2f})." if score.kappa is not None else ".").replace("-", "−")


def _said(forecast: Forecast) -> str:
    return "would help" if forecast.says else "would not help"


def _came(forecast: Forecast) -> str:
    helped = "it did" if forecast.helped else "it did not"
    return f"{helped} ({points(forecast.outcome)} on {AXIS_NAMES[forecast.axis]})"


def wrong_forecasts(found: Distillation) -> list[str]:
    """The forecasts that did not come true, and what they rested on."""
    return [
        f"{forecast.student} ← {forecast.teacher} on {forecast.data}: forecast that it {_said(forecast)}, but"
        f" {_came(forecast)}. {' '.join(forecast.found['reasons'])}"
        for forecast in found.scored_forecasts
        if not forecast.right
    ]


# --- what was lost and brought back --------------------------------------------------------------


def lost(found: Distillation) -> str:
    """What the main run did to the general score, and who brought most of what its own start forgot back."""
    run = main_run(found)
    general = found.since_start(run, "general")
    text = f"The general score changes by {points(general)}." if general else ""
    back = brought_back(found)
    if back:
        part = max(back, key=lambda part: part.share.value)
        root = part.domain.teacher.name
        # The share is negative where still more was lost.
        text += f" {part.run.name} brings back {shares(part.share)} of what {part.run.start.name} had lost of {root}'s"
        text += f" general score ({points(part.change)})."
    return text.strip()


def brought_back(found: Distillation) -> list[Recovery]:
    """Recovery of what the start forgot, of the arms that were to bring it back: taught on the general axis by the
    root model."""
    made = []
    for run in found.runs:
        if any(domain.axis == "general" for domain in run.domains):
            part = found.restored(run)
            if part and part.share and part.gap.value > 0:
                made.append(part)
    return made


# --- several teachers ----------------------------------------------------------------------------


def family_lead(found: Distillation, family: Family) -> str:
    """The best student of several teachers beside each of them and beside the best merge."""
    known = [(run, [found.level(run.arm, axis) for axis in family.teachers]) for run in family.students]
    known = [(run, levels) for run, levels in known if all(levels)]
    if not known:
        return ""
    run, levels = max(known, key=lambda pair: fmean(e.value for e in pair[1]))
    parts = []
    for (axis, teacher), level in zip(family.teachers.items(), levels, strict=True):
        less = found.change(run.arm, teacher, axis)
        text = f"{unit(found, axis)} {percent(level)}"
        parts.append(text + (f", {points(less)} against its teacher {teacher.name}" if less else ""))
    names = " and ".join(teacher.name for teacher in family.teachers.values())
    first = f"Of {len(known)} that learned" if len(known) > 1 else "The one that learned"
    best = f", {run.name} is best on the mean of both axes" if len(known) > 1 else f" is {run.name}"
    text = f"{first} from {names} together{best}: {'; '.join(parts)}."
    merge = found.best_merge(family)
    more = found.change(run.arm, merge, "both") if merge else None
    if more:
        n = len(family.merges)
        which = f"the best of {n} merges of the teachers" if n > 1 else "the merge of the teachers"
        text += f" Against {merge.name}, {which}, the mean of both axes differs by {points(more)}."
    return text


# --- what carried it -----------------------------------------------------------------------------


def readings(found: Distillation) -> list[str]:
    """By question: each of a few arms; of many how many rose and fell, and the best and the worst of them."""
    told = []
    for heading, parts in recovery_rows(found):
        if heading == HEADINGS["reference"]:
            continue
        text = "; ".join(map(_went, parts))
        if len(parts) > FEW:
            rose, fell = (sum(part.reads == how for part in parts) for how in ("rose", "fell"))
            text = f"{rose} of {len(parts)} rose beyond chance" + (f", {fell} fell" if fell else "")
            # Towards a teacher below the start, much of the way is no merit.
            ranked = sorted((p for p in parts if p.share and p.gap.value > 0), key=lambda part: -part.share.value)
            text += "".join(f"; {_went(part)}" for part in (ranked if len(ranked) < 3 else [ranked[0], ranked[-1]]))
        told.append(f"{heading[0].upper()}{heading[1:]}: {text}.")
    return told


def _went(part: Recovery) -> str:
    """How far an arm came, or by how much it changed where that cannot be told."""
    who = recovery_label(part).removesuffix(f" {BELOW}")
    if part.share is None:
        return f"{who} changes by {points(part.change)}, with no gap to its teacher beyond chance"
    if part.gap.value < 0:
        return f"{who} goes {shares(part.share)} of the way to a teacher that scores below its start"
    return f"{who} recovers {shares(part.share)}"


def size(found: Distillation) -> str:
    """How much was run."""
    runs = [m for run in found.runs for m in run.arm.members if m.manifest]
    seeds = sorted({m.seed for m in runs if m.seed is not None})
    stages = {"opd": "on-policy", "distill": "off-policy"}
    each = [f"{n} {what}" for stage, what in stages.items() if (n := sum(m.stage == stage for m in runs))]
    names = ", ".join(map(str, seeds))
    text = f"{' and '.join(each)} run{'s' if len(runs) > 1 else ''}"
    if len(seeds) < 2:
        return f"{text}, one seed: what another seed would change is not measured."
    alone = [run.name for run in found.runs if len(run.arm.members) == 1]
    text += f" over seeds {names}"
    return f"{text}; {len(alone)} arms have one seed, whose intervals cover items alone." if alone else f"{text}."


# --- samples -------------------------------------------------------------------------------------


def completions(found: Distillation) -> list[dict]:
    """A prompt of the first and one of the last step with a sample of each run that has one: the reference and what it
    is compared with; of the prompts the one that most answered."""
    runs = list({run.name: run for of in compared(found).values() for run in of}.values())
    kept = {run.name: found.rollouts.get(run.arm.members[0].node) for run in runs[:SIDE_BY_SIDE]}
    kept = {name: rows for name, rows in kept.items() if rows}
    shown = []
    for place, when in ((0, "first step"), (-1, "last step")):
        at = {
            name: {row["id"]: row for row in reversed(rows) if row["step"] == rows[place]["step"]}
            for name, rows in kept.items()
        }
        ids = [id for rows in at.values() for id in rows]
        if not ids:
            continue
        chosen = max(dict.fromkeys(ids), key=ids.count)
        answered = {name: rows[chosen] for name, rows in at.items() if chosen in rows}
        first = next(iter(answered.values()))
        shown.append(
            {
                "when": when,
                "step": first["step"],
                "id": chosen,
                "prompt": shorten(plain_prompt(first["prompt"]), PROMPT_CHARS, end=True),
                "replies": [
                    {
                        "name": name,
                        "right": row["correct"],
                        "teacher": row["teacher"],
                        "reward": f"{'likelier' if row['reward'] >= 0 else 'less likely'} by"
                        f" {number_text('decimal', abs(row['reward']))} nats per token",
                        "text": shorten(row["response"], RESPONSE_CHARS),
                    }
                    for name, row in answered.items()
                ],
            }
        )
    return shown


def levels(found: Distillation) -> dict[str, dict[str, float]]:
    """Arm → what it changed on each axis that it was to learn, and how much of the gap that is: for the few numbers
    that runs are compared by."""
    told: dict[str, dict[str, float]] = {}
    for part in (part for run in (*found.runs, *found.merged) for part in found.recoveries(run)):
        for name, estimate in (("change", part.change), ("recovered", part.share)):
            if estimate:
                told.setdefault(part.run.name, {})[f"{part.domain.axis}_{name}"] = round(estimate.value, 6)
    return told


# --- the section ---------------------------------------------------------------------------------


def curves_of(found: Distillation, drawn: dict[str, str]) -> list[dict]:
    """By question: the curves that are shown at once and those that are folded away."""
    sets = []
    for asked in compared(found):
        names = {quantity: curve_name(quantity, asked) for quantity in QUANTITIES}
        there = [name for name in names.values() if name in drawn]
        first = [names[quantity] for quantity in list(QUANTITIES)[:FIRST_QUANTITIES]]
        shown = [name for name in there if name in first]
        sets.append({"heading": HEADINGS[asked], "shown": shown, "more": [n for n in there if n not in shown]})
    return [made for made in sets if made["shown"] or made["more"]]


def places_of(found: Distillation, drawn: dict[str, str], column: str) -> list[str]:
    runs = {run.name: run for of in compared(found).values() for run in of}.values()
    return [name for run in runs if (name := place_name(column, run)) in drawn]


def section(found: Distillation, made: dict[str, Table], drawn: dict[str, str]) -> dict:
    """What the section says beside its tables and figures."""
    claims = made.get("distillation_claims")
    compact = {
        "recovery": compact_recovery,
        "diagnostics": compact_diagnostics,
        "forecasts": compact_forecasts,
        "budget": compact_budget,
    }
    short = {key: of(table) for key, of in compact.items() if (table := made.get(f"distillation_{key}")) and table.rows}
    run = main_run(found)
    part = found.recovery(run)
    leads = [recovered(found, part) if part else "", price(found), forecast_lead(found), lost(found)]
    return {
        "leads": [text for text in leads if text],
        "size": size(found),
        "recovery": short["recovery"] if short["recovery"].rows else None,
        "recoveries": [name for i in range(len(found.runs)) if (name := recovery_name(i)) in drawn],
        "readings": readings(found),
        "curves": curves_of(found, drawn),
        "diagnostics": short.get("diagnostics"),
        "places": places_of(found, drawn, "overlap"),
        "more_places": places_of(found, drawn, "divergence"),
        "forecasts": short.get("forecasts"),
        "wrong": wrong_forecasts(found),
        "families": [
            {"lead": family_lead(found, family), "figure": family_name(i)} for i, family in enumerate(found.families)
        ],
        "budget": short.get("budget"),
        "ways": prices(found),
        "budgets": [name for cost in COSTS if (name := budget_name(cost)) in drawn],
        "claims": grouped(claims) if claims else [],
        "verdicts": verdict_counts(claims) if claims else "",
        "seeds": max(len(run.arm.members) for run in found.runs),
        "completions": completions(found),
    }
