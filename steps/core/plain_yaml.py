"""YAML as people write settings: every key once, values that all readers of YAML read alike, within bounds.

YAML's own readers take the last of two equal keys, and `no`, `010`, `1:30` and `2026-01-01` for what nobody meant. All
of that is refused here, by file, line and column.
"""

import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

# PyYAML's reader in C, where it was built with it: ten times as fast. Its events are read one by one, for what makes
# nodes of them there kills the process where brackets nest 50,000 deep.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A workload of 1,000 recipes has 0.1 MB and 13,000 values. An alias counts as all that it stands for.
LARGEST_FILE, MOST_VALUES, DEEPEST = 10_000_000, 1_000_000, 50
WIDEST_INTEGER = 2**63
# What a terminal acts upon, and no file name or command can hold.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# All but what YAML 1.1 allows in a text.
UNREADABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_NAMES = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null", "timestamp": "a date"}


def read(file: Path, tags: Collection[str] = ()) -> Any:
    """What a file of one document says: mappings, lists, text, numbers, true, false and null.

    Args:
        tags: That a text may have, such as !function in the files of lm-eval.

    Raises:
        ValueError: it is no file, larger than `LARGEST_FILE` or not UTF-8; or as `parse`.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {file}; correct the path")
    with open(file, "rb") as opened:
        content = opened.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{file} has more than {LARGEST_FILE:,} bytes, the most that is read; name a file of settings")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}:{line}: is not UTF-8; save the file as UTF-8") from error
    return parse(text, str(file), tags)


def parse(text: str, name: str, tags: Collection[str] = ()) -> Any:
    """The same of a text; None where it is empty.

    Args:
        name: Of the text, in messages.
        tags: As in `read`.

    Raises:
        ValueError: it is no YAML, or more than one document; a key stands twice in a mapping or is no text; a value has
            a tag, is read differently by other readers, is not finite or wider than 64 bits; or there are more values
            than `MOST_VALUES`, or deeper ones than `DEEPEST`.
    """
    # PyYAML tells the place of such a character by a count, of bytes or of characters.
    if found := UNREADABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"{name}:{line}: YAML has no character U+{ord(found[0]):04X}; take it out")
    try:
        return _Document(text, name, tags).content()
    except yaml.MarkedYAMLError as error:
        raise ValueError(_syntax(text, name, error)) from None


def _syntax(text: str, name: str, error: yaml.MarkedYAMLError) -> str:
    """The line about what is no YAML."""
    at = error.problem_mark
    assert at, "PyYAML says where"
    line, column = at.line, at.column
    of = "" if error.context_mark is None else f" ({error.context} of line {error.context_mark.line + 1})"
    lines = text.splitlines()
    if line < len(lines) and lines[line][column : column + 1] == "\t":
        return f"{name}:{line + 1}:{column + 1}: a tab is no indentation in YAML; write spaces"
    return f"{name}:{line + 1}:{column + 1}: is no YAML: {error.problem}{of}"


class _Document:
    """The one document of a text, made from the reader's events."""

    def __init__(self, text: str, name: str, tags: Collection[str]):
        self.name, self.tags = name, tags
        self.loader = LOADER(text)
        # Anchor -> (value, how many values it has, how deep they lie in it).
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        self.values = 0
        # The depth of the deepest value of the one that is being read.
        self.reached = 0

    def content(self) -> Any:
        events = self._events()
        try:
            next(events)
            begin = next(events)
            if isinstance(begin, yaml.StreamEndEvent):
                return None
            content = self._value(next(events), events, 0)
            next(events)
            more = next(events)
            if not isinstance(more, yaml.StreamEndEvent):
                raise self._error(more, "another document begins; write one in a file")
            return content
        finally:
            self.loader.dispose()

    def _events(self) -> Iterator[Any]:
        while self.loader.check_event():
            yield self.loader.get_event()

    def _error(self, event: Any, what: str) -> ValueError:
        return ValueError(f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}: {what}")

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        """The value that begins with an event."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self._error(event, f"no value before has the anchor &{event.anchor}; correct the name")
            value, size, height = self.anchors[event.anchor]
            self._reach(event, size, depth + height)
            return value
        if event.tag is not None and event.tag not in self.tags:
            raise self._error(event, f"the tag {event.tag} is not read; write the value without it")
        before, outer, self.reached = self.values, self.reached, depth
        self._reach(event, 1, depth)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                value.append(self._value(item, events, depth + 1))
        else:
            value = self._mapping(events, depth)
        if event.anchor is not None:
            if event.anchor in self.anchors:
                raise self._error(event, f"the anchor &{event.anchor} stands twice; rename one")
            self.anchors[event.anchor] = (value, self.values - before, self.reached - depth)
        self.reached = max(self.reached, outer)
        return value

    def _reach(self, event: Any, values: int, depth: int) -> None:
        """Count values, and how deep they lie."""
        self.values += values
        self.reached = max(self.reached, depth)
        if self.reached > DEEPEST:
            raise self._error(event, f"more than {DEEPEST} mappings and lists in each other; write fewer")
        if self.values > MOST_VALUES:
            raise self._error(event, f"more than {MOST_VALUES:,} values, those of aliases included; write fewer")

    def _mapping(self, events: Iterator[Any], depth: int) -> dict:
        """A mapping after what it merges by `<<`, whose keys it may say otherwise."""
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in lines:
                raise self._error(event, f"the key {key!r} stands in line {lines[key]} already; join the two")
            lines[key] = event.start_mark.line + 1
            begin = next(events)
            value = self._value(begin, events, depth + 1)
            if key == "<<":
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise self._error(begin, "<< merges mappings only; name one, or a list of them")
                    for twice in part.keys() & merged.keys():
                        raise self._error(begin, f"two of the merged mappings have the key {twice!r}; write it out")
                    merged |= part
            else:
                own[key] = value
        return merged | own

    def _key(self, event: Any) -> str:
        if isinstance(event, yaml.ScalarEvent) and event.tag is None:
            kind = self._kind(event)
            if kind in ("str", "merge"):
                self._check_text(event)
                return event.value
            if kind == "null" and not event.value:
                raise self._error(event, "a key is missing before the colon; write it")
            raise self._error(event, f"the key {event.value} is {_NAMES.get(kind, 'no text')} to YAML; quote it")
        raise self._error(event, "a key must be text; write it out, in quotes where it has brackets or a *")

    def _kind(self, event: Any) -> str:
        """What YAML 1.1 takes a scalar for."""
        if event.tag is not None or not event.implicit[0]:
            return "str"
        return self.loader.resolve(yaml.ScalarNode, event.value, (True, False)).removeprefix(_TAG)

    def _check_text(self, event: Any) -> None:
        if found := CONTROL.search(event.value):
            raise self._error(event, f"has the control character U+{ord(found[0]):04X}; take it out")

    def _scalar(self, event: Any) -> str | int | float | bool | None:
        kind, text = self._kind(event), event.value
        if kind == "str":
            self._check_text(event)
            return text
        if kind == "null":
            return None
        if kind == "bool":
            if text.lower() not in ("true", "false"):
                read = "true" if text.lower() in ("yes", "on") else "false"
                raise self._error(event, f"{text} is {read} to YAML; write {read}, or quote it where it is text")
            return text.lower() == "true"
        if kind == "int":
            return self._integer(event)
        if kind == "float":
            return self._number(event)
        raise self._error(event, f"{text} is {_NAMES.get(kind, 'no text')} to YAML; quote it")

    def _integer(self, event: Any) -> int:
        text = event.value
        try:
            # 64 bits have 64 digits at most, in base 2, and a sign and a base before them.
            number = int(text, 0) if len(text) < 70 else WIDEST_INTEGER
        except ValueError:
            number = self.loader.construct_yaml_int(yaml.ScalarNode(f"{_TAG}int", text))
            raise self._error(
                event, f"{text} is {number} to YAML; write {number}, or quote it where it is text"
            ) from None
        if abs(number) >= WIDEST_INTEGER:
            raise self._error(
                event, f"{text[:20]}{'…' * (len(text) > 20)} is wider than 64 bits; write a smaller number"
            )
        return number

    def _number(self, event: Any) -> float:
        text = event.value
        number = self.loader.construct_yaml_float(yaml.ScalarNode(f"{_TAG}float", text))
        if ":" in text:
            raise self._error(event, f"{text} is {number} to YAML; write {number}, or quote it where it is text")
        if not math.isfinite(number):
            raise self._error(event, f"{text[:20]} is no finite number; write one")
        # Of the two zeros the one without a sign: they are one number, and would be two names.
        return number + 0.0
