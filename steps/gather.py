"""What the report reads from the results folder, as far as it exists."""

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from steps import learning_rows, row_tables
from steps.arms import Arm, Checkpoint, arms_of
from steps.common import DATA_STEPS, MANIFEST, PROVENANCE, read_json, read_jsonl, sha256_file
from steps.distillation import Distillation, read_distillation
from steps.learning import Study, read_study
from steps.reinforcement import Reinforcement, read_reinforcement
from steps.setups import read_setups
from steps.stability import Stability, read_stability
from steps.tables import Link


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
    setups: dict[str, dict[str, dict]] = field(default_factory=dict)  # step → result → how it was sampled
    arms: dict[str, Arm] = field(default_factory=dict)
    learning: list[Study] = field(default_factory=list)
    stability: Stability | None = None
    reinforcement: Reinforcement | None = None
    distillation: Distillation | None = None


def gather(settings: dict, results: Path, out: Path) -> Gathered:
    nodes = {node["name"]: node for node in settings["graph"]["nodes"]}
    models = [name for name in settings["graph"]["checkpoints"] if name not in nodes]
    checkpoints = [
        Checkpoint(name, name, None, "model", [], None, {}, settings["models"][name]) for name in models
    ] + [
        Checkpoint(
            n["name"], n["recipe"], n["study"], n["stage"], n["parents"], n["seed"], n["point"],
            ({"data": n["data"]} if n["data"] else {}) | n["settings"], n.get("teachers", []),
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
        steps = [step for step in (*DATA_STEPS, "bucket") if (folder / step / MANIFEST).is_file()]
        gathered.manifests[dataset] = {step: read_json(folder / step / MANIFEST) for step in steps}
        gathered.quarantined[dataset] = row_tables.quarantine_examples(_quarantine_records(folder, steps))
        if "split" in steps:
            gathered.held_out[dataset] = Counter(row["file"] for row in read_jsonl(folder / "split" / "valid.jsonl"))
        score = folder / "score_dirt" / "dirt.csv"
        gathered.dirt[dataset] = _read_csv(score) if score.is_file() else []
    gathered.benchmarks = list(_read_benchmarks(results.parent.parent / "benchmarks" / settings["workload"]))
    gathered.setups = read_setups(results, {checkpoint.node for checkpoint in checkpoints}, gathered.manifests)
    gathered.arms = arms_of(checkpoints)
    studies = [read_study(name, settings["graph"], gathered.arms, results) for name in settings["graph"]["detect"]]
    gathered.learning = [study for study in studies if study]
    for study in gathered.learning:
        study.rows = learning_rows.unlearned_rows(study, results)
        study.links = learning_rows.file_links(study, results, out)
    gathered.stability = read_stability(settings["graph"], gathered.arms, results)
    gathered.reinforcement = read_reinforcement(settings["graph"], gathered.arms, results)
    gathered.distillation = read_distillation(settings, gathered.arms, results)
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
