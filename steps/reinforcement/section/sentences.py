"""Which sentences of reinforcement learning are said, and the facts that fill them; sentences.j2 has their wording."""

from collections import Counter

from steps.reinforcement.section.completions import completions
from steps.reinforcement.section.disagreements import compact_disagreements
from steps.reinforcement.section.exploration_tables import compact_changes, compact_votes
from steps.reinforcement.section.facts import (
    MODES,
    Comparison,
    Reinforcement,
    counted,
    exploited,
    flags,
    gain,
    method,
    method_name,
    same_tokens,
    steps,
)
from steps.reinforcement.section.figures import curve_name, gain_name, majority_name, pass_name, trade_name
from steps.reinforcement.section.tables import compact_final, compact_monitoring
from steps.reinforcement.section.wording import say
from steps.report.budgets import TOLERANCE
from steps.report.candidates import Candidate, matched, settings_of
from steps.report.choice import best_on_dev
from steps.report.claims import grouped, tally
from steps.report.estimates import over_seeds
from steps.report.logs import spent
from steps.report.tables import Estimate, Table
from steps.settings.methods import METHODS
from steps.stats import intervals

GRPO = "grpo"
# Those that the papers behind the claims compare: GRPO and its self-distilled kin.
COMPARED = [name for name, entry in METHODS.items() if name == GRPO or entry.settings]
# Curves shown at once; the others are folded away.
CURVES = 6


# --- what was gained and lost --------------------------------------------------------------------


def measured_gain(study: Reinforcement, candidate: Candidate, other: Candidate) -> Estimate | None:
    """In pass@1 on the target or, where that was not sampled, in the greedy score."""
    return study.change(candidate, other, "pass@1") or gain(candidate, other, "target")


def best_kin(study: Reinforcement, comparison: Comparison) -> Candidate | None:
    """The best self-distilled candidate, by the questions that choose; where these were not asked, by its gain."""
    kin = [candidate for name, candidate in comparison.of_method.items() if name != GRPO]
    gains = {candidate.name: measured_gain(study, candidate, comparison.start) for candidate in kin}
    known = [candidate for candidate in kin if gains[candidate.name]]
    return best_on_dev(known, lambda candidate: gains[candidate.name].value)


def lead(study: Reinforcement) -> str:
    """Of the largest comparison, what GRPO, the best of its kin and the control gained; "" before any was measured."""
    comparison = study.comparisons[0]
    start = comparison.start
    named = [comparison.of_method.get(GRPO), best_kin(study, comparison), *comparison.controls]
    named = [candidate for candidate in named if candidate]
    sampled = {candidate.name: study.change(candidate, start, "pass@1") for candidate in named}
    greedy = {candidate.name: gain(candidate, start, "target") for candidate in named}
    for gains, task in ((sampled, study.target), (greedy, None)):
        named_gains = [
            {"name": candidate.name, "control": candidate.stage != "rl", "gain": gains[candidate.name]}
            for candidate in named
            if gains[candidate.name]
        ]
        if named_gains:
            return say("lead", start=start.name, task=task, gains=named_gains)
    return ""


def exploits(study: Reinforcement) -> list[str]:
    """Which runs seem to exploit their reward, one sentence or none."""
    runs = [(m.node, text) for candidate in study.candidates for m, text in exploited(candidate)]
    return [say("exploits", runs=runs)] if runs else []


