"""Render what a workload's run found: one self-contained page, its tables as CSV and Markdown, its figures as SVG.

Reads the results folder as far as it exists: a section is there as soon as its data are. Tables and figures are the
same bytes for the same results; times and hosts are on the page and in tables/timing.* only. Ends by printing the
path of the page and a summary of five lines.

Run as: python -m steps.report --settings '{"workload": "fable", …, "graph": {…}}' --results results/fable
    --out reports/fable
"""

import argparse
import csv
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps import figures, tables
from steps.common import (
    MANIFEST,
    PROVENANCE,
    fresh_folder,
    read_json,
    read_jsonl,
    run,
    sha256_file,
    step_parser,
    write_json,
    write_text,
)
from steps.tables import Arm, Checkpoint, Estimate, Link, Table

TEMPLATES = Path(__file__).parent / "templates"
# Settings worth a line in "What was run"; all of them are under Provenance.
SHOWN_SETTINGS = ("data", "epochs", "learning_rate", "batch_size", "adapter", "method", "weights")
RESPONSE_CHARS = 700
PROMPT_CHARS = 900
ARMS_SIDE_BY_SIDE = 8


# --- gathering -----------------------------------------------------------------------------------


@dataclass
class Gathered:
    """All that the report says, as read from the results folder."""

    settings: dict
    checkpoints: list[Checkpoint]
    manifests: dict[str, dict[str, dict]]  # data set → data step → manifest
    quarantined: dict[str, list[dict]]  # data set → example records
    dirt: dict[str, list[dict]]  # data set → rows of the dirt score
    held_out: dict[str, Counter[str]]  # data set → source file → rows of the validation part
    benchmarks: list[dict] = field(default_factory=list)


def gather(settings: dict, results: Path, out: Path) -> Gathered:
    nodes = {node["name"]: node for node in settings["graph"]["nodes"]}
    models = [name for name in settings["graph"]["checkpoints"] if name not in nodes]
    checkpoints = [
        Checkpoint(name, name, None, "model", [], None, {}, settings["models"][name]) for name in models
    ] + [
        Checkpoint(
            n["name"], n["recipe"], n["study"], n["stage"], n["parents"], n["seed"], n["point"],
            ({"data": n["data"]} if n["data"] else {}) | n["settings"],
        )
        for n in nodes.values()
    ]  # fmt: skip
    for checkpoint in checkpoints:
        made = nodes.get(checkpoint.node)
        folder = Path(made["folder"]) if made else _model_folder(checkpoint.node, settings, results)
        _read_checkpoint(checkpoint, folder, results / "evaluation" / checkpoint.node, out)
    gathered = Gathered(settings, checkpoints, {}, {}, {}, {})
    for dataset in settings["graph"]["datasets"]:
        folder = results / "data" / dataset
        steps = [step for step in (*tables.DATA_STEPS, "bucket") if (folder / step / MANIFEST).is_file()]
        gathered.manifests[dataset] = {step: read_json(folder / step / MANIFEST) for step in steps}
        gathered.quarantined[dataset] = tables.quarantine_examples(_quarantine_records(folder, steps))
        if "split" in steps:
            gathered.held_out[dataset] = Counter(row["file"] for row in read_jsonl(folder / "split" / "valid.jsonl"))
        score = folder / "score_dirt" / "dirt.csv"
        gathered.dirt[dataset] = _read_csv(score) if score.is_file() else []
    gathered.benchmarks = list(_read_benchmarks(results.parent.parent / "benchmarks" / settings["workload"]))
    return gathered


def _model_folder(name: str, settings: dict, results: Path) -> Path:
    model = settings["models"][name]
    return results / "download" / "models" / name if "revision" in model else Path(model["path"])


