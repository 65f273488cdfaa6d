"""Stream the records of a text file: JSON array or JSON Lines, in memory that does not grow with the file.

Every reader yields `Record`s. A record that cannot be read carries its problem instead of a value, and the
reader goes on with the next one. The bytes of a text file are either part of a record or separators between
records: `Tally` counts both, and the caller asserts that together they are the file.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from steps.data.rows import RowProblem

CHUNK_BYTES = 1 << 20
RAW_CHARS = 400
BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Record:
    """One record of a file, or what is wrong with it."""

    line: int  # 1-based line where it starts; of a file without lines the 1-based row
    # Its text, bytes that are not UTF-8 as lone surrogates; shortened when it is too large, "" of a row without text.
    raw: str
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
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return value


# NaN and Infinity are read as Python writes them: what needs a text or a finite number refuses them in its place.
_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
_decode, parse = _decoder.raw_decode, _decoder.decode
_SPACE = " \t\r\n"
_skip_space = re.compile(r"[ \t\r\n]*").match


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def invalid_utf8(raw: str) -> RowProblem | None:
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


def too_large(size: int, limit: int) -> RowProblem:
    return RowProblem(
        "record_too_large",
        "(record)",
        "split the record, or raise ingest.max_record_bytes",
        f"{size} bytes, {limit} allowed",
    )


# --- JSON Lines ----------------------------------------------------------------------------------


def raw_lines(file: BinaryIO, limit: int, tally: Tally) -> Iterator[Record]:
    """One record a line, not yet `parsed`; blank lines, line ends, white space around records and a byte-order mark are
    separators."""
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
            yield Record(line, decoded(content[:RAW_CHARS]), problem=too_large(size, limit))
            continue
        tally.records += len(content)
        tally.separators += size - len(content)
        if content:
            yield Record(line, decoded(content))


def read_lines(file: BinaryIO, limit: int, tally: Tally) -> Iterator[Record]:
    """The same, parsed."""
    return map(parsed, raw_lines(file, limit, tally))


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def parsed(record: Record) -> Record:
    """A record whose text should be one JSON value, with that."""
    if record.problem:
        return record
    line, raw, value = record.line, record.raw, None
    problem = invalid_utf8(raw)
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
_OBJECT = re.compile(r'\{[ \t\r\n]*"')
# Characters that are read at first of a value, and of the longest token beside strings (-Infinity, \ud83d).
FIRST_PART = 1 << 14
LONGEST_TOKEN = 16
# Times the length of a text that is read of it, at most, to find the next record in it.
MAX_EFFORT = 16


def read_array(file: BinaryIO, limit: int, tally: Tally, fields: Collection[str]) -> Iterator[Record]:
    """One record an element of a JSON array, read through a window of a few times `limit` bytes.

    An element that cannot be parsed ends where the next one starts (see `_Window.next_object`); `fields` are the
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
            value, end = _value_at(window.text, start)
            error = None
        except (ValueError, RecursionError) as problem:
            gap = opening[len(opening.rstrip(_SPACE)) :]
            value, end, error = None, _end_of_broken(window, gap, fields), problem
        if end is None and not window.ended:
            raw = window.text[start : start + RAW_CHARS]
            size = _skip(window, gap, fields)
            torn = window.at == len(window.text)
            tally.records += size
            yield Record(line, raw, problem=too_large(size, limit))
            continue
        torn = end is None
        end = len(window.text.rstrip(_SPACE)) if end is None else end
        raw = window.text[start:end]
        size = window.take(end)
        tally.records += size
        if size > limit:
            yield Record(line, raw[:RAW_CHARS], problem=too_large(size, limit))
        else:
            if isinstance(error, json.JSONDecodeError):
                error = json.JSONDecodeError(error.msg, raw, min(error.pos, len(raw)))
            problem = invalid_utf8(raw) or (error and _invalid_json(raw, error))
            yield Record(line, raw, value, problem)
    if not closed and not torn:
        hint = "the file is cut off between two records: copy it again"
        problem = RowProblem("invalid_json", "end of file", hint, "the array is not closed")
        yield Record(window.line, "", problem=problem)


