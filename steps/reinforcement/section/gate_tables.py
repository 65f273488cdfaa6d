"""What the gate saw before training: whether rewards tell right from wrong, and which rows train."""

from steps.reinforcement.section.facts import Reinforcement
from steps.reinforcement.section.wording import say
from steps.report.tables import Column, Table

GATED = [Column("recipes", "recipes", "code"), Column("seeds", "seeds")]


def gate_table(study: Reinforcement) -> Table | None:
    cells = {
        node: [(c["check"], float(c["value"]), float(c["bar"]), int(c["n"]), c["verdict"]) for c in gate.checks]
        for node, gate in study.gates.items()
    }
    columns = [Column("check", "check"), Column("value", "value", "number"), Column("bar", "bar", "number")]
    columns += [Column("n", "n", "integer"), Column("verdict", "verdict"), *GATED]
    keys = [column.key for column in columns]
    rows = [dict(zip(keys, (*piece, *origin), strict=True)) for piece, *origin in _merged(study, cells)]
    order = list(dict.fromkeys(row["check"] for row in rows))
    rows.sort(key=lambda row: order.index(row["check"]))
    return Table("reinforcement_gate", say("gate_caption"), columns, rows) if rows else None


def prompts_table(study: Reinforcement) -> Table | None:
    """How many rows train, and why the others do not."""
    counts = {node: gate.counts for node, gate in study.gates.items()}
    reasons = sorted({reason for of_node in counts.values() for reason in of_node["quarantined"]})
    keys = ["in", "kept", *reasons]
    cells = {node: [tuple((of | of["quarantined"]).get(key, 0) for key in keys)] for node, of in counts.items()}
    rows = [
        dict(zip([*keys, "recipes", "seeds"], (*piece, *origin), strict=True))
        for piece, *origin in _merged(study, cells)
    ]
    columns = [Column("in", "rows", "integer"), Column("kept", "train", "integer")]
    columns += [Column(reason, reason.replace("_", " "), "integer") for reason in reasons]
    return Table("reinforcement_rows", say("rows_caption"), columns + GATED, rows) if rows else None


def _merged(study: Reinforcement, cells: dict[str, list[tuple]]) -> list[tuple[tuple, str, str]]:
    """Equal cells once, as (cells, recipes, seeds): the gates of recipes with equal rewards and start are alike.

    Args:
        cells: node → what its gate saw, piece by piece.
    """
    of_node = {m.node: m for candidate in study.every.values() for m in candidate.members}
    recipes: dict[tuple, dict[str, None]] = {}  # (piece, seed) → recipes
    for node, pieces in cells.items():
        for piece in pieces:
            recipes.setdefault((piece, of_node[node].seed), {})[of_node[node].recipe] = None
    seeds: dict[tuple, list[int]] = {}  # (piece, recipes) → seeds
    for (piece, seed), names in recipes.items():
        seeds.setdefault((piece, " ".join(names)), []).append(seed)
    return [(piece, names, " ".join(map(str, of))) for (piece, names), of in seeds.items()]
