"""A run as its results folder has it, as far as it exists: checkpoints, their logs and scores, their comparison."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from steps.core.files import read_csv, read_json, read_jsonl
from steps.core.hashes import sha256_file
from steps.core.manifest import is_manifest, read_manifest
from steps.core.promises import MANIFEST, PROVENANCE
from steps.report.candidates import Candidate, Checkpoint, candidates_of
from steps.report.findings import Findings, findings
from steps.report.tables import Link
from steps.settings.data import templated


@dataclass
class Gathered:
    """A run as its results folder has it: what every section starts from.

    Attributes:
        settings: what `Graph.describe` says: every section of params.yaml, and the graph.
        results, out: the folders of the run's results and of its report.
        candidates: the checkpoints by recipe and grid point, each over its seeds.
        findings: what their comparison comes to.
    """

    settings: dict
    results: Path
    out: Path
    checkpoints: list[Checkpoint]
    candidates: dict[str, Candidate]
    findings: Findings

    @property
    def graph(self) -> dict:
        return self.settings["graph"]


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
        node = nodes.get(checkpoint.node)
        folder = Path(node["folder"]) if node else _model_folder(checkpoint.node, settings, results)
        _read_checkpoint(checkpoint, folder, results / "evaluation" / checkpoint.node, out)
    candidates = candidates_of(checkpoints)
    comparison = findings(candidates, settings["report"]["keep_general"])
    return Gathered(settings, results, out, checkpoints, candidates, comparison)


def _model_folder(name: str, settings: dict, results: Path) -> Path:
    model = settings["models"][name]
    if templated(model):
        return results / "prepare" / name
    return results / "download" / "models" / name if {"revision", "base"} & model.keys() else Path(model["path"])


def _read_checkpoint(checkpoint: Checkpoint, folder: Path, evaluation: Path, out: Path) -> None:
    if is_manifest(folder / MANIFEST):
        checkpoint.manifest = read_manifest(folder / MANIFEST)
        href = os.path.relpath(folder / MANIFEST, out)
        checkpoint.manifest_link = Link("manifest", href, sha256_file(folder / MANIFEST))
    if (folder / PROVENANCE).is_file():
        checkpoint.provenance = read_manifest(folder / PROVENANCE)
    if (folder / "training_log.csv").is_file():
        rows = read_csv(folder / "training_log.csv")
        # A loss that is not a number has no place on the axes; the line stops before it.
        checkpoint.log = [
            {key: float(value) for key, value in row.items() if value and math.isfinite(float(value))} for row in rows
        ]
    if (evaluation / MANIFEST).is_file():
        checkpoint.results = read_json(evaluation / "results.json")
        checkpoint.samples = list(read_jsonl(evaluation / "samples.jsonl"))
