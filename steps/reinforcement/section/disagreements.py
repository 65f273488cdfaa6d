"""Answers that the reward counts as correct and a stricter judge does not: those that were paid most come first."""

from steps.core.text import shorten
from steps.reinforcement.section.facts import Reinforcement
from steps.reinforcement.section.wording import say
from steps.report.tables import Column, Table

# Of a table, and of the page.
ROWS, SHOWN = 200, 6
CHARS = 300


def disagreements_table(study: Reinforcement) -> Table | None:
    """One line per answer; of equal rewards the last step's first."""
    columns = [Column("node", "checkpoint", "code"), Column("step", "step", "integer")]
    columns += [Column("reward", "reward", "decimal"), Column("why", "by the stricter judge")]
    columns += [
        Column("response", "response", "quote"),
        Column("answer", "answer", "quote"),
        Column("prompt", "prompt", "quote"),
    ]
    found = [{"node": node} | one for node, own in study.disagreements.items() for one in own]
    found.sort(key=lambda one: (-one["reward"], -one["step"], one["node"]))
    cut = dict.fromkeys(("response", "prompt"), CHARS)
    rows = [
        {column.key: shorten(one[column.key], cut[column.key]) if column.key in cut else one[column.key]
         for column in columns}
        for one in found[:ROWS]
    ]  # fmt: skip
    return Table("reinforcement_disagreements", say("disagreements_caption"), columns, rows) if rows else None


def compact_disagreements(table: Table) -> Table:
    """For the page: the first of them."""
    return Table(table.name, table.caption, table.columns, table.rows[:SHOWN])
