"""The tables of distillation: diagnostics of the runs, several teachers, what teachers wrote; and all of them."""

from steps.distillation.section.budget_tables import budget_table, doses_table, timing_table
from steps.distillation.section.claims import claims_table
from steps.distillation.section.facts import Distillation
from steps.distillation.section.forecast_tables import forecast_score_table, forecasts_table, prefixes_table
from steps.distillation.section.positions import STILL_WRITING
from steps.distillation.section.recovery_tables import recovery_table
from steps.distillation.section.runs import Family, Run
from steps.distillation.section.wording import say
from steps.report.candidates import Candidate, settings_of
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.estimates import over_seeds
from steps.report.logs import ends
from steps.report.tables import Column, Estimate, Table, number_text
from steps.settings.axes import CAPABILITIES

# Quantities of the training log: column, what it is called, how its cells read.
WATCHED = [
    ("overlap", "overlap %", "percent"),
    ("mass_student", "mass, student %", "percent"),
    ("mass_teacher", "mass, teacher %", "percent"),
    ("overlap_advantage", "advantage on the overlap, nats", "decimal"),
    ("entropy_gap", "entropy gap, nats", "decimal"),
    ("log_ratio", "log-ratio to the teacher, nats", "decimal"),
]
# Of positions.csv, what is shown at both ends of the answer.
PLACED = [
    ("overlap", "overlap %", "percent"),
    ("divergence", "divergence, nats", "decimal"),
    ("entropy_gap", "entropy gap, nats", "decimal"),
]


def distillation_tables(study: Distillation) -> list[Table]:
    tables = [recovery_table(study), diagnostics_table(study), forecasts_table(study), forecast_score_table(study)]
    tables += [prefixes_table(study), many_table(study), doses_table(study), budget_table(study)]
    tables += [generations_table(study), claims_table(study), timing_table(study)]
    return [table for table in tables if table]


# --- diagnostics ---------------------------------------------------------------------------------


def diagnostics_table(study: Distillation) -> Table | None:
    """How each on-policy run went: both ends of the run and, for some, both ends of the answer."""
    columns = [IDENTITY[0], Column("teacher", "taught by", "code"), Column("outcome", "score")]
    for key, label, kind in WATCHED:
        columns += [Column(f"{key}_first", f"{label}, first", kind), Column(f"{key}_last", f"{label}, last", kind)]
    for key, label, kind in PLACED:
        for place, where in (("begin", "start of the answer"), ("end", "end of the answer")):
            columns += [Column(f"{key}_{place}_{end}", f"{label}, {where}, {end}", kind) for end in ("first", "last")]
    rows = []
    for run in study.runs:
        if run.stage != "opd":
            continue
        cells = {"teacher": " ".join(teacher.name for teacher in run.teachers), "outcome": outcome(study, run)}
        for key, *_ in WATCHED:
            first, last = ends(run.candidate, key)
            cells |= {f"{key}_first": over_seeds(first), f"{key}_last": over_seeds(last)}
        for key, *_ in PLACED:
            for place in ("begin", "end"):
                for end in ("first", "last"):
                    values = study.positions.at_place(run.candidate, key, place, end)
                    cells[f"{key}_{place}_{end}"] = over_seeds(values)
        if any(cells[f"{key}_first"] is not None for key, *_ in WATCHED):
            rows.append(identity(run.candidate) | cells)
    caption = say("diagnostics_caption", still_writing=STILL_WRITING)
    return Table("distillation_diagnostics", caption, columns + ORIGIN, rows) if rows else None


def outcome(study: Distillation, run: Run) -> str:
    """Whether the score rose on each axis that the run was to learn."""
    moves = {part.domain.axis: part.moved for part in study.recoveries(run) if part.moved}
    return say("outcome", moves=moves)


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
    return Table(table.name, say("diagnostics_short_caption"), columns, rows)


# --- several teachers ----------------------------------------------------------------------------


def many_table(study: Distillation) -> Table | None:
    """Student of several teachers, each teacher, merges of them: both axes side by side."""
    score, scores = say("score_name", task=study.scores.target), study.scores
    columns = [IDENTITY[0], Column("role", "role"), Column("target", f"target, {score} %", "percent")]
    columns += [Column("general", "general %", "percent"), Column("both", "mean of both %", "percent")]
    for axis in CAPABILITIES:
        columns += [Column(f"{axis}_teacher", f"{axis} against its teacher, points", "points")]
    columns += [Column("merge", "mean of both against the best merge, points", "points")]
    columns += [Column("best", "best merge", "code"), Column("n", "n target / general"), *ORIGIN]
    rows = []
    for family in study.families:
        best = study.best_merge(family)
        for candidate, role in family_roles(family):
            levels = dict(zip(CAPABILITIES, scores.levels(candidate), strict=True))
            row = identity(candidate) | levels | {"role": role}
            row["n"] = " / ".join(f"{e.n:,}" if e else "–" for e in levels.values())
            if all(levels.values()):
                row["both"] = sum(e.value for e in levels.values()) / 2
            for axis, teacher in family.teachers.items():
                if candidate is not teacher:
                    row[f"{axis}_teacher"] = scores.change(candidate, teacher, axis)
            if best and candidate is not best:
                row |= {"merge": study.beyond_merge(family, candidate), "best": best.name}
            rows.append(row)
    return Table("distillation_many", say("many_caption"), columns, rows) if rows else None


def family_roles(family: Family) -> list[tuple[Candidate, str]]:
    """Start, teachers, students and merges, each with what it is to the family; of several roles the last."""
    roles = {family.start.name: (family.start, say("role", role="start", of=None))}
    for axis, teacher in family.teachers.items():
        roles[teacher.name] = (teacher, say("role", role="teacher", of=axis))
    for run in family.students:
        roles[run.name] = (run.candidate, say("role", role="student", of=run))
    for candidate in family.merges:
        roles[candidate.name] = (candidate, say("role", role="merge", of=settings_of(candidate)["method"]))
    return list(roles.values())


# --- generations ---------------------------------------------------------------------------------


def generations_table(study: Distillation) -> Table | None:
    """What teachers wrote for off-policy use, and what was kept of it."""
    reasons = sorted({reason for generation in study.generations for reason in generation.counts["quarantined"]})
    columns = [Column("data", "prompts", "code"), Column("teacher", "teacher", "code")]
    columns += [Column("asked", "asked", "integer"), Column("prompts_kept", "prompts kept", "integer")]
    columns += [Column("in", "generations", "integer"), Column("kept", "kept", "integer")]
    columns += [Column(reason, reason.replace("_", " "), "integer") for reason in reasons]
    columns += [Column("unverified", "kept unverified", "integer")]
    columns += [Column("generated_tokens", "tokens", "integer"), Column("kept_tokens", "tokens kept", "integer")]
    rows = []
    for generation in study.generations:
        counts = generation.counts
        row = {"data": generation.data, "teacher": generation.teacher, "asked": counts["prompts"]}
        row |= {key: counts[key] for key in
                ("prompts_kept", "in", "kept", "unverified", "generated_tokens", "kept_tokens")}  # fmt: skip
        rows.append(row | {reason: counts["quarantined"].get(reason, 0) for reason in reasons})
    return Table("distillation_generations", say("generations_caption"), columns, rows) if rows else None
