"""The tables of incomplete learning: rates by cause and candidate, claims, cause shares, truth, seeds, exclusions."""

from pathlib import Path

from steps.diagnosis.causes import CAUSES, DESCRIPTIONS, UNASSIGNED
from steps.diagnosis.section.claims import claims_table, differences_table
from steps.diagnosis.section.facts import (
    ALL,
    ATTRIBUTED,
    LEARNABLE,
    NEITHER,
    TRUE,
    Study,
    bases,
    numbered,
    treats_text,
)
from steps.diagnosis.section.findings import findings_table
from steps.diagnosis.section.statistics import (
    groups,
    rate,
    share_of,
    stability,
)
from steps.diagnosis.section.truth import by_kind_table, confusion_table, truth_table
from steps.report.candidates import difference, seeds_text
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.language import tr
from steps.report.logs import tokens_from_start
from steps.report.sentences import Sentences
from steps.report.tables import Column, Estimate, Table

say = Sentences(Path(__file__).parent)

# Xue et al., ACL 2026, Table 10: share of the unlearned rows, over ten data sets; and the share of rows unlearned.
PAPER_SHARES = dict(zip(CAUSES, (0.187, 0.132, 0.141, 0.174, 0.146), strict=True)) | {UNASSIGNED: 0.220}
PAPER_PREVALENCE, PAPER_SPREAD = 0.153, 0.021


# --- before and after ----------------------------------------------------------------------------


def by_cause_table(study: Study, by_truth: bool) -> Table:
    """One line per candidate, one column per group of rows: the share that is unlearned."""
    names = groups(study, by_truth)
    n = {name: rate(study, study.plain, study.group(name, by_truth)).n for name in names}
    columns = [IDENTITY[0], Column("treats", "treats")]
    columns += [Column(name, f"{numbered(name)} % (n = {n[name]:,})", "percent") for name in names]
    if not by_truth:
        columns += [Column("tokens", "tokens trained", "integer"), Column("general", "general %", "percent")]
        columns.append(Column("cost", tr("general against {name}, points", name=study.plain.name), "points"))
    rows = []
    for candidate in study.candidates:
        cells = {name: rate(study, candidate, study.group(name, by_truth)) for name in names}
        rows.append(
            {
                **identity(candidate.candidate),
                "treats": treats_text(candidate, study),
                **cells,
                "tokens": tokens_from_start(candidate.candidate, study.every),
                "general": candidate.candidate.axis("general"),
                "cost": difference(candidate.candidate, study.plain.candidate, "general")
                if candidate is not study.plain
                else None,
            }
        )
    treated = any("data_conflict" in (*candidate.treats, *candidate.at_random) for candidate in study.candidates)
    if by_truth:
        caption = say("by_truth_caption", conflict_treated=treated)
    else:
        caption = say("by_cause_caption", plain=study.plain.name, conflict_treated=treated)
    return Table(f"{study.name}_by_{'truth' if by_truth else 'cause'}", caption, columns + ORIGIN, rows)


# --- causes --------------------------------------------------------------------------------------


def cause_shares(study: Study) -> dict[str, Estimate]:
    """Share of each cause, and of the unassigned, among the unlearned rows of the diagnosed candidate."""
    total = [int(study.detected[name].unlearned.sum()) for name in study.diagnosed]
    shares = {}
    for cause in ATTRIBUTED:
        hits = [int((study.cause[name] == ATTRIBUTED.index(cause)).sum()) for name in study.diagnosed]
        shares[cause] = share_of(hits, total)
    return shares


def _planted(study: Study, cause: str | None = None) -> float | None:
    """Of the planted rows, the share for a cause; without one, the share of the examined rows that was planted.

    None where nobody knows.
    """
    if study.truth is None or cause == UNASSIGNED:
        return None
    known = study.truth[study.detected[study.diagnosed[0]].examined]
    planted = known[(known != NEITHER) & (known != TRUE.index(LEARNABLE))]
    if cause is None:
        return len(planted) / len(known)
    return float((planted == TRUE.index(cause)).mean()) if len(planted) else None


