"""Write docs/results.md from the committed tables: what was measured stands there as cells of them, not typed.

The template in docs/templates holds the sentences and says which cells of which tables stand in them. Cells are those
of the Markdown tables that the report wrote, rounded and with their intervals. The tables of speeds are made from the
files of reports/bench, one for each bench that is there (`benches.common.write_result`).

Run as: python -m steps.report.results
"""

import argparse
from pathlib import Path
from typing import Any

from steps.core.files import read_json, write_text

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/results.md"
TEMPLATES, TEMPLATE = ROOT / "docs/templates", "results.md.j2"


class Tables:
    """The committed Markdown tables of one report.

    Args:
        folder: its tables/.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[str, list[dict[str, str]]] = {}

    def rows(self, name: str, where: dict[str, str] | None = None) -> list[dict[str, str]]:
        """The rows of a table as {heading: cell}, those whose cells equal `where`."""
        if name not in self._read:
            self._read[name] = read_table((self.folder / f"{name}.md").read_text(encoding="utf-8"))
        return [row for row in self._read[name] if all(row.get(k) == v for k, v in (where or {}).items())]

    def cell(self, name: str, column: str, where: str | dict[str, str]) -> str:
        """One cell, with its interval. `where` picks the row: a dict, or the cell of the first column.

        Raises:
            ValueError: no such table, column or row, or more than one row.
        """
        first = next(iter(self.rows(name)[0]))
        rows = self.rows(name, {first: where} if isinstance(where, str) else where)
        if len(rows) != 1 or column not in rows[0]:
            headings = ", ".join(self.rows(name)[0])
            raise ValueError(f"{self.folder}/{name}.md: {len(rows)} rows with {where}; column {column} of: {headings}")
        return rows[0][column]

    def count(self, name: str, where: dict[str, str] | None = None) -> int:
        """How many rows there are."""
        return len(self.rows(name, where))

    def table(self, name: str, columns: dict[str, str], rows: dict[str, str] | None = None) -> str:
        """A Markdown table of some columns, {heading here: heading there}.

        Args:
            columns: "<table>: <heading>" takes a column of another table that has the same first heading.
            rows: {cell of the first column: what stands for it here}, in order; None takes all.
        """
        first = next(iter(self.rows(name)[0]))
        names = rows or {row[first]: row[first] for row in self.rows(name)}

        def cell(row: str, there: str) -> str:
            other, _, heading = there.rpartition(": ")
            return names[row] if there == first else self.cell(other or name, heading, {first: row})

        return markdown(list(columns), [[cell(row, there) for there in columns.values()] for row in names])


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of the first table of a Markdown text, as {heading: cell}."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\|", "|") for cell in _split(line)] for line in lines]
    heading, _, *rows = cells
    return [dict(zip(heading, row, strict=True)) for row in rows]


def _split(line: str) -> list[str]:
    """The cells of a line; a pipe behind a backslash is part of one."""
    return line.strip().strip("|").replace("\\|", "\0").replace("|", "\n").replace("\0", "\\|").split("\n")


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def level(cell: str) -> str:
    """A cell without its interval."""
    return cell.split(" [")[0]


def reading(cell: str) -> str:
    """What the interval of a difference says: more, less, or undecided where it has 0."""
    low, high = (float(end.replace("−", "-")) for end in cell.split(" [")[1].rstrip("]").split(", "))
    return "more" if low > 0 else "less" if high < 0 else "undecided"


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figure_row(figure: dict[str, Any]) -> list[str]:
    """What was measured, its median over the rounds and their range, and the bar it is held to."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    spread = "–" if figure["rounds"] == 1 else f"{number(figure['min'])} to {number(figure['max'])}"
    bars = [f"at {key} {number(figure[key])}" for key in ("least", "most") if key in figure]
    return [
        figure["what"].replace("|", "\\|"),
        number(figure["median"]) + unit,
        spread,
        str(figure["rounds"]),
        ", ".join(bars) or "–",
    ]


def benches(folder: Path) -> list[dict[str, str]]:
    """What every file of reports/bench says: name, title, table, machine, versions."""
    results = {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}
    return [
        {
            "name": name,
            "title": result["title"],
            "table": markdown(["what", "median", "range", "rounds", "bar"], list(map(figure_row, result["figures"]))),
            "machine": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items()),
            "versions": ", ".join(f"{key} {value}" for key, value in result["versions"].items()),
        }
        for name, result in results.items()
    ]


def page(reports: Path) -> str:
    """The text of docs/results.md.

    Raises:
        ValueError: a table has no such cell.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"level": level, "reading": reading, "combine": lambda one, other: one | other}
    tables = Tables(reports / "fable_full/tables")
    told = {name: getattr(tables, name) for name in ("cell", "count", "rows", "table")}
    told["variant"] = Tables(reports / "fable_variants/tables").cell
    return environment.get_template(TEMPLATE).render(**told, benches=benches(reports / "bench"))


def main(args: argparse.Namespace) -> None:
    write_text(args.out, page(args.reports))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, default=ROOT / "reports", help="the folder of committed reports")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    main(parser.parse_args())
