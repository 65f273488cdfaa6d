"""The tables of incomplete learning: rates by cause and arm, claims, cause shares, truth, seeds, exclusions."""

from steps import learning
from steps.arms import RESAMPLES, Arm, difference, seeds_text
from steps.causes import CAUSES, DESCRIPTIONS, NUMERALS, UNASSIGNED
from steps.claims import MORE, verdict
from steps.learning import ALL, ATTRIBUTED, GROUP_LABELS, LEARNED, TRUE, Study, StudyArm
from steps.learning_stats import (
    attribution_counts,
    contrast,
    detection_counts,
    f1_of,
    macro_f1_of,
    precision_of,
    rate,
    recall_of,
    share_of,
    stability,
)
from steps.score_tables import IDENTITY, ORIGIN, identity
from steps.tables import Column, Estimate, Table

# Xue et al., ACL 2026, Table 10: share of the unlearned rows, over ten data sets; and the share of rows unlearned.
PAPER_SHARES = dict(zip(CAUSES, (0.187, 0.132, 0.141, 0.174, 0.146), strict=True)) | {UNASSIGNED: 0.220}
PAPER_PREVALENCE, PAPER_SPREAD = 0.153, 0.021
# What a treatment must do to its own cause, and all of them together to all rows.
OWN_BAR, TOGETHER_BAR = 0.5, 0.6
# A control of the same budget was trained on at most so many times the treatment's tokens: the rows drawn at random are
# of other lengths.
SAME_BUDGET = 1.05
BASES = {False: "attribution", True: "truth"}


def bases(study: Study) -> list[bool]:
    """By which causes rows are grouped: those found and, where it is known, the truth."""
    return [False] if study.truth is None else [False, True]


def groups(study: Study, by_truth: bool) -> list[str]:
    """The groups of rows with anything in them for the diagnosed arm, in order."""
    names = [*TRUE, ALL] if by_truth else [*ATTRIBUTED, LEARNED, ALL]
    return [name for name in names if rate(study, study.plain, study.group(name, by_truth))]


def treats_text(arm: StudyArm, study: Study) -> str:
    if arm is study.plain:
        return "nothing (diagnosed)"
    parts = [" ".join(NUMERALS[cause] for cause in arm.treats)] if arm.treats else []
    parts += ["at random: " + " ".join(NUMERALS[cause] for cause in arm.at_random)] if arm.at_random else []
    return ", ".join(parts) or "nothing (control)"


# --- before and after ----------------------------------------------------------------------------


def by_cause_table(study: Study, every: dict[str, Arm], by_truth: bool) -> Table:
    """One line per arm, one column per group of rows: the share that is unlearned."""
    names = groups(study, by_truth)
    n = {name: rate(study, study.plain, study.group(name, by_truth)).n for name in names}
    columns = [IDENTITY[0], Column("treats", "treats")]
    columns += [Column(name, f"{_numbered(name)} % (n = {n[name]:,})", "percent") for name in names]
    if not by_truth:
        columns += [Column("tokens", "tokens trained", "integer"), Column("general", "general %", "percent")]
        columns.append(Column("cost", f"general against {study.plain.name}, points", "points"))
    rows = []
    for arm in study.arms:
        cells = {name: rate(study, arm, study.group(name, by_truth)) for name in names}
        rows.append(
            {
                **identity(arm.arm),
                "treats": treats_text(arm, study),
                **cells,
                "tokens": learning.tokens(arm.arm, every),
                "general": arm.arm.axis("general"),
                "cost": difference(arm.arm, study.plain.arm, "general") if arm is not study.plain else None,
            }
        )
    if by_truth:
        what = "by the cause that was planted in them; learnable rows have none"
    else:
        what = (
            f"by the cause attributed to them under {study.plain.name}. Its own line is 100 % there by definition, and"
            " a part of each fall is chance: rows were chosen for being wrong. What the controls lose shows how much."
            " Learned before: rows that it gets right"
        )
    if any("data_conflict" in (*arm.treats, *arm.at_random) for arm in study.arms):
        what += ". A row that a treatment took out as wrong is examined against the answer that it should have"
    caption = (
        f"Share of training rows unlearned, {what}. Brackets: 95 % Wilson intervals, n rows of one seed, widened by the"
        " seeds."
    )
    if not by_truth:
        caption += " Tokens: over the whole chain from the base. General: change paired by item."
    return Table(f"{study.name}_by_{'truth' if by_truth else 'cause'}", caption, columns + ORIGIN, rows)


