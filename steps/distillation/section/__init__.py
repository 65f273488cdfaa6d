"""The report's section on distillation: what students took over from their teachers, at which cost."""

from pathlib import Path

from steps.distillation.section import figures, reading, sentences, tables
from steps.report.section import Section

SECTION = Section(
    name="distillation",
    title="Distillation",
    folder=Path(__file__).parent,
    read=reading.read_distillation,
    tables=tables.distillation_tables,
    figures=figures.distillation_figures,
    page=sentences.section,
    lead=sentences.lead,
    metrics=sentences.metrics,
)
