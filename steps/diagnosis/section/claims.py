"""What treatments promise, against the diagnosed candidate and against every control, and whether intervals hold it."""

from pathlib import Path

from steps.diagnosis.causes import CAUSES
from steps.diagnosis.section.facts import (
    ALL,
    ATTRIBUTED,
    BASES,
    GROUP_LABELS,
    TRUE,
    Study,
    StudyCandidate,
    bases,
)
from steps.diagnosis.section.statistics import (
    contrast,
    rate,
    share_of,
)
from steps.report.budgets import TOLERANCE
from steps.report.claims import MORE, settle, verdict, worst
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.language import tr
from steps.report.logs import tokens_from_start
from steps.report.sentences import Sentences
from steps.report.tables import Column, Estimate, Table
from steps.stats.bootstrap import RESAMPLES

say = Sentences(Path(__file__).parent)

# What a treatment must do to its own cause, and all of them together to all rows.
OWN_BAR, TOGETHER_BAR = 0.5, 0.6


def claimed(candidate: StudyCandidate, by_truth: bool) -> list[str]:
    """The groups of rows that a candidate should help: its causes, and all rows where it treats every one."""
    if not candidate.treatment:
        return []
    return [*candidate.treats, *([ALL] if set(candidate.treats) == set(CAUSES) and not by_truth else [])]


def differences_table(study: Study) -> Table | None:
    """Each treatment against each control on the rows of each cause that it treats."""
    columns = [IDENTITY[0], Column("cause", "cause"), Column("by", "rows by"), Column("control", "control", "code")]
    columns += [Column("rate", "unlearned %", "percent"), Column("control_rate", "control's %", "percent")]
    columns += [Column("lower", "lower by, points", "points"), Column("n", "n rows", "integer")]
    columns += [Column("tokens", "tokens", "integer"), Column("control_tokens", "control's tokens", "integer"), *ORIGIN]
    rows = []
    for by_truth in bases(study):
        for candidate in study.candidates:
            for cause in claimed(candidate, by_truth):
                mask = study.group(cause, by_truth)
                for control in (c for c in study.candidates if c is not candidate and c.controls(cause)):
                    lower = contrast(study, candidate, control, mask)
                    if lower is None:
                        continue
                    rows.append(
                        {
                            **identity(candidate.candidate),
                            "cause": GROUP_LABELS[cause],
                            "by": BASES[by_truth] if cause != ALL else "–",
                            "control": control.name,
                            "rate": rate(study, candidate, mask),
                            "control_rate": rate(study, control, mask),
                            "lower": lower,
                            "n": lower.n,
                            "tokens": tokens_from_start(candidate.candidate, study.every),
                            "control_tokens": tokens_from_start(control.candidate, study.every),
                        }
                    )
    caption = say("differences_caption", resamples=RESAMPLES)
    return Table(f"{study.name}_differences", caption, columns, rows) if rows else None


def claims_table(study: Study, differences: Table | None) -> Table | None:
    """What treatments promise, and whether the intervals hold it."""
    columns = [IDENTITY[0], Column("cause", "rows"), Column("by", "rows by")]
    columns += [
        Column("reduction", tr("lowered by, % of {name}", name=study.plain.name), "percent"),
        Column("n", "n rows", "integer"),
    ]
    columns += [Column("bar", "bar"), Column("reached", "reached")]
    columns += [Column("control", "closest control", "code"), Column("margin", "lower than it by, points", "points")]
    columns += [Column("beats", "lower than every control of no larger budget"), Column("why", "why not decided")]
    columns += [Column("pure", "rows planted for it %", "percent"), *ORIGIN]
    rows = []
    for by_truth in bases(study):
        for candidate in study.candidates:
            for cause in claimed(candidate, by_truth):
                reduction = contrast(study, candidate, study.plain, study.group(cause, by_truth), relative=True)
                if reduction is None:
                    continue
                by, bar = ("–", TOGETHER_BAR) if cause == ALL else (BASES[by_truth], OWN_BAR)
                reached, why = settle(verdict(reduction, bar), [candidate.candidate, study.plain.candidate])
                row = {
                    **identity(candidate.candidate), "cause": GROUP_LABELS[cause], "by": by, "reduction": reduction,
                    "n": reduction.n, "bar": f"{100 * bar:.0f} %", "reached": reached, "why": why,
                }  # fmt: skip
                if study.truth is not None and by == BASES[False]:
                    row["pure"] = purity(study, cause)
                rows.append(row | _beaten(study, differences, row))
    caption = say("claims_caption", same_budget=TOLERANCE)
    return Table(f"{study.name}_claims", caption, columns, rows) if rows else None


def purity(study: Study, cause: str) -> Estimate | None:
    """Of the rows attributed to a cause, the share that was planted for it."""
    given = [study.cause[name] == ATTRIBUTED.index(cause) for name in study.diagnosed]
    return share_of(
        [int((mask & (study.truth == TRUE.index(cause))).sum()) for mask in given], [int(m.sum()) for m in given]
    )


def _beaten(study: Study, differences: Table | None, claim: dict) -> dict:
    """The control that comes closest to a treatment, and the verdict over all of no larger budget.

    There is none where no control has as large a budget.
    """
    keys = ("checkpoint", "cause", "by")
    controls = [
        r
        for r in (differences.rows if differences else ())
        if all(r[k] == claim[k] for k in keys)
        and (r["tokens"] is None or r["control_tokens"] is None or r["control_tokens"] <= TOLERANCE * r["tokens"])
    ]
    if not controls:
        return {}
    closest = min(controls, key=lambda row: row["lower"].low)
    control = {"control": closest["control"], "margin": closest["lower"]}
    arms = [study.every[name] for name in (claim["checkpoint"], *(row["control"] for row in controls))]
    beats, why = settle(worst([verdict(row["lower"], MORE) for row in controls]), arms)
    largest = max(controls, key=lambda row: row["control_tokens"] or 0)
    if not why and largest["tokens"] and TOLERANCE * (largest["control_tokens"] or 0) < largest["tokens"]:
        tokens = [(claim["checkpoint"], largest["tokens"]), (largest["control"], largest["control_tokens"])]
        beats, why = "other budgets", say("fewer_tokens", tokens=tokens)
    return control | {"beats": beats, "why": claim["why"] or why}