def _numbered(name: str) -> str:
    return f"{NUMERALS[name]} {GROUP_LABELS[name]}" if name in NUMERALS else GROUP_LABELS[name]


def by_kind_table(study: Study) -> Table:
    """One line per arm, one column per kind of planted row: the share that is unlearned."""
    kinds = sorted({(t, k) for t, k in zip(study.truth.tolist(), study.kind.tolist(), strict=True) if k})
    masks = {kind: (study.truth == truth) & (study.kind == kind) for truth, kind in kinds}
    cells = [{kind: rate(study, arm, lambda _, m=mask: m) for kind, mask in masks.items()} for arm in study.arms]
    columns = [IDENTITY[0], Column("treats", "treats")]
    columns += [
        Column(k, f"{NUMERALS[TRUE[t]]} {k} % (n = {cells[0][k].n:,})", "percent") for t, k in kinds if cells[0][k]
    ]
    rows = [
        {**identity(arm.arm), "treats": treats_text(arm, study), **row}
        for arm, row in zip(study.arms, cells, strict=True)
    ]
    caption = "Share of training rows unlearned, by the kind of planted row. 95 % intervals as above."
    return Table(f"{study.name}_by_kind", caption, columns + ORIGIN, rows)


# --- claims --------------------------------------------------------------------------------------


def claimed(arm: StudyArm, by_truth: bool) -> list[str]:
    """The groups of rows that an arm should do something about: its causes, and all rows where it treats every one."""
    if not arm.treatment:
        return []
    return [*arm.treats, *([ALL] if set(arm.treats) == set(CAUSES) and not by_truth else [])]


def differences_table(study: Study, every: dict[str, Arm]) -> Table | None:
    """Each treatment against each control on the rows of each cause that it treats."""
    columns = [IDENTITY[0], Column("cause", "cause"), Column("by", "rows by"), Column("control", "control", "code")]
    columns += [Column("rate", "unlearned %", "percent"), Column("control_rate", "control's %", "percent")]
    columns += [Column("lower", "lower by, points", "points"), Column("n", "n rows", "integer")]
    columns += [Column("tokens", "tokens", "integer"), Column("control_tokens", "control's tokens", "integer"), *ORIGIN]
    rows = []
    for by_truth in bases(study):
        for arm in study.arms:
            for cause in claimed(arm, by_truth):
                mask = study.group(cause, by_truth)
                for control in (c for c in study.arms if c is not arm and c.controls(cause)):
                    lower = contrast(study, arm, control, mask)
                    if lower is None:
                        continue
                    rows.append(
                        {
                            **identity(arm.arm),
                            "cause": GROUP_LABELS[cause],
                            "by": BASES[by_truth] if cause != ALL else "–",
                            "control": control.name,
                            "rate": rate(study, arm, mask),
                            "control_rate": rate(study, control, mask),
                            "lower": lower,
                            "n": lower.n,
                            "tokens": learning.tokens(arm.arm, every),
                            "control_tokens": learning.tokens(control.arm, every),
                        }
                    )
    caption = (
        "On the rows of a cause: how much lower the treatment's rate is than the control's, paired by row and seed"
        f" (bootstrap, {RESAMPLES:,} resamples; seeds widen)."
    )
    return Table(f"{study.name}_differences", caption, columns, rows) if rows else None


