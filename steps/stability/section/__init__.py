"""The report's section on stability and plasticity: what every way to train gained, forgot and moved."""

from pathlib import Path

from steps.report.section import Section
from steps.stability.section import facts, figures, sentences, tables

SECTION = Section(
    name="stability",
    title="Stability",
    folder=Path(__file__).parent,
    read=facts.read_stability,
    tables=tables.stability_tables,
    figures=figures.stability_figures,
    page=sentences.page,
    lead=sentences.kept_most,
)
