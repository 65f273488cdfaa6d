"""The card of a release: what it gained and lost, how it was made, from which rows, its licences, how to use it."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steps.core.files import read_json, read_jsonl
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST
from steps.report import candidates
from steps.report.candidates import Candidate, Checkpoint
from steps.report.overview import row_tables
from steps.report.overview.row_tables import Flow
from steps.report.sentences import Sentences, text
from steps.report.tables import Column, Table
from steps.settings.axes import REPORTED
from steps.settings.data import DATA_STEPS, is_file_of_template, templated
from steps.settings.stages import STAGES

if TYPE_CHECKING:
    from steps.delivery.licences import Part

say = Sentences(Path(__file__).parent)


class Facts(NamedTuple):
    """What the card says, as read from the results folder.

    Attributes:
        subject, base: the checkpoint and the model that it descends from, measured; the same for a model.
        setups: how each of both was measured.
        flows: where the raw rows of each data set went.
        accounts: a row for each step that took rows for a training: its node, its name, and what `accounts_of` says.
        manifests: every file read, by its path.
    """

    subject: Candidate
    base: Candidate
    engines_used: list[dict]
    flows: list[Flow]
    accounts: list[dict]
    manifests: dict[str, Path]


def read(settings: dict, results: Path) -> Facts:
    manifests: dict[str, Path] = {}

    def manifest(path: Path) -> dict:
        manifests[str(path)] = path
        return read_manifest(path)

    def measured(name: str) -> tuple[Candidate, dict]:
        folder = results / "evaluation" / name
        manifest(folder / MANIFEST)
        checkpoint = Checkpoint(name, name, None, "", [], None, {}, {}, results=read_json(folder / "results.json"))
        checkpoint.samples = [sample for sample in read_jsonl(folder / "samples.jsonl") if sample["kind"] == "greedy"]
        return Candidate(name, [checkpoint]), checkpoint.results["setup"]

    subject, setup = measured(settings["checkpoint"])
    base, base_setup = measured(settings["base"])
    flows = []
    for dataset in settings["data"]:
        folder = results / "data" / dataset
        steps = {step: manifest(folder / step / MANIFEST) for step in DATA_STEPS}
        held_out = Counter(row["file"] for row in read_jsonl(folder / "split" / "valid.jsonl"))
        flows.append(row_tables.flow_of(dataset, steps, held_out))
    accounts = []
    for node in settings["nodes"]:
        for path in map(Path, node["accounts"]):
            record = manifest(path)
            accounts += [
                {"node": node["name"], "step": record["step"], **counts} for counts in accounts_of(record["counts"])
            ]
    return Facts(subject, base, [setup, base_setup], flows, accounts, manifests)


def accounts_of(counts: dict) -> list[dict]:
    """Of a manifest's counts what came in, what is kept, what is not and why, and how much was made of it.

    Nothing for a step that takes no rows.
    """
    if isinstance(counts.get("train"), dict):
        counts = counts["train"]
    elif isinstance(counts.get("left_out"), dict):  # stage opd: by data set
        kept, left = sum(counts["prompts"].values()), sum(counts["left_out"].values())
        counts = {"in": kept + left, "kept": kept, "quarantined": {"pass_rate": left}}
    if not {"in", "kept", "quarantined"} <= counts.keys():
        return []
    reasons = {reason: n for reason, n in counts["quarantined"].items() if n}
    assert counts["in"] == counts["kept"] + sum(reasons.values()), f"rows that are neither kept nor accounted: {counts}"
    return [{**{key: counts.get(key) for key in ("in", "kept", "written", "trained_tokens")}, "quarantined": reasons}]


# --- tables --------------------------------------------------------------------------------------


def results_table(subject: Candidate, base: Candidate) -> Table:
    """Each task and axis: before, after, what changed."""
    tuned = subject.name != base.name
    columns = [Column("axis", "axis"), Column("task", "task", "code"), Column("n", "n", "integer")]
    if tuned:
        columns.append(Column("before", f"before ({base.name}) %", "percent"))
    columns.append(Column("after", f"{'after (' * tuned}{subject.name}{')' * tuned} %", "percent"))
    if tuned:
        columns.append(Column("change", "change, points", "points"))
    rows = []
    for axis in REPORTED:
        scores = subject.on(axis)
        for score in scores:
            before = base.scores.get(score.task)
            rows.append(
                {
                    "axis": axis,
                    "task": score.task,
                    "n": score.estimate.n,
                    "before": before and before.estimate,
                    "after": score.estimate,
                    "change": candidates.difference(subject, base, task=score.task) if tuned else None,
                }
            )
        if len(scores) > 1:
            rows.append(
                {
                    "axis": axis,
                    "task": f"mean of {len(scores)}",
                    "n": subject.axis(axis).n,
                    "before": base.axis(axis),
                    "after": subject.axis(axis),
                    "change": candidates.difference(subject, base, axis) if tuned else None,
                }
            )
    caption = say("results_caption")
    return Table("results", caption, columns, rows)


def accounts_table(accounts: list[dict]) -> Table:
    columns = [
        Column("node", "checkpoint", "code"),
        Column("step", "step"),
        Column("in", "in", "integer"),
        Column("reasons", "left out, by reason"),
        Column("kept", "kept", "integer"),
        Column("written", "written, with repeats", "integer"),
        Column("trained_tokens", "tokens with a loss, one pass", "integer"),
    ]
    reasons = [", ".join(f"{n:,} {reason}" for reason, n in sorted(row["quarantined"].items())) for row in accounts]
    rows = [row | {"reasons": text or "none"} for row, text in zip(accounts, reasons, strict=True)]
    table = Table("accounts", "In every line, in = left out + kept.", columns, rows)
    table.columns = table.filled
    return table


def licences_table(parts: "list[Part]") -> Table:
    columns = [Column("name", "part", "code"), Column("origin", "origin"), Column("licence", "licence")]
    columns.append(Column("texts", "its text"))
    rows = [
        {
            "name": part.name,
            "origin": part.origin,
            "licence": part.licence or "not stated beside it",
            "texts": ", ".join(f"licenses/{part.name}/{file.name}" for file in part.files),
        }
        for part in parts
    ]
    return Table("licences", "As stated beside each part when the release was made.", columns, rows)


# --- front matter --------------------------------------------------------------------------------


def front_matter(settings: dict, facts: Facts, licence: str) -> str:
    """The YAML that the hub reads. Only what is on the hub is linked: it refuses ids that do not exist there."""
    from huggingface_hub import EvalResult, ModelCardData

    bases = [m["path"] for m in settings["models"].values() if m["weights"] and "revision" in m]
    sources = [s for sources in settings["data"].values() for s in sources if "revision" in s]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_name=score.task,
            dataset_type=score.task,
            metric_type=score.metric,
            metric_name=f"{score.metric} ({axis})",
            metric_value=round(score.estimate.value, 6),
        )
        for axis in REPORTED
        for score in facts.subject.on(axis)
    ]
    data = ModelCardData(
        model_name=settings["name"],
        license=licence,
        language=settings["languages"],
        base_model=bases or None,
        datasets=list(dict.fromkeys("/".join(s["path"].split("/")[:2]) for s in sources)) or None,
        eval_results=results or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags(settings),
        **({"base_model_relation": relation(settings)} if bases and settings["nodes"] else {}),
    )
    return data.to_yaml(line_break="\n").strip()


def relation(settings: dict) -> str:
    """What the release is to the models it descends from, in the hub's words."""
    return "merge" if not STAGES[settings["nodes"][-1]["stage"]].trains else "finetune"


