"""The tables of distillation: recovery, diagnostics, forecasts, several teachers, doses, accounting of generations."""

from steps import estimators
from steps.arms import RESAMPLES
from steps.distillation import (
    AXES,
    COUNTS,
    RULES,
    STILL_WRITING,
    Distillation,
    Family,
    Forecast,
    Reached,
    Recovery,
    Run,
    Series,
)
from steps.distillation_claims import claims_table
from steps.reinforcement import ends, spent
from steps.score_tables import IDENTITY, ORIGIN, identity
from steps.stability_stats import over_seeds
from steps.tables import Column, Estimate, Table, interval_text, number_text

# Why a share has no value.
NO_GAP = "not defined: the gap may be nothing"
# Quantities of the training log: column, what it is called, how its cells read.
WATCHED = [
    ("overlap", "overlap %", "percent"),
    ("mass_student", "mass, student %", "percent"),
    ("mass_teacher", "mass, teacher %", "percent"),
    ("overlap_advantage", "advantage on the overlap, nats", "decimal"),
    ("entropy_gap", "entropy gap, nats", "decimal"),
    ("reward", "log-ratio to the teacher, nats", "decimal"),
]
MASSES = ("mass_student", "mass_teacher")
# Of positions.csv, what is shown at both ends of the answer.
PLACED = [
    ("overlap", "overlap %", "percent"),
    ("divergence", "divergence, nats", "decimal"),
    ("entropy_gap", "entropy gap, nats", "decimal"),
]


def score_name(found: Distillation) -> str:
    """What the target's score is called."""
    return "pass@1" if found.target else "greedy"


def share_text(recovery: Recovery) -> str:
    """Gap recovery in words: the share in percent with its interval, or why there is none."""
    if recovery.share:
        return f"{number_text('percent', recovery.share.value)} {interval_text('percent', recovery.share)}"
    return NO_GAP if recovery.gap else "not measured"


# --- recovery ------------------------------------------------------------------------------------


