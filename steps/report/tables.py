"""What every table of the report is made of: values with their intervals, columns, rows.

A `Table` writes itself as CSV (raw numbers) and Markdown (rounded, with intervals); the page renders the same cells.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steps.core.files import csv_text


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, its standard error and the number of items behind it."""

    value: float
    low: float
    high: float
    stderr: float
    n: int
    seed_values: tuple[float, ...] = ()
    seeds: tuple[int | None, ...] = ()  # which they are of; empty where nothing is paired by them

    @property
    def seed_sd(self) -> float | None:
        return float(np.std(self.seed_values, ddof=1)) if len(self.seed_values) > 1 else None


@dataclass(frozen=True)
class Link:
    """A file beside the report: text to show, path relative to the page, sha256 of the file."""

    text: str
    href: str
    sha256: str


# Kinds that are no numbers.
WORDS = ("text", "quote", "setting", "code", "links")


@dataclass(frozen=True)
class Column:
    """One column: key into the rows, heading, and how its cells read.

    Kinds: text (ours, in the language of the page), quote (of rows and models), setting (head and cells as they are
    typed), code, integer, number, tenths, decimal (three), percent (a share), points (of percent), links.
    """

    key: str
    label: str
    kind: str = "text"


@dataclass
class Table:
    """A table of the report: a name, what it shows, columns and rows."""

    name: str
    caption: str
    columns: list[Column]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def filled(self) -> list[Column]:
        """The columns with anything in them."""
        return [c for c in self.columns if any(row.get(c.key) not in (None, "", []) for row in self.rows)]

    def csv(self) -> str:
        """Raw numbers, six digits; an estimate becomes five columns."""
        rows = [dict(pair for c in self.columns for pair in _csv_cells(c.key, row.get(c.key))) for row in self.rows]
        names: list[str] = []
        for column in self.columns:
            # The row with most columns names them: where one candidate has an estimate and another has none.
            wide = max((_csv_cells(column.key, row.get(column.key)) for row in self.rows), key=len, default=None)
            names += [name for name, _ in wide] if wide else [column.key]
        return csv_text(names, rows)

    def markdown(self) -> str:
        def line(cells: Iterable[str]) -> str:
            return (
                "| " + " | ".join(" ".join(c.replace("\\", "\\\\").replace("|", "\\|").split()) for c in cells) + " |"
            )

        rule = ["---" if c.kind in WORDS else "---:" for c in self.columns]
        rows = [line(cell_text(c.kind, row.get(c.key)) for c in self.columns) for row in self.rows]
        return "\n".join([line(c.label for c in self.columns), line(rule), *rows, "", self.caption, ""])


def cell_text(kind: str, value: Any) -> str:
    """A cell as a reader sees it: "92.3 [89.1, 94.8]" for an estimate, "–" for nothing."""
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, Estimate):
        return f"{number_text(kind, value.value)} {interval_text(kind, value)}"
    if kind == "links":
        return ", ".join(link.text for link in value)
    return number_text(kind, value)


def number_text(kind: str, value: Any) -> str:
    if kind == "percent":
        return f"{100 * value:.1f}".replace("-", "−")
    if kind == "points":
        text = f"{100 * value:+.1f}".replace("-", "−")
        return "0.0" if text[1:] == "0.0" else text
    if kind == "integer":
        return f"{value:,}"
    if kind in ("tenths", "decimal"):
        return f"{value:,.{1 if kind == 'tenths' else 3}f}".replace("-", "−")
    if kind == "number":
        return f"{value:,.4g}".replace("-", "−")
    return str(value)


def interval_text(kind: str, estimate: Estimate) -> str:
    return f"[{number_text(kind, estimate.low)}, {number_text(kind, estimate.high)}]"


def _csv_cells(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Estimate):
        parts = [("", value.value), ("_low", value.low), ("_high", value.high), ("_stderr", value.stderr)]
        cells = [(key + end, f"{number:.6g}") for end, number in parts] + [(f"{key}_n", value.n)]
        return cells + [(f"{key}_seed_sd", "" if value.seed_sd is None else f"{value.seed_sd:.6g}")]
    if isinstance(value, float):
        return [(key, f"{value:.6g}")]
    if isinstance(value, list):
        return [
            (key, " ".join(link.href for link in value)),
            (f"{key}_sha256", " ".join(link.sha256 for link in value)),
        ]
    return [(key, value)]


def setting_text(value: Any) -> str:
    if isinstance(value, dict):
        rest = [f"{k}={setting_text(v)}" for k, v in value.items() if k != "kind"]
        return " ".join([value["kind"], *rest] if "kind" in value else rest)
    return json.dumps(value) if isinstance(value, list | bool) else str(value)
