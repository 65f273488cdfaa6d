"""What was forecast before training, what came of it, and how much more than guessing that is."""

from steps.distillation.section.facts import Distillation
from steps.distillation.section.forecasts import OUTCOMES, RULES, Forecast, score_forecasts
from steps.distillation.section.wording import say
from steps.report.tables import Column, Estimate, Table
from steps.stats import intervals

# What forecast.json measures of a pair.
MEASURED = (
    "student_pass", "teacher_pass", "gain", "beyond", "overlap", "mass_student", "mass_teacher", "divergence",
)  # fmt: skip
# Columns of the table of forecasts that the page shows.
SHORT = (
    "data", "student", "teacher", "says", "outcome", "right", "change", "share", "gain", "alike", "continuation",
)  # fmt: skip


def forecasts_table(study: Distillation) -> Table | None:
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
    rows = [_pair(forecast) | _outcome(forecast) for forecast in study.forecasts]
    return Table("distillation_forecasts", say("forecasts_caption"), columns, rows) if rows else None


def _pair(forecast: Forecast) -> dict:
    """What was measured and said before training."""
    measured = forecast.measured
    prompts = measured["prompts"]
    row = {"data": forecast.data, "student": forecast.student, "teacher": forecast.teacher, "axis": forecast.axis}
    row |= {key: _bounded(measured.get(key), prompts) for key in MEASURED}
    row |= {"alike": checked(forecast, "thinks alike"), "continuation": checked(forecast, "continuation")}
    # What failed first, then what could not be measured.
    checks = [
        (c["check"], c["passed"]) for passed in (False, None) for c in measured["checks"] if c["passed"] is passed
    ]
    row |= {"says": say("says", helps=forecast.says), "failed": say("failed_checks", checks=checks)}
    return row | {"reasons": " ".join(measured["reasons"]), "prompts": prompts, "samples": measured["samples"]}


def _outcome(forecast: Forecast) -> dict:
    """What came of it; empty where there is no such run."""
    row = {"change": forecast.outcome, "share": forecast.share}
    if not forecast.outcome:
        return row | {"outcome": None, "right": None, "run": None, "manifest": []}
    row |= {"outcome": say("came", helped=forecast.helped), "right": say("right", right=forecast.right)}
    link = forecast.member.manifest_link
    return row | {"run": forecast.member.node, "manifest": [link] if link else []}


def _bounded(measured: dict | None, n: int) -> Estimate | None:
    """A number of forecast.json with its interval; its standard error is that of a normal interval as wide."""
    if not measured or measured.get("value") is None:
        return None
    stderr = (measured["high"] - measured["low"]) / (2 * intervals.Z)
    return Estimate(measured["value"], measured["low"], measured["high"], stderr, n)


def checked(forecast: Forecast, name: str) -> Estimate | None:
    """What one of the forecast's checks measured; None where it could not."""
    measured = next((check for check in forecast.measured["checks"] if check["check"] == name), None)
    return _bounded(measured, forecast.measured["prompts"])


def compact_forecasts(table: Table) -> Table:
    """For the page: the verdict, what came of it and the three measures behind it."""
    columns = [column for column in table.columns if column.key in SHORT]
    return Table(table.name, say("forecasts_short_caption"), columns, table.rows)


def forecast_score_table(study: Distillation) -> Table | None:
    columns = [Column("rule", "forecast"), Column("counts", "counts as help")]
    columns += [Column("pairs", "pairs", "integer"), Column("recipes", "recipes", "integer")]
    columns += [Column("said", "said to help", "integer"), Column("helped", "helped", "integer")]
    columns += [Column("right", "right", "integer"), Column("accuracy", "accuracy %", "percent")]
    columns += [Column("commoner", "always the commoner outcome %", "percent")]
    columns += [Column("guess", "independent guess %", "percent"), Column("kappa", "Cohen's kappa", "decimal")]
    rows = []
    for rule in RULES:
        for outcome in OUTCOMES:
            if score := score_forecasts(study.forecasts, rule, outcome):
                row = {"rule": say("rule", rule=rule), "counts": say("counts_as_help", outcome=outcome)}
                rows.append(row | {column.key: getattr(score, column.key) for column in columns[2:]})
    return Table("distillation_forecast_score", say("forecast_score_caption"), columns, rows) if rows else None


def prefixes_table(study: Distillation) -> Table | None:
    """The continuation test by the length of the student's beginning."""
    columns = [Column("data", "prompts", "code"), Column("student", "student", "code")]
    columns += [Column("teacher", "teacher", "code"), Column("share", "beginning, of the answer %", "percent")]
    columns += [Column("passes", "student %", "percent"), Column("teacher_passes", "teacher %", "percent")]
    columns += [Column("gain", "teacher's gain, points", "points"), Column("n", "n", "integer")]
    rows = []
    for forecast in study.forecasts:
        for prefix in forecast.measured["prefixes"]:
            row = {"data": forecast.data, "student": forecast.student, "teacher": forecast.teacher}
            row |= {"share": prefix["share"], "passes": prefix["student"], "teacher_passes": prefix["teacher"]}
            gain = {"value": prefix["gain"], "low": prefix["low"], "high": prefix["high"]}
            rows.append(row | {"gain": _bounded(gain, prefix["n"]), "n": prefix["n"]})
    return Table("distillation_prefixes", say("prefixes_caption"), columns, rows) if rows else None