def leads(study: Reinforcement, comparison: Comparison) -> list[str]:
    """On GRPO, on the best of its kin and on each control: a sentence or two."""
    of_method, start = comparison.of_method, comparison.start
    grpo, kin = of_method.get(GRPO), best_kin(study, comparison)
    paragraphs = []
    if grpo:
        who = say("of_method", name=grpo.name, method=method_name(grpo))
        paragraphs.append([_gained(study, start, grpo, who)])
    if kin:
        others = len([name for name in of_method if name != GRPO])
        who = say("best_of_kin", name=kin.name, method=method_name(kin), kin=others)
        more = measured_gain(study, kin, grpo) if grpo else None
        paragraphs.append([_gained(study, start, kin, who), say("against_grpo", change=more) if more else ""])
    for control in comparison.controls:
        gained = _gained(study, start, control, say("the_control", name=control.name, stage=control.stage))
        paragraphs.append([gained, _tokens(control, grpo or comparison.candidates[0]) if gained else ""])
    runs = sum(len(candidate.members) for candidate in comparison.candidates)
    said = [" ".join(filter(None, sentences)) for sentences in paragraphs if any(sentences)]
    return said or [say("unmeasured", runs=runs, start=start.name)]


def _gained(study: Reinforcement, start: Candidate, candidate: Candidate, who: str) -> str:
    once = study.change(candidate, start, "pass@1")
    greedy, general = (gain(candidate, start, axis) for axis in ("target", "general"))
    if not (once or greedy or general):
        return ""
    sampled = None
    if once:
        after, before = (study.level(side, study.target, "pass@1") for side in matched(candidate, start))
        sampled = {"task": study.target, "temperature": study.temperature}
        sampled |= {"before": before, "after": after, "change": once}
    return say("gained", who=who, sampled=sampled, greedy=greedy, general=general)


def _tokens(control: Candidate, candidate: Candidate) -> str:
    """What a control was trained on, and whether that is the budget of a candidate; "" where it is not known."""
    tokens, its_tokens = spent(candidate), spent(control)
    if not tokens or not its_tokens:
        return ""
    equal = same_tokens(candidate, control)
    return say(
        "trained_tokens", its_tokens=its_tokens, candidate=candidate.name, tokens=tokens, equal=equal,
        apart=TOLERANCE - 1,
    )  # fmt: skip


def budget(comparison: Comparison) -> str:
    """What the runs have in common; the first stands for all where they differ."""
    candidate = comparison.candidates[0]
    settings = settings_of(candidate)
    return say(
        "budget",
        start=comparison.start.name,
        steps=steps(candidate) or settings["steps"],
        prompts=settings["prompts"],
        generations=settings["generations"],
        generated=spent(candidate, "generated"),
        seeds=len(candidate.members),
    )


def reach(changes: Table, comparison: Comparison, target: str) -> str:
    """Which candidates did what to exploration of the target."""
    readings: dict[str, list[str]] = {}
    for row in changes.rows:
        if row["task"] == target and row["from"] == comparison.start.name:
            readings.setdefault(row["reads"], []).append(row["checkpoint"])
    return say("reach", readings=readings)


def votes(study: Reinforcement, comparison: Comparison) -> str:
    """Self-consistency of the start and of the best on dev, with and without the working; without dev of the one that
    votes best."""
    start, k = comparison.start, study.largest
    sentences = []
    for mode in MODES:
        levels = {a.name: study.level(a, study.target, f"majority@{k}", mode) for a in comparison.shown}
        known = {name: level for name, level in levels.items() if level}
        if start.name not in known:
            continue
        voting = [candidate for candidate in comparison.shown if candidate.name in known]
        best = best_on_dev(voting, lambda candidate, known=known: known[candidate.name].value).name
        once = study.level(start, study.target, "pass@1", mode)
        sentences.append(
            say("votes", mode=mode, k=k, start=start.name, majority=known[start.name], once=once, best=best,
                best_majority=known[best])
        )  # fmt: skip
    return " ".join(sentences)


# --- how the runs went ---------------------------------------------------------------------------


def warnings(study: Reinforcement) -> list[str]:
    """What was flagged of each candidate, in the words of its first flagged run."""
    sentences = []
    for candidate in study.candidates:
        runs: dict[str, list[str]] = {}
        for member, text in flags(candidate):
            runs.setdefault(member.node, []).append(text)
        if runs:
            node, texts = next(iter(runs.items()))
            count = {"flagged": len(runs), "runs": len(candidate.members)}
            sentences.append(say("warning", candidate=candidate.name, **count, node=node, flags=texts))
    return sentences


