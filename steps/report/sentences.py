"""The wording of the report: templates that computed facts fill.

A section's sentences stand in its `sentences.j2`, one macro each; in another language in its `sentences.zh.j2`, under
the same names with the same facts. Python chooses which of them to say and hands them facts; it joins no words itself,
and no sentence stands in two files.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from steps.core.text import shorten
from steps.report.language import ENGLISH, spoken, tr
from steps.report.tables import Estimate, cell_text, interval_text, number_text

FILE = "sentences.j2"
# Of what several sections say.
SHARED = Path(__file__).parent / "templates"


def percent(value: Estimate | float) -> str:
    """A share: "92.3 %"."""
    return f"{number_text('percent', value.value if isinstance(value, Estimate) else value)} %"


def percent_interval(estimate: Estimate) -> str:
    """A share with its interval: "92.3 % [89.1, 94.8]"."""
    return f"{percent(estimate)} {interval_text('percent', estimate)}"


def points(estimate: Estimate) -> str:
    """A difference of shares, with its interval: "+3.1 [+1.0, +5.2] points"."""
    return tr("{change} points", change=cell_text("points", estimate))


# What templates may do to a number: those of sentences and those of the page.
FILTERS = {
    "percent": percent,
    "percent_interval": percent_interval,
    "points": points,
    "cell": lambda value, kind: cell_text(kind, value),
    "number": lambda value, kind: number_text(kind, value),
    "interval": lambda value, kind: interval_text(kind, value),
    "shorten": shorten,
    "unbroken": lambda text: text.replace(" ", "\N{NO-BREAK SPACE}"),
}


class Sentences:
    """The sentences of one folder: `say("gained", who="grpo", gain=estimate)` fills the macro `gained`."""

    def __init__(self, folder: Path, file: str = FILE):
        self._folder, self._file = folder, file

    def __call__(self, name: str, /, **facts: Any) -> str:
        """One sentence (or several), its white space folded; "" where its template says nothing.

        Raises:
            AttributeError, TypeError, jinja2.UndefinedError: no such sentence, or other facts than it asks for.
        """
        # No-break spaces stay.
        return re.sub(r"[ \t\r\n]+", " ", str(_macro(self._folder, self._file, name, spoken())(**facts))).strip(" ")


def text(folder: Path, template: str, /, **facts: Any) -> str:
    """A plain text that is more than a sentence, such as a card: a template of a folder filled with facts."""
    return _environment(folder).get_template(template).render(**facts)


def _macro(folder: Path, file: str, name: str, language: str) -> Any:
    """A sentence in a language, or in English where that has none."""
    said = getattr(macros(folder, file, language), name, None) if language != ENGLISH else None
    return said or getattr(macros(folder, file), name)


@cache
def macros(folder: Path, file: str = FILE, language: str = ENGLISH) -> Any:
    """The sentences of a folder in a language, as attributes; None where it has none."""
    file = file if language == ENGLISH else file.replace(".", f".{language}.")
    return _environment(folder).get_template(file).module if (folder / file).is_file() else None


def _environment(folder: Path) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, SHARED]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {**FILTERS, "tr": tr}
    return environment