class _Window:
    """The part of a text file that is being looked at: `text` from `at` on, which starts on `line`."""

    def __init__(self, file: BinaryIO):
        self.file, self.text, self.at, self.line, self.ended = file, "", 0, 1, False
        self._forget()
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
        self._forget()

    def _forget(self) -> None:
        """What is known of `text`: every broken element asks for the next one, and may be one of a hundred thousand."""
        self._record, self._searched, self._effort, self._aligned = -1, 0, 0, dict[str, int]()

    def next_object(self, gap: str, fields: Collection[str]) -> int | None:
        """Where the next element begins that is an object; None where there is none in `text`.

        That is an object which has one of `fields`, or before which the comma, line break and indentation are those
        before the current element (`gap`): so are broken ones found that follow each other.
        """
        aligned = self._next_aligned(gap) if "\n" in gap else len(self.text)
        found = min(aligned, self._next_record(aligned, fields))
        return found if found < len(self.text) else None

    def _next_aligned(self, gap: str) -> int:
        if self._aligned.get(gap, -1) <= self.at:
            comma = self.text.find(f",{gap}{{", self.at + 1)
            self._aligned[gap] = len(self.text) if comma < 0 else comma + 1 + len(gap)
        return self._aligned[gap]

    def _next_record(self, stop: int, fields: Collection[str]) -> int:
        """Where the next object with one of `fields` begins, which is not within another; `stop` or more if not before.

        Broken objects that hold each other are read again for each: the effort for one `text` has a bound.
        """
        if self._record > self.at:
            return self._record
        at = max(self._searched, self.at + 1)
        while at < stop and (brace := _OBJECT.search(self.text, at, stop)):
            begin = at = brace.start()
            try:
                value, at = _value_at(self.text, begin)
                if any(field in value for field in fields):
                    self._record = begin
                    return begin
                self._effort += at - begin
            except (ValueError, RecursionError) as error:
                at = begin + 1
                # Where it does not say how far it read, to the end.
                exact = isinstance(error, json.JSONDecodeError) and not _cut_off(error)
                self._effort += 1 + (error.pos if exact else len(self.text) - begin)
            if self._effort > MAX_EFFORT * len(self.text):
                at = len(self.text)
        self._searched = max(at, stop)
        return len(self.text)

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
        following = window.next_object(gap, fields)
        end = None if following is None else _end_before(window.text, window.at, following)
        if end is None and window.ended:
            end = len(window.text.rstrip(_SPACE))
        if end is not None:
            return size + window.take(end)


def _end_of_broken(window: _Window, gap: str, fields: Collection[str]) -> int | None:
    """Where a broken element ends; None when neither the next element nor the element's own end is in the window.

    The next element is searched first; if brackets and strings are intact, the element's own end may come
    before that (the next one may be broken too, or not be an object).
    """
    following = window.next_object(gap, fields)
    own = _balanced_end(window.text, window.at, len(window.text) if following is None else following)
    return _end_before(window.text, window.at, following) if own is None and following is not None else own


def _end_before(text: str, start: int, following: int) -> int:
    """The end of what stands before the next element."""
    return start + len(text[start:following].rstrip(_SPACE).removesuffix(",").rstrip(_SPACE))


def _value_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins somewhere in a text, and where it ends.

    A part is read that is longer each time: `json` counts the lines of all that it was given for each error.

    Raises:
        json.JSONDecodeError: its `pos` counts from `start`.
        ValueError, RecursionError: see `_decode`.
    """
    size = FIRST_PART
    while True:
        part = text[start : start + size]
        whole = start + size >= len(text)
        try:
            value, end = _decode(part)
            if whole or end < len(part):
                return value, start + end
        except json.JSONDecodeError as error:
            if whole or not (_cut_off(error) or error.pos > len(part) - LONGEST_TOKEN):
                raise
        size *= 8


def _cut_off(error: json.JSONDecodeError) -> bool:
    """Whether it stands where a string begins, and the text was read to its end."""
    return error.msg.startswith("Unterminated string")


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
