"""The run on a time line, and time and memory of every rule, as Snakemake measured them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.core.files import read_csv
from steps.report.gather import Gathered
from steps.report.overview.timeline import Step, read_steps, said, timeline
from steps.report.page import inlined
from steps.report.section import Section
from steps.report.tables import Column, Table

# What a row is called here, and in Snakemake's files.
BENCHMARK_COLUMNS = {"seconds": "s", "cpu_seconds": "cpu_time", "peak_mib": "max_rss"}


@dataclass
class Cost:
    """What a run took.

    Attributes:
        benchmarks: {rule, seconds, cpu_seconds, peak_mib} of each rule: None for what was too short to be sampled.
    """

    benchmarks: list[dict]
    steps: list[Step]


def read(gathered: Gathered) -> Cost | None:
    folder = gathered.results.parent.parent / "benchmarks" / gathered.settings["workload"]
    cost = Cost(list(_read_benchmarks(folder)), read_steps(gathered))
    return cost if cost.benchmarks or cost.steps else None


def _read_benchmarks(folder: Path) -> Iterator[dict]:
    for path in sorted(folder.rglob("*.tsv")):
        rows = read_csv(path, delimiter="\t")
        if rows:
            measured = {key: _number(rows[-1].get(name)) for key, name in BENCHMARK_COLUMNS.items()}
            yield {"rule": str(path.relative_to(folder).with_suffix("")), **measured}


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"[\d.]+", text) else None


def timing_table(benchmarks: list[dict]) -> Table:
    columns = [Column("rule", "rule", "code"), Column("seconds", "seconds", "tenths")]
    columns += [Column("cpu_seconds", "CPU seconds", "tenths"), Column("peak_mib", "peak memory, MiB", "tenths")]
    caption = "Measured by Snakemake when each rule last ran; below a second it is too late to see the memory."
    return Table("timing", caption, columns, sorted(benchmarks, key=lambda row: -row["seconds"]))


def page(cost: Cost, tables: dict[str, Table], figures: dict[str, str]) -> dict:
    """The time line is of the page alone: files of figures are the same bytes for the same results."""
    return (
        {"timeline": inlined({"timeline": timeline(cost.steps)})["timeline"], "said": said(cost.steps)}
        if cost.steps
        else {}
    )


SECTION = Section(
    name="cost",
    title="Time and memory",
    folder=Path(__file__).parent,
    template="cost.html.j2",
    read=read,
    tables=lambda cost: [timing_table(cost.benchmarks)] if cost.benchmarks else [],
    page=page,
)
