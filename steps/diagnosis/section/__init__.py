"""The report's section on incomplete learning: which training rows were never learned, and why."""

from pathlib import Path

from steps.diagnosis.section import figures, rows, sentences, tables
from steps.report.section import Section

SECTION = Section(
    name="learning",
    title="Never learned",
    folder=Path(__file__).parent,
    read=rows.read_studies,
    tables=tables.learning_tables,
    figures=figures.learning_figures,
    page=sentences.page,
    lead=sentences.leads,
    unlearned=sentences.unlearned,
    metrics=tables.metrics,
    pages={"rows.html": sentences.rows_page},
)