def _read_checkpoint(checkpoint: Checkpoint, folder: Path, evaluation: Path, out: Path) -> None:
    if (folder / MANIFEST).is_file():
        checkpoint.manifest = read_json(folder / MANIFEST)
        href = os.path.relpath(folder / MANIFEST, out)
        checkpoint.manifest_link = Link("manifest", href, sha256_file(folder / MANIFEST))
    if (folder / PROVENANCE).is_file():
        checkpoint.provenance = read_json(folder / PROVENANCE)
    if (folder / "training_log.csv").is_file():
        rows = _read_csv(folder / "training_log.csv")
        # A loss that is not a number has no place on the axes; the line stops before it.
        checkpoint.log = [
            {key: float(value) for key, value in row.items() if value and math.isfinite(float(value))} for row in rows
        ]
    if (evaluation / MANIFEST).is_file():
        checkpoint.results = read_json(evaluation / "results.json")
        checkpoint.samples = list(read_jsonl(evaluation / "samples.jsonl"))


def _quarantine_records(folder: Path, steps: list[str]) -> Iterator[dict]:
    for step in steps:
        if (folder / step / "quarantine.jsonl").is_file():
            yield from read_jsonl(folder / step / "quarantine.jsonl")


def _read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_benchmarks(folder: Path) -> Iterator[dict]:
    """Snakemake's benchmark files; a job too short to be sampled has no memory."""
    for path in sorted(folder.rglob("*.tsv")):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        if rows:
            measured = {key: _number(rows[-1].get(name)) for key, name in BENCHMARK_COLUMNS.items()}
            yield {"rule": str(path.relative_to(folder).with_suffix("")), **measured}


BENCHMARK_COLUMNS = {"seconds": "s", "cpu_seconds": "cpu_time", "peak_mib": "max_rss"}


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"[\d.]+", text) else None


# --- what it comes to ----------------------------------------------------------------------------


@dataclass
class Findings:
    """The comparison: arms to show, the model each started from, the one to ship and by which rule."""

    arms: dict[str, Arm]
    shown: list[Arm]
    grids: dict[str, tuple[list[Arm], Arm | None]]
    ship: Arm | None = None
    rule: str = ""
    # What the answers are about: the checkpoint to ship or, where that is the model itself, the best on the target.
    subject: Arm | None = None
    unlearned: list[dict] = field(default_factory=list)
    tried: int = 0

    def root(self, arm: Arm) -> Arm:
        return tables.root_of(arm, self.arms)

    @property
    def roots(self) -> set[str]:
        return {arm.name for arm in self.shown if self.root(arm) is arm}

    @property
    def trained(self) -> list[Arm]:
        return [arm for arm in self.shown if self.root(arm) is not arm and self.root(arm).scores]


def findings(gathered: Gathered) -> Findings:
    arms = tables.arms_of(gathered.checkpoints)
    grids = tables.best_points(arms)
    hidden = {arm.name for points, best in grids.values() if best for arm in points if arm is not best}
    shown = [arm for arm in arms.values() if arm.scores and arm.name not in hidden]
    found = Findings(arms, shown, grids)
    if not found.trained:
        return found
    found.ship, found.rule = choose(found, gathered.settings["report"]["keep_general"])
    best = max(found.trained, key=lambda arm: arm.axis("target").value)
    found.subject = found.ship if found.ship in found.trained else best
    found.unlearned, found.tried = never_learned(found.subject)
    return found


def choose(found: Findings, keep: float) -> tuple[Arm, str]:
    """The checkpoint to ship: of those that gained, the best on the target that keeps `keep` of the general score;
    where none keeps that much, the one with the highest sum of both axes; where none gained, the model itself."""
    gained = []
    for arm in found.trained:
        gain = tables.difference(arm, found.root(arm), "target")
        if gain and gain.low > 0:
            gained.append(arm)
    if not gained:
        root = found.root(found.trained[0])
        return root, "no checkpoint gained on the target beyond chance, so the model it started from stays"
    kept = {arm.name: tables.retention(arm, found.root(arm)) for arm in gained}
    enough = [arm for arm in gained if kept[arm.name] and kept[arm.name].value >= keep]
    if enough:
        best = max(enough, key=lambda arm: arm.axis("target").value)
        return (
            best,
            f"the highest target score among checkpoints that keep at least {100 * keep:.0f} % of the general score",
        )
    both = [arm for arm in gained if arm.axis("general")]
    if not both:
        return max(
            gained, key=lambda arm: arm.axis("target").value
        ), "the highest target score; no general task was measured"
    best = max(both, key=lambda arm: arm.axis("target").value + arm.axis("general").value)
    return (
        best,
        f"none keeps {100 * keep:.0f} % of the general score, so the one with the highest sum of target and general",
    )


