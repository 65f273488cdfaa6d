"""The card of a release: what it gained and lost, how it was made, from which rows, its licences, how to use it."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steps import arms, row_tables
from steps.arms import Arm, Checkpoint
from steps.common import DATA_STEPS, MANIFEST, read_json, read_jsonl
from steps.row_tables import Flow
from steps.tables import Column, Estimate, Table, cell_text, interval_text, number_text

if TYPE_CHECKING:
    from steps.deliver import Part

# The axes that a card shows: dev is what choices are made on.
AXES = ("target", "harder", "general")


class Facts(NamedTuple):
    """What the card says, as read from the results folder.

    Attributes:
        subject, base: the checkpoint and the model that it descends from, measured; the same for a model.
        setups: how each of both was measured.
        flows: where the raw rows of each data set went.
        accounts: a row for each step that took rows for a training: its node, its name, and what `accounts_of` says.
        manifests: every file read, by its path.
    """

    subject: Arm
    base: Arm
    setups: list[dict]
    flows: list[Flow]
    accounts: list[dict]
    manifests: dict[str, Path]


def read(settings: dict, results: Path) -> Facts:
    manifests: dict[str, Path] = {}

    def manifest(path: Path) -> dict:
        manifests[str(path)] = path
        return read_json(path)

    def measured(name: str) -> tuple[Arm, dict]:
        folder = results / "evaluation" / name
        manifest(folder / MANIFEST)
        found = Checkpoint(name, name, None, "", [], None, {}, {}, results=read_json(folder / "results.json"))
        found.samples = [sample for sample in read_jsonl(folder / "samples.jsonl") if sample["kind"] == "greedy"]
        return Arm(name, [found]), found.results["setup"]

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
            found = manifest(path)
            accounts += [
                {"node": node["name"], "step": found["step"], **counts} for counts in accounts_of(found["counts"])
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


def results_table(subject: Arm, base: Arm) -> Table:
    """Each task and axis: before, after, what changed."""
    tuned = subject.name != base.name
    columns = [Column("axis", "axis"), Column("task", "task", "code"), Column("n", "n", "integer")]
    if tuned:
        columns.append(Column("before", f"before ({base.name}) %", "percent"))
    columns.append(Column("after", f"{'after (' * tuned}{subject.name}{')' * tuned} %", "percent"))
    if tuned:
        columns.append(Column("change", "change, points", "points"))
    rows = []
    for axis in AXES:
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
                    "change": arms.difference(subject, base, task=score.task) if tuned else None,
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
                    "change": arms.difference(subject, base, axis) if tuned else None,
                }
            )
    caption = (
        "Percent right, greedy decoding through the chat template, with 95 % intervals: Wilson for levels, paired"
        f" bootstrap over items ({arms.RESAMPLES:,} resamples) for changes. One checkpoint, so that the chance of the"
        " training's seed is not in them."
    )
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
        for axis in AXES
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
    return "merge" if settings["nodes"][-1]["stage"] in ("merge", "interpolate") else "finetune"


def tags(settings: dict) -> list[str]:
    kinds = [node["settings"].get("adapter", {}).get("kind", "full") for node in settings["nodes"]]
    methods = [node["settings"]["method"] for node in settings["nodes"] if node["stage"] == "rl"]
    stages = [node["stage"] for node in settings["nodes"]]
    found = ["temper", "conversational", *stages, *methods, *(kind for kind in kinds if kind != "full")]
    return list(dict.fromkeys(found))


# --- text ----------------------------------------------------------------------------------------


def with_interval(kind: str, estimate: Estimate) -> str:
    return f"{number_text(kind, estimate.value)} {interval_text(kind, estimate)}"


def summary(facts: Facts) -> str:
    """What was gained beside what was lost, in two sentences."""
    subject, base = facts.subject, facts.base
    if subject.name == base.name:
        return "These are the weights of the base, not trained further."
    gained, lost = arms.difference(subject, base, "target"), arms.forgetting(subject, base)
    kept = arms.retention(subject, base)
    target, general = subject.axis("target"), subject.axis("general")
    said = []
    if target:
        change = f": {with_interval('points', gained)} points against the base" if gained else ""
        said.append(
            f"**Target**: {with_interval('percent', target)} % right ({cell_text('integer', target.n)} items){change}."
        )
    if general:
        change = f": {with_interval('points', arms.negated(lost))} points against the base" if lost else ""
        share = f", {with_interval('percent', kept)} % of its score kept" if kept else ""
        n = cell_text("integer", general.n)
        said.append(
            f"**General**, what the base could do before: {with_interval('percent', general)} % right ({n} items)"
            f"{change}{share}."
        )
    else:
        said.append("No general task was measured: what the training cost is not known.")
    return "\n\n".join(said)


def chain(nodes: list[dict]) -> str:
    """How each checkpoint came from the one before, with all its settings."""
    if not nodes:
        return "The base as it is."
    lines = []
    for number, node in enumerate(nodes, 1):
        said = f"{number}. `{node['name']}`, stage {node['stage']}, from " + " and ".join(
            f"`{parent}`" for parent in node["parents"]
        )
        if node["data"]:
            said += ", data " + ", ".join(f"`{name}`" for name in node["data"])
        if node["teachers"]:
            said += ", taught by " + " and ".join(f"`{name}`" for name in node["teachers"])
        if node["judge"]:
            said += f", judged by `{node['judge']}`"
        if node["treatment"]:
            said += f", treats {', '.join(node['treatment']['causes'])} of `{node['treatment']['diagnosis']}`"
        if node["seed"] is not None:
            said += f", seed {node['seed']}"
        lines += [f"{said}:", "", f"   `{json.dumps(node['settings'], sort_keys=True)}`", ""]
    return "\n".join(lines).rstrip()


def setup_text(setups: list[dict]) -> str:
    """How the numbers were made; both ways where the base's differ."""

    def words(setup: dict) -> str:
        return ", ".join(f"{key} {value}" for key, value in setup.items())

    said = f"Measured with {words(setups[0])}."
    return said if setups[0] == setups[1] else f"{said} The base: {words(setups[1])}."


