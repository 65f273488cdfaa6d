"""Detection and attribution against the planted truth: the tables of precision, recall and confusion."""

from pathlib import Path

from steps.diagnosis.causes import CAUSES, NUMERALS
from steps.diagnosis.section.facts import (
    ATTRIBUTED,
    LEARNED,
    TRUE,
    Study,
    numbered,
    treats_text,
)
from steps.diagnosis.section.statistics import (
    attribution_counts,
    detection_counts,
    f1_of,
    macro_f1_of,
    precision_of,
    rate,
    recall_of,
)
from steps.report.candidates import seeds_text
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.sentences import Sentences
from steps.report.tables import Column, Table

say = Sentences(Path(__file__).parent)


def by_kind_table(study: Study) -> Table:
    """One line per candidate, one column per kind of planted row: the share that is unlearned."""
    kinds = sorted({(t, k) for t, k in zip(study.truth.tolist(), study.kind.tolist(), strict=True) if k})
    masks = {kind: (study.truth == truth) & (study.kind == kind) for truth, kind in kinds}
    cells = [
        {kind: rate(study, candidate, lambda _, m=mask: m) for kind, mask in masks.items()}
        for candidate in study.candidates
    ]
    columns = [IDENTITY[0], Column("treats", "treats")]
    columns += [
        Column(k, f"{NUMERALS[TRUE[t]]} {k} % (n = {cells[0][k].n:,})", "percent") for t, k in kinds if cells[0][k]
    ]
    rows = [
        {**identity(candidate.candidate), "treats": treats_text(candidate, study), **row}
        for candidate, row in zip(study.candidates, cells, strict=True)
    ]
    caption = "Share of training rows unlearned, by the kind of planted row. 95 % intervals as above."
    return Table(f"{study.name}_by_kind", caption, columns + ORIGIN, rows)


def truth_table(study: Study) -> Table:
    """Precision, recall and F1 of detection, per seed and pooled, and of attribution, per cause and on average."""
    columns = [Column("what", "what"), Column("of", "of"), Column("seeds", "seeds")]
    columns += [
        Column(key, f"{label} %", "percent") for key, label in (("precision", "precision"), ("recall", "recall"))
    ]
    columns += [Column("f1", "F1 %", "percent"), Column("n", "n rows", "integer"), ORIGIN[1]]
    seed = {member.node: member.seed for member in study.plain.candidate.members}
    link = {m.node: [m.manifest_link] for m in study.plain.candidate.members if m.manifest_link}
    single = [([name], str(seed[name]), link.get(name)) for name in study.diagnosed]
    pooled = (
        [(study.diagnosed, seeds_text(study.plain.candidate), study.plain.candidate.links)] if len(single) > 1 else []
    )
    groups_of_seeds = [*single, *pooled]
    rows = []

    def line(what: str, of: str, seeds: str, links: list, counts: list) -> dict:
        scores = {"precision": precision_of(counts), "recall": recall_of(counts), "f1": f1_of(counts)}
        n = scores["f1"].n if scores["f1"] else 0
        return {"what": what, "of": of, "seeds": seeds, **scores, "n": n, "manifest": links}

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
        rows.append(line("attribution", numbered(cause), seeds, links, [counts[cause] for counts in of_seeds]))
    caption = (
        "Detection: the planted rows are what should be found. Attribution: among rows that are planted and found, an"
        " unassigned row counts against its cause; n: rows that were found or wanted, of one seed. 95 % Wilson"
        " intervals, that of F1 by way of hits of n, that of the mean combined; widened by the seeds."
    )
    return Table(f"{study.name}_truth", caption, columns, rows)


def confusion(study: Study) -> dict[tuple[str, str], float]:
    """Rows by (truth, attributed or "learned"), a mean over the seeds of the diagnosed candidate."""
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
        Column(given, numbered(given) if given != LEARNED else "learned", "tenths") for given in (*ATTRIBUTED, LEARNED)
    ]
    columns += [Column("n", "n rows", "tenths"), Column("seeds", "seeds"), ORIGIN[1]]
    rows = []
    for truth in TRUE:
        counts = {given: cells[truth, given] for given in (*ATTRIBUTED, LEARNED)}
        known = {"seeds": seeds_text(study.plain.candidate), "manifest": study.plain.candidate.links}
        rows.append({"truth": numbered(truth), **counts, "n": sum(counts.values()), **known})
    caption = say("confusion_caption", plain=study.plain.name)
    return Table(f"{study.name}_confusion", caption, columns, rows)
