"""Stream the records of a data file: JSON array, JSON Lines or Parquet, in memory that does not grow with the file.

Every reader yields `Record`s. A record that cannot be read carries its problem instead of a value, and the
reader goes on with the next one. The bytes of a text file are either part of a record or separators between
records: `Tally` counts both, and the caller asserts that together they are the file.
"""

import codecs
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from steps.rows import RowProblem

CHUNK_BYTES = 1 << 20
RAW_CHARS = 400
BOM = b"\xef\xbb\xbf"
PARQUET_BATCH_ROWS = 1024


@dataclass(slots=True)
class Record:
    line: int  # 1-based line where it starts; for Parquet the 1-based row
    raw: str  # its text, bytes that are not UTF-8 as lone surrogates; shortened when it is too large
    value: Any = None
    problem: RowProblem | None = None


@dataclass(slots=True)
class Tally:
    """Bytes of a text file, by what they are."""

    records: int = 0
    separators: int = 0


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant).raw_decode
_SPACE = " \t\r\n"
_skip_space = re.compile(r"[ \t\r\n]*").match


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _invalid_utf8(raw: str) -> RowProblem | None:
    if raw.isascii():
        return None
    try:
        raw.encode()
    except UnicodeEncodeError as error:
        # Surrogates in raw text are bytes that `surrogateescape` carries: an escape such as \ud800 is six characters.
        return RowProblem(
            "invalid_utf8",
            f"byte {_bytes(raw[: error.start]) + 1}",
            "save the file as UTF-8, or repair this record",
            f"byte 0x{ord(raw[error.start]) - 0xDC00:02x} does not fit UTF-8 there",
        )
    return None


def _invalid_json(raw: str, error: Exception) -> RowProblem:
    at = error.pos if isinstance(error, json.JSONDecodeError) else 0
    if isinstance(error, RecursionError):
        detail = "nested too deeply"
    else:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    hint = "the record is cut off: copy the file again" if at >= len(raw.rstrip()) else "repair the JSON of this record"
    return RowProblem("invalid_json", f"byte {_bytes(raw[:at]) + 1}", hint, detail)


def _too_large(size: int, limit: int) -> RowProblem:
    return RowProblem(
        "record_too_large",
        "(record)",
        "split the record, or raise ingest.max_record_bytes",
        f"{size} bytes, {limit} allowed",
    )


# --- JSON Lines ----------------------------------------------------------------------------------


def read_lines(file: BinaryIO, limit: int, tally: Tally) -> Iterator[Record]:
    """One record a line; blank lines, line ends, white space around records and a byte-order mark are separators."""
    line = 0
    while data := file.readline(limit + len("\r\n")):
        line += 1
        size = len(data)
        if line == 1:
            data = data.removeprefix(BOM)
        content = data.strip(_SPACE.encode())
        cut = size == limit + len("\r\n") and not data.endswith(b"\n")
        if cut or len(content) > limit:
            while not data.endswith(b"\n") and (data := file.readline(CHUNK_BYTES)):
                size += len(data)
            tally.records += size
            yield Record(line, _text(content[:RAW_CHARS]), problem=_too_large(size, limit))
            continue
        tally.records += len(content)
        tally.separators += size - len(content)
        if content:
            yield _record(line, _text(content))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _record(line: int, raw: str) -> Record:
    """Parse a text that should be one JSON value."""
    problem = _invalid_utf8(raw)
    value = None
    if problem is None:
        try:
            value, end = _decode(raw)
            if end != len(raw):
                raise json.JSONDecodeError("something follows the record on its line", raw, end)
        except (ValueError, RecursionError) as error:
            value, problem = None, _invalid_json(raw, error)
    return Record(line, raw, value, problem)


# --- JSON array ----------------------------------------------------------------------------------

