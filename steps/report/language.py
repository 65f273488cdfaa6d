"""The language of the page: English, or what a catalogue says instead.

Whole sentences are macros: `sentences.zh.j2` has those of `sentences.j2` beside it. Labels, headings and captions are
rows of a `zh.csv`, English beside Chinese, in the folder of the package that says them. What neither has stays English,
and so does what is a name. Files of tables and figures are English whatever the page is: their bytes are the results'.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any

from steps.core.files import read_csv

ENGLISH, CHINESE = "en", "zh"
PACKAGES = Path(__file__).parents[1]
# Words of a label, and names such as pass@1, fable_facts, rows.jsonl or III.
NAME = r"[A-Za-z][\w@.=-]*[\d_@=][\w@.=]*|[A-Za-z][\w-]*(?:\.\w+)+|[IVX]+(?!\w)"
WORD = r"(?!n = )[A-Za-z][A-Za-z'’-]*(?![\w@=])"
RUN = re.compile(rf"({NAME}|n(?= = ))|({WORD}(?: {WORD})*)")
# Between labels, not between the ends of an interval.
COMMA = re.compile(r", (?![^\[]*\])")
TEXT = re.compile(r"(<(text|title)\b[^>]*>)([^<]*)(</\2>)")
_spoken: ContextVar[str] = ContextVar("spoken", default=ENGLISH)
_names: ContextVar[frozenset[str]] = ContextVar("names", default=frozenset())


def spoken() -> str:
    """The language of what is being written."""
    return _spoken.get()


@contextmanager
def speaking(language: str, names: Iterable[str] = ()) -> Iterator[None]:
    """Write in a language; `names` are of things, and stay as they are."""
    tokens = _spoken.set(language), _names.set(frozenset(names))
    try:
        yield
    finally:
        _spoken.reset(tokens[0])
        _names.reset(tokens[1])


def tr(text: str, /, **facts: Any) -> str:
    """A label, heading or caption in the language of the page; `facts` fill its {names}."""
    said = text if spoken() == ENGLISH or text in _names.get() else _said(text, catalogue(spoken()))
    return said.format(**facts) if facts else said


def _said(text: str, known: dict[str, str]) -> str:
    """As the catalogue has it or, of words with numbers and marks between them, word by word where it has all."""
    if text in known:
        return known[text]
    runs = [match[2] for match in RUN.finditer(text) if match[2]]
    if not runs or not all(run in known or run in _names.get() for run in runs):
        return text

    def word(match: re.Match) -> str:
        return known[match[0]] if match[2] and match[0] not in _names.get() else match[0]

    return COMMA.sub("，", RUN.sub(word, text)) if any(run not in _names.get() for run in runs) else text


def drawing(svg: str) -> str:
    """A figure with its words in the language of the page: it was laid out for the English ones, which are longer."""
    if spoken() == ENGLISH:
        return svg
    return TEXT.sub(lambda match: f"{match[1]}{escape(tr(unescape(match[3])), quote=False)}{match[4]}", svg)


@cache
def catalogue(language: str) -> dict[str, str]:
    """English → this language, of all packages."""
    rows = (row for path in sorted(PACKAGES.rglob(f"{language}.csv")) for row in read_csv(path))
    return {row[ENGLISH]: row[language] for row in rows}
