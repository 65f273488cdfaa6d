"""What the papers of on-policy distillation found, and whether it holds here: held, not held or undecided.

Numbers "there" are those of "Rethinking On-Policy Distillation" (arXiv:2604.13016), of its authors' repository
(thunlp/OPD), of Thinking Machines' "On-Policy Distillation" (27 October 2025) and of MOPD (arXiv:2606.30406). Of the
papers, tables were read in secondary notes only, which the caption says.
"""

from steps.distillation.section.facts import Distillation
from steps.distillation.section.method_claims import against_off_policy, against_rl, original_model, several_teachers
from steps.distillation.section.reference_claims import lengths, prompts, supports, teachers
from steps.distillation.section.run_claims import cold_starts, reversals, what_succeeds
from steps.distillation.section.wording import say
from steps.report.claims import NO_LESS
from steps.report.tables import Column, Table


def claims_table(study: Distillation) -> Table | None:
    columns = [Column("verdict", "verdict"), Column("claim", "claim"), Column("here", "here")]
    columns += [Column("published", "there"), Column("paper", "paper")]
    columns += [Column("difference", "difference, points", "points")]
    columns += [Column("recovery", "difference of recovered shares, points", "points")]
    columns += [Column("share", "recovered %", "percent"), Column("measure", "difference, nats", "decimal")]
    columns += [Column("ratio", "ratio", "decimal"), Column("n", "n", "integer")]
    columns += [Column("seeds", "seeds"), Column("manifest", "manifest", "links")]
    rows = []
    if study.reference:
        for claims in (teachers, supports, lengths, prompts):
            rows += claims(study, study.reference)
    for claims in (cold_starts, reversals, what_succeeds, against_rl, against_off_policy, original_model):
        rows += claims(study)
    rows += several_teachers(study)
    caption = say("claims_caption", task=study.scores.target, no_less=NO_LESS)
    return Table("distillation_claims", caption, columns, rows) if rows else None
