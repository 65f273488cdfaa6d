"""Files as steps read and write them: whole or absent, as a manifest promised them; JSON, JSON Lines and CSV."""

import csv
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from steps.core.promises import check_promise

# What a spreadsheet takes for a formula, and what of it is a number. A quote before it makes it text.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-](?:\d+\.?\d*|\.\d+|inf|nan)(?:[eE][+-]?\d+)?")


def write_text(path: Path, text: str) -> None:
    """Write by rename, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """By rename, with sorted keys. Raises ValueError for a number that is not finite."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The one text that `write_json` writes for a value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError where a manifest promised other bytes, as all readers here do."""
    check_promise(path)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_jsonl(path: Path) -> Iterator[dict]:
    """Stream the rows of a JSONL file that a step of ours wrote."""
    check_promise(path)
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[dict]) -> int:
    """Stream rows to a file, by rename; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    count = 0
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table that a step of ours wrote, by the names in its first line; an empty cell is an empty text."""
    check_promise(path)

    def given(cell: str) -> str:
        return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, restval="", delimiter=delimiter)
        return [{given(name): given(cell) for name, cell in row.items()} for row in rows]


def csv_text(columns: Sequence[str], rows: Iterable[dict]) -> str:
    """A table as CSV. A row that lacks a column has an empty cell there; one with another column is a defect.

    A text that a spreadsheet would run as a formula has a `'` before it, which `read_csv` takes away.
    """

    def shown(cell: Any) -> Any:
        formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
        return f"'{cell}" if formula else cell

    lines: list[str] = []
    # The writer quotes the characters of its own line end only, and a bare carriage return begins a row elsewhere.
    file = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.DictWriter(file, [shown(name) for name in columns], restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({shown(name): shown(cell) for name, cell in row.items()} for row in rows)
    return "".join(lines)


def fresh_folder(folder: Path) -> Path:
    """Empty an output folder before a step writes to it: nothing of an older run may survive in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
