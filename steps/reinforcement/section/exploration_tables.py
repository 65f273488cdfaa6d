"""What sampling each question many times shows: pass@k, majority votes, and what training changed of them."""

from dataclasses import replace

from steps.reinforcement.section.facts import MODES, Comparison, Reinforcement, gain
from steps.reinforcement.section.roles import METHOD, MODE_LABELS, role
from steps.reinforcement.section.wording import say
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.tables import Column, Estimate, Table


def exploration_table(study: Reinforcement) -> Table | None:
    """Every level of repeated sampling: candidate by task and mode."""
    if not study.explored:
        return None
    columns = [Column("task", "task", "code"), Column("mode", "mode"), IDENTITY[0], METHOD]
    columns += [Column(f"pass@{k}", f"pass@{k} %", "percent") for k in study.ks]
    columns += [Column(f"majority@{k}", f"majority@{k} %", "percent") for k in study.ks if k > 1]
    columns += [Column("tokens", "response, tokens", "tenths"), Column("entropy", "entropy, nats/token", "decimal")]
    columns += [Column("unparsed", "without an answer %", "percent"), Column("truncated", "cut off %", "percent")]
    columns += [Column("n", "n", "integer"), *ORIGIN]
    metrics = [c.key for c in columns[4:-3]]
    rows = []
    for task in study.tasks:
        for mode in MODES:
            for candidate in study.shown:
                if once := study.level(candidate, task, "pass@1", mode):
                    row = {"task": task, "mode": MODE_LABELS[mode], "method": role(candidate, study), "n": once.n}
                    row |= {name: study.level(candidate, task, name, mode) for name in metrics}
                    rows.append(identity(candidate) | row)
    caption = say("exploration_caption", k=study.largest, temperature=study.temperature)
    return Table("reinforcement_exploration", caption, columns, rows)


def changes_table(study: Reinforcement) -> Table | None:
    """Against the start, paired by item: pass@1, pass@k and the vote, on every task."""
    if not study.explored:
        return None
    k = study.largest
    metrics = dict.fromkeys(["pass@1", f"pass@{k}", f"majority@{k}"])
    columns = [Column("task", "task", "code"), IDENTITY[0], METHOD, Column("from", "against", "code")]
    columns += [Column(name, f"{name}, points", "points") for name in metrics]
    columns += [Column("greedy", "greedy, points", "points"), Column("reads", "exploration")]
    columns += [Column("n", "n", "integer")]
    rows = []
    for task in study.tasks:
        for candidate in study.shown:
            start = study.start_of(candidate)
            changes = {name: study.change(candidate, start, name, task) for name in metrics} if start else {}
            if changes.get("pass@1"):
                row = {"task": task, "method": role(candidate, study), "from": start.name, **changes}
                row |= {"greedy": gain(candidate, start, task=task), "n": changes["pass@1"].n}
                row |= {"reads": reading(changes["pass@1"], changes[f"pass@{k}"])}
                rows.append(identity(candidate) | row)
    caption = say("changes_caption", k=k)
    return Table("reinforcement_changes", caption, columns + ORIGIN, rows) if rows else None


def compact_changes(table: Table, comparison: Comparison, task: str) -> Table:
    """For the page: one task and one comparison."""
    rows = [row for row in table.rows if row["task"] == task and row["from"] == comparison.start.name]
    columns = [c for c in table.columns if "@" in c.key or c.key in ("checkpoint", "reads")]
    columns = [replace(c, label=c.label.removesuffix(", points")) for c in columns]
    return Table(table.name, say("changes_short_caption", task=task, start=comparison.start.name), columns, rows)


def reading(once: Estimate, reach: Estimate) -> str:
    """What the changes of pass@1 and of pass@k say of exploration."""
    return say("exploration", once=once, reach=reach)


def votes_table(study: Reinforcement) -> Table | None:
    """Self-consistency: one sample against the majority, with the working and without, on every task."""
    if not study.explored or study.largest < 2:
        return None
    k = study.largest
    columns = [Column("task", "task", "code"), IDENTITY[0], METHOD]
    for mode in MODES:
        label = MODE_LABELS[mode]
        columns += [Column(f"{mode}_once", f"pass@1, {label} %", "percent")]
        columns += [Column(f"{mode}_vote", f"majority@{k}, {label} %", "percent")]
        columns += [Column(f"{mode}_gain", f"vote's gain, {label}, points", "points")]
    columns += [Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for task in study.tasks:
        for candidate in study.shown:
            cells = {}
            for mode in MODES:
                cells[f"{mode}_once"] = study.level(candidate, task, "pass@1", mode)
                cells[f"{mode}_vote"] = study.level(candidate, task, f"majority@{k}", mode)
                cells[f"{mode}_gain"] = study.vote(candidate, task, mode)
            if cells["cot_once"]:
                n = cells["cot_once"].n
                rows.append({"task": task, **identity(candidate), "method": role(candidate, study), **cells, "n": n})
    return Table("reinforcement_votes", say("votes_caption", k=k), columns, rows)


def compact_votes(table: Table, study: Reinforcement) -> Table:
    """For the page: the target alone, the vote's gain with its interval."""
    columns = []
    for column in table.columns[1:-3]:
        if column.key.endswith("_gain"):
            mode = column.key.removesuffix("_gain")
            columns += [Column(f"{mode}_levels", f"{MODE_LABELS[mode]}, one / vote %"), column]
        elif column.key == "checkpoint":
            columns.append(column)

    def levels(row: dict, mode: str) -> str | None:
        both = (row[f"{mode}_once"], row[f"{mode}_vote"])
        return " / ".join(f"{100 * e.value:.1f}" for e in both) if all(both) else None

    rows = [
        row | {f"{mode}_levels": levels(row, mode) for mode in MODES}
        for row in table.rows
        if row["task"] == study.target
    ]
    return Table(table.name, say("votes_short_caption", task=study.target), columns, rows)
