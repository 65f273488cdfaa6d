"""Whether what the papers of on-policy distillation found holds here."""

from steps.distillation.section.catalogue import CLAIMS
from steps.distillation.section.facts import Distillation
from steps.distillation.section.method_claims import against_off_policy, against_rl, original_model, several_teachers
from steps.distillation.section.reference_claims import equal_teachers, lengths, prompts, supports, teachers
from steps.distillation.section.run_claims import cold_starts, reversals, what_succeeds
from steps.distillation.section.wording import say
from steps.report.claims import NO_LESS, table_of
from steps.report.tables import Column, Table


def claims_table(study: Distillation) -> Table | None:
    columns = [Column("difference", "difference, points", "points")]
    columns += [Column("recovery", "difference of recovered shares, points", "points")]
    columns += [Column("share", "recovered %", "percent"), Column("measure", "difference, nats", "decimal")]
    columns += [Column("ratio", "ratio", "decimal")]
    evidence = []
    if study.reference:
        for found in (teachers, equal_teachers, supports, lengths, prompts):
            evidence += found(study, study.reference)
    others = (cold_starts, reversals, what_succeeds, against_rl, against_off_policy, original_model, several_teachers)
    for found in others:
        evidence += found(study)
    caption = say("claims_caption", task=study.scores.target, no_less=NO_LESS)
    return table_of("distillation_claims", caption, columns, CLAIMS, evidence)
