"""The records of a file of any accepted kind: opened, unpacked and read by the reader of its suffix."""

import bz2
import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from steps.data.readers import (
    BOM,
    RAW_CHARS,
    Record,
    Tally,
    decoded,
    invalid_utf8,
    parse,
    raw_lines,
    read_array,
    read_lines,
    too_large,
)
from steps.data.records import Reader, has
from steps.data.rows import RowProblem
from steps.data.sources import suffixes
from steps.data.tables import read_columns, read_csv
from steps.settings.formats import COLUMNAR, DOCUMENTS, FORMATS, LINES, PACKED, TURN_KEYS, is_asking

# Records whose fields tell a format.
LOOKED_AT = 100
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Bytes of a file by which it is known what it holds.
START = 1024


class Bzip2(io.RawIOBase):
    """Streams of bzip2, one after the other. What is no stream is an OSError; `bz2.open` takes it for the end, and the
    rows behind it would be lost."""

    def __init__(self, path: Path):
        self.file, self.decoder, self.begun = open(path, "rb"), bz2.BZ2Decompressor(), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            packed = b""
            if self.decoder.eof:
                packed = self.decoder.unused_data or self.file.read(START)
                if not packed:
                    return 0
                self.decoder = bz2.BZ2Decompressor()
            elif self.decoder.needs_input:
                packed = self.file.read(1 << 16)
                if not packed and self.begun:
                    raise EOFError("it ends within a stream")
                if not packed:
                    return 0
            self.begun = True
            if made := self.decoder.decompress(packed, len(buffer)):
                buffer[: len(made)] = made
                return len(made)

    def close(self) -> None:
        self.file.close()
        super().close()


_OPEN: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": lambda path: io.BufferedReader(Bzip2(path))}


class Unpacked:
    """The text of a packed file, as a file: `position` is how many bytes have been read of it."""

    def __init__(self, path: Path, packed: str):
        self.path, self.kind, self.position = path, PACKED[packed], 0
        if packed in _OPEN:
            self.file: Any = _OPEN[packed](path)
        else:
            import pyarrow

            self.file = io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))

    def read(self, size: int) -> bytes:
        return self._counted(self.file.read, size)

    def readline(self, size: int) -> bytes:
        return self._counted(self.file.readline, size)

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{self.path}: not a readable {self.kind} file after {self.position} bytes of its text ({error});"
                " copy it again"
            ) from None
        self.position += len(data)
        return data

    def close(self) -> None:
        self.file.close()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The text of a file, unpacked, in bytes."""
    _, packed = suffixes(path)
    with contextlib.closing(Unpacked(path, packed)) if packed else open(path, "rb") as file:
        yield file


def records_of(
    path: Path, limit: int, tally: Tally, fields: list[str], needs: Callable[[str], str], raw: bool = False
) -> Iterator[Record]:
    """The records of one file.

    Args:
        limit: the largest record in bytes.
        tally: what the bytes of a text file are is counted there; together they are the file.
        fields: names by which a record is known in a broken file.
        needs: see `tables.read_columns`.
        raw: those of a file of lines are not yet `parsed`.

    Raises:
        ValueError: the file is not what its name says, or changed while it was read.
    """
    kind, packed = suffixes(path)
    if kind in COLUMNAR:
        yield from read_columns(path, limit, needs)
        return
    _check_start(path, kind, limit)
    with opened(path) as file:
        if kind in LINES:
            yield from (raw_lines if raw else read_lines)(file, limit, tally)
        elif kind == ".json":
            yield from read_array(file, limit, tally, fields)
        elif kind in DOCUMENTS:
            yield from read_document(file, limit, tally)
        else:
            yield from read_csv(path, file, limit, tally)
        size = file.position if packed else os.fstat(file.fileno()).st_size
    if tally.records + tally.separators != size:
        raise ValueError(f"{path} changed while it was read: {tally} of {size} bytes; let it rest and run again")


def read_document(file: BinaryIO, limit: int, tally: Tally) -> Iterator[Record]:
    """The whole of a file as the text of one record."""
    data = file.read(limit + 1)
    size = len(data)
    while len(data) > limit and (more := file.read(1 << 20)):
        size += len(more)
    tally.records += size
    raw = decoded(data[: limit + 1])
    problem = too_large(size, limit) if size > limit else invalid_utf8(raw)
    if size:
        yield Record(
            1, raw[:RAW_CHARS] if problem else raw, None if problem else {"text": raw.removeprefix("\ufeff")}, problem
        )


def _check_start(path: Path, kind: str, limit: int) -> None:
    """Refuse a text file that begins as another kind of file."""
    with opened(path) as file:
        line = file.readline(START)
        if kind in LINES and line.removeprefix(BOM).lstrip().startswith(b"[") and not line.endswith(b"\n"):
            line += file.readline(limit)
        rest = file.read(START)
    if line.startswith(UTF_16):
        raise ValueError(f"{path}: it is UTF-16; save it as UTF-8")
    if kind not in LINES:
        return
    # Blank lines before the first record.
    line, _, rest = (line + rest).removeprefix(BOM).lstrip().partition(b"\n")
    name = path.name.replace(kind, ".json")
    # A line that is a list by itself, before others, is a broken row.
    if line.startswith(b"[") and not (rest.strip() and _is_json(line)):
        raise ValueError(f"{path}: it holds a JSON array, not one record a line; rename it to {name}")
    if line.strip() == b"{" and rest.lstrip().startswith(b'"'):
        raise ValueError(f"{path}: its records have several lines, not one; rename it to {name}")


def _is_json(line: bytes) -> bool:
    try:
        parse(decoded(line))
    except (ValueError, RecursionError):
        return False
    return True


# --- which format --------------------------------------------------------------------------------


def recognised(path: Path, limit: int, source: dict) -> str | None:
    """The format of a file by its first records that can be read; None of a file without records.

    A record is of the format that has most of its fields required, all of them there, among those that can read it. The
    format of most records is the file's, of several the first of the registry.

    Raises:
        ValueError: no format has these fields.
    """
    columns = source.get("columns") or {}
    readers = {
        name: Reader(name, source)
        for name, form in FORMATS.items()
        if all(field in form.parts or (field in TURN_KEYS and not form.of_documents) for field in columns)
    }
    votes, names, any_record = dict.fromkeys(FORMATS, 0), dict[str, None](), False

    def needs(name: str) -> str:
        return "value" if is_asking(name) or any(reader.reads(name) for reader in readers.values()) else "presence"

    records = records_of(path, limit, Tally(), [], needs)
    for record in islice((record for record in records if (any_record := True) and record.problem is None), LOOKED_AT):
        if isinstance(record.value, dict):
            names |= dict.fromkeys(record.value)
            if form := _of_record(record.value, readers):
                votes[form] += 1
    if not any_record:
        return None
    form = max(votes, key=votes.__getitem__)
    # Records that cannot be read are quarantined for that, whatever the format.
    if not votes[form] and names:
        raise ValueError(
            f"{path}: no format has its fields ({', '.join(names)[:300]}); set `format`, and `columns` for fields by"
            " other names"
        )
    return form


def _of_record(record: dict, readers: dict[str, Reader]) -> str | None:
    able = [name for name, reader in readers.items() if all(has(record, field) for field in reader.fields)]
    able.sort(key=lambda name: -len(readers[name].fields))
    for name in able:
        try:
            readers[name](record)
        except RowProblem as problem:
            # A label that cannot be read is one all the same: read without it, a bad response would be a good one.
            if problem.column != readers[name].by_part.get("label"):
                continue
        return name
    return able[0] if able else None
