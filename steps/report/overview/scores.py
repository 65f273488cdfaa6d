"""Every checkpoint on both axes: levels, gains and losses, tasks, repeated sampling, perplexity."""

from pathlib import Path

from steps.report.findings import Findings
from steps.report.overview.score_tables import (
    checkpoints_table,
    compact_tasks,
    perplexity_table,
    sampling_table,
    tasks_table,
    unlearned_table,
)
from steps.report.section import Section
from steps.report.tables import Table


def tables(comparison: Findings) -> list[Table]:
    shown, every = comparison.shown, comparison.candidates
    if not shown:
        return []
    measured = [checkpoints_table(shown, every), tasks_table(shown, every)]
    measured += [sampling_table(shown), perplexity_table(shown)]
    if comparison.unlearned:
        measured.append(unlearned_table(comparison.subject, comparison.unlearned))
    return [table for table in measured if table]


def metrics(comparison: Findings) -> dict:
    levels = {
        candidate.name: {
            axis: round(level.value, 6) for axis in ("target", "harder", "general") if (level := candidate.axis(axis))
        }
        for candidate in comparison.shown
    }
    return {"checkpoints": levels}


def page(comparison: Findings, tables: dict[str, Table], figures: dict[str, str]) -> dict | None:
    if not comparison.shown:
        return None
    return {"compact_tasks": compact_tasks(comparison.shown), "subject": comparison.subject}


SECTION = Section(
    name="scores",
    title="Checkpoints",
    folder=Path(__file__).parent,
    template="scores.html.j2",
    read=lambda gathered: gathered.findings,
    tables=tables,
    page=page,
    metrics=metrics,
)
