"""Provenance: versions, commits, devices and engines, and every checkpoint's settings and hashes."""

import json
from dataclasses import dataclass
from pathlib import Path

from steps.report.candidates import Checkpoint
from steps.report.gather import Gathered
from steps.report.overview.engines import engines_table, read_engines, warnings
from steps.report.section import Section
from steps.report.tables import Table


@dataclass
class Provenance:
    """By which code, versions and engines the numbers were made."""

    checkpoints: list[Checkpoint]
    engines: dict[str, dict[str, dict]]  # step → result → how it was sampled


def read(gathered: Gathered) -> Provenance:
    names = {checkpoint.node for checkpoint in gathered.checkpoints}
    return Provenance(gathered.checkpoints, read_engines(gathered.results, names, gathered.graph["datasets"]))


def tables(provenance: Provenance) -> list[Table]:
    engines = engines_table(provenance.engines)
    return [engines] if engines else []


def page(provenance: Provenance, tables: dict[str, Table], figures: dict[str, str]) -> dict:
    """Versions, commits and devices over all checkpoints, and what each one took."""
    records = [c.provenance for c in provenance.checkpoints if c.provenance]
    versions: dict[str, set[str]] = {}
    for record in records:
        for name, version in {"python": record["python"], **record["versions"]}.items():
            versions.setdefault(name, set()).add(version)
    return {
        "versions": {name: " / ".join(sorted(each)) for name, each in sorted(versions.items())},
        "commits": sorted({record["git_commit"] or "not in a git repository" for record in records}),
        "devices": sorted({record["device"] for record in records}),
        "nodes": [
            {
                "node": c.node,
                "record": c.provenance or {},
                "settings": json.dumps(c.settings, indent=1, sort_keys=True, ensure_ascii=False),
                "manifest": c.manifest_link,
                "hashes": c.manifest["outputs"] if c.manifest else {},
            }
            for c in provenance.checkpoints
        ],
    }


SECTION = Section(
    name="provenance",
    title="Provenance",
    folder=Path(__file__).parent,
    template="provenance.html.j2",
    read=read,
    tables=tables,
    page=page,
    warnings=lambda provenance: warnings(provenance.engines),
)
