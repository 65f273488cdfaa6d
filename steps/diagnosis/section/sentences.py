"""Which sentences the section on incomplete learning says, from which facts; their wording is in sentences.j2."""

from collections import Counter
from pathlib import Path
from statistics import fmean

from steps.diagnosis.causes import LABELS
from steps.diagnosis.section.facts import ALL, Study, StudyCandidate
from steps.diagnosis.section.rows import examples
from steps.diagnosis.section.statistics import contrast, rate, stability
from steps.diagnosis.section.tables import cause_shares
from steps.report.claims import grouped, tally
from steps.report.section import Unlearned
from steps.report.sentences import Sentences
from steps.report.tables import Table, number_text

say = Sentences(Path(__file__).parent)


def best_treated(study: Study) -> StudyCandidate | None:
    """The candidate that treats most causes where they were found; of several, the one that leaves least unlearned."""
    candidates = [candidate for candidate in study.candidates if candidate.treatment]
    return max(
        candidates,
        key=lambda candidate: (len(candidate.treats), -rate(study, candidate, study.group(ALL)).value),
        default=None,
    )


# --- the first screen ----------------------------------------------------------------------------


def unlearned(studies: list[Study]) -> list[Unlearned]:
    return [_unlearned(study) for study in studies]


def _unlearned(study: Study) -> Unlearned:
    """What was never learned, and why."""
    before, plain = rate(study, study.plain, study.group(ALL), alone=True), study.plain.name
    unit = say("unit", n=before.n, plain=plain)
    if not study.unlearned:
        return Unlearned(plain, "0", unit, say("none_unlearned", plain=plain))
    shares = sorted(cause_shares(study).items(), key=lambda item: -item[1].value)
    treated = best_treated(study)
    text = say(
        "unlearned",
        before=before,
        causes=[(share.value, LABELS[cause]) for cause, share in shares if share.value],
        treated=treated
        and {
            "name": treated.name,
            "causes": len(treated.treats),
            "after": rate(study, treated, study.group(ALL)),
        },
    )
    return Unlearned(plain, number_text("integer", round(before.value * before.n)), unit, text)


# --- the section ---------------------------------------------------------------------------------


def leads(studies: list[Study]) -> str:
    """Of the first study."""
    return lead(studies[0])


def lead(study: Study) -> str:
    """What is unlearned, and what the best treatment leaves of it."""
    treated = best_treated(study)
    reduction = contrast(study, treated, study.plain, study.group(ALL), relative=True) if treated else None
    return say(
        "lead",
        plain=study.plain.name,
        before=rate(study, study.plain, study.group(ALL), alone=True),
        unlearned=study.unlearned,
        treated=reduction
        and {"name": treated.name, "after": rate(study, treated, study.group(ALL)), "reduction": reduction},
    )


def claim_sentences(claims: Table | None) -> list[dict]:
    """What the treatments keep of what they promise, {"text", "short": where they fall short, with the numbers}."""
    if claims is None:
        return [{"text": say("no_claims"), "short": []}]
    sentences = []
    for by in ("attribution", "truth", "–"):
        rows = [row for row in claims.rows if row["by"] == by]
        if not rows:
            continue
        held, beaten = (sum(row[key] == "held" for row in rows if row.get(key)) for key in ("reached", "beats"))
        text = say(
            "claims",
            by=by,
            held=held,
            total=len(rows),
            bar=rows[0]["bar"],
            beaten=beaten,
            controlled=sum(bool(row.get("beats")) for row in rows),
        )
        sentences.append({"text": text, "short": [text for row in rows for text in _short(row)]})
    return sentences


def _short(row: dict) -> list[str]:
    """In which ways a claim is not held."""
    ways = []
    which = {"checkpoint": row["checkpoint"], "cause": row["cause"]}
    if row["reached"] != "held":
        known = {key: row[key] for key in ("reduction", "bar", "reached")}
        ways.append(say("not_lowered", **which, **known, pure=row.get("pure")))
    if row.get("beats", "held") != "held":
        ways.append(say("not_below_controls", **which, **{key: row[key] for key in ("control", "margin", "beats")}))
    return ways


def stability_sentence(study: Study) -> str:
    over_seeds = stability(study)
    if over_seeds is None:
        return say("one_seed")
    pairs = [value for _, value in over_seeds["jaccard"] if value is not None]
    return say(
        "over_seeds",
        seeds=len(study.diagnosed),
        rows=over_seeds["n"],
        jaccard={"mean": fmean(pairs), "least": min(pairs), "most": max(pairs)} if pairs else None,
        kappa=over_seeds["kappa"],
        same_cause=over_seeds["same_cause"],
    )


def page(studies: list[Study], tables: dict[str, Table], figures: dict[str, str]) -> dict:
    """What the section says beside its tables and figures."""
    return {"studies": [study_page(study, tables) for study in studies]}


def rows_page(studies: list[Study], tables: dict[str, Table]) -> dict:
    """The page of unlearned rows, of every study."""
    rows = [row for study in studies for row in study.rows]
    return {
        **page(studies, tables, {}),
        "rows": rows,
        "causes": Counter(row["label"] for row in rows).most_common(),
        "domains": sorted(Counter(row["domain"] for row in rows).items()),
    }


def study_page(study: Study, tables: dict[str, Table]) -> dict:
    """What the section says of one study."""
    claims, findings = tables.get(f"{study.name}_claims"), tables.get(f"{study.name}_findings")
    return {
        "name": study.name,
        "node": study.diagnosed[0],
        "unlearned": study.unlearned,
        "truth": study.truth is not None,
        "samples": study.settings["samples"],
        "threshold": study.settings["threshold"],
        "lead": lead(study),
        "by_cause": say("by_cause_figure", plain=study.plain.name),
        "claims": claim_sentences(claims) if study.unlearned else [],
        "findings": grouped(findings) if findings else [],
        "verdicts": tally(findings) if findings else "",
        "stability": stability_sentence(study),
        "excluded": study.excluded,
        "excluded_rows": sum(entry["rows"] for entry in study.excluded),
        "shown": len(study.rows),
        "of": int(study.detected[study.diagnosed[0]].unlearned.sum()),
        "examples": examples(study.rows),
    }
