"""Whether what the paper of incomplete learning found holds here."""

from collections.abc import Iterator
from pathlib import Path

from steps.diagnosis.causes import CAUSES
from steps.diagnosis.section.catalogue import CLAIMS, MANY_EPOCHS, SUBSTANTIAL
from steps.diagnosis.section.facts import UNDIAGNOSED, Study, StudyCandidate
from steps.diagnosis.section.statistics import stability
from steps.report.budgets import TOLERANCE
from steps.report.candidates import Candidate, difference, matched, root_of, settings_of
from steps.report.claims import MORE, NO_LESS, Evidence, table_of, verdict
from steps.report.logs import tokens_from_start
from steps.report.sentences import Sentences
from steps.report.tables import Column, Estimate, Table

say = Sentences(Path(__file__).parent)


def findings_table(study: Study) -> Table:
    columns = [Column("difference", "difference, points", "points"), Column("kappa", "kappa", "decimal")]
    evidence = [one for found in (_stable, _more_epochs, _cpt_costs, _treatments) for one in found(study)]
    return table_of(f"{study.name}_findings", say("findings_caption"), columns, CLAIMS, evidence)


def _stable(study: Study) -> Iterator[Evidence]:
    over_seeds = stability(study)
    kappa = over_seeds and over_seeds["kappa"]
    if isinstance(kappa, Estimate):
        here = say("kappa_here", plain=study.plain.name, kappa=kappa, bar=SUBSTANTIAL)
        arms, numbers = [study.plain.candidate], {"kappa": kappa}
        yield Evidence("stable", here, verdict(kappa, SUBSTANTIAL), arms, numbers)


def _more_epochs(study: Study) -> Iterator[Evidence]:
    """The diagnosed arm for longer: every other setting is the same."""
    plain = study.plain.candidate
    for longer in (candidate.candidate for candidate in study.candidates[1:]):
        (epochs, rest), (before, its_rest) = (_epochs(candidate) for candidate in (longer, plain))
        more = difference(*matched(longer, plain), "target")
        if rest == its_rest and epochs and before and epochs >= MANY_EPOCHS * before and more:
            here = _scores(longer, plain, "target", more)
            # Hardly is at most so much.
            reading = {"held": "not held", "not held": "held"}.get(verdict(more, NO_LESS), "undecided")
            yield Evidence("more_epochs", here, reading, [longer, plain], {"difference": more})


def _epochs(candidate: Candidate) -> tuple[float | None, dict]:
    settings = settings_of(candidate)
    return settings.get("epochs"), {k: v for k, v in settings.items() if k not in ("epochs", "seed", "trajectory")}


def _cpt_costs(study: Study) -> Iterator[Evidence]:
    for candidate in study.every.values():
        if candidate.stage != "cpt" or candidate.members[0].study != study.name:
            continue
        before = root_of(candidate, study.every)
        fell = difference(*matched(before, candidate), "general")
        if fell:
            here = _scores(before, candidate, "general", fell)
            yield Evidence("cpt_costs", here, verdict(fell, MORE), [candidate, before], {"difference": fell})


def _treatments(study: Study) -> Iterator[Evidence]:
    """Each treatment of one cause, or of the two that one treatment is for, against the same at random."""
    for ours in (candidate for candidate in study.candidates if candidate.treatment):
        if len({_kind(cause) for cause in ours.treats}) > 1:
            continue
        for control in study.candidates:
            more = difference(*matched(ours.candidate, control.candidate), "target")
            if more and _equal_control(study, ours, control):
                here = _scores(ours.candidate, control.candidate, "target", more)
                arms, numbers = [ours.candidate, control.candidate], {"difference": more}
                for cause in ours.treats:
                    yield Evidence(f"target_{cause}", here, verdict(more, MORE), arms, numbers)


def _kind(cause: str) -> str:
    """What two causes have one treatment for."""
    return "knowledge" if cause in CAUSES[:2] else cause


def _equal_control(study: Study, ours: StudyCandidate, control: StudyCandidate) -> bool:
    """Whether a candidate was given the same treatment on rows at random, and as many tokens; what is done to the order
    of rows has the diagnosed arm for that."""
    given = control is study.plain if ours.treats == (UNDIAGNOSED,) else control.at_random == ours.treats
    tokens = [tokens_from_start(side.candidate, study.every) for side in (ours, control)]
    return given and all(tokens) and max(tokens) <= TOLERANCE * min(tokens)


def _scores(ours: Candidate, theirs: Candidate, axis: str, more: Estimate) -> str:
    levels = [(side.name, side.axis(axis)) for side in (ours, theirs)]
    return say("scores_here", axis=axis, levels=levels, difference=more)
