"""The language of the page: English, or what a catalogue says instead.

Whole sentences are macros: `sentences.zh.j2` has those of `sentences.j2` beside it. Labels, headings and captions are
rows of a `zh.csv`, English beside Chinese, in the folder of the package that says them. What neither has stays English.
Files of tables and figures are English whatever the page is: their bytes are the results'.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from steps.core.files import read_csv

ENGLISH, CHINESE = "en", "zh"
PACKAGES = Path(__file__).parents[1]
_spoken: ContextVar[str] = ContextVar("spoken", default=ENGLISH)


def spoken() -> str:
    """The language of what is being written."""
    return _spoken.get()


@contextmanager
def speaking(language: str) -> Iterator[None]:
    token = _spoken.set(language)
    try:
        with warnings.catch_warnings():
            # Matplotlib measures text with a font that has no Chinese; the reader's own draws it.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield
    finally:
        _spoken.reset(token)


def tr(text: str, /, **facts: Any) -> str:
    """A label, heading or caption in the language of the page; `facts` fill its {names}.

    What the catalogue does not have is a name of something, and stays as it is.
    """
    said = text if spoken() == ENGLISH else catalogue(spoken()).get(text, text)
    return said.format(**facts) if facts else said


@cache
def catalogue(language: str) -> dict[str, str]:
    """English → this language, of all packages."""
    rows = (row for path in sorted(PACKAGES.rglob(f"{language}.csv")) for row in read_csv(path))
    return {row[ENGLISH]: row[language] for row in rows}
