"""Every checkpoint on both axes: levels, gains and losses, tasks, repeated sampling, perplexity."""

from pathlib import Path

from steps.report.candidates import difference, forgetting
from steps.report.dumbbells import dumbbells
from steps.report.findings import Findings
from steps.report.maps import share_map
from steps.report.overview.score_tables import (
    checkpoints_table,
    compact_tasks,
    perplexity_table,
    sampling_table,
    tasks_table,
    unlearned_table,
)
from steps.report.section import Section
from steps.report.tables import Table, number_text


def tables(comparison: Findings) -> list[Table]:
    shown, every = comparison.shown, comparison.candidates
    if not shown:
        return []
    measured = [checkpoints_table(shown, every), tasks_table(shown, every)]
    measured += [sampling_table(shown), perplexity_table(shown)]
    if comparison.unlearned:
        measured.append(unlearned_table(comparison.subject, comparison.unlearned))
    return [table for table in measured if table]


def moved(comparison: Findings) -> dict[str, str]:
    """What each checkpoint gained on the target and lost of the general axis, from the model that it started from."""
    rows = []
    for candidate in comparison.trained:
        root, moves = comparison.root(candidate), {}
        for axis in ("target", "general"):
            before, after, change = root.axis(axis), candidate.axis(axis), difference(candidate, root, axis)
            if before and after and change:
                moves[axis] = (before.value, after.value, change)
        rows.append((candidate.name, moves))
    ship = comparison.ship and comparison.ship.name
    return {"moved": dumbbells("moved", "Gain and loss of every checkpoint", rows, ship)} if rows else {}


def figures(comparison: Findings) -> dict[str, str]:
    return moved(comparison) | lost(comparison)


def lost(comparison: Findings) -> dict[str, str]:
    """Where several general tasks were measured: what each checkpoint lost of each."""
    trained = [candidate for candidate in comparison.trained if candidate.on("general")]
    tasks = list(dict.fromkeys(score.task for candidate in trained for score in candidate.on("general")))
    cells = {}
    for i, candidate in enumerate(trained):
        for j, task in enumerate(tasks):
            if task in candidate.scores and (lost := forgetting(candidate, comparison.root(candidate), task)):
                cells[i, j] = (min(max(lost.value, 0.0), 1.0), number_text("points", -lost.value))
    if len(tasks) < 2 or not cells:
        return {}
    names, title = [candidate.name for candidate in trained], "Points lost of each general task"
    framed = {(i, j) for i, j in cells if trained[i] is comparison.ship}
    width = max(80.0, 7.0 * max(map(len, tasks)))
    return {"forgetting": share_map("forgetting", title, names, tasks, cells, framed, width)}


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
    figures=figures,
    page=page,
    metrics=metrics,
)
