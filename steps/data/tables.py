"""Stream the records of a table: CSV, Parquet or Arrow, in memory that does not grow with the file."""

import csv
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from steps.data.readers import BOM, MAX_EFFORT, RAW_CHARS, Record, Tally, decoded, invalid_utf8, too_large
from steps.data.rows import RowProblem

# Of the largest records that are allowed, a tenth of a gigabyte.
BATCH_ROWS = 128
SEPARATORS = ",;\t|"
# Of what is there and is not read.
PRESENT = ["…"]


# --- CSV -----------------------------------------------------------------------------------------


class _Lines:
    """The lines of a file, for `csv.reader`: those of one record are kept until it is whole."""

    def __init__(self, file: BinaryIO, limit: int):
        self.file, self.limit = file, limit
        self.held: list[bytes] = []
        self.size = self.read = self.again = self.number = 0
        self.waiting: deque[bytes] = deque()

    def __iter__(self) -> Iterator[str]:
        while data := self.next():
            self.held.append(data)
            self.size += len(data)
            if self.size > self.limit + len(b"\r\n"):
                raise csv.Error("longer than ingest.max_record_bytes")
            yield decoded(data)

    def next(self) -> bytes:
        if self.waiting:
            return self.waiting.popleft()
        data = self.file.readline(self.limit + len(b"\r\n") + 1)
        self.read += len(data)
        return data

    def take(self) -> list[bytes]:
        """The lines of the record that is whole."""
        held, self.held, self.size = self.held, [], 0
        self.number += len(held)
        return held

    def give_back(self) -> list[bytes]:
        """The first line of a record that is broken: what follows is read again, unless that takes too long."""
        if self.again + self.size > MAX_EFFORT * self.read:
            return self.take()
        self.again += self.size
        self.waiting.extendleft(reversed(self.held[1:]))
        self.held = self.held[:1]
        return self.take()


def names_of(path: Path, file: BinaryIO, limit: int) -> tuple[list[str], str, bytes]:
    """The names in the first line of a CSV file, what separates them, and the line itself; no name of an empty file.

    Raises:
        ValueError: it is no line of names.
    """
    line = file.readline(limit)
    text = decoded(line.removeprefix(BOM)).strip("\r\n")
    if problem := invalid_utf8(text):
        raise ValueError(f"{path}: its first line is no UTF-8 ({problem.column}: {problem.detail}); save it as UTF-8")
    separator = max(SEPARATORS, key=text.count)
    try:
        names = next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{path}: its first line is no line of names ({error}); write one") from None
    names = [name.strip() for name in names]
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice:
        raise ValueError(f"{path}: two columns are called {twice[:100]!r}; rename one")
    if line and not any(names):
        raise ValueError(f"{path}: its first line is empty; write the names of the columns there")
    return names, separator, line


def read_csv(path: Path, file: BinaryIO, limit: int, tally: Tally) -> Iterator[Record]:
    """One record a row of cells, each a text, under the names of the first line.

    A row with a broken quote ends with its line; the next line begins another one.
    """
    csv.field_size_limit(limit)
    names, separator, header = names_of(path, file, limit)
    tally.separators += len(header)
    lines = _Lines(file, limit)
    lines.number = 1
    rows = csv.reader(iter(lines), delimiter=separator, strict=True)
    while True:
        problem, cells = None, None
        try:
            cells = next(rows, None)
            line, held = lines.number + 1, lines.take()
            if cells is None and not held:
                return
        except csv.Error as error:
            size, line = lines.size, lines.number + 1
            held = lines.give_back()
            if len(held[0]) > limit:
                size = len(held[0]) + _rest_of_line(lines, held[0])
                problem = too_large(size, limit)
                tally.records += size - len(held[0])
            else:
                hint = "close the quote, or write it twice within a cell in quotes"
                problem = RowProblem("invalid_csv", "(record)", hint, str(error))
            rows = csv.reader(iter(lines), delimiter=separator, strict=True)
        data = b"".join(held)
        content = data.strip(b"\r\n")
        tally.records += len(content)
        tally.separators += len(data) - len(content)
        if not content:
            continue
        raw = decoded(content)
        problem = problem or invalid_utf8(raw)
        if problem is None and len(cells or ()) != len(names):
            detail = f"{len(cells or ())} cells under {len(names)} names"
            problem = RowProblem("invalid_csv", "(record)", "write a cell for each name, in quotes", detail)
        value = None if problem else dict(zip(names, cells or (), strict=True))
        yield Record(line, raw[:RAW_CHARS] if problem else raw, value, problem)


