"""How each training went: its loss and its validation loss against the step, and what storing its weights cost."""

from pathlib import Path
from statistics import fmean

from steps.report.candidates import Candidate
from steps.report.figures import LIGHT, Mark, new_axes, stage_color, to_svg
from steps.report.findings import Findings
from steps.report.lines import draw_line
from steps.report.section import Section
from steps.report.tables import Column, Table
from steps.settings.stages import ON_POLICY

# Of `counts: rounding`, which a training leaves whose weights were rounded.
COLUMNS = [
    Column("checkpoint", "checkpoint", "code"),
    Column("dtype", "stored in", "code"),
    Column("equal_trained", "the parent's, as trained", "percent"),
    Column("equal", "as stored", "percent"),
    Column("cosine", "cosine", "decimal"),
    Column("manifest", "manifest", "links"),
]


def curves(recipe: str, logs: dict[str, list[dict[str, float]]], stage: str, ceiling: float) -> str:
    """Training loss and validation loss against the step; one thin line per node. `ceiling` is shared by all panels."""
    figure, axes = new_axes(330, 220)
    color = stage_color(stage)
    ends: dict[str, list[tuple[float, float]]] = {"loss": [], "valid_loss": []}
    marks: list[Mark] = []
    for node, rows in logs.items():
        steps, losses = _column(rows, "loss")
        smooth = _running_mean(losses, max(1, len(losses) // 20))
        axes.plot(steps, losses, lw=0.8, color=color, alpha=0.3)
        if smooth:
            draw_line(axes, marks, node, steps, smooth, lw=1.5, color=color)
        ends["loss"] += list(zip(steps, smooth, strict=True))[-1:]
        steps, losses = _column(rows, "valid_loss")
        axes.plot(steps, losses, lw=1.1, color=LIGHT["ink"], marker="o", ms=4, mfc=LIGHT["surface"])
        ends["valid_loss"] += list(zip(steps, losses, strict=True))[-1:]
    value = {key: fmean(y for _, y in spots) for key, spots in ends.items() if spots}
    height, gap = dict(value), 0.075 * ceiling
    if len(value) == 2 and abs(value["loss"] - value["valid_loss"]) < gap:
        above = max(value, key=value.get)
        height = {key: fmean(value.values()) + (gap / 2 if key == above else -gap / 2) for key in value}
    for key, y in value.items():
        label, ink = ("train", color) if key == "loss" else ("valid", LIGHT["ink"])
        axes.annotate(
            f"{label} {y:.2f}", (max(x for x, _ in ends[key]), height[key]), (6, 0), textcoords="offset points",
            va="center", fontsize=11, annotation_clip=False, color=ink,
        )  # fmt: skip
    axes.set(xlabel="step", ylim=(0, ceiling), xlim=(0, None))
    axes.set_title(recipe, loc="left", fontsize=11.5, fontweight="bold")
    return to_svg(figure, f"curves_{recipe}", f"Training and validation loss of {recipe}", marks)


def _column(rows: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if key in row]
    return [row["step"] for row in kept], [row[key] for row in kept]


def _running_mean(values: list[float], window: int) -> list[float]:
    """Mean of each value and of up to `window` − 1 before it."""
    return [fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def has_curve(candidate: Candidate) -> bool:
    """Whether a candidate's loss is a cross-entropy of this run. A model's own training is of another run, and its
    scale another one; a policy's loss says nothing by itself, and a divergence from a teacher is not on the others'
    scale."""
    divergence = candidate.stage == "distill" and candidate.members[0].settings.get("objective") == "forward_kl"
    return candidate.stage not in ("model", *ON_POLICY) and not divergence


def figures(comparison: Findings) -> dict[str, str]:
    logs = {
        name: {m.node: m.log for m in candidate.members if m.log}
        for name, candidate in comparison.candidates.items()
        if has_curve(candidate)
        and any(m.log for m in candidate.members)
        and (not candidate.grid or candidate in comparison.shown)
    }
    rows = [row for of_candidate in logs.values() for log in of_candidate.values() for row in log]
    losses = [row[key] for row in rows for key in ("loss", "valid_loss") if key in row]
    return {
        f"curves_{name}": curves(name, of_candidate, comparison.candidates[name].stage, 1.05 * max(losses))
        for name, of_candidate in logs.items()
    }


def tables(comparison: Findings) -> list[Table]:
    members = [m for candidate in comparison.candidates.values() for m in candidate.members]
    rows = [
        {"checkpoint": m.node, "manifest": [m.manifest_link] if m.manifest_link else []}
        | m.manifest["counts"]["rounding"]
        for m in members
        if m.manifest and "rounding" in m.manifest["counts"]
    ]
    caption = (
        "What rounding trained weights to store them cost: the share of all weights that is exactly the parent's,"
        " before and after, and the cosine of the stored with the trained change. Curves are of the trained weights,"
        " scores of the stored ones."
    )
    return [Table("rounding", caption, COLUMNS, rows)] if rows else []


SECTION = Section(
    name="curves",
    title="Training",
    folder=Path(__file__).parent,
    template="training.html.j2",
    read=lambda gathered: gathered.findings,
    tables=tables,
    figures=figures,
    page=lambda comparison, tables, figures: {} if figures or tables else None,
)