def claims_table(study: Study, differences: Table | None) -> Table | None:
    """What treatments promise, and whether the intervals hold it."""
    columns = [IDENTITY[0], Column("cause", "rows"), Column("by", "rows by")]
    columns += [
        Column("reduction", f"lowered by, % of {study.plain.name}", "percent"),
        Column("n", "n rows", "integer"),
    ]
    columns += [Column("bar", "bar"), Column("reached", "reached")]
    columns += [Column("control", "closest control", "code"), Column("margin", "lower than it by, points", "points")]
    columns += [Column("beats", "lower than every control of no larger budget")]
    columns += [Column("pure", "rows planted for it %", "percent"), *ORIGIN]
    rows = []
    for by_truth in bases(study):
        for arm in study.arms:
            for cause in claimed(arm, by_truth):
                reduction = contrast(study, arm, study.plain, study.group(cause, by_truth), relative=True)
                if reduction is None:
                    continue
                by, bar = ("–", TOGETHER_BAR) if cause == ALL else (BASES[by_truth], OWN_BAR)
                row = {
                    **identity(arm.arm), "cause": GROUP_LABELS[cause], "by": by, "reduction": reduction,
                    "n": reduction.n, "bar": f"{100 * bar:.0f} %", "reached": verdict(reduction, bar),
                }  # fmt: skip
                if study.truth is not None and by == BASES[False]:
                    row["pure"] = purity(study, cause)
                rows.append(row | _beaten(differences, row))
    caption = (
        "Relative reduction of the unlearned rate against the diagnosed arm, paired by row and seed. Held: the whole"
        " 95 % interval is at or beyond the bar; not held: all of it is short; undecided: it straddles the bar."
        f" Controls count that were trained on at most {SAME_BUDGET:g} times the treatment's tokens."
    )
    return Table(f"{study.name}_claims", caption, columns, rows) if rows else None


def purity(study: Study, cause: str) -> Estimate | None:
    """Of the rows attributed to a cause, the share that was planted for it."""
    given = [study.cause[name] == ATTRIBUTED.index(cause) for name in study.diagnosed]
    return share_of(
        [int((mask & (study.truth == TRUE.index(cause))).sum()) for mask in given], [int(m.sum()) for m in given]
    )


def _beaten(differences: Table | None, claim: dict) -> dict:
    """The control that comes closest to a treatment, and the verdict over all controls of no larger budget."""
    keys = ("checkpoint", "cause", "by")
    found = [
        r
        for r in (differences.rows if differences else ())
        if all(r[k] == claim[k] for k in keys)
        and (r["tokens"] is None or r["control_tokens"] is None or r["control_tokens"] <= SAME_BUDGET * r["tokens"])
    ]
    if not found:
        return {}
    closest = min(found, key=lambda row: row["lower"].low)
    each = {verdict(row["lower"], MORE) for row in found}
    worst = next(v for v in ("not held", "undecided", "held") if v in each)
    return {"control": closest["control"], "margin": closest["lower"], "beats": worst}


# --- causes --------------------------------------------------------------------------------------


def cause_shares(study: Study) -> dict[str, Estimate]:
    """Share of each cause, and of the unassigned, among the unlearned rows of the diagnosed arm."""
    total = [int(study.detected[name].unlearned.sum()) for name in study.diagnosed]
    shares = {}
    for cause in ATTRIBUTED:
        hits = [int((study.cause[name] == ATTRIBUTED.index(cause)).sum()) for name in study.diagnosed]
        shares[cause] = share_of(hits, total)
    return shares