def _rest_of_line(lines: _Lines, data: bytes) -> int:
    size = 0
    while not data.endswith(b"\n") and (data := lines.next()):
        size += len(data)
    return size


# --- Parquet and Arrow ---------------------------------------------------------------------------


def read_columns(path: Path, limit: int, needs: Callable[[str], str]) -> Iterator[Record]:
    """One record a row, of the columns that are needed.

    Args:
        needs: of a column's name: "value", "presence" where it matters only whether there is something, or "".

    Raises:
        ValueError: the file is not what its name says, is truncated or damaged, or its rows do not fit into the memory
            that the process may take.
    """
    row = [0]
    with _errors(path, row):
        schema, batches = _open(path)
        if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
            raise ValueError(f"{path}: two of its columns are called {twice!r}; rename one")
        wanted = {name: need for name in schema.names if (need := needs(name))}
        for batch in batches([*wanted]):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                large = part.nbytes > limit
                for value, problem in _rows_of(part, wanted):
                    row[0] += 1
                    if large and (size := len(json.dumps(value, ensure_ascii=False, default=str))) > limit:
                        value, problem = None, too_large(size, limit)
                    yield Record(row[0], "", value, problem)


class _errors:
    """What a reader of tables raises, as the user's error."""

    def __init__(self, path: Path, row: list[int]):
        self.path, self.row = path, row

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        import pyarrow

        if isinstance(error, MemoryError):
            # A dictionary of one long text makes a gigabyte of a kilobyte.
            raise ValueError(
                f"{self.path}: {BATCH_ROWS} of its rows after row {self.row[0]} do not fit into memory; write it with"
                " shorter records"
            ) from None
        if isinstance(error, pyarrow.ArrowException | OSError) and not isinstance(error, FileNotFoundError):
            kind = "Parquet" if self.path.suffix.lower() == ".parquet" else "Arrow"
            what = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.path}: not a readable {kind} file after row {self.row[0]} ({what}); copy it again"
            ) from None


def _open(path: Path) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """The schema of a file, and what reads its batches of some columns."""
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        file = pyarrow.parquet.ParquetFile(path)
        return file.schema_arrow, lambda columns: file.iter_batches(BATCH_ROWS, columns=columns)
    source = pyarrow.memory_map(str(path))
    in_blocks = source.read(6) == b"ARROW1"
    source.seek(0)
    if in_blocks:
        blocks = pyarrow.ipc.open_file(source)
        batches = map(blocks.get_batch, range(blocks.num_record_batches))
        return blocks.schema, lambda columns: _selected(batches, columns)
    stream = pyarrow.ipc.open_stream(source)
    return stream.schema, lambda columns: _selected(stream, columns)


def _selected(batches: Any, columns: list[str]) -> Iterator[Any]:
    import pyarrow

    for batch in batches:
        batch = batch.select(columns)
        try:
            batch.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            # Offsets are checked before texts; a text that is no UTF-8 costs its row alone.
            if "UTF8" not in str(error):
                raise
        yield batch


def _rows_of(batch: Any, wanted: dict[str, str]) -> Iterator[tuple[dict, RowProblem | None]]:
    """The rows of a batch, without the nulls that a table has for what an object lacks."""
    import pyarrow

    columns, problems = {}, {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        nested = pyarrow.types.is_nested(column.type)
        if wanted[name] == "presence" and (nested or pyarrow.types.is_binary(column.type)):
            columns[name] = [PRESENT if there else None for there in _presence(column)]
            continue
        try:
            values = column.to_pylist()
        # A date after the year 9999 and the like, or a text that is no UTF-8.
        except (ValueError, OverflowError):
            found = problems if wanted[name] == "value" else {}
            values = [_value_at(column, i, name, found) for i in range(batch.num_rows)]
        columns[name] = [_without_nulls(value) for value in values] if nested else values
    for i in range(batch.num_rows):
        yield {name: values[i] for name, values in columns.items()}, problems.get(i)


def _presence(column: Any) -> list[bool]:
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        return [bool(length) for length in pyarrow.compute.list_value_length(column).to_pylist()]
    return column.is_valid().to_pylist()


def _value_at(column: Any, i: int, name: str, problems: dict[int, RowProblem]) -> Any:
    try:
        return column[i].as_py()
    except UnicodeDecodeError as error:
        problems[i] = RowProblem("invalid_utf8", name, "write the column as UTF-8 text", str(error))
    except (ValueError, OverflowError) as error:
        problems[i] = RowProblem("wrong_type", name, f"write the column of {column.type} as text", str(error))
    return PRESENT


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
