"""What was run: the recipe graph, what differs between recipes of a stage, and every node with its settings."""

from collections.abc import Iterable
from pathlib import Path

from steps.report.candidates import Candidate, Checkpoint
from steps.report.language import tr
from steps.report.overview.recipe_graph import recipe_graph
from steps.report.section import Section
from steps.report.tables import Column, Table, setting_text

# Settings worth a line; all of them are under Provenance.
SHOWN_SETTINGS = (
    "data", "epochs", "learning_rate", "batch_size", "adapter",
    "method", "steps", "prompts", "generations", "objective", "divergence", "support", "horizon", "off_policy",
    "weights", "t", "density", "scale", "path", "generator", "rewind", "choose",
)  # fmt: skip


# What a recipe is made from and taught by, beside its settings.
STARTS = ("from", "teachers")


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


def differences(candidates: Iterable[Candidate]) -> list[Table]:
    """Of every stage with several recipes: their starts, and the settings in which they differ; a grid's point each."""
    of_stage: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.stage != "model":
            of_stage.setdefault(candidate.stage, []).append(candidate)
    return [_differences(stage, alike) for stage, alike in of_stage.items() if len(alike) > 1]


def _differences(stage: str, alike: list[Candidate]) -> Table:
    named = {candidate.name: candidate.members[0] for candidate in alike}
    recipe_of = {member.node: member.recipe for candidate in alike for member in candidate.members}
    given = {}
    for name, member in named.items():
        starts = " + ".join(_without_seed(parent, member, recipe_of) for parent in member.parents)
        teachers = " + ".join(_without_seed(teacher, member, recipe_of) for teacher in member.teachers)
        given[name] = dict(zip(STARTS, (starts, teachers), strict=True)) | {
            key: setting_text(value)
            for key, value in (member.settings | member.grid).items()
            if value is not None and key != "sources"  # which says again what data and teachers do
        }
    keys = list(dict.fromkeys(key for settings in given.values() for key in settings))
    apart = [key for key in keys if len({settings.get(key) for settings in given.values()}) > 1]
    columns = [
        Column("checkpoint", "checkpoint", "code"),
        *(Column(key, key, "text" if key in STARTS else "setting") for key in apart),
    ]
    rows = [{"checkpoint": name} | {key: settings.get(key) for key in apart} for name, settings in given.items()]
    caption = tr("In what the recipes of stage {stage} differ; all else is equal.", stage=tr(stage))
    return Table(f"recipes_{stage}", caption, columns, rows)


def _without_seed(parent: str, member: Checkpoint, recipe_of: dict[str, str]) -> str:
    return recipe_of.get(parent, parent.removesuffix(f"-s{member.seed}"))


SECTION = Section(
    name="run",
    title="What was run",
    folder=Path(__file__).parent,
    template="run.html.j2",
    read=lambda gathered: gathered,
    tables=lambda gathered: [*differences(gathered.candidates.values()), nodes_table(gathered.checkpoints)],
    figures=lambda gathered: {"recipe_graph": recipe_graph(gathered.candidates)},
    page=lambda gathered, tables, figures: {
        "differences": [table for name, table in tables.items() if name.startswith("recipes_")],
    },
)