def shares_table(study: Study) -> Table:
    columns = [Column("cause", "cause"), Column("what", "what it says"), Column("rows", "rows", "tenths")]
    columns += [Column("share", "share here %", "percent"), Column("paper", "in the paper %", "percent")]
    columns += [
        Column("n", "n unlearned", "integer"),
        Column("seeds", "seeds"),
        Column("manifest", "manifest", "links"),
    ]
    known = {"seeds": seeds_text(study.plain.arm), "manifest": study.plain.arm.links}
    rows = []
    for cause, share in cause_shares(study).items():
        rows.append(
            {
                "cause": _numbered(cause),
                "what": DESCRIPTIONS[cause],
                "rows": share.value * share.n,
                "share": share,
                "paper": PAPER_SHARES[cause],
                "n": share.n,
                **known,
            }
        )
    prevalence = rate(study, study.plain, study.group(ALL))
    rows.append(
        {
            "cause": "all rows",
            "what": "Share of the examined rows that are unlearned.",
            "rows": prevalence.value * prevalence.n,
            "share": prevalence,
            "paper": PAPER_PREVALENCE,
            "n": prevalence.n,
            **known,
        }
    )
    caption = (
        f"Unlearned rows of {study.plain.name} by attributed cause; rows are a mean over seeds. Paper: Xue et al., ACL"
        f" 2026, Table 10; prevalence {100 * PAPER_PREVALENCE:.1f} ± {100 * PAPER_SPREAD:.1f} % over ten data sets."
    )
    return Table(f"{study.name}_causes", caption, columns, rows)


# --- truth ---------------------------------------------------------------------------------------


def truth_table(study: Study) -> Table:
    """Precision, recall and F1 of detection, per seed and pooled, and of attribution, per cause and on average."""
    columns = [Column("what", "what"), Column("of", "of"), Column("seeds", "seeds")]
    columns += [
        Column(key, f"{label} %", "percent") for key, label in (("precision", "precision"), ("recall", "recall"))
    ]
    columns += [Column("f1", "F1 %", "percent"), Column("n", "n rows", "integer"), ORIGIN[1]]
    seed = {member.node: member.seed for member in study.plain.arm.members}
    link = {m.node: [m.manifest_link] for m in study.plain.arm.members if m.manifest_link}
    single = [([name], str(seed[name]), link.get(name)) for name in study.diagnosed]
    pooled = [(study.diagnosed, seeds_text(study.plain.arm), study.plain.arm.links)] if len(single) > 1 else []
    groups_of_seeds = [*single, *pooled]
    rows = []

    def line(what: str, of: str, seeds: str, links: list, counts: list) -> dict:
        found = {"precision": precision_of(counts), "recall": recall_of(counts), "f1": f1_of(counts)}
        n = found["f1"].n if found["f1"] else 0
        return {"what": what, "of": of, "seeds": seeds, **found, "n": n, "manifest": links}

    for names, seeds, links in groups_of_seeds:
        counts = [detection_counts(study, name) for name in names]
        rows.append(line("detection", "planted rows", seeds, links, counts))
    for names, seeds, links in groups_of_seeds:
        macro = macro_f1_of([attribution_counts(study, name) for name in names])
        known = {"what": "attribution", "of": "macro mean", "seeds": seeds, "manifest": links}
        rows.append({**known, "f1": macro, "n": macro.n if macro else 0})
    names, seeds, links = groups_of_seeds[-1]
    of_seeds = [attribution_counts(study, name) for name in names]
    for cause in CAUSES:
        rows.append(line("attribution", _numbered(cause), seeds, links, [counts[cause] for counts in of_seeds]))
    caption = (
        "Detection: the planted rows are what should be found. Attribution: among rows that are planted and found, an"
        " unassigned row counts against its cause; n: rows that were found or wanted, of one seed. 95 % Wilson"
        " intervals, that of F1 by way of hits of n, that of the mean combined; widened by the seeds."
    )
    return Table(f"{study.name}_truth", caption, columns, rows)


def confusion(study: Study) -> dict[tuple[str, str], float]:
    """Rows by (truth, attributed or "learned"), a mean over the seeds of the diagnosed arm."""
    cells = {}
    for i, truth in enumerate(TRUE):
        for given in (*ATTRIBUTED, LEARNED):
            counts = []
            for name in study.diagnosed:
                rows = (study.truth == i) & study.detected[name].examined
                mask = study.group(given)(name)
                counts.append(int((rows & mask).sum()))
            cells[truth, given] = sum(counts) / len(counts)
    return cells