def recovery_table(found: Distillation) -> Table:
    """One line per arm and axis that it was to learn: start, teacher, end, the share of the gap, general axis, cost."""
    score = score_name(found)
    columns = [IDENTITY[0], IDENTITY[1], Column("differs", "differs from the reference in"), Column("axis", "axis")]
    columns += [Column("from", "from", "code"), Column("teacher", "teacher", "code"), Column("data", "prompts", "code")]
    columns += [Column("before", "before %", "percent"), Column("level", "teacher %", "percent")]
    columns += [Column("after", "after %", "percent"), Column("change", "change, points", "points")]
    columns += [Column("gap", "gap, points", "points"), Column("recovery", "recovered %", "percent")]
    columns += [Column("reads", "recovery"), Column("greedy", "greedy target %", "percent")]
    columns += [
        Column("general_before", "general before %", "percent"),
        Column("general", "general after %", "percent"),
    ]
    columns += [Column("general_change", "general, points", "points")]
    columns += [Column("restored", "of the forgetting restored %", "percent"), Column("steps", "steps", "integer")]
    columns += [Column("generated", "tokens generated", "integer"), Column("scored", "tokens scored", "integer")]
    columns += [Column("trained", "tokens trained", "integer"), Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for run in (*found.runs, *found.merged):
        restored = found.restored(run)
        shared = {
            **identity(run.arm),
            "differs": found.difference_text(run),
            "from": run.start.name,
            "data": " ".join(run.data),
            "greedy": found.greedy(run.arm),
            "general_before": restored.before if restored else found.level(run.start, "general"),
            "general": found.level(run.arm, "general"),
            "general_change": found.since_start(run, "general"),
            "restored": restored.share if restored else None,
            "steps": steps(run),
            "generated": spent(run.arm, "generated"),
            "scored": spent(run.arm, "scored"),
            "trained": spent(run.arm),
        }
        for part in found.recoveries(run):
            cells = {"axis": part.domain.axis, "teacher": part.domain.teacher.name, "before": part.before}
            cells |= {"level": part.teacher, "after": part.after, "change": part.change, "gap": part.gap}
            cells |= {"recovery": part.share, "reads": reading(part), "n": part.change.n if part.change else None}
            rows.append(shared | cells)
    caption = (
        f"Target: {score}{f' on {found.target}' if found.target else ''}; general: greedy. Recovered: (after − before)"
        f" / (teacher − before), items resampled together on all three sides ({RESAMPLES:,} resamples), each seed"
        " against the start and the teacher that it used; below 0 it fell behind its start. Where the interval of the"
        " gap has 0 in it, there is no share. Restored: the same on the general axis with the model at the bottom as"
        " the teacher. 95 % intervals over items and seeds. Tokens are of the arm's own training, means over seeds:"
        " written by the student, read by its teachers, trained on; prompts are in the last two."
    )
    return Table("distillation_recovery", caption, columns, rows)


def steps(run: Run) -> int | None:
    known = [m.log[-1]["step"] for m in run.arm.members if m.log]
    return round(sum(known) / len(known)) if known else None


def reading(part: Recovery) -> str:
    """What a recovery says: how far the arm came, as far as the intervals tell."""
    if part.change is None:
        return "not measured"
    if part.share is None:
        return f"{NO_GAP}; the score {part.reads}"
    if part.share.low > 1:
        return "beyond the teacher"
    if part.share.high < 0:
        return "away from the teacher"
    if part.share.low <= 0:
        return "no step towards the teacher beyond chance"
    return "all the way, as far as can be told" if part.share.high >= 1 else "part of the way"


def compact_recovery(table: Table) -> Table:
    """For the page: one line per arm and axis, levels in one cell."""
    columns = [
        IDENTITY[0],
        Column("differs", "differs in"),
        Column("axis", "axis"),
        Column("teacher", "teacher", "code"),
    ]
    columns += [Column("levels", "before → after, teacher %"), Column("change", "change", "points")]
    columns += [Column("told", "recovered %"), Column("general_change", "general", "points")]

    def plain(value: Estimate | None) -> str:
        return number_text("percent", value.value) if value else "–"

    rows = [
        row
        | {"levels": f"{plain(row['before'])} → {plain(row['after'])}, {plain(row['level'])}"}
        | {"told": number_text("percent", row["recovery"].value) + " " + interval_text("percent", row["recovery"])
           if row["recovery"] else "no gap" if row["gap"] else None}
        for row in table.rows
        if row["change"]
    ]  # fmt: skip
    caption = (
        "Changes in points, with their 95 % intervals; no gap: start and teacher cannot be told apart, so that there"
        " is no share. With tokens, the restored share of forgetting, n and seeds:"
    )
    return Table(table.name, caption, columns, rows)


# --- diagnostics ---------------------------------------------------------------------------------


def diagnostics_table(found: Distillation) -> Table | None:
    """How each on-policy run went: both ends of the run and, for some, both ends of the answer."""
    columns = [IDENTITY[0], Column("teacher", "taught by", "code"), Column("outcome", "score")]
    for key, label, kind in WATCHED:
        columns += [Column(f"{key}_first", f"{label}, first", kind), Column(f"{key}_last", f"{label}, last", kind)]
    for key, label, kind in PLACED:
        for place in ("begin", "end"):
            for end in ("first", "last"):
                text = f"{label}, {'start' if place == 'begin' else 'end'} of the answer, {end}"
                columns.append(Column(f"{key}_{place}_{end}", text, kind))
    rows = []
    for run in found.runs:
        if run.stage != "opd":
            continue
        cells = {"teacher": " ".join(teacher.name for teacher in run.teachers), "outcome": outcome(found, run)}
        for key, *_ in WATCHED:
            first, last = ends(run.arm, key)
            cells |= {f"{key}_first": over_seeds(first), f"{key}_last": over_seeds(last)}
        for key, *_ in PLACED:
            for place in ("begin", "end"):
                for end in ("first", "last"):
                    cells[f"{key}_{place}_{end}"] = over_seeds(found.at_place(run, key, place, end))
        if any(cells[f"{key}_first"] is not None for key, *_ in WATCHED):
            rows.append(identity(run.arm) | cells)
    caption = (
        "Means over response tokens of the student's samples, in the first and the last tenth of the steps; means"
        " over seeds, brackets their 95 % intervals. Overlap: share of the k most probable tokens that student and"
        " teacher have in common; mass: the probability of these under each; advantage: Σ p̄ (log q̄ − log p̄) on"
        " them, 0 at best; entropy gap: |H(q) − H(p)| (arXiv:2604.13016). Divergence: full reverse KL. The end of the"
        f" answer is the last stretch that at least {100 * STILL_WRITING:.0f} % of the responses come to."
    )
    return Table("distillation_diagnostics", caption, columns + ORIGIN, rows) if rows else None


def outcome(found: Distillation, run: Run) -> str:
    """Whether the score rose on each axis that the run was to learn."""
    told = {part.domain.axis: part.reads for part in found.recoveries(run) if part.reads}
    return told.popitem()[1] if len(told) == 1 else ", ".join(f"{axis} {reads}" for axis, reads in told.items())


def compact_diagnostics(table: Table) -> Table:
    """For the page: from the first to the last tenth of the steps."""
    kinds = {key: (label, kind) for key, label, kind in WATCHED}

    def value(cell) -> float | None:
        return cell.value if isinstance(cell, Estimate) else cell

    def text(key: str, row: dict) -> str | None:
        first, last = (value(row[f"{key}_{end}"]) for end in ("first", "last"))
        if first is None or last is None:
            return None
        return " → ".join(number_text(kinds[key][1], v) for v in (first, last))

    columns = [IDENTITY[0], Column("teacher", "taught by", "code"), Column("outcome", "score")]
    columns += [Column(f"{key}_ends", label) for key, (label, _) in kinds.items()]
    rows = [row | {f"{key}_ends": text(key, row) for key in kinds} for row in table.rows]
    caption = (
        "From the first to the last tenth of the steps, means over seeds. With intervals, seeds, and both ends of the"
        " answer:"
    )
    return Table(table.name, caption, columns, rows)


# --- forecasts -----------------------------------------------------------------------------------


def forecasts_table(found: Distillation) -> Table | None:
    """Every pair: what was measured before training, what it was said to come to, and what it came to."""
    columns = [Column("data", "prompts", "code"), Column("student", "student", "code")]
    columns += [Column("teacher", "teacher", "code"), Column("says", "forecast"), Column("outcome", "outcome")]
    columns += [Column("right", "right?"), Column("axis", "axis"), Column("change", "change, points", "points")]
    columns += [Column("share", "of the gap %", "percent")]
    columns += [Column("run", "run", "code"), Column("student_pass", "student passes %", "percent")]
    columns += [Column("teacher_pass", "teacher passes %", "percent"), Column("gain", "gain, points", "points")]
    columns += [Column("beyond", "solved by the teacher alone %", "percent")]
    columns += [Column("overlap", "overlap %", "percent"), Column("mass_student", "mass, student %", "percent")]
    columns += [Column("mass_teacher", "mass, teacher %", "percent"), Column("alike", "thinks alike %", "percent")]
    columns += [Column("continuation", "continuation's gain, points", "points")]
    columns += [Column("divergence", "divergence, nats", "decimal"), Column("failed", "checks that failed")]
    columns += [Column("reasons", "reasons"), Column("prompts", "prompts", "integer")]
    columns += [Column("samples", "samples", "integer"), Column("manifest", "manifest", "links")]
    rows = []
    for forecast in found.forecasts:
        said = forecast.found
        failed = [check["check"] for check in said["checks"] if check["passed"] is False]
        unmeasured = [f"{check['check']} (not measured)" for check in said["checks"] if check["passed"] is None]
        row = {"data": forecast.data, "student": forecast.student, "teacher": forecast.teacher, "axis": forecast.axis}
        row |= {"says": says(forecast.says), "outcome": came(forecast), "right": right(forecast)}
        row |= {"change": forecast.outcome, "share": forecast.share}
        row |= {"run": forecast.member.node if forecast.member else None}
        link = forecast.member.manifest_link if forecast.member else None
        row |= {"manifest": [link] if link else []}
        row |= {key: _bounded(said.get(key), said["prompts"]) for key in
                ("student_pass", "teacher_pass", "gain", "beyond", "overlap", *MASSES, "divergence")}  # fmt: skip
        row |= {"alike": checked(forecast, "thinks alike"), "continuation": checked(forecast, "continuation")}
        row |= {"failed": ", ".join(failed + unmeasured) or "none"}
        row |= {"reasons": " ".join(said["reasons"]), "prompts": said["prompts"], "samples": said["samples"]}
        rows.append(row)
    caption = (
        "Before training: student and teacher on the same prompts, the student's samples read by the teacher, and"
        " both going on from the student's own beginnings; the three checks are gain, “thinks alike” and"
        " continuation. Outcome: the change of the run of exactly this student, teacher and data with the reference's"
        " settings, on the axis of the data set; helped where its whole 95 % interval is above 0 and it closed at least"
        " half of the gap, where there is one. A pair without such a run has no outcome."
    )
    return Table("distillation_forecasts", caption, columns, rows) if rows else None


def says(helps: bool) -> str:
    return "helps" if helps else "does not help"


def came(forecast: Forecast) -> str | None:
    if forecast.helped is None:
        return None
    return "helped" if forecast.helped else "did not help"


def right(forecast: Forecast) -> str | None:
    return None if forecast.right is None else "yes" if forecast.right else "no"


def _bounded(found: dict | None, n: int) -> Estimate | None:
    """A number of forecast.json with its interval; its standard error is that of a normal interval as wide."""
    if not found or found.get("value") is None:
        return None
    stderr = (found["high"] - found["low"]) / (2 * estimators.Z)
    return Estimate(found["value"], found["low"], found["high"], stderr, n)


def checked(forecast: Forecast, name: str) -> Estimate | None:
    """What one of the forecast's checks measured; None where it could not."""
    found = next((check for check in forecast.found["checks"] if check["check"] == name), None)
    return _bounded(found, forecast.found["prompts"])


def compact_forecasts(table: Table) -> Table:
    """For the page: the verdict, what came of it and the three measures behind it."""
    keys = (
        "data",
        "student",
        "teacher",
        "says",
        "outcome",
        "right",
        "change",
        "share",
        "gain",
        "alike",
        "continuation",
    )
    columns = [column for column in table.columns if column.key in keys]
    caption = "Gains and changes in points, with 95 % intervals. With all measures and reasons:"
    return Table(table.name, caption, columns, table.rows)


def forecast_score_table(found: Distillation) -> Table | None:
    scores = [score for rule in RULES for counts in COUNTS if (score := found.score_forecasts(rule, counts))]
    if not scores:
        return None
    columns = [Column("rule", "forecast"), Column("counts", "counts as help")]
    columns += [Column("pairs", "pairs", "integer"), Column("recipes", "recipes", "integer")]
    columns += [Column("said", "said to help", "integer"), Column("helped", "helped", "integer")]
    columns += [Column("right", "right", "integer"), Column("accuracy", "accuracy %", "percent")]
    columns += [Column("commoner", "always the commoner outcome %", "percent")]
    columns += [Column("guess", "independent guess %", "percent"), Column("kappa", "Cohen's kappa", "decimal")]
    keys = [column.key for column in columns]
    caption = (
        "Forecasts whose outcome is known; each seed is a pair, so that pairs of one recipe are alike and the"
        " interval (Wilson) is too narrow for what another recipe would do. Independent guess: the expected accuracy"
        " of one that says “helps” as often, without looking. Kappa: (accuracy − guess) / (1 − guess); none where"
        " both always say the same. By the overlap ratio: had “thinks alike” asked that at least half of the likeliest"
        " tokens be common, which was the rule before outcomes were seen."
    )
    rows = [{key: getattr(score, key) for key in keys} for score in scores]
    return Table("distillation_forecast_score", caption, columns, rows)


def prefixes_table(found: Distillation) -> Table | None:
    """The continuation test by the length of the student's beginning."""
    columns = [Column("data", "prompts", "code"), Column("student", "student", "code")]
    columns += [Column("teacher", "teacher", "code"), Column("share", "beginning, of the answer %", "percent")]
    columns += [Column("passes", "student %", "percent"), Column("teacher_passes", "teacher %", "percent")]
    columns += [Column("gain", "teacher's gain, points", "points"), Column("n", "n", "integer")]
    rows = []
    for forecast in found.forecasts:
        for prefix in forecast.found["prefixes"]:
            row = {"data": forecast.data, "student": forecast.student, "teacher": forecast.teacher}
            row |= {"share": prefix["share"], "passes": prefix["student"], "teacher_passes": prefix["teacher"]}
            gain = {"value": prefix["gain"], "low": prefix["low"], "high": prefix["high"]}
            rows.append(row | {"gain": _bounded(gain, prefix["n"]), "n": prefix["n"]})
    caption = (
        "Student and teacher each go on from the same beginnings of the student's own answers; the share of right"
        " ends, the gain paired by prompt. arXiv:2604.13016 saw it fall from +36.6 points after 1K tokens to +2.4"
        " after 16K."
    )
    return Table("distillation_prefixes", caption, columns, rows) if rows else None


# --- several teachers ----------------------------------------------------------------------------


def many_table(found: Distillation) -> Table | None:
    """Student of several teachers, each teacher, merges of them: both axes side by side."""
    score = score_name(found)
    columns = [IDENTITY[0], Column("role", "role"), Column("target", f"target, {score} %", "percent")]
    columns += [Column("general", "general %", "percent"), Column("both", "mean of both %", "percent")]
    for axis in AXES:
        columns += [Column(f"{axis}_teacher", f"{axis} against its teacher, points", "points")]
    columns += [Column("merge", "mean of both against the best merge, points", "points")]
    columns += [Column("best", "best merge", "code"), Column("n", "n target / general"), *ORIGIN]
    rows = []
    for family in found.families:
        best = found.best_merge(family)
        for arm, role in _members(found, family):
            levels = dict(zip(AXES, found.both(arm), strict=True))
            row = identity(arm) | levels | {"role": role}
            row["n"] = " / ".join(f"{e.n:,}" if e else "–" for e in levels.values())
            if all(levels.values()):
                row["both"] = sum(e.value for e in levels.values()) / 2
            for axis, teacher in family.teachers.items():
                if arm is not teacher:
                    row[f"{axis}_teacher"] = found.change(arm, teacher, axis)
            if best and arm is not best:
                row |= {"merge": found.change(arm, best, "both"), "best": best.name}
            rows.append(row)
    caption = (
        "Each teacher is for one axis. Differences are paired by item and seed, over the seeds that both sides have;"
        " of merges the best is that with the highest mean of both axes here, a choice in its favour. 95 % intervals"
        " over items and seeds."
    )
    return Table("distillation_many", caption, columns, rows) if rows else None


def _members(found: Distillation, family: Family) -> list[tuple]:
    roles = {family.start.name: (family.start, "start")}
    for axis, teacher in family.teachers.items():
        roles[teacher.name] = (teacher, f"teacher for {axis}")
    for run in family.students:
        how = "on-policy" if run.stage == "opd" else "off-policy"
        mixed = any(len(source["teachers"]) > 1 for source in run.sources)
        roles[run.name] = (run.arm, f"student, {how}, {'mixed teachers' if mixed else 'a teacher per data set'}")
    for arm in family.merges:
        roles[arm.name] = (arm, f"merge ({arm.members[0].settings['method']})")
    return list(roles.values())


# --- doses ---------------------------------------------------------------------------------------

COSTS = {
    "steps": ("steps", "integer"),
    "generated": ("tokens generated", "integer"),
    "trained": ("tokens trained", "integer"),
    "flops": ("FLOPs", "number"),
}


def doses_table(found: Distillation) -> Table | None:
    """Every budget of every method from one start, and its score."""
    if found.budget is None:
        return None
    columns = [Column("method", "method"), *IDENTITY, Column("score", f"target, {score_name(found)} %", "percent")]
    columns += [Column("against", "against RL, points", "points")]
    columns += [Column("general", "general %", "percent")]
    columns += [Column(key, label, kind) for key, (label, kind) in COSTS.items()]
    columns += [Column("scored", "tokens scored", "integer"), Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for series in found.budget.series:
        for dose in series.doses:
            row = identity(dose.arm) | {"method": series.name, "score": dose.score, "n": dose.score.n}
            row |= {key: getattr(dose, key) for key in (*COSTS, "scored")}
            if dose.arm.name != found.budget.rl.name:
                row["against"] = found.change(dose.arm, found.budget.rl, "target")
            rows.append(row | {"general": found.level(dose.arm, "general")})
    caption = (
        f"All from {found.budget.start.name}; RL is {found.budget.rl.name}. Each method over the seeds that its doses"
        f" and RL have in common. {FLOPS}"
    )
    return Table("distillation_doses", caption, columns, rows)


FLOPS = (
    "FLOPs: 2 N per token that is sampled or read in sampling, 6 N per token trained on, 2 N of the teacher per token"
    " that it scores or, for off-policy distillation, writes; the teacher's own training is in no number. Tokens"
    " generated: by the student, for off-policy distillation by the teacher."
)


def budget_table(found: Distillation) -> Table | None:
    """What each method needs to come to the score of RL."""
    if found.budget is None:
        return None
    columns = [Column("method", "method"), Column("doses", "doses", "integer")]
    columns += [Column("best", "best dose %", "percent")]
    for key, (label, kind) in COSTS.items():
        columns += [Column(key, f"{label} to the RL score", kind), Column(f"{key}_told", f"{label}: reached?")]
    columns += [Column("ratio", "RL needs so many times the tokens generated", "decimal")]
    columns += [
        Column(f"{key}_near", f"{COSTS[key][0]} to 2 points below", COSTS[key][1]) for key in ("generated", "flops")
    ]
    columns += [Column("n", "n", "integer"), Column("seeds", "seeds")]
    rows = []
    of_rl = rl_series(found)
    for series in found.budget.series:
        best = max(series.doses, key=lambda dose: dose.score.value)
        row = {"method": series.name, "doses": len(series.doses), "best": best.score, "n": best.score.n}
        row["seeds"] = " ".join(map(str, series.seeds)) or "–"
        for key, (_, kind) in COSTS.items():
            reached = found.reaches(series, key)
            row |= {key: _cost(reached.cost, kind), f"{key}_told": reached_text(series, key, reached)}
        for key in ("generated", "flops"):
            row[f"{key}_near"] = _cost(found.reaches(series, key, NEAR).cost, COSTS[key][1])
        if of_rl and series is not of_rl:
            row["ratio"] = _finite(found.cheaper(series, of_rl, "generated"))
        rows.append(row)
    caption = (
        f"The score of {found.budget.rl.name} from {found.budget.start.name}. Between the doses that bracket it the"
        " score is taken as linear in the logarithm of the cost; intervals resample items, of the doses and of RL"
        " together. A number without an interval: all resamples give this dose, or too many do not come to the score"
        f" at all. At most: the smallest dose is there already. {FLOPS}"
    )
    return Table("distillation_budget", caption, columns, rows)


# As near to the RL score as "no worse" is elsewhere in the report.
NEAR = 0.02


def rl_series(found: Distillation) -> Series | None:
    return next((series for series in found.budget.series if series.stage == "rl"), None) if found.budget else None


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
    """Whether a series comes to the score, and where its smallest dose does already."""
    if not all(getattr(dose, cost) for dose in series.doses):
        return "no such cost" if not any(getattr(dose, cost) for dose in series.doses) else "not known for all doses"
    if reached.cost is None:
        return f"not reached; in {100 * reached.share:.0f} % of resamples"
    return f"{'at most, ' if reached.bound else ''}in {100 * reached.share:.0f} % of resamples"


def timing_table(found: Distillation) -> Table | None:
    """Seconds of every dose, as ratios to RL in the same run. Alone holds times."""
    if found.budget is None:
        return None
    columns = [Column("method", "method"), *IDENTITY, Column("seconds", "seconds", "tenths")]
    columns += [Column("ratio", "seconds / RL", "decimal"), Column("score", "target %", "percent")]
    columns += [Column("reached", "seconds to the RL score", "tenths"), Column("told", "reached?"), *ORIGIN]
    of_rl = next((d.seconds for s in found.budget.series for d in s.doses if d.arm.name == found.budget.rl.name), None)
    rows = []
    for series in found.budget.series:
        reached = found.reaches(series, "seconds")
        for dose in series.doses:
            if dose.seconds:
                row = identity(dose.arm) | {"method": series.name, "seconds": dose.seconds, "score": dose.score}
                row |= {"ratio": dose.seconds / of_rl if of_rl else None}
                last = dose is series.doses[-1]
                told = {"reached": reached.cost, "told": reached_text(series, "seconds", reached)} if last else {}
                rows.append(row | told)
    caption = (
        "Seconds of the whole step, a mean over seeds; for off-policy distillation with those of the teacher's"
        " generations and stored log-probabilities. What a method needs to come to the RL score stands beside its"
        " largest dose. A training that was interrupted counts from where it went on."
    )
    return Table("timing_distillation", caption, columns, rows) if rows else None


def compact_budget(table: Table) -> Table:
    """For the page: tokens and FLOPs to the RL score."""
    keys = ("method", "doses", "best", "generated", "generated_told", "flops", "ratio")
    columns = [column for column in table.columns if column.key in keys]
    caption = "What each method needs to come to the RL score. With steps, tokens trained on, n and seeds:"
    return Table(table.name, caption, columns, table.rows)


# --- generations ---------------------------------------------------------------------------------


def generations_table(found: Distillation) -> Table | None:
    """What teachers wrote for off-policy use, and what was kept of it."""
    reasons = sorted({reason for made in found.generations for reason in made.counts["quarantined"]})
    columns = [Column("data", "prompts", "code"), Column("teacher", "teacher", "code")]
    columns += [Column("asked", "asked", "integer"), Column("prompts_kept", "prompts kept", "integer")]
    columns += [Column("in", "generations", "integer"), Column("kept", "kept", "integer")]
    columns += [Column(reason, reason.replace("_", " "), "integer") for reason in reasons]
    columns += [Column("unverified", "kept unverified", "integer")]
    columns += [Column("generated_tokens", "tokens", "integer"), Column("kept_tokens", "tokens kept", "integer")]
    rows = []
    for made in found.generations:
        counts = made.counts
        row = {"data": made.data, "teacher": made.teacher, "asked": counts["prompts"]}
        row |= {key: counts[key] for key in
                ("prompts_kept", "in", "kept", "unverified", "generated_tokens", "kept_tokens")}  # fmt: skip
        rows.append(row | {reason: counts["quarantined"].get(reason, 0) for reason in reasons})
    caption = (
        "Generations of a teacher: all = kept + left out, by reason. Unverified: of the kept, those without a known"
        " answer."
    )
    return Table("distillation_generations", caption, columns, rows) if rows else None


def distillation_tables(found: Distillation) -> list[Table]:
    made = [recovery_table(found), diagnostics_table(found), forecasts_table(found), forecast_score_table(found)]
    made += [prefixes_table(found), many_table(found), doses_table(found), budget_table(found)]
    made += [generations_table(found), claims_table(found), timing_table(found)]
    return [table for table in made if table]
