"""Rows: where every raw row of each data set went, what was quarantined, how hard the rest is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.core.files import read_csv, read_jsonl
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST
from steps.report.candidates import Checkpoint
from steps.report.gather import Gathered
from steps.report.overview.row_flow import cleaning, row_flow
from steps.report.overview.row_tables import (
    Flow,
    bucket_table,
    dirt_table,
    flow_of,
    quarantine_examples,
    quarantine_table,
    rows_table,
)
from steps.report.section import Section
from steps.report.sentences import Sentences
from steps.report.tables import Table
from steps.settings.data import DATA_STEPS

say = Sentences(Path(__file__).parent)


@dataclass
class Rows:
    """One data set, as far as its steps are done."""

    flow: Flow
    quarantined: list[dict]  # example records
    dirt: list[dict[str, str]]  # rows of the dirt score
    bucket: dict | None  # the manifest of the step
    skipped: str  # rows left to train on that a recipe cannot take, in words


def read(gathered: Gathered) -> list[Rows]:
    """The data sets that a run uses, those of which a step is done."""
    each = (_read(dataset, gathered) for dataset in gathered.graph["datasets"])
    return [rows for rows in each if rows]


def _read(dataset: str, gathered: Gathered) -> Rows | None:
    folder = gathered.results / "data" / dataset
    steps = [step for step in (*DATA_STEPS, "bucket") if (folder / step / MANIFEST).is_file()]
    if not steps:
        return None
    manifests = {step: read_manifest(folder / step / MANIFEST) for step in steps}
    held_out: Counter[str] = Counter()
    if "split" in steps:
        held_out.update(row["file"] for row in read_jsonl(folder / "split" / "valid.jsonl"))
    score = folder / "score_dirt" / "dirt.csv"
    return Rows(
        flow_of(dataset, manifests, held_out),
        quarantine_examples(_quarantined(folder, steps)),
        read_csv(score) if score.is_file() else [],
        manifests.get("bucket"),
        skipped(gathered.checkpoints, dataset),
    )


def _quarantined(folder: Path, steps: list[str]) -> Iterator[dict]:
    for step in steps:
        if (folder / step / "quarantine.jsonl").is_file():
            yield from read_jsonl(folder / step / "quarantine.jsonl")


def skipped(checkpoints: list[Checkpoint], dataset: str) -> str:
    """In words, the rows of a data set that reached a recipe and that it could not train on; "" when there are none."""
    of_recipe: dict[str, dict[str, int]] = {}
    for checkpoint in checkpoints:
        counts = (checkpoint.manifest or {}).get("counts", {}).get("train", {})
        if checkpoint.settings.get("data") == dataset and counts.get("quarantined"):
            of_recipe[checkpoint.recipe] = counts["quarantined"]
    return say(
        "skipped",
        recipes=[(recipe, sum(reasons.values()), sorted(reasons)) for recipe, reasons in of_recipe.items()],
    )


def tables(datasets: list[Rows]) -> Iterator[Table]:
    for rows in datasets:
        name = rows.flow.dataset
        yield rows_table(rows.flow)
        if rows.quarantined:
            yield quarantine_table(name, rows.quarantined)
        if rows.dirt:
            yield dirt_table(name, rows.dirt)
        if rows.bucket:
            yield bucket_table(name, rows.bucket)


def figures(datasets: list[Rows]) -> dict[str, str]:
    flows = [rows.flow for rows in datasets]
    drawn = {f"row_flow_{flow.dataset}": row_flow(flow) for flow in flows}
    return ({"cleaning": cleaning(flows)} if any(flow.rows_in for flow in flows) else {}) | drawn


def metrics(datasets: list[Rows]) -> dict:
    flows = [rows.flow for rows in datasets]
    return {"rows": {flow.dataset: {"entered": flow.rows_in, "trained": flow.total("train")} for flow in flows}}


def lead(datasets: list[Rows]) -> str:
    flows = [rows.flow for rows in datasets]
    trained, entered = sum(flow.total("train") for flow in flows), sum(flow.rows_in for flow in flows)
    return say("rows_lead", trained=trained, entered=entered) if entered else ""


SECTION = Section(
    name="rows",
    title="Rows",
    folder=Path(__file__).parent,
    template="rows.html.j2",
    read=read,
    tables=tables,
    figures=figures,
    page=lambda datasets, tables, figures: {"datasets": datasets} if datasets else None,
    lead=lead,
    metrics=metrics,
)