def never_learned(arm: Arm) -> tuple[list[dict], int]:
    """Target items that an arm gets wrong greedily and in every sample, over all seeds; and how many were tried."""
    rows, tried = [], 0
    tasks = {score.task for score in arm.on("target")}
    greedy = _answers(arm.members[0], "greedy", tasks)
    right: dict[tuple, int] = {}
    drawn: dict[tuple, int] = {}
    for member in arm.members:
        for kind in ("greedy", "sampled"):
            for key, sample in _answers(member, kind, tasks).items():
                right[key] = right.get(key, 0) + sum(sample["correct"])
                drawn[key] = drawn.get(key, 0) + (len(sample["correct"]) if kind == "sampled" else 0)
    sampled = any(drawn.values())
    for key, sample in greedy.items():
        if sampled and not drawn[key]:
            continue
        tried += 1
        if not right[key]:
            rows.append(
                {
                    "task": key[0],
                    "doc_id": key[1],
                    "prompt": plain_prompt(sample["prompt"]),
                    "reference": sample["target"],
                    "answer": sample["responses"][0],
                    "sampled": f"0 of {drawn[key]}" if sampled else "–",
                }
            )
    return rows, tried


def _answers(member: Checkpoint, kind: str, tasks: set[str]) -> dict[tuple, dict]:
    return {(s["task"], s["doc_id"]): s for s in member.samples if s["kind"] == kind and s["task"] in tasks}


# --- text ----------------------------------------------------------------------------------------

CHATML_TURN = re.compile(r"<\|im_start\|>(?:system|user)\n(.*?)<\|im_end\|>", re.S)


def plain_prompt(prompt: str) -> str:
    """The last user turn of a ChatML prompt; another prompt as it is."""
    turns = CHATML_TURN.findall(prompt)
    return turns[-1] if turns else prompt


def visible(text: Any) -> str:
    """Text in which every character that does not print, or that reorders what does, stands as its code point."""

    def show(character: str) -> str:
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            return character
        return f"⟨U+{ord(character):04X}⟩"

    return "".join(map(show, str(text)))


def shorten(text: str, limit: int, end: bool = False) -> str:
    """At most `limit` characters, from the start or, with `end`, from the end, and how many were left out."""
    left = len(text) - limit
    if left <= 0:
        return text
    return f"[{left:,} characters before] … {text[-limit:]}" if end else f"{text[:limit]} … [{left:,} more characters]"


def percent(estimate: Estimate) -> str:
    return f"{tables.number_text('percent', estimate.value)} %"


def points(estimate: Estimate) -> str:
    return tables.cell_text("points", estimate)


def n_text(estimate: Estimate) -> str:
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{estimate.n:,}"


def size_text(settings: dict) -> str:
    seeds = settings["seeds"]
    if len(seeds) == 1:
        return f"Default size: one seed ({seeds[0]}). What another seed would change is not measured here."
    return f"Full size: {len(seeds)} seeds ({', '.join(map(str, seeds))}); intervals cover items and seeds."


def headline(found: Findings) -> str:
    """The verdict in one sentence."""
    ship, root = found.ship, found.root(found.ship)
    if ship is root:
        return f"Keep {root.name}: no checkpoint gained on the target beyond chance."
    moves = [
        # No line break within a move.
        f"{axis} {percent(root.axis(axis))} → {percent(ship.axis(axis))}".replace(" ", "\N{NO-BREAK SPACE}")
        for axis in ("target", "general")
        if ship.axis(axis)
    ]
    return f"Ship {ship.name}: {', '.join(moves)}."


