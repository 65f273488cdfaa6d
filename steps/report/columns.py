"""The columns that tables of checkpoints share: which one it is, and where its numbers come from."""

from steps.report.candidates import (
    Candidate,
    seeds_text,
)
from steps.report.tables import Column

IDENTITY = [Column("checkpoint", "checkpoint", "code"), Column("stage", "stage")]


ORIGIN = [Column("seeds", "seeds"), Column("manifest", "manifest", "links")]


def identity(candidate: Candidate) -> dict:
    return {
        "checkpoint": candidate.name,
        "stage": candidate.stage,
        "seeds": seeds_text(candidate),
        "manifest": candidate.links,
    }