_OPENING = re.compile(r"\ufeff?[ \t\r\n]*\[?")
_SEPARATORS = re.compile(r"[ \t\r\n,\]]*")
# A string of JSON holds no raw line end: one that lacks its closing quote ends the walk there.
_TOKEN = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|["{}\[\]]')
_CLOSES = {"}": "{", "]": "["}


def read_array(file: BinaryIO, limit: int, tally: Tally, fields: Collection[str]) -> Iterator[Record]:
    """One record an element of a JSON array, read through a window of a few times `limit` bytes.

    An element that cannot be parsed ends where the next one starts (see `_end_of_broken`); `fields` are the
    keys that tell a record from an object nested in one. Values after each other without an array around
    them are read too. A file that ends before its array is closed yields a record for that.
    """
    window = _Window(file)
    window.fill(limit)
    opening = _OPENING.match(window.text)[0]
    tally.separators += window.take(len(opening))
    closed, torn = not opening.endswith("["), False
    while True:
        window.fill(2 * limit)  # a broken element and the whole next one
        separators = _SEPARATORS.match(window.text, window.at)[0]
        if separators:
            closed = closed or "]" in separators
            tally.separators += window.take(window.at + len(separators))
            opening = separators
            continue
        if window.at == len(window.text):
            break
        line, start = window.line, window.at
        try:
            value, end = _decode(window.text, start)
            error = None
        except (ValueError, RecursionError) as problem:
            gap = opening[len(opening.rstrip(_SPACE)) :]
            value, end, error = None, _end_of_broken(window.text, start, gap, fields), problem
        if end is None and not window.ended:
            raw = window.text[start : start + RAW_CHARS]
            size = _skip(window, gap, fields)
            torn = window.at == len(window.text)
            tally.records += size
            yield Record(line, raw, problem=_too_large(size, limit))
            continue
        torn = end is None
        end = len(window.text.rstrip(_SPACE)) if end is None else end
        raw = window.text[start:end]
        size = window.take(end)
        tally.records += size
        if size > limit:
            yield Record(line, raw[:RAW_CHARS], problem=_too_large(size, limit))
        else:
            if isinstance(error, json.JSONDecodeError):
                error = json.JSONDecodeError(error.msg, raw, min(error.pos - start, len(raw)))
            problem = _invalid_utf8(raw) or (error and _invalid_json(raw, error))
            yield Record(line, raw, value, problem)
    if not closed and not torn:
        hint = "the file is cut off between two records: copy it again"
        problem = RowProblem("invalid_json", "end of file", hint, "the array is not closed")
        yield Record(window.line, "", problem=problem)


class _Window:
    """The part of a text file that is being looked at: `text` from `at` on, which starts on `line`."""

    def __init__(self, file: BinaryIO):
        self.file, self.text, self.at, self.line, self.ended = file, "", 0, 1, False
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def fill(self, ahead: int) -> None:
        """Read until more than `ahead` characters follow, or the file ends."""
        if self.ended or len(self.text) - self.at > ahead:
            return
        parts, have = [self.text[self.at :]], len(self.text) - self.at
        while not self.ended and have <= ahead + CHUNK_BYTES:
            data = self.file.read(CHUNK_BYTES)
            self.ended = not data
            parts.append(self._decoder.decode(data, final=self.ended))
            have += len(parts[-1])
        self.text, self.at = "".join(parts), 0

    def take(self, end: int) -> int:
        """Move on to `end`; returns how many bytes that is."""
        passed = self.text[self.at : end]
        self.line += passed.count("\n")
        self.at = end
        return _bytes(passed)


def _skip(window: _Window, gap: str, fields: Collection[str]) -> int:
    """Pass over an element that is longer than the window; returns its bytes."""
    size = 0
    while True:
        # The last characters stay: a comma, the gap and the start of the next element may straddle the edge.
        size += window.take(max(window.at, len(window.text) - CHUNK_BYTES))
        window.fill(len(window.text) - window.at)
        end = _next_element(window.text, window.at, gap, fields)
        if end is None and window.ended:
            end = len(window.text.rstrip(_SPACE))
        if end is not None:
            return size + window.take(end)


def _end_of_broken(text: str, start: int, gap: str, fields: Collection[str]) -> int | None:
    """Where a broken element ends; None when neither the next element nor the element's own end is in `text`.

    The next element is searched first; if brackets and strings are intact, the element's own end may come
    before that (the next one may be broken too, or not be an object).
    """
    following = _next_element(text, start, gap, fields)
    own = _balanced_end(text, start, len(text) if following is None else following)
    return following if own is None else own


def _next_element(text: str, start: int, gap: str, fields: Collection[str]) -> int | None:
    """The end of what stands before the next element after `start`.

    An object is an element, not one nested in an element, if it has one of `fields`, or if the comma, line break and
    indentation before it are those before the current element (`gap`): so are broken ones found that follow each other.
    """
    brace = text.find("{", start + 1)
    while brace >= 0:
        aligned = "\n" in gap and text.startswith(f",{gap}", brace - len(gap) - 1)
        if aligned or _is_record(text, brace, fields):
            return start + len(text[start:brace].rstrip(_SPACE).removesuffix(",").rstrip(_SPACE))
        brace = text.find("{", brace + 1)
    return None


def _is_record(text: str, start: int, fields: Collection[str]) -> bool:
    try:
        value, _ = _decode(text, start)
    except (ValueError, RecursionError):
        return False
    return any(field in value for field in fields)


def _balanced_end(text: str, start: int, stop: int) -> int | None:
    """Where the brackets opened at `start` are all closed again and an element may end; None if that never happens."""
    opened: list[str] = []
    for token in _TOKEN.finditer(text, start, stop):
        mark = token[0]
        if mark in "{[":
            opened.append(mark)
        elif mark in _CLOSES:
            if not opened or opened.pop() != _CLOSES[mark]:
                return None
            if not opened:
                after = _skip_space(text, token.end()).end()
                return token.end() if after == len(text) or text[after] in ",]" else None
        elif mark == '"':
            return None
    return None


# --- Parquet -------------------------------------------------------------------------------------


def read_parquet(path: Path, limit: int, fields: Collection[str]) -> Iterator[Record]:
    """One record a row, the columns of `fields` only.

    Raises:
        ValueError: the file is not Parquet, is truncated, or one of its pages is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in fields]
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=columns):
                for value, problem in _batch_rows(batch):
                    row += 1
                    raw = json.dumps(value, ensure_ascii=False, default=str)
                    if len(raw) > limit:
                        raw, problem = raw[:RAW_CHARS], _too_large(_bytes(raw), limit)
                    yield Record(row, raw, value, problem)
            expected = file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a readable Parquet file after row {row} ({error}); copy it again") from None
    assert row == expected, f"{path}: {row} rows read, {expected} promised"


def _batch_rows(batch) -> Iterator[tuple[dict, RowProblem | None]]:
    try:
        yield from ((value, None) for value in batch.to_pylist())
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            yield _row_by_column(batch, i)


def _row_by_column(batch, i: int) -> tuple[dict, RowProblem | None]:
    value, problem = {}, None
    for name in batch.schema.names:
        try:
            value[name] = batch.column(name)[i].as_py()
        except UnicodeDecodeError as error:
            problem = RowProblem("invalid_utf8", name, "write the column as UTF-8 text", str(error))
    return value, problem