def shares_table(study: Study) -> Table:
    columns = [Column("cause", "cause"), Column("what", "what it says"), Column("rows", "rows", "tenths")]
    columns += [Column("share", "share here %", "percent"), Column("paper", "in the paper %", "percent")]
    columns.append(Column("planted", "planted here %", "percent"))
    columns += [
        Column("n", "n unlearned", "integer"),
        Column("seeds", "seeds"),
        Column("manifest", "manifest", "links"),
    ]
    known = {"seeds": seeds_text(study.plain.candidate), "manifest": study.plain.candidate.links}
    rows = []
    for cause, share in cause_shares(study).items():
        rows.append(
            {
                "cause": numbered(cause),
                "what": DESCRIPTIONS[cause],
                "rows": share.value * share.n,
                "share": share,
                "paper": PAPER_SHARES[cause],
                "planted": _planted(study, cause),
                "n": share.n,
                **known,
            }
        )
    prevalence = rate(study, study.plain, study.group(ALL), alone=True)
    rows.append(
        {
            "cause": "all rows",
            "what": "Share of the examined rows that are unlearned.",
            "rows": prevalence.value * prevalence.n,
            "share": prevalence,
            "paper": PAPER_PREVALENCE,
            "planted": _planted(study),
            "n": prevalence.n,
            **known,
        }
    )
    caption = say(
        "shares_caption",
        plain=study.plain.name,
        prevalence=PAPER_PREVALENCE,
        spread=PAPER_SPREAD,
        planted=study.truth is not None,
    )
    return Table(f"{study.name}_causes", caption, columns, rows)


# --- truth ---------------------------------------------------------------------------------------


# --- seeds, exclusions, files --------------------------------------------------------------------


def stability_table(study: Study) -> Table | None:
    """In how many seeds a row is unlearned, under the diagnosed candidate."""
    seeds = stability(study)
    if seeds is None:
        return None
    columns = [Column("times", "unlearned in seeds", "integer"), Column("rows", "rows", "integer")]
    columns += [Column("share", "share %", "percent"), Column("n", "n rows", "integer"), Column("seeds", "seeds")]
    columns.append(ORIGIN[1])
    known = {"n": seeds["n"], "seeds": seeds_text(study.plain.candidate), "manifest": study.plain.candidate.links}
    rows = [
        {"times": times, "rows": rows, "share": share_of([rows], [seeds["n"]]), **known}
        for times, rows in enumerate(seeds["times"])
    ]
    caption = say("seeds_caption", plain=study.plain.name)
    return Table(f"{study.name}_seeds", caption, columns, rows)


def examined_table(study: Study) -> Table:
    """What became of the rows of every examined checkpoint: the counts add up."""
    counts = {name: marks.manifest["counts"] for name, marks in study.detected.items()}
    reasons = sorted({reason for c in counts.values() for reason, rows in c["excluded"].items() if rows})
    columns = [Column("node", "checkpoint", "code"), Column("in", "rows", "integer")]
    columns += [Column("examined", "examined", "integer"), Column("unlearned", "unlearned", "integer")]
    columns.append(Column("relabelled", "of these of another answer elsewhere", "integer"))
    columns += [Column(f"excluded_{reason}", f"excluded: {reason}", "integer") for reason in reasons]
    rows = [
        {
            "node": name,
            **{key: c[key] for key in ("in", "examined", "unlearned")},
            "relabelled": int((study.detected[name].examined & ~study.detected[name].compared).sum()),
            **{f"excluded_{reason}": c["excluded"].get(reason, 0) for reason in reasons},
        }
        for name, c in counts.items()
    ]
    caption = say("examined_caption")
    return Table(f"{study.name}_examined", caption, columns, rows)


def files_table(study: Study) -> Table:
    columns = [Column("node", "checkpoint", "code"), Column("file", "file", "code"), Column("link", "link", "links")]
    rows = [{"node": node, "file": link.text, "link": [link]} for node, link in study.links]
    return Table(f"{study.name}_files", "The rows with all that is known of them, one row per line.", columns, rows)


def metrics(studies: list[Study]) -> dict[str, dict]:
    unlearned = {
        study.name: {
            candidate.name: round(rate(study, candidate, study.group(ALL)).value, 6) for candidate in study.candidates
        }
        for study in studies
    }
    return {"unlearned": unlearned}


def learning_tables(studies: list[Study]) -> list[Table]:
    return [table for study in studies for table in study_tables(study)]


def study_tables(study: Study) -> list[Table]:
    differences = differences_table(study)
    tables = [by_cause_table(study, by_truth) for by_truth in bases(study)] if study.unlearned else []
    if study.unlearned:
        tables += [claims_table(study, differences), differences, shares_table(study)]
    if study.truth is not None:
        tables += [by_kind_table(study), truth_table(study), confusion_table(study)]
    tables += [findings_table(study), stability_table(study), examined_table(study), files_table(study)]
    return [table for table in tables if table]
