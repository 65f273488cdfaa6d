"""Incomplete learning in words, all of them computed: the first screen's answer and the sentences of the section."""

from statistics import fmean

from steps.causes import LABELS
from steps.learning import ALL, Study, StudyArm
from steps.learning_rows import examples
from steps.learning_stats import contrast, rate, stability
from steps.learning_tables import cause_shares
from steps.tables import Estimate, Table, interval_text, number_text


def percent(estimate: Estimate, interval: bool = True) -> str:
    text = f"{number_text('percent', estimate.value)} %"
    return f"{text} {interval_text('percent', estimate)}" if interval else text


def best_treated(study: Study) -> StudyArm | None:
    """The arm that treats most causes where they were found; of several, the one that leaves least unlearned."""
    arms = [arm for arm in study.arms if arm.treatment]
    return max(arms, key=lambda arm: (len(arm.treats), -rate(study, arm, study.group(ALL)).value), default=None)


def first_screen(study: Study) -> dict:
    """{number, unit, text} of the question what was never learned, and why."""
    before, plain = rate(study, study.plain, study.group(ALL)), study.plain.name
    unlearned = round(before.value * before.n)
    unit = f"of {before.n:,} training rows after {plain}"
    if not study.unlearned:
        return {"number": "0", "unit": unit, "text": f"{plain} leaves none of them unlearned: no cause to look for."}
    shares = sorted(cause_shares(study).items(), key=lambda item: -item[1].value)
    causes = ", ".join(f"{100 * share.value:.0f} % {LABELS[cause]}" for cause, share in shares if share.value)
    text = f"{percent(before)} of the rows are unlearned; of these {causes}."
    if treated := best_treated(study):
        after = rate(study, treated, study.group(ALL))
        text += f" With {treated.name}, which treats {len(treated.treats)} of 5 causes: {percent(after)}."
    return {"number": f"{unlearned:,}", "unit": unit, "text": text}


def claim_sentences(claims: Table | None) -> list[dict]:
    """What the treatments keep of what they promise, {"text", "short": where they fall short, with the numbers}."""
    if claims is None:
        return [{"text": "No treated checkpoint has been examined yet.", "short": []}]
    sentences = []
    for by, named in (("attribution", "By attributed cause"), ("truth", "By planted cause"), ("–", "Over all rows")):
        rows = [row for row in claims.rows if row["by"] == by]
        if not rows:
            continue
        controlled = [row for row in rows if row.get("beats")]
        held, beaten = (sum(row[key] == "held" for row in rows if row.get(key)) for key in ("reached", "beats"))
        text = f"{named}, {held} of {len(rows)} treatments lower the rate by at least {rows[0]['bar']}"
        text += (
            f" and {beaten} of {len(controlled)} stay below every control of no larger budget."
            if controlled
            else "; no control was run."
        )
        sentences.append({"text": text, "short": [text for row in rows for text in _short(row)]})
    return sentences


def _short(row: dict) -> list[str]:
    """In which ways a claim is not held."""
    found = []
    name = f"{row['checkpoint']} on {row['cause']}"
    if row["reached"] != "held":
        text = f"{name}: lowered by {percent(row['reduction'])}, at least {row['bar']} is {row['reached']}"
        if pure := row.get("pure"):
            text += f"; {percent(pure)} of these rows were planted for that cause"
        found.append(f"{text}.")
    if row.get("beats", "held") != "held":
        margin = f"{number_text('points', row['margin'].value)} points {interval_text('points', row['margin'])}"
        found.append(
            f"{name}: below {row['control']} by {margin}, below every control of no larger budget is {row['beats']}."
        )
    return found


def stability_sentence(study: Study) -> str:
    found = stability(study)
    if found is None:
        return "One seed was diagnosed: how stable the set of unlearned rows is over seeds is not measured."
    pairs = [value for _, value in found["jaccard"] if value is not None]
    text = f"Over {len(study.diagnosed)} seeds and {found['n']:,} rows"
    if pairs:
        text += (
            f", two seeds share {100 * fmean(pairs):.0f} % of the rows that either leaves unlearned (Jaccard; least"
            f" {100 * min(pairs):.0f}, most {100 * max(pairs):.0f})"
        )
    if kappa := found["kappa"]:
        text += f"; Fleiss' kappa is {kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
    if same := found["same_cause"]:
        text += f"; of the {same.n:,} rows unlearned in every seed {percent(same)} get one cause in all of them"
    return text + "."


def section(study: Study, claims: Table | None) -> dict:
    """What the section of a study says beside its tables and figures."""
    before = rate(study, study.plain, study.group(ALL))
    treated = best_treated(study)
    lowered = contrast(study, treated, study.plain, study.group(ALL), relative=True) if treated else None
    lead = f"After {study.plain.name}, {percent(before)} of the {before.n:,} rows examined are unlearned."
    if not study.unlearned:
        lead = f"After {study.plain.name}, none of the {before.n:,} rows examined is unlearned: nothing to attribute."
    elif lowered:
        after = rate(study, treated, study.group(ALL))
        lead += f" {treated.name} leaves {percent(after)}, a relative reduction of {percent(lowered)}."
    return {
        "name": study.name,
        "plain": study.plain.name,
        "node": study.diagnosed[0],
        "unlearned": study.unlearned,
        "truth": study.truth is not None,
        "samples": study.settings["samples"],
        "threshold": study.settings["threshold"],
        "lead": lead,
        "claims": claim_sentences(claims) if study.unlearned else [],
        "stability": stability_sentence(study),
        "excluded": study.excluded,
        "excluded_rows": sum(entry["rows"] for entry in study.excluded),
        "shown": len(study.rows),
        "of": int(study.detected[study.diagnosed[0]].unlearned.sum()),
        "examples": examples(study.rows),
    }