def limits(settings: dict, facts: Facts, weights: dict) -> str:
    tasks = ", ".join(f"`{score.task}`" for score in facts.subject.on("target")) or "none"
    lines = [
        f"- Made for what the target measures: {tasks}. It continues a conversation in"
        f" {', '.join(settings['languages'])}, of at most {weights['context']:,} tokens.",
        "- Known of it is what the tables say. Nothing else was measured: not safety, not bias, not truth outside these"
        " tasks, not other languages.",
    ]
    lengths = [node["settings"]["max_length"] for node in settings["nodes"] if "max_length" in node["settings"]]
    if lengths:
        lines.append(f"- The longest rows it was trained on had {max(lengths):,} tokens; longer ones were left out.")
    if settings["dtype"] != "stored":
        lines.append(
            f"- The weights were rounded to {weights['dtype']} after they were measured; the tables are of the"
            " checkpoint as it was stored."
        )
    elif weights["merged"] and weights["dtype"] != "float32":
        lines.append(
            f"- The adapter was merged into its base in float32, and the weights rounded to {weights['dtype']} after"
            f" that; the tables are of the two merged in {facts.setups[0]['dtype']}."
        )
    return "\n".join(lines)


def serve_line(settings: dict, weights: dict) -> str:
    """The command that serves it. vLLM would run float32 weights in 16 bits, and sample where nothing says greedy."""
    line = f"vllm serve {settings['name']}"
    if weights["dtype"] == "float32":
        line += " --dtype float32"
    if settings["sampling"]["kind"] == "greedy":
        line += " --override-generation-config '{\"temperature\": 0.0}'"
    return line


def card(settings: dict, facts: Facts, parts: "list[Part]", licence: str, weights: dict) -> str:
    """README.md of a release. No time stamps.

    Args:
        weights: {"dtype", "parameters", "context": tokens, "merged": whether they come from an adapter}.
    """
    name, base = settings["name"], settings["models"][settings["base"]]
    origin = base["path"] + (f" at {base['revision']}" if "revision" in base else "")
    table = results_table(facts.subject, facts.base)
    measured = f"{table.markdown()}\n{setup_text(facts.setups)}" if table.rows else "No task was measured."
    rows = "\n".join(
        f"### `{flow.dataset}`\n\n{flow.rows_in:,} rows entered, {flow.quarantined:,} were quarantined,"
        f" {flow.total('valid'):,} held out for validation, {flow.total('train'):,} left to train on.\n\n"
        f"{row_tables.rows_table(flow).markdown()}"
        for flow in facts.flows
    )
    trained = f"### What each training took\n\n{accounts_table(facts.accounts).markdown()}" if facts.accounts else ""
    if not facts.flows and not facts.accounts:
        rows = "No rows of this workload went into it.\n"
    return f"""---
{front_matter(settings, facts, licence)}
---

# {name}

A language model of {weights["parameters"]:,} parameters in {weights["dtype"]}, made by Temper from
`{settings["base"]}` ({origin}); checkpoint `{settings["checkpoint"]}` of the workload `{settings["workload"]}`.

{summary(facts)}

## Results

{measured}

## How it was made

{chain(settings["nodes"])}

## Rows

{rows}
{trained}
## Use and limits

{limits(settings, facts, weights)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
messages = [{{"role": "user", "content": "Hello!"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=256)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

```sh
{serve_line(settings, weights)}
```

`{name}` stands for this folder, or for where it was uploaded. The end of an answer and the sampling are set in
`generation_config.json`.

## Licences

The weights are released under `{licence}`.

{licences_table(parts).markdown()}
`manifest.json` has the sha256 of every file here and of every input.
"""
