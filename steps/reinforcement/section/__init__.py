"""The report's section on reinforcement learning: what runs gained, how they went, what they did to exploration."""

from pathlib import Path

from steps.reinforcement.section import figures, reading, sentences, tables
from steps.report.section import Section

SECTION = Section(
    name="reinforcement",
    title="Reinforcement",
    folder=Path(__file__).parent,
    read=reading.read_reinforcement,
    tables=tables.reinforcement_tables,
    figures=figures.reinforcement_figures,
    page=sentences.section,
    lead=sentences.lead,
    warnings=sentences.exploits,
    metrics=tables.metrics,
)