def answers(found: Findings) -> list[dict]:
    """The four questions of the first screen: {question, number, unit, text, details}."""
    arm, root = found.subject, found.root(found.subject)
    target, general = arm.axis("target"), arm.axis("general")
    gain, change = tables.difference(arm, root, "target"), tables.difference(arm, root, "general")
    ranked = sorted(found.trained, key=lambda other: -other.axis("target").value)
    names = ", ".join(score.task for score in arm.on("target"))

    text = (
        f"{arm.name} answers {percent(target)} of {names} right, {root.name} {percent(root.axis('target'))}"
        f" ({n_text(target)})."
    )
    if found.ship is not arm:
        text += " That is not a gain beyond chance."
    elif ranked[0] is not arm:
        more = tables.difference(ranked[0], found.root(ranked[0]), "target")
        text += f" The most gained: {ranked[0].name}, {points(more)} points."
    result = [
        {
            "question": "What did it gain?",
            **_number_of(gain, "points on the target"),
            "text": text,
            "of": "checkpoint",
            "details": [
                {
                    "name": other.name,
                    "before": found.root(other).axis("target"),
                    "after": other.axis("target"),
                    "change": tables.difference(other, found.root(other), "target"),
                }
                for other in ranked[:ARMS_SIDE_BY_SIDE]
            ],
        }
    ]
    if change:
        kept = tables.retention(arm, root)
        share = f", {percent(kept)} of it kept {tables.interval_text('percent', kept)}" if kept else ""
        text = f"General score {percent(root.axis('general'))} → {percent(general)}{share} ({n_text(general)})."
    else:
        text = "No general task was measured."
    result.append(
        {
            "question": "What did it lose?",
            **_number_of(change, "points of general capability"),
            "text": text,
            "of": "general task",
            "details": [
                {
                    "name": score.task,
                    "before": root.scores[score.task].estimate,
                    "after": score.estimate,
                    "change": tables.difference(arm, root, task=score.task),
                }
                for score in arm.on("general")
            ],
        }
    )
    n = len(found.unlearned)
    result.append(
        {
            "question": "What did it never learn, and why?",
            "number": f"{n:,}",
            "unit": f"of {found.tried:,} target items",
            "text": unlearned_text(found),
            "details": [],
        }
    )
    result.append(
        {
            "question": "Which checkpoint to ship?",
            "number": found.ship.name,
            "unit": "",
            "text": f"Rule: {found.rule}.",
            "details": [],
        }
    )
    return result


def _number_of(change: Estimate | None, unit: str) -> dict:
    if change is None:
        return {"number": "–", "unit": ""}
    number, interval = tables.number_text("points", change.value), tables.interval_text("points", change)
    return {"number": number, "interval": interval, "unit": unit}


def unlearned_text(found: Findings) -> str:
    """What is known of the target items that the checkpoint never gets right."""
    subject, items = found.subject, found.unlearned
    if not items:
        return f"{subject.name} gets each of {found.tried:,} target items right at least once."
    draws = items[0]["sampled"]
    how = "greedily; nothing was sampled" if draws == "–" else f"greedily and in every sample ({draws} right)"
    text = f"Wrong {how}."
    keys = {(item["task"], item["doc_id"]) for item in items}
    elsewhere = {
        key
        for arm in found.trained
        if arm is not subject
        for key, sample in _answers(arm.members[0], "greedy", set(arm.scores)).items()
        if key in keys and sample["correct"][0]
    }
    text += f" Another checkpoint gets {len(elsewhere):,} of them right."
    unmarked = sum("####" not in item["answer"] for item in items)
    if 0 < unmarked < len(items):
        text += f" {unmarked:,} of the greedy answers lack the marker ####."
    return text + " Why is not known: this run attributes no causes. The items are listed under Checkpoints."


def skipped(checkpoints: list[Checkpoint], dataset: str) -> str:
    """In words, the rows of a data set that reached a recipe and that it could not train on; "" when there are none."""
    found: dict[str, dict[str, int]] = {}
    for checkpoint in checkpoints:
        counts = (checkpoint.manifest or {}).get("counts", {}).get("train", {})
        if checkpoint.settings.get("data") == dataset and counts.get("quarantined"):
            found[checkpoint.recipe] = counts["quarantined"]
    return "; ".join(
        f"{recipe} skips {sum(reasons.values()):,} of them ({', '.join(sorted(reasons))})"
        for recipe, reasons in found.items()
    )


