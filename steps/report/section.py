"""The interface that every section of the report implements. `steps.report.sections` lists them, one line each.

A section is a folder of one subject: `facts.py` (what it reads), `statistics.py`, `tables.py`, `figures.py`,
`claims.py`, `sentences.py` (which sentences to say) with `sentences.j2` (their wording), and `section.html.j2` (the
page). Its `__init__.py` says which functions these are, as one `Section`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from steps.report.gather import Gathered
from steps.report.tables import Table

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Unlearned:
    """What a section knows of what one checkpoint never learned, and why: in place of the overview's own answer."""

    checkpoint: str
    number: str
    unit: str
    text: str


def _nothing(_: Any) -> dict:
    return {}


def _none(_: Any) -> tuple:
    return ()


def _silent(_: Any) -> str:
    return ""


@dataclass(frozen=True)
class Section(Generic[Facts]):
    """One section of the report.

    Attributes:
        name: its anchor on the page, and what its facts are kept by.
        title: in the navigation of the page.
        folder: where its templates lie.
        read: what it knows of a run; None where there is nothing to say.
        page: what its template gets as `section`, from its facts, its tables and its figures by their names; None where
            the page leaves it out.
        tables, figures: a Table each, and name → SVG.
        lead: what it comes to, in a sentence, which stands beside its title while it is folded.
        unlearned: what it knows of what checkpoints never learned, for the first screen.
        metrics: its numbers of each checkpoint in metrics.json, by which two runs are compared in detail.
        warnings: lines that stand above everything.
        template: of the page, in `folder`. It finds there too what it includes, and its own `tables` and `figures`.
        pages: further pages: file name → what the template of that name and ".j2" gets as `section`.
    """

    name: str
    title: str
    folder: Path
    read: Callable[[Gathered], Facts | None]
    page: Callable[[Facts, dict[str, Table], dict[str, str]], dict | None]
    tables: Callable[[Facts], Iterable[Table]] = _none
    figures: Callable[[Facts], dict[str, str]] = _nothing
    lead: Callable[[Facts], str] = _silent
    unlearned: Callable[[Facts], Iterable[Unlearned]] = _none
    metrics: Callable[[Facts], dict] = _nothing
    warnings: Callable[[Facts], Iterable[str]] = _none
    template: str = "section.html.j2"
    pages: Mapping[str, Callable[[Facts, dict[str, Table]], dict]] = field(default_factory=dict)
