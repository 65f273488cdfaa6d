"""Render what a workload's run found: one self-contained page, its tables as CSV and Markdown, its figures as SVG.

Reads the results folder as far as it exists: a section is there as soon as its data are. Tables and figures are the
same bytes for the same results; times and hosts are on the page and in tables/timing.* only. Ends by printing the
path of the page and a summary of five lines.

Run as: python -m steps.report --settings '{"workload": "fable", …, "graph": {…}}' --results results/fable
    --out reports/fable
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from steps import (
    diagrams,
    distillation_words,
    figures,
    learning_words,
    reinforcement_words,
    row_tables,
    score_tables,
    setups,
    stability_words,
    tables,
)
from steps.arms import Arm
from steps.common import fresh_folder, run, step_parser, write_json, write_text
from steps.distillation_figures import distillation_figures
from steps.distillation_tables import distillation_tables
from steps.findings import Findings, answers, findings, headline, side_by_side, size_text, skipped, summary
from steps.gather import Gathered, gather
from steps.learning import ALL
from steps.learning_figures import learning_figures
from steps.learning_stats import rate
from steps.learning_tables import learning_tables
from steps.reinforcement_figures import reinforcement_figures
from steps.reinforcement_tables import reinforcement_tables, sampled_levels
from steps.row_tables import Flow
from steps.stability_figures import stability_figures
from steps.stability_tables import stability_tables
from steps.tables import Estimate, Table
from steps.text import shorten, visible

TEMPLATES = Path(__file__).parent / "templates"
# Settings worth a line in "What was run"; all of them are under Provenance.
SHOWN_SETTINGS = (
    "data", "epochs", "learning_rate", "batch_size", "adapter",
    "method", "steps", "prompts", "generations", "objective", "divergence", "support", "horizon", "off_policy",
    "weights", "t", "density", "scale", "path", "generator", "rewind", "choose",
)  # fmt: skip


def make_tables(gathered: Gathered, found: Findings, flows: list[Flow]) -> dict[str, Table]:
    made: list[Table | None] = [score_tables.nodes_table(gathered.checkpoints, SHOWN_SETTINGS)]
    if found.shown:
        made += [
            score_tables.checkpoints_table(found.shown, found.arms),
            score_tables.tasks_table(found.shown, found.arms),
            score_tables.sampling_table(found.shown),
            score_tables.perplexity_table(found.shown),
        ]
    if found.unlearned:
        made.append(score_tables.unlearned_table(found.subject, found.unlearned))
    for flow in flows:
        made.append(row_tables.rows_table(flow))
        if gathered.quarantined[flow.dataset]:
            made.append(row_tables.quarantine_table(flow.dataset, gathered.quarantined[flow.dataset]))
        if gathered.dirt[flow.dataset]:
            made.append(row_tables.dirt_table(flow.dataset, gathered.dirt[flow.dataset]))
        if "bucket" in gathered.manifests[flow.dataset]:
            made.append(row_tables.bucket_table(flow.dataset, gathered.manifests[flow.dataset]["bucket"]))
    for recipe, (grid_points, best) in found.grids.items():
        if any(arm.scores for arm in grid_points):
            made.append(score_tables.grid_table(recipe, grid_points, best))
    if gathered.benchmarks:
        made.append(score_tables.timing_table(gathered.benchmarks))
    made.append(setups.setups_table(gathered.setups))
    for study in found.learning:
        made += learning_tables(study, found.arms)
    if found.stability:
        made += stability_tables(found.stability)
    if found.reinforcement:
        made += reinforcement_tables(found.reinforcement)
    if found.distillation:
        made += distillation_tables(found.distillation)
    return {table.name: table for table in made if table}


def make_figures(gathered: Gathered, found: Findings, flows: list[Flow]) -> dict[str, str]:
    made = {"recipe_graph": diagrams.recipe_graph(found.arms)}
    made |= {f"row_flow_{flow.dataset}": diagrams.row_flow(flow) for flow in flows}
    if any(arm.axis("target") and arm.axis("general") for arm in found.shown):
        made["scatter"] = figures.scatter(found.shown, found.roots)
    for recipe, (grid_points, best) in found.grids.items():
        axis = "dev" if best else "target"
        if len(grid_points[0].grid) <= 2 and any(arm.axis(axis) for arm in grid_points):
            made[f"grid_{recipe}"] = figures.heat_map(recipe, grid_points, axis, best)
    logged = {
        name: {m.node: m.log for m in arm.members if m.log}
        for name, arm in found.arms.items()
        if _has_curve(arm) and any(m.log for m in arm.members) and (not arm.grid or arm in found.shown)
    }
    losses = [
        r[k]
        for logs in logged.values()
        for rows in logs.values()
        for r in rows
        for k in ("loss", "valid_loss")
        if k in r
    ]
    for name, logs in logged.items():
        made[f"curves_{name}"] = figures.curves(name, logs, found.arms[name].stage, 1.05 * max(losses))
    for study in found.learning:
        made |= learning_figures(study)
    if found.stability:
        made |= stability_figures(found.stability)
    if found.reinforcement:
        made |= reinforcement_figures(found.reinforcement)
    if found.distillation:
        made |= distillation_figures(found.distillation)
    return made


def _has_curve(arm: Arm) -> bool:
    """Whether an arm's loss is a cross-entropy of this run. A model's own training is of another run, and its scale
    another one; a policy's loss says nothing by itself, and a divergence from a teacher is not on the others' scale."""
    divergence = arm.stage == "distill" and arm.members[0].settings.get("objective") == "forward_kl"
    return arm.stage not in ("model", "rl", "opd") and not divergence


def metrics(found: Findings, flows: list[Flow]) -> dict:
    """The few numbers that `dvc metrics diff` compares."""
    arms = {
        arm.name: {axis: round(e.value, 6) for axis in ("target", "harder", "general") if (e := arm.axis(axis))}
        for arm in found.shown
    }
    rows = {flow.dataset: {"entered": flow.rows_in, "trained": flow.total("train")} for flow in flows}
    unlearned = {
        study.name: {arm.name: round(rate(study, arm, study.group(ALL)).value, 6) for arm in study.arms}
        for study in found.learning
    }
    known = {"checkpoints": arms, "rows": rows} | ({"unlearned": unlearned} if unlearned else {})
    known |= {"reinforcement": sampled_levels(found.reinforcement)} if found.reinforcement else {}
    return known | ({"distillation": distillation_words.levels(found.distillation)} if found.distillation else {})


def provenance(gathered: Gathered) -> dict:
    """Versions, commits and devices over all checkpoints, and what each one took."""
    known = [(c, c.provenance) for c in gathered.checkpoints if c.provenance]
    versions: dict[str, set[str]] = {}
    for _, record in known:
        for name, version in {"python": record["python"], **record["versions"]}.items():
            versions.setdefault(name, set()).add(version)
    return {
        "versions": {name: " / ".join(sorted(found)) for name, found in sorted(versions.items())},
        "commits": sorted({record["git_commit"] or "not in a git repository" for _, record in known}),
        "devices": sorted({record["device"] for _, record in known}),
        "nodes": [
            {
                "node": c.node,
                "record": c.provenance or {},
                "settings": json.dumps(c.settings, indent=1, sort_keys=True, ensure_ascii=False),
                "manifest": c.manifest_link,
                "hashes": c.manifest["outputs"] if c.manifest else {},
            }
            for c in gathered.checkpoints
        ],
    }


def environment():
    """What renders the templates: everything escaped, nothing undefined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["visible"] = visible
    made.filters["shorten"] = shorten
    made.globals |= {
        "cell_text": tables.cell_text,
        "number_text": tables.number_text,
        "interval_text": tables.interval_text,
        "is_estimate": lambda value: isinstance(value, Estimate),
        "light": figures.LIGHT,
        "dark": figures.DARK,
    }
    return made


