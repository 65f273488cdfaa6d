"""Render what a workload's run found: one self-contained page, its tables as CSV and Markdown, its figures as SVG.

Reads the results folder as far as it exists: a section is there as soon as its data are. Tables and figures are the
same bytes for the same results; times and hosts are on the page and in tables/timing.* only. Ends by printing the
path of the page and a summary of five lines.

Run as: python -m steps.report.report --settings '{"workload": "fable", …, "graph": {…}}' --results results/fable
    --out reports/fable
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from steps.core.files import fresh_folder, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.promises import consult
from steps.core.step import run, step_parser
from steps.report.gather import Gathered, gather
from steps.report.language import ENGLISH, speaking
from steps.report.overview import first_screen, rows, scores
from steps.report.page import inlined, render
from steps.report.section import Section
from steps.report.sections import SECTIONS
from steps.report.tables import Table


@dataclass
class Filled:
    """One section with all that it says of a run."""

    section: Section
    facts: Any
    tables: dict[str, Table]
    figures: dict[str, str]

    def html(self, shared: dict) -> str | None:
        """Its part of the page; None where the page leaves it out."""
        said = self.section.page(self.facts, self.tables, self.figures)
        if said is None:
            return None
        facts = {**shared, "section": said, "tables": self.tables, "figures": inlined(self.figures)}
        return render(self.section.template, facts, self.section.folder)

    def pages(self, shared: dict) -> dict[str, str]:
        """Its further pages: file name → text."""
        return {
            name: render(f"{name}.j2", {**shared, "section": said(self.facts, self.tables)}, self.section.folder)
            for name, said in self.section.pages.items()
        }


def fill(section: Section, gathered: Gathered) -> Filled | None:
    """None where a section has nothing to say of a run."""
    facts = section.read(gathered)
    if facts is None:
        return None
    return Filled(section, facts, {table.name: table for table in section.tables(facts)}, section.figures(facts))


def fill_all(gathered: Gathered) -> list[Filled]:
    return [one for section in SECTIONS if (one := fill(section, gathered))]


def said_again(gathered: Gathered, filled: list[Filled]) -> list[Filled]:
    """The same in the language that is spoken: facts, which may hold sentences, and tables; figures as they are."""
    again = []
    for one in filled:
        facts = one.section.read(gathered)
        tables = {table.name: table for table in one.section.tables(facts)}
        again.append(Filled(one.section, facts, tables, one.figures))
    return again


def names_of(gathered: Gathered) -> set[str]:
    """What a run calls its checkpoints, recipes, studies, tasks and data sets."""
    names = {gathered.settings["workload"], *gathered.graph["datasets"], *gathered.candidates}
    names |= {name for c in gathered.checkpoints for name in (c.node, c.recipe, c.study, *c.parents) if name}
    return names | {task for candidate in gathered.candidates.values() for task in candidate.scores}


def written(args: argparse.Namespace, gathered: Gathered, filled: list[Filled]) -> dict[str, str]:
    """The pages, in the language that is spoken: file name → text."""
    known = [found for one in filled for found in one.section.unlearned(one.facts)]
    shared = {"workload": args.settings["workload"], **first_screen.size(args.settings)}
    comparison = gathered.findings
    page = render(
        "report.html.j2",
        {
            **shared,
            "headline": first_screen.headline(comparison) if comparison.ship else "",
            "answers": first_screen.answers(comparison, known) if comparison.ship else [],
            "pictures": {
                name: drawn
                for name, size in (("broad", first_screen.WIDE), ("narrow", first_screen.NARROW))
                if (drawn := inlined(first_screen.picture(comparison, size)).get(first_screen.PICTURE))
            },
            "caption": first_screen.caption(comparison),
            "warnings": [line for one in filled for line in one.section.warnings(one.facts)],
            "sections": [
                {"name": one.section.name, "title": one.section.title, "html": Markup(html)}
                | {"lead": one.section.lead(one.facts), "open": one.section is scores.SECTION}
                for one in filled
                if (html := one.html(shared)) is not None
            ],
        },
    )
    return {"index.html": page} | {name: text for one in filled for name, text in one.pages(shared).items()}


def write_all(out: Path, tables: dict[str, Table], figures: dict[str, str]) -> None:
    """Tables as CSV and Markdown, figures as SVG, into fresh folders."""
    for name in ("tables", "figures"):
        fresh_folder(out / name)
    for name, table in tables.items():
        write_text(out / "tables" / f"{name}.csv", table.csv())
        write_text(out / "tables" / f"{name}.md", table.markdown())
    for name, svg in figures.items():
        write_text(out / "figures" / f"{name}.svg", svg)


def main(args: argparse.Namespace) -> None:
    started, manifests = time.time(), consult()
    gathered = gather(args.settings, args.results, args.out)
    filled = fill_all(gathered)
    facts = {one.section.name: one.facts for one in filled}
    known = [found for one in filled for found in one.section.unlearned(one.facts)]
    warnings = [line for one in filled for line in one.section.warnings(one.facts)]
    picture = first_screen.picture(gathered.findings)
    text = first_screen.summary(gathered, facts[rows.SECTION.name], known, warnings)

    write_all(
        args.out,
        {name: table for one in filled for name, table in one.tables.items()},
        picture | {name: svg for one in filled for name, svg in one.figures.items()},
    )
    metrics: dict[str, Any] = {}
    for one in filled:
        metrics |= one.section.metrics(one.facts)
    write_json(args.out / "metrics.json", metrics)
    # Under the workload's name: `dvc exp show` has the numbers of all workloads in one table.
    headline = first_screen.numbers(gathered.findings, facts[rows.SECTION.name])
    write_json(args.out / "headline.json", {args.settings["workload"]: headline})
    write_text(args.out / "summary.txt", text)
    for name in (name for section in SECTIONS for name in section.pages):
        (args.out / name).unlink(missing_ok=True)
    language = args.settings["report"]["language"]
    with speaking(language, names_of(gathered)):
        pages = written(args, gathered, filled if language == ENGLISH else said_again(gathered, filled))
    for name, content in pages.items():
        write_text(args.out / name, content)
    counts = {"checkpoints": len(gathered.checkpoints)}
    write_manifest(
        args.out, step="report", settings=args.settings, inputs=manifests, whole=True, counts=counts, started=started
    )
    print(args.out / "index.html")
    print(text, end="")


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the workload's results folder")
    run(main, parser)
