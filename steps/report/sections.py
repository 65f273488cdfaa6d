"""The sections of the report, in the order of the page: a new one is one line here."""

from steps.diagnosis.section import SECTION as diagnosis
from steps.distillation.section import SECTION as distillation
from steps.reinforcement.section import SECTION as reinforcement
from steps.report.overview import cost, grids, provenance, rows, run, samples, scores, training
from steps.report.section import Section
from steps.stability.section import SECTION as stability

SECTIONS: tuple[Section, ...] = (
    run.SECTION,
    rows.SECTION,
    scores.SECTION,
    diagnosis,
    stability,
    reinforcement,
    distillation,
    grids.SECTION,
    training.SECTION,
    samples.SECTION,
    cost.SECTION,
    provenance.SECTION,
)
