"""The tables of rows: where every raw row went, quarantine, planted dirt, difficulty buckets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.report.language import tr
from steps.report.tables import Column, Estimate, Table, setting_text
from steps.settings.data import DATA_STEPS
from steps.stats import intervals

EXAMPLES_PER_REASON = 3
FILES_SHOWN = 8


@dataclass
class Flow:
    """Where the rows of a data set went: counts[file][outcome]; outcomes are "train", "valid" or (step, reason)."""

    dataset: str
    counts: dict[str, dict[Any, int]]

    @property
    def outcomes(self) -> list[Any]:
        seen = {outcome for row in self.counts.values() for outcome in row}
        kept = [o for o in ("train", "valid", "kept") if o in seen]
        return kept + sorted((o for o in seen if isinstance(o, tuple)), key=lambda o: (DATA_STEPS.index(o[0]), o[1]))

    @property
    def shown(self) -> dict[str, dict[Any, int]]:
        """The counts of the largest files, the others together: a data set may have a thousand shards."""
        if len(self.counts) <= FILES_SHOWN:
            return self.counts
        ranked = sorted(self.counts, key=lambda file: -sum(self.counts[file].values()))
        largest, others = ranked[: FILES_SHOWN - 1], ranked[FILES_SHOWN - 1 :]
        rest: dict[Any, int] = {}
        for file in others:
            for outcome, m in self.counts[file].items():
                rest[outcome] = rest.get(outcome, 0) + m
        return {file: self.counts[file] for file in largest} | {f"{len(others)} other files": rest}

    def total(self, outcome: Any) -> int:
        return sum(row.get(outcome, 0) for row in self.counts.values())

    @property
    def quarantined(self) -> int:
        return sum(m for row in self.counts.values() for outcome, m in row.items() if isinstance(outcome, tuple))

    @property
    def rows_in(self) -> int:
        return sum(sum(row.values()) for row in self.counts.values())


def flow_of(dataset: str, manifests: dict[str, dict], held_out: Mapping[str, int]) -> Flow:
    """Follow every source file through the manifests of the data steps; what enters must come out.

    Args:
        manifests: data step → manifest, of the steps done so far.
        held_out: source file → rows of the validation part.
    """
    counts: dict[str, dict[Any, int]] = {}
    kept: dict[str, int] = {}
    for step in (step for step in DATA_STEPS if step in manifests):
        rows = manifests[step]["counts"]["by_file"]
        # A file of which nothing is left does not enter the next step.
        assert step == "ingest" or {f: row["in"] for f, row in rows.items()} == {f: m for f, m in kept.items() if m}, (
            f"{dataset}: {step} does not take what the step before it kept"
        )
        kept = {file: row["kept"] for file, row in rows.items()}
        for file, row in rows.items():
            assert row["in"] == row["kept"] + sum(row["quarantined"].values()), f"{dataset}: {file} in {step}"
            counts.setdefault(file, {}).update({(step, reason): m for reason, m in row["quarantined"].items() if m})
    for file, left in kept.items():
        parts = {"train": left - held_out.get(file, 0), "valid": held_out.get(file, 0)}
        counts[file] |= parts if "split" in manifests else {"kept": left}
    return Flow(dataset, counts)


OUTCOME_LABELS = {"train": "trained", "valid": "validation", "kept": "kept"}


def rows_table(flow: Flow) -> Table:
    columns = [Column("step", "step"), Column("outcome", "outcome"), Column("all", "all files", "integer")]
    by_file = flow.shown
    columns += [Column(file, file, "integer") for file in by_file]
    rows = []
    for outcome in flow.outcomes:
        step, reason = outcome if isinstance(outcome, tuple) else ("", OUTCOME_LABELS[outcome])
        counts = {file: row.get(outcome, 0) for file, row in by_file.items()}
        rows.append({"step": step, "outcome": reason, "all": flow.total(outcome), **counts})
    totals = {file: sum(row.values()) for file, row in by_file.items()}
    rows.append({"step": "", "outcome": "entered", "all": flow.rows_in, **totals})
    caption = "Counts of rows. Every row that entered is in exactly one line above the last."
    return Table(f"rows_{flow.dataset}", caption, columns, rows)


def quarantine_table(dataset: str, examples: list[dict]) -> Table:
    names = ("step", "reason", "file", "line", "column", "hint", "detail", "excerpt")
    columns = [Column(name, name, "code" if name in ("reason", "column", "excerpt") else "quote") for name in names]
    caption = tr(
        "The first {n} quarantined rows of each reason; all are in quarantine.jsonl of the step.", n=EXAMPLES_PER_REASON
    )
    return Table(f"quarantine_{dataset}", caption, columns, examples)


def quarantine_examples(records: Iterable[dict]) -> list[dict]:
    """The first few records of each step and reason, in the order of the steps."""
    examples: dict[tuple, list[dict]] = {}
    for record in records:
        bucket = examples.setdefault((record["step"], record["reason"]), [])
        if len(bucket) < EXAMPLES_PER_REASON:
            bucket.append(record | {"detail": setting_text(record.get("detail") or "")})
    return [r for key in sorted(examples, key=lambda k: (DATA_STEPS.index(k[0]), k[1])) for r in examples[key]]


def dirt_table(dataset: str, scored: list[dict[str, str]]) -> Table:
    """How well the cleaning found the planted dirt, from the rows of dirt.csv."""

    def share(row: dict[str, str], name: str, n: int) -> Estimate | None:
        if not row[name]:
            return None
        value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
        return Estimate(value, low, high, float(np.sqrt(value * (1 - value) / n)), n)

    columns = [Column("kind", "planted kind", "code"), Column("planted", "planted", "integer")]
    columns += [Column("found", "found", "integer"), Column("recall", "recall %", "percent")]
    columns += [Column("quarantined", "quarantined", "integer"), Column("correct", "rightly", "integer")]
    columns += [Column("precision", "precision %", "percent")]
    rows = []
    for row in scored:
        counts = {key: int(row[key]) for key in ("planted", "found", "quarantined", "correct")}
        recall, precision = share(row, "recall", counts["planted"]), share(row, "precision", counts["quarantined"])
        rows.append({"kind": row["kind"], **counts, "recall": recall, "precision": precision})
    caption = "Cleaning against the dirt that was planted in the raw rows. 95 % Wilson intervals; duplicates by group."
    return Table(f"dirt_{dataset}", caption, columns, rows)


def bucket_table(dataset: str, manifest: dict) -> Table:
    counts, settings = manifest["counts"], manifest["settings"]
    low, high = settings["edges"]
    rates = {
        "easy": f"≥ {high:g}",
        "medium": tr("{low} to {high}", low=f"{low:g}", high=f"{high:g}"),
        "hard": f"< {low:g}",
        "unverified": "no answer to check",
    }
    n = counts["in"]
    rows = []
    for bucket, meaning in rates.items():
        value = counts[bucket] / n
        interval = intervals.wilson(value, n)
        share = Estimate(value, *interval, float(np.sqrt(value * (1 - value) / n)), n)
        rows.append({"bucket": bucket, "rate": meaning, "rows": counts[bucket], "share": share})
    columns = [Column("bucket", "bucket"), Column("rate", "pass rate of the base"), Column("rows", "rows", "integer")]
    columns.append(Column("share", "share %", "percent"))
    caption = tr(
        "Training rows by how often the base solves them, {samples} samples each (n = {n} rows).",
        samples=settings["samples"],
        n=f"{n:,}",
    )
    return Table(f"buckets_{dataset}", caption, columns, rows)