def failures(study: Reinforcement) -> str:
    """Rewards that raised and answers that ran out of time, over all runs."""
    failed = sum((counted(candidate, "failures") for candidate in study.candidates), Counter())
    late = sum(counted(candidate, "timeouts")["timeouts"] for candidate in study.candidates)
    manifests = [m.manifest for candidate in study.candidates for m in candidate.members if m.manifest]
    samples = sum(manifest["counts"].get("samples", 0) for manifest in manifests)
    return say("failures", samples=samples, failed=sorted(failed.items()), late=late)


def judges(study: Reinforcement) -> list[str]:
    """How well each reward model ranks pairs that it was not trained on."""
    sentences = []
    for name, runs in study.judges.items():
        rows = [run["accuracy"] for run in runs]
        value, n = sum(row["value"] for row in rows) / len(rows), rows[0]["n"]
        low, high = intervals.widen(value, intervals.wilson(value, n), [row["value"] for row in rows])
        accuracy = Estimate(value, max(0.0, low), min(1.0, high), rows[0]["stderr"], n)
        margin = over_seeds([run["margin"]["value"] for run in runs])
        sentences.append(say("judge", name=name, accuracy=accuracy, margin=margin))
    return sentences


def rows_that_train(study: Reinforcement) -> str:
    """How many rows train, and why the others do not, of the first node's gate."""
    nodes = [m.node for candidate in study.candidates for m in candidate.members if m.node in study.gates]
    if not nodes:
        return ""
    counts = study.gates[nodes[0]].counts
    left_out = sorted(counts["quarantined"].items())
    return say("rows_that_train", node=nodes[0], kept=counts["kept"], rows=counts["in"], left_out=left_out)


# --- the section ---------------------------------------------------------------------------------


def section(study: Reinforcement, tables: dict[str, Table], figures: dict[str, str]) -> dict:
    """What the section's template shows beside its tables and figures."""
    claims, votes_table = tables.get("reinforcement_claims"), tables.get("reinforcement_votes")
    wrong = tables.get("reinforcement_disagreements")
    curves = [name for name in figures if name.startswith(curve_name(""))]
    return {
        "comparisons": [_compared(study, i, tables) for i in range(len(study.comparisons))],
        "others": [METHODS[name].label for name in COMPARED if name not in map(method, study.candidates)],
        "curves": curves[:CURVES],
        "more_curves": curves[CURVES:],
        "seeds": max(len(candidate.members) for candidate in study.candidates),
        "passes": [name for of in (pass_name, gain_name) for task in study.tasks if (name := of(task)) in figures],
        "majorities": [name for mode in MODES if (name := majority_name(mode)) in figures],
        "votes": compact_votes(votes_table, study) if votes_table else None,
        "samples": study.largest if study.explored else 0,
        "target": study.target,
        "claims": grouped(claims) if claims else [],
        "verdicts": tally(claims) if claims else "",
        "monitoring": compact_monitoring(tables["reinforcement_monitoring"]),
        "exploits": exploits(study),
        "disagreements": compact_disagreements(wrong) if wrong else None,
        "warnings": warnings(study),
        "failures": failures(study),
        "judges": judges(study),
        "rows": rows_that_train(study),
    }


def _compared(study: Reinforcement, index: int, tables: dict[str, Table]) -> dict:
    comparison, changes = study.comparisons[index], tables.get("reinforcement_changes")
    return {
        "start": comparison.start.name,
        "budget": budget(comparison),
        "leads": leads(study, comparison),
        "final": compact_final(tables["reinforcement_final"], comparison),
        "trade": trade_name(index),
        "reach": reach(changes, comparison, study.target) if changes else "",
        "changed": compact_changes(changes, comparison, study.target) if changes else None,
        "votes": votes(study, comparison) if study.explored else "",
        "completions": completions(study, comparison),
    }