def summary(found: Findings, gathered: Gathered, flows: list[tables.Flow]) -> str:
    """Five lines for the terminal."""
    settings = gathered.settings
    entered = sum(flow.rows_in for flow in flows)
    trained = sum(flow.total("train") for flow in flows)
    seeds = settings["seeds"]
    size = "default size, one seed" if len(seeds) == 1 else f"full size, {len(seeds)} seeds"
    lines = [
        f"{settings['workload']} ({size}): {trained:,} of {entered:,} raw rows trained,"
        f" {len(found.shown)} checkpoints measured."
    ]
    notes = [note for flow in flows if (note := skipped(gathered.checkpoints, flow.dataset))]
    if notes:
        lines[0] += f" Of the trained rows {'; '.join(notes)}."
    if not found.ship:
        return "\n".join([*lines, "Gained: nothing measured yet.", "Lost: –", "Never learned: –", "Ship: –"]) + "\n"
    for label, answer in zip(("Gained", "Lost", "Never learned", "Ship"), answers(found), strict=True):
        interval = f" {answer['interval']}" if "interval" in answer else ""
        unit = f" {answer['unit']}" if answer["unit"] else ""
        lines.append(f"{label}: {answer['number']}{interval}{unit}. {answer['text']}")
    return "\n".join(lines) + "\n"


# --- sample answers ------------------------------------------------------------------------------


def side_by_side(found: Findings) -> list[dict]:
    """A few items, the first of each kind in the order of the tasks: learned, disputed, wrong, forgotten, kept."""
    subject, root = found.subject, found.root(found.subject)
    compared = [root, subject, *(arm for arm in found.trained if arm is not subject)]
    compared = [arm for arm in compared if arm.members[0].samples][:ARMS_SIDE_BY_SIDE]
    if root not in compared or len(compared) < 2:
        return []
    given = {arm.name: _answers(arm.members[0], "greedy", set(arm.scores)) for arm in compared}
    kinds = {
        "target": (("learned", (False, True)), ("wrong in every checkpoint", None), ("disputed", "mixed")),
        "harder": (("learned", (False, True)), ("wrong in every checkpoint", None)),
        "general": (("forgotten", (True, False)), ("kept", (True, True))),
    }
    chosen, used = [], set()
    for axis, wanted in kinds.items():
        for task in (score.task for score in root.on(axis)):
            keys = [key for key in given[root.name] if key[0] == task and all(key in g for g in given.values())]
            for label, pattern in wanted:
                for key in keys:
                    marks = {name: bool(rows[key]["correct"][0]) for name, rows in given.items()}
                    of_trained = [right for name, right in marks.items() if name not in found.roots]
                    fits = {
                        None: not any(marks.values()),
                        "mixed": len(set(of_trained)) > 1,
                    }.get(pattern, (marks[root.name], marks[subject.name]) == pattern)
                    if fits and key not in used:
                        used.add(key)
                        chosen.append((axis, label, key, marks))
                        break
    return [
        {
            "axis": axis,
            "task": key[0],
            "item": key[1],
            "label": label,
            "prompt": shorten(plain_prompt(given[root.name][key]["prompt"]), PROMPT_CHARS, end=True),
            "reference": given[root.name][key]["target"],
            "answers": [
                {"name": name, "right": marks[name], "text": shorten(rows[key]["responses"][0], RESPONSE_CHARS)}
                for name, rows in given.items()
            ],
        }
        for axis, label, key, marks in chosen
    ]


# --- tables, figures, page -----------------------------------------------------------------------


