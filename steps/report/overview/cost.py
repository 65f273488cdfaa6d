"""Time and memory of every rule, as Snakemake measured them."""

import re
from collections.abc import Iterator
from pathlib import Path

from steps.core.files import read_csv
from steps.report.gather import Gathered
from steps.report.section import Section
from steps.report.tables import Column, Table

# What a row is called here, and in Snakemake's files.
BENCHMARK_COLUMNS = {"seconds": "s", "cpu_seconds": "cpu_time", "peak_mib": "max_rss"}


def read(gathered: Gathered) -> list[dict] | None:
    """{rule, seconds, cpu_seconds, peak_mib} of each rule: None for what was too short to be sampled."""
    folder = gathered.results.parent.parent / "benchmarks" / gathered.settings["workload"]
    return list(_read_benchmarks(folder)) or None


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


SECTION = Section(
    name="cost",
    title="Time and memory",
    folder=Path(__file__).parent,
    template="cost.html.j2",
    read=read,
    tables=lambda benchmarks: [timing_table(benchmarks)],
    page=lambda benchmarks, tables, figures: {},
)
