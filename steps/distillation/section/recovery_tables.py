"""How far each run came from its start to its teacher, and what it lost on the way."""

from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Recovery, Run
from steps.distillation.section.wording import say
from steps.report.candidates import settings_of
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.logs import spent
from steps.report.tables import Column, Estimate, Table, cell_text, number_text, setting_text
from steps.stats.bootstrap import RESAMPLES


def recovery_table(study: Distillation) -> Table:
    """One line per candidate and axis that it was to learn: start, teacher, end, the share of the gap, general
    axis, cost."""
    columns = [IDENTITY[0], IDENTITY[1], Column("differs", "differs from the reference in"), Column("axis", "axis")]
    columns += [Column("from", "from", "code"), Column("teacher", "teacher", "code"), Column("data", "prompts", "code")]
    columns += [Column("before", "before %", "percent"), Column("level", "teacher %", "percent")]
    columns += [Column("after", "after %", "percent"), Column("change", "change, points", "points")]
    columns += [Column("gap", "gap, points", "points"), Column("recovery", "recovered %", "percent")]
    columns += [Column("reads", "recovery"), Column("greedy", "greedy target %", "percent")]
    columns += [Column("general_before", "general before %", "percent")]
    columns += [Column("general", "general after %", "percent")]
    columns += [Column("general_change", "general, points", "points")]
    columns += [Column("restored", "of the forgetting restored %", "percent"), Column("steps", "steps", "integer")]
    columns += [Column("generated", "tokens generated", "integer"), Column("scored", "tokens scored", "integer")]
    columns += [Column("trained", "tokens trained", "integer"), Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for run in (*study.runs, *study.merged):
        of_run = _of_run(study, run)
        for part in study.recoveries(run):
            cells = {"axis": part.domain.axis, "teacher": part.domain.teacher.name, "before": part.before}
            cells |= {"level": part.teacher, "after": part.after, "change": part.change, "gap": part.gap}
            cells |= {"recovery": part.share, "reads": reading(part), "n": part.change.n if part.change else None}
            rows.append(of_run | cells)
    caption = say("recovery_caption", task=study.scores.target, resamples=RESAMPLES)
    return Table("distillation_recovery", caption, columns, rows)


def _of_run(study: Distillation, run: Run) -> dict:
    """The cells that all axes of a run share."""
    restored, scores = study.restored(run), study.scores
    return identity(run.candidate) | {
        "differs": differs_text(study, run),
        "from": run.start.name,
        "data": " ".join(run.data),
        "greedy": run.candidate.axis("target"),
        "general_before": restored.before if restored else scores.level(run.start, "general"),
        "general": scores.level(run.candidate, "general"),
        "general_change": study.since_start(run, "general"),
        "restored": restored.share if restored else None,
        "steps": steps(run),
        "generated": spent(run.candidate, "generated"),
        "scored": spent(run.candidate, "scored"),
        "trained": spent(run.candidate),
    }


def steps(run: Run) -> int | None:
    known = [m.log[-1]["step"] for m in run.candidate.members if m.log]
    return round(sum(known) / len(known)) if known else None


def differs_text(study: Distillation, run: Run) -> str:
    """What sets a run apart from the reference."""
    if run is study.reference:
        return say("the_reference")
    differences = []
    for key, (value, _) in study.differs(run).items():
        settings = settings_of(run.candidate)
        if key == "stage" and value == "distill":
            differences.append(("objective", settings.get("objective")))
        elif key == "stage":
            differences.append((key, " ".join(filter(None, [value, settings.get("method")]))))
        elif key == "data":
            shares = [f"{s['share']:g}" if s.get("share") not in (None, 1, 1.0) else "" for s in run.sources]
            differences.append((key, list(zip(shares, run.data, strict=True))))
        elif key == "teachers" and run.stage == "merge":
            differences.append(("merged", [teacher.name for teacher in run.teachers]))
        elif key == "teachers":
            routed = len({tuple(s["teachers"]) for s in run.sources}) > 1
            differences.append((key, {"names": [teacher.name for teacher in run.teachers], "routed": routed}))
        else:
            differences.append((key, None if value is None else setting_text(value)))
    return say("differences", differences=differences)


def reading(part: Recovery) -> str:
    """What a recovery says: how far the candidate came, as far as the intervals tell."""
    return say("way", way=_way(part), move=part.moved)


def _way(part: Recovery) -> str:
    if part.change is None:
        return "unmeasured"
    if part.share is None:
        return "no gap"
    if part.share.low > 1:
        return "beyond"
    if part.share.high < 0:
        return "away"
    if part.share.low <= 0:
        return "none"
    return "all" if part.share.high >= 1 else "part"


def compact_recovery(table: Table) -> Table:
    """For the page: one line per candidate and axis, levels in one cell."""
    columns = [IDENTITY[0], Column("differs", "differs in"), Column("axis", "axis")]
    columns += [Column("teacher", "teacher", "code"), Column("levels", "before → after, teacher %")]
    columns += [Column("change", "change", "points"), Column("recovered", "recovered %")]
    columns += [Column("general_change", "general", "points")]

    def plain(value: Estimate | None) -> str:
        return number_text("percent", value.value) if value else "–"

    def share(row: dict) -> str | None:
        if row["recovery"]:
            return cell_text("percent", row["recovery"])
        return say("no_gap") if row["gap"] else None

    rows = [
        row
        | {"levels": f"{plain(row['before'])} → {plain(row['after'])}, {plain(row['level'])}"}
        | {"recovered": share(row)}
        for row in table.rows
        if row["change"]
    ]
    return Table(table.name, say("recovery_short_caption"), columns, rows)