def make_tables(gathered: Gathered, found: Findings, flows: list[tables.Flow]) -> dict[str, Table]:
    made: list[Table | None] = [tables.nodes_table(gathered.checkpoints, SHOWN_SETTINGS)]
    if found.shown:
        made += [
            tables.checkpoints_table(found.shown, found.arms),
            tables.tasks_table(found.shown, found.arms),
            tables.sampling_table(found.shown),
            tables.perplexity_table(found.shown),
        ]
    if found.unlearned:
        made.append(tables.unlearned_table(found.subject, found.unlearned))
    for flow in flows:
        made.append(tables.rows_table(flow))
        if gathered.quarantined[flow.dataset]:
            made.append(tables.quarantine_table(flow.dataset, gathered.quarantined[flow.dataset]))
        if gathered.dirt[flow.dataset]:
            made.append(tables.dirt_table(flow.dataset, gathered.dirt[flow.dataset]))
        if "bucket" in gathered.manifests[flow.dataset]:
            made.append(tables.bucket_table(flow.dataset, gathered.manifests[flow.dataset]["bucket"]))
    for recipe, (grid_points, best) in found.grids.items():
        if any(arm.scores for arm in grid_points):
            made.append(tables.grid_table(recipe, grid_points, best))
    if gathered.benchmarks:
        made.append(tables.timing_table(gathered.benchmarks))
    return {table.name: table for table in made if table}


def make_figures(gathered: Gathered, found: Findings, flows: list[tables.Flow]) -> dict[str, str]:
    made = {"recipe_graph": figures.recipe_graph(found.arms)}
    made |= {f"row_flow_{flow.dataset}": figures.row_flow(flow) for flow in flows}
    if any(arm.axis("target") and arm.axis("general") for arm in found.shown):
        made["scatter"] = figures.scatter(found.shown, found.roots)
    for recipe, (grid_points, best) in found.grids.items():
        axis = "dev" if best else "target"
        if len(grid_points[0].grid) <= 2 and any(arm.axis(axis) for arm in grid_points):
            made[f"grid_{recipe}"] = figures.heat_map(recipe, grid_points, axis, best)
    logged = {
        name: {m.node: m.log for m in arm.members if m.log}
        for name, arm in found.arms.items()
        # A model's own training is of another run, and its scale another one.
        if arm.stage != "model" and any(m.log for m in arm.members) and (not arm.grid or arm in found.shown)
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
    return made


def metrics(found: Findings, flows: list[tables.Flow]) -> dict:
    """The few numbers that `dvc metrics diff` compares."""
    arms = {
        arm.name: {axis: round(e.value, 6) for axis in ("target", "harder", "general") if (e := arm.axis(axis))}
        for arm in found.shown
    }
    rows = {flow.dataset: {"entered": flow.rows_in, "trained": flow.total("train")} for flow in flows}
    return {"checkpoints": arms, "rows": rows}


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


def render_page(gathered: Gathered, found: Findings, flows, made: dict[str, Table], drawn: dict[str, str]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["shorten"] = shorten
    environment.globals |= {
        "cell_text": tables.cell_text,
        "number_text": tables.number_text,
        "interval_text": tables.interval_text,
        "is_estimate": lambda value: isinstance(value, Estimate),
        "light": figures.LIGHT,
        "dark": figures.DARK,
    }
    return environment.get_template("report.html.j2").render(
        workload=gathered.settings["workload"],
        size=size_text(gathered.settings),
        compact_tasks=tables.compact_tasks(found.shown),
        answers=answers(found) if found.ship else [],
        headline=headline(found) if found.ship else "",
        subject=found.subject,
        tables=made,
        figures={name: Markup(figures.themed(svg)) for name, svg in drawn.items()},
        flows=flows,
        skips={flow.dataset: skipped(gathered.checkpoints, flow.dataset) for flow in flows},
        stages=figures.stages_used(gathered.checkpoints),
        grids={name: best for name, (_, best) in found.grids.items()},
        curves=[name for name in drawn if name.startswith("curves_")],
        samples=side_by_side(found) if found.ship else [],
        provenance=provenance(gathered),
    )


def main(args: argparse.Namespace) -> None:
    gathered = gather(args.settings, args.results, args.out)
    found = findings(gathered)
    flows = [
        tables.flow_of(name, manifests, gathered.held_out.get(name, {}))
        for name, manifests in gathered.manifests.items()
        if manifests
    ]
    made = make_tables(gathered, found, flows)
    drawn = make_figures(gathered, found, flows)
    page = render_page(gathered, found, flows, made, drawn)
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
    print(args.out / "index.html")
    print(text, end="")


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the workload's results folder")
    run(main, parser)