def tags(settings: dict) -> list[str]:
    kinds = [node["settings"].get("adapter", {}).get("kind", "full") for node in settings["nodes"]]
    methods = [node["settings"]["method"] for node in settings["nodes"] if node["stage"] == "rl"]
    stages = [node["stage"] for node in settings["nodes"]]
    names = ["temper", "conversational", *stages, *methods, *(kind for kind in kinds if kind != "full")]
    return list(dict.fromkeys(names))


# --- the card ------------------------------------------------------------------------------------


def scores(facts: Facts) -> dict:
    """What was gained beside what was lost: both axes, their changes against the base, the share that was kept."""
    subject, base = facts.subject, facts.base
    return {
        "tuned": subject.name != base.name,
        "target": subject.axis("target"),
        "general": subject.axis("general"),
        "gained": candidates.difference(subject, base, "target"),
        "changed": candidates.difference(subject, base, "general"),
        "kept": candidates.retention(subject, base) if subject.axis("general") else None,
    }


def serve_line(settings: dict, weights: dict) -> str:
    """The command that serves it. vLLM would run float32 weights in 16 bits, and sample where nothing says greedy."""
    # Without a host it listens on all interfaces, and asks nobody who they are.
    line = f"vllm serve {settings['name']} --host 127.0.0.1"
    if weights["dtype"] == "float32":
        line += " --dtype float32"
    if settings["sampling"]["kind"] == "greedy":
        line += " --override-generation-config '{\"temperature\": 0.0}'"
    return line


def card(settings: dict, facts: Facts, parts: "list[Part]", licence: str, weights: dict) -> str:
    """README.md of a release.

    Args:
        weights: {"dtype", "parameters", "context": tokens, "merged": whether they come from an adapter}.
    """
    base = settings["models"][settings["base"]]
    own = templated(base)
    if "chat_template" in own and not is_file_of_template(own["chat_template"]):
        own["chat_template"] = "written for it"
    template = json.dumps(own, sort_keys=True, ensure_ascii=False) if own else ""
    lengths = [node["settings"]["max_length"] for node in settings["nodes"] if "max_length" in node["settings"]]
    return text(
        Path(__file__).parent,
        "card.md.j2",
        head=front_matter(settings, facts, licence),
        name=settings["name"],
        base=settings["base"],
        origin=base["path"] + (f" at {base['revision']}" if "revision" in base else ""),
        template=template,
        checkpoint=settings["checkpoint"],
        workload=settings["workload"],
        weights=weights,
        scores=scores(facts),
        results=results_table(facts.subject, facts.base),
        engines=facts.engines_used,
        nodes=[node | {"settings": json.dumps(node["settings"], sort_keys=True)} for node in settings["nodes"]],
        flows=[(flow, row_tables.rows_table(flow)) for flow in facts.flows],
        accounts=accounts_table(facts.accounts),
        tasks=[score.task for score in facts.subject.on("target")],
        languages=settings["languages"],
        longest=max(lengths, default=0),
        rounded=settings["dtype"] != "stored",
        serve=serve_line(settings, weights),
        licence=licence,
        licences=licences_table(parts),
    )