def render_page(
    gathered: Gathered, found: Findings, flows, made: dict[str, Table], drawn: dict[str, str], learning: list[dict]
) -> str:
    from markupsafe import Markup

    template = environment().get_template("report.html.j2")
    return template.render(
        workload=gathered.settings["workload"],
        size=size_text(gathered.settings),
        compact_tasks=score_tables.compact_tasks(found.shown),
        answers=answers(found) if found.ship else [],
        headline=headline(found) if found.ship else "",
        subject=found.subject,
        warnings=setups.warnings(gathered.setups),
        tables=made,
        figures={name: Markup(figures.themed(svg)) for name, svg in drawn.items()},
        flows=flows,
        skips={flow.dataset: skipped(gathered.checkpoints, flow.dataset) for flow in flows},
        stages=diagrams.stages_used(gathered.checkpoints),
        learning=learning,
        stability=stability_words.section(found.stability, made, drawn) if found.stability else None,
        reinforcement=reinforcement_words.section(found.reinforcement, made, drawn) if found.reinforcement else None,
        distillation=distillation_words.section(found.distillation, made, drawn) if found.distillation else None,
        grids={name: best for name, (_, best) in found.grids.items()},
        curves=[name for name in drawn if name.startswith("curves_")],
        samples=side_by_side(found) if found.ship else [],
        provenance=provenance(gathered),
    )


def render_rows(gathered: Gathered, learning: list[dict]) -> str:
    """The page of unlearned rows, of every study."""
    rows = [row for study in gathered.learning for row in study.rows]
    template = environment().get_template("rows.html.j2")
    return template.render(
        workload=gathered.settings["workload"],
        learning=learning,
        rows=rows,
        causes=Counter(row["label"] for row in rows).most_common(),
        domains=sorted(Counter(row["domain"] for row in rows).items()),
    )


def main(args: argparse.Namespace) -> None:
    gathered = gather(args.settings, args.results, args.out)
    found = findings(gathered)
    flows = [
        row_tables.flow_of(name, manifests, gathered.held_out.get(name, {}))
        for name, manifests in gathered.manifests.items()
        if manifests
    ]
    made = make_tables(gathered, found, flows)
    drawn = make_figures(gathered, found, flows)
    learning = [learning_words.section(study, made.get(f"{study.name}_claims")) for study in gathered.learning]
    page = render_page(gathered, found, flows, made, drawn, learning)
    text = summary(found, gathered, flows)

    for name, suffix, contents in (
        ("tables", "csv", {name: table.csv() for name, table in made.items()}),
        ("tables", "md", {name: table.markdown() for name, table in made.items()}),
        ("figures", "svg", drawn),
    ):
        folder = args.out / name if suffix == "md" else fresh_folder(args.out / name)
        for stem, content in contents.items():
            write_text(folder / f"{stem}.{suffix}", content)
    write_json(args.out / "metrics.json", metrics(found, flows))
    write_text(args.out / "summary.txt", text)
    write_text(args.out / "index.html", page)
    if learning:
        write_text(args.out / "rows.html", render_rows(gathered, learning))
    else:
        (args.out / "rows.html").unlink(missing_ok=True)
    print(args.out / "index.html")
    print(text, end="")


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the workload's results folder")
    run(main, parser)
