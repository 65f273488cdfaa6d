"""What was run: the recipe graph, and every node with its settings."""

from pathlib import Path

from steps.report.candidates import Checkpoint
from steps.report.overview.recipe_graph import recipe_graph
from steps.report.section import Section
from steps.report.tables import Column, Table, setting_text
from steps.settings import stages

# Settings worth a line; all of them are under Provenance.
SHOWN_SETTINGS = (
    "data", "epochs", "learning_rate", "batch_size", "adapter",
    "method", "steps", "prompts", "generations", "objective", "divergence", "support", "horizon", "off_policy",
    "weights", "t", "density", "scale", "path", "generator", "rewind", "choose",
)  # fmt: skip


def nodes_table(checkpoints: list[Checkpoint]) -> Table:
    """One row per node, with the settings that are shown."""
    columns = [
        Column("node", "node", "code"),
        Column("stage", "stage"),
        Column("from", "from"),
        Column("teachers", "teachers"),
        Column("study", "study"),
        Column("seed", "seed", "integer"),
        Column("settings", "settings"),
        Column("manifest", "manifest", "links"),
    ]
    rows = []
    for c in checkpoints:
        known = {} if c.stage == "model" else c.settings  # of a model: where it lies
        shown = {key: known[key] for key in SHOWN_SETTINGS if known.get(key) is not None} | c.grid
        rows.append(
            {
                "node": c.node,
                "stage": c.stage,
                "from": " + ".join(c.parents),
                "teachers": " + ".join(c.teachers) or None,
                "study": c.study,
                "seed": c.seed,
                "settings": ", ".join(f"{key} {setting_text(value)}" for key, value in shown.items()),
                "manifest": [c.manifest_link] if c.manifest_link else None,
            }
        )
    return Table("nodes", "Every node of the recipe graph; full settings are under Provenance.", columns, rows)


def stages_used(checkpoints: list[Checkpoint]) -> list[tuple[str, str]]:
    """(stage, color token) of every stage in the graph, for the legend."""
    used = {checkpoint.stage for checkpoint in checkpoints}
    known = [stage for stage in (*stages.ORIGINS, *stages.STAGES) if stage in used]
    return [(stage, stages.look(stage)[0]) for stage in [*known, *sorted(used.difference(known))]]


SECTION = Section(
    name="run",
    title="What was run",
    folder=Path(__file__).parent,
    template="run.html.j2",
    read=lambda gathered: gathered,
    tables=lambda gathered: [nodes_table(gathered.checkpoints)],
    figures=lambda gathered: {"recipe_graph": recipe_graph(gathered.candidates)},
    page=lambda gathered, tables, figures: {"stages": stages_used(gathered.checkpoints)},
)
