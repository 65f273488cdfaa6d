"""What each budget of each method cost and came to, and what a method needs to come to the score of RL."""

from steps.distillation.section.budgets import NEAR, Budget, Reached, Series
from steps.distillation.section.facts import Distillation
from steps.distillation.section.wording import say
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.tables import Column, Estimate, Table

COSTS = {
    "steps": ("steps", "integer"),
    "generated": ("tokens generated", "integer"),
    "trained": ("tokens trained", "integer"),
    "flops": ("FLOPs", "number"),
}
# Costs of which the table says what it takes to come near the RL score.
TOWARDS = ("generated", "flops")
# Columns of the table of budgets that the page shows.
SHORT = ("method", "doses", "best", "generated", "generated_told", "flops", "ratio")


def doses_table(study: Distillation) -> Table | None:
    """Every budget of every method from one start, and its score."""
    budget = study.budget
    if budget is None:
        return None
    score = say("score_name", task=study.scores.target)
    columns = [Column("method", "method"), *IDENTITY, Column("score", f"target, {score} %", "percent")]
    columns += [Column("against", "against RL, points", "points")]
    columns += [Column("general", "general %", "percent")]
    columns += [Column(key, label, kind) for key, (label, kind) in COSTS.items()]
    columns += [Column("scored", "tokens scored", "integer"), Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for series in budget.series:
        for point in series.budget_points:
            row = identity(point.candidate) | {"method": series.name, "score": point.score, "n": point.score.n}
            row |= {key: getattr(point, key) for key in (*COSTS, "scored")}
            if point.candidate.name != budget.rl.name:
                row["against"] = study.scores.change(point.candidate, budget.rl, "target")
            rows.append(row | {"general": study.scores.level(point.candidate, "general")})
    caption = say("doses_caption", start=budget.start.name, rl=budget.rl.name)
    return Table("distillation_doses", caption, columns, rows)


def budget_table(study: Distillation) -> Table | None:
    """What each method needs to come to the score of RL."""
    budget = study.budget
    if budget is None:
        return None
    columns = [Column("method", "method"), Column("doses", "doses", "integer")]
    columns += [Column("best", "best dose %", "percent")]
    for key, (label, kind) in COSTS.items():
        columns += [Column(key, f"{label} to the RL score", kind), Column(f"{key}_told", f"{label}: reached?")]
    columns += [Column("ratio", "RL needs so many times the tokens generated", "decimal")]
    columns += [Column(f"{key}_near", f"{COSTS[key][0]} to 2 points below", COSTS[key][1]) for key in TOWARDS]
    columns += [Column("n", "n", "integer"), Column("seeds", "seeds")]
    rows = [_needs(budget, series) for series in budget.series]
    caption = say("budget_caption", start=budget.start.name, rl=budget.rl.name)
    return Table("distillation_budget", caption, columns, rows)


def _needs(budget: Budget, series: Series) -> dict:
    best, of_rl = series.best, budget.of_stage("rl")
    row = {"method": series.name, "doses": len(series.budget_points), "best": best.score, "n": best.score.n}
    row["seeds"] = " ".join(map(str, series.seeds)) or "–"
    for key, (_, kind) in COSTS.items():
        reached = budget.reaches(series, key)
        row |= {key: _cost(reached.cost, kind), f"{key}_told": reached_text(series, key, reached)}
    for key in TOWARDS:
        row[f"{key}_near"] = _cost(budget.reaches(series, key, NEAR).cost, COSTS[key][1])
    if of_rl and series is not of_rl:
        row["ratio"] = _finite(budget.cheaper(series, of_rl, "generated"))
    return row


def _cost(cost: Estimate | float | None, kind: str) -> Estimate | float | int | None:
    """Whole tokens, where they are counted in whole numbers."""
    if cost is None or kind != "integer":
        return cost
    if not isinstance(cost, Estimate):
        return round(cost)
    return Estimate(round(cost.value), round(cost.low), round(cost.high), cost.stderr, cost.n)


def _finite(ratio: Estimate | None) -> Estimate | None:
    known = ratio and all(0 < edge < float("inf") for edge in (ratio.value, ratio.low, ratio.high))
    return ratio if known else None


def reached_text(series: Series, cost: str, reached: Reached) -> str:
    """Whether a series comes to the score, and where its smallest budget does already."""
    costs = series.costs(cost)
    known = "all" if all(costs) else "some" if any(costs) else "none"
    share = f"{100 * reached.share:.0f}"
    return say(
        "reached", known=known, bound=reached.bound, reached=reached.cost is not None, percent_of_resamples=share
    )


def compact_budget(table: Table) -> Table:
    """For the page: tokens and FLOPs to the RL score."""
    columns = [column for column in table.columns if column.key in SHORT]
    return Table(table.name, say("budget_short_caption"), columns, table.rows)


def timing_table(study: Distillation) -> Table | None:
    """Seconds of every budget, as ratios to RL in the same run. Alone holds times."""
    budget = study.budget
    if budget is None:
        return None
    columns = [Column("method", "method"), *IDENTITY, Column("seconds", "seconds", "tenths")]
    columns += [Column("ratio", "seconds / RL", "decimal"), Column("score", "target %", "percent")]
    columns += [Column("reached", "seconds to the RL score", "tenths"), Column("told", "reached?"), *ORIGIN]
    points = [(series, point) for series in budget.series for point in series.budget_points]
    of_rl = next((point.seconds for _, point in points if point.candidate.name == budget.rl.name), None)
    rows = []
    for series, point in points:
        if point.seconds:
            row = identity(point.candidate) | {"method": series.name, "seconds": point.seconds, "score": point.score}
            row |= {"ratio": point.seconds / of_rl if of_rl else None}
            if point is series.budget_points[-1]:
                reached = budget.reaches(series, "seconds")
                row |= {"reached": reached.cost, "told": reached_text(series, "seconds", reached)}
            rows.append(row)
    return Table("timing_distillation", say("timing_caption"), columns, rows) if rows else None