def confusion_table(study: Study) -> Table:
    cells = confusion(study)
    columns = [Column("truth", "planted")]
    columns += [
        Column(given, _numbered(given) if given != LEARNED else "learned", "tenths") for given in (*ATTRIBUTED, LEARNED)
    ]
    columns += [Column("n", "n rows", "tenths"), Column("seeds", "seeds"), ORIGIN[1]]
    rows = []
    for truth in TRUE:
        counts = {given: cells[truth, given] for given in (*ATTRIBUTED, LEARNED)}
        known = {"seeds": seeds_text(study.plain.arm), "manifest": study.plain.arm.links}
        rows.append({"truth": _numbered(truth), **counts, "n": sum(counts.values()), **known})
    caption = f"Examined rows of {study.plain.name}: planted cause down, attributed cause across; a mean over seeds."
    return Table(f"{study.name}_confusion", caption, columns, rows)


# --- seeds, exclusions, files --------------------------------------------------------------------


def stability_table(study: Study) -> Table | None:
    """In how many seeds a row is unlearned, under the diagnosed arm."""
    found = stability(study)
    if found is None:
        return None
    columns = [Column("times", "unlearned in seeds", "integer"), Column("rows", "rows", "integer")]
    columns += [Column("share", "share %", "percent"), Column("n", "n rows", "integer"), Column("seeds", "seeds")]
    columns.append(ORIGIN[1])
    known = {"n": found["n"], "seeds": seeds_text(study.plain.arm), "manifest": study.plain.arm.links}
    rows = [
        {"times": times, "rows": rows, "share": share_of([rows], [found["n"]]), **known}
        for times, rows in enumerate(found["times"])
    ]
    caption = f"Rows examined in every seed of {study.plain.name}, by the number of seeds in which they are unlearned."
    return Table(f"{study.name}_seeds", caption, columns, rows)


def examined_table(study: Study) -> Table:
    """What became of the rows of every examined checkpoint: the counts add up."""
    counts = {name: found.manifest["counts"] for name, found in study.detected.items()}
    reasons = sorted({reason for c in counts.values() for reason, rows in c["excluded"].items() if rows})
    columns = [Column("node", "checkpoint", "code"), Column("in", "rows", "integer")]
    columns += [Column("examined", "examined", "integer"), Column("unlearned", "unlearned", "integer")]
    columns += [Column(f"excluded_{reason}", f"excluded: {reason}", "integer") for reason in reasons]
    rows = [
        {
            "node": name,
            **{key: c[key] for key in ("in", "examined", "unlearned")},
            **{f"excluded_{reason}": c["excluded"].get(reason, 0) for reason in reasons},
        }
        for name, c in counts.items()
    ]
    caption = "Rows examined per checkpoint; excluded rows are in excluded.jsonl beside the manifest, each with a hint."
    return Table(f"{study.name}_examined", caption, columns, rows)


def files_table(study: Study) -> Table:
    columns = [Column("node", "checkpoint", "code"), Column("file", "file", "code"), Column("link", "link", "links")]
    rows = [{"node": node, "file": link.text, "link": [link]} for node, link in study.links]
    return Table(f"{study.name}_files", "The rows with all that is known of them, one row per line.", columns, rows)


def learning_tables(study: Study, every: dict[str, Arm]) -> list[Table]:
    differences = differences_table(study, every)
    made = [by_cause_table(study, every, by_truth) for by_truth in bases(study)] if study.unlearned else []
    if study.unlearned:
        made += [claims_table(study, differences), differences, shares_table(study)]
    if study.truth is not None:
        made += [by_kind_table(study), truth_table(study), confusion_table(study)]
    made += [stability_table(study), examined_table(study), files_table(study)]
    return [table for table in made if table]
