"""Reinforcement learning in words, all of them computed: the first screen's sentence and those of the section."""

from collections import Counter

from steps import estimators
from steps.arms import Arm
from steps.claims import grouped, percent, points, verdict_counts
from steps.reinforcement import (
    METHODS,
    SAME_TOKENS,
    Comparison,
    Reinforcement,
    counted,
    flags,
    gain,
    matched,
    method,
    method_name,
    same_tokens,
    settings_of,
    spent,
)
from steps.reinforcement_figures import curve_name, gain_name, majority_name, pass_name, trade_name
from steps.reinforcement_tables import (
    MODE_LABELS,
    compact_changes,
    compact_final,
    compact_monitoring,
    compact_votes,
    steps,
    temperature,
)
from steps.stability_stats import over_seeds
from steps.tables import Estimate, Table, cell_text
from steps.text import shorten

PROMPT_CHARS, RESPONSE_CHARS = 700, 500
GRPO = "grpo"
# Curves shown at once; the others are folded away.
CURVES = 6


# --- what was gained and lost --------------------------------------------------------------------


def measured_gain(found: Reinforcement, comparison: Comparison, arm: Arm) -> Estimate | None:
    """In pass@1 on the target or, where nothing was explored, in its greedy score."""
    return found.change(arm, comparison.start, "pass@1") or gain(arm, comparison.start, "target")


def best_kin(found: Reinforcement, comparison: Comparison) -> Arm | None:
    """The self-distilled arm that gained most."""
    kin = [(arm, measured_gain(found, comparison, arm)) for name, arm in comparison.of_method.items() if name != GRPO]
    known = [(arm, estimate.value) for arm, estimate in kin if estimate]
    return max(known, key=lambda pair: pair[1])[0] if known else None


def first_screen(found: Reinforcement) -> str:
    """Of the largest comparison, what GRPO, the best of its kin and the control gained; "" before any was measured."""
    comparison = found.comparisons[0]
    named = [comparison.of_method.get(GRPO), best_kin(found, comparison), *comparison.controls]
    named = [arm for arm in named if arm]
    sampled = {arm.name: found.change(arm, comparison.start, "pass@1") for arm in named}
    greedy = {arm.name: gain(arm, comparison.start, "target") for arm in named}
    for told, what in ((sampled, f"pass@1 on {found.target}"), (greedy, "the target, greedy")):
        each = [f"{_named(arm)} {points(told[arm.name])}" for arm in named if told[arm.name]]
        if each:
            return f"Reinforcement learning from {comparison.start.name}, in {what}: {', '.join(each)}."
    return ""


def _named(arm: Arm) -> str:
    return arm.name if arm.stage == "rl" else f"the control {arm.name}"


def leads(found: Reinforcement, comparison: Comparison) -> list[str]:
    """A sentence or two on GRPO, on the best of its kin and on each control."""
    arms, start = comparison.of_method, comparison.start
    told = []
    grpo, kin = arms.get(GRPO), best_kin(found, comparison)
    if grpo:
        told.append(_gained(found, comparison, grpo, _called(grpo)))
    if kin:
        others = len([name for name in arms if name != GRPO])
        text = _gained(found, comparison, kin, _called(kin) + (f", the best of {others} kin" if others > 1 else ""))
        more = (found.change(kin, grpo, "pass@1") or gain(kin, grpo, "target")) if grpo else None
        told.append(text + (f" Against GRPO: {points(more)}." if more else ""))
    for control in comparison.controls:
        text = _gained(found, comparison, control, f"The control {control.name} ({control.stage})")
        told.append(text and text + _tokens(control, grpo or comparison.arms[0]))
    measured = [text for text in told if text]
    runs = sum(len(arm.members) for arm in comparison.arms)
    return measured or [f"Of {runs} runs from {start.name} none has been measured on the target."]


def _tokens(control: Arm, arm: Arm) -> str:
    """What a control was trained on, and whether that is the budget of an arm."""
    ours, theirs = spent(arm), spent(control)
    if not ours or not theirs:
        return ""
    unequal = f": more than {100 * (SAME_TOKENS - 1):.0f} % apart, so that no claim rests on the two"
    return (
        f" It was trained on {theirs:,} tokens, {arm.name} on {ours:,}{'' if same_tokens(arm, control) else unequal}."
    )


def _called(arm: Arm) -> str:
    name = method_name(arm)
    return name if arm.name == name.lower() else f"{name} ({arm.name})"


def _gained(found: Reinforcement, comparison: Comparison, arm: Arm, who: str) -> str:
    start = comparison.start
    once = found.change(arm, start, "pass@1")
    greedy, general = (gain(arm, start, axis) for axis in ("target", "general"))
    parts = []
    if once:
        after, before = (found.level(side, found.target, "pass@1") for side in matched(arm, start))
        where = f"pass@1 on {found.target} (T = {temperature(found):g})"
        parts.append(f"{where} {percent(before)} → {percent(after)}, {points(once)}")
    if greedy:
        parts.append(f"greedy {points(greedy)}")
    if general:
        parts.append(f"general {points(general)}")
    return f"{who}: {'; '.join(parts)}." if parts else ""


def budget(comparison: Comparison) -> str:
    """What the runs have in common; the first stands for all where they differ."""
    arm = comparison.arms[0]
    own = settings_of(arm)
    seeds = len(arm.members)
    text = f"From {comparison.start.name}, {steps(arm) or own['steps']} steps of {own['prompts']} prompts with"
    text += f" {own['generations']} samples each"
    made = spent(arm, "generated")
    return text + (f", {made:,} tokens generated" if made else "") + f"; {seeds} seed{'s' if seeds > 1 else ''}."


def reach(changes: Table, comparison: Comparison, target: str) -> str:
    """Which arms did what to exploration of the target."""
    readings: dict[str, list[str]] = {}
    for row in changes.rows:
        if row["task"] == target and row["from"] == comparison.start.name:
            readings.setdefault(row["reads"], []).append(row["checkpoint"])
    return "; ".join(f"{said}: {', '.join(names)}" for said, names in readings.items())


def votes(found: Reinforcement, comparison: Comparison) -> str:
    """Self-consistency of the start and of the arm that votes best, with and without the working."""
    k, told = found.largest, []
    for mode, how in (("cot", "With the working written out"), ("direct", "With the answer only")):
        levels = {a.name: found.level(a, found.target, f"majority@{k}", mode) for a in comparison.shown}
        known = {name: level for name, level in levels.items() if level}
        start = comparison.start
        if start.name not in known:
            continue
        best = max(known, key=lambda name: known[name].value)
        once = found.level(start, found.target, "pass@1", mode)
        text = f"{how}, the majority of {k} is right for {percent(known[start.name])} under {start.name}"
        text += f" (one sample {percent(once)})"
        told.append(text + (f", at best {percent(known[best])} under {best}." if best != start.name else ", the most."))
    return " ".join(told)


# --- monitoring ----------------------------------------------------------------------------------


def warnings(found: Reinforcement) -> list[str]:
    """What was flagged of each arm, in the words of its first flagged run."""
    told = []
    for arm in found.arms:
        runs: dict[str, list[str]] = {}
        for member, text in flags(arm):
            runs.setdefault(member.node, []).append(text)
        if runs:
            node, texts = next(iter(runs.items()))
            told.append(f"{arm.name}, {len(runs)} of {len(arm.members)} runs; {node}: {'; '.join(texts)}.")
    return told


def failures(found: Reinforcement) -> str:
    """Rewards that raised and answers that ran out of time, over all runs."""
    failed = sum((counted(arm, "failures") for arm in found.arms), Counter())
    late = sum(counted(arm, "timeouts")["timeouts"] for arm in found.arms)
    samples = sum(m.manifest["counts"].get("samples", 0) for arm in found.arms for m in arm.members if m.manifest)
    text = ", ".join(f"{name} {n:,}" for name, n in sorted(failed.items()))
    failing = f"a reward failed on {sum(failed.values()):,} ({text})" if text else "no reward failed"
    waiting = f"{late:,} answers ran into the time limit" if late else "none ran into the time limit"
    return f"Of {samples:,} samples {failing}; {waiting}."


def judges(found: Reinforcement) -> list[str]:
    """How well each reward model ranks pairs that it was not trained on."""
    told = []
    for name, runs in found.judges.items():
        rows = [run["accuracy"] for run in runs]
        value, n = sum(row["value"] for row in rows) / len(rows), rows[0]["n"]
        low, high = estimators.widen(value, estimators.wilson(value, n), [row["value"] for row in rows])
        right = Estimate(value, max(0.0, low), min(1.0, high), rows[0]["stderr"], n)
        told.append(
            f"The reward model {name} ranks the better response first in {cell_text('percent', right)} % of {n:,}"
            f" held-out pairs{_margin(runs)}."
        )
    return told


def _margin(runs: list[dict]) -> str:
    margins = over_seeds([run["margin"]["value"] for run in runs])
    return f", by a mean margin of {cell_text('number', margins)}" if margins is not None else ""


def let_through(found: Reinforcement) -> str:
    """How many rows train, and why the others do not, of the first node's gate."""
    node = next((m.node for arm in found.arms for m in arm.members if m.node in found.gates), None)
    if node is None:
        return ""
    counts = found.gates[node].counts
    why = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in sorted(counts["quarantined"].items()))
    text = f"{counts['kept']:,} of {counts['in']:,} rows train {node}"
    return text + (f"; left out: {why}." if why else ".")


# --- sampled completions -------------------------------------------------------------------------


def completions(found: Reinforcement, comparison: Comparison) -> list[dict]:
    """A prompt of the first and one of the last step, with a sample of each arm's group: of those that most arms
    answered, the one on which most groups disagree."""
    groups = {arm.name: found.rollouts.get(arm.members[0].node) for arm in comparison.arms}
    groups = {name: rows for name, rows in groups.items() if rows}
    shown = []
    for place, when in ((0, "first step"), (-1, "last step")):
        at = {name: _of_step(rows, place) for name, rows in groups.items()}
        ids = [id for rows in at.values() for id in rows]
        if not ids:
            continue
        mixed = [id for rows in at.values() for id, group in rows.items() if any(group["advantages"])]
        chosen = max(dict.fromkeys(ids), key=lambda id: (ids.count(id), mixed.count(id)))  # noqa: B023 (at once)
        answered = {name: rows[chosen] for name, rows in at.items() if chosen in rows}
        first = next(iter(answered.values()))
        shown.append(
            {
                "when": when,
                "step": first["step"],
                "id": chosen,
                "prompt": shorten(first["prompt"], PROMPT_CHARS, end=True),
                "reference": first["answer"],
                "replies": [_reply(found.every[name], group) for name, group in answered.items()],
            }
        )
    return shown


def _of_step(rows: list[dict], place: int) -> dict[str, dict]:
    """Row id → group, of the first or last step that was kept."""
    return {row["id"]: row for row in rows if row["step"] == rows[place]["step"]}


def _reply(arm: Arm, group: dict) -> dict:
    """The first sample of a group, with how many of it are correct."""
    success = settings_of(arm)["success"]
    right = [value >= success["least"] for value in group["rewards"][success["reward"]]]
    return {
        "name": arm.name,
        "right": right[0],
        "share": f"{sum(right)} of {len(right)} correct",
        "text": shorten(group["responses"][0], RESPONSE_CHARS),
    }


# --- the section ---------------------------------------------------------------------------------


def section(found: Reinforcement, made: dict[str, Table], drawn: dict[str, str]) -> dict:
    """What the section says beside its tables and figures."""
    claims, changes = made.get("reinforcement_claims"), made.get("reinforcement_changes")
    curves = [name for name in drawn if name.startswith(curve_name(""))]
    return {
        "comparisons": [
            {
                "start": comparison.start.name,
                "budget": budget(comparison),
                "leads": leads(found, comparison),
                "final": compact_final(made["reinforcement_final"], comparison),
                "trade": trade_name(i),
                "reach": reach(changes, comparison, found.target) if changes else "",
                "changed": compact_changes(changes, comparison, found.target) if changes else None,
                "votes": votes(found, comparison) if found.explored else "",
                "completions": completions(found, comparison),
            }
            for i, comparison in enumerate(found.comparisons)
        ],
        "others": [name for key, name in METHODS.items() if key not in map(method, found.arms)],
        "curves": curves[:CURVES],
        "more_curves": curves[CURVES:],
        "seeds": max(len(arm.members) for arm in found.arms),
        "passes": [name for of in (pass_name, gain_name) for task in found.tasks if (name := of(task)) in drawn],
        "majorities": [name for mode in MODE_LABELS if (name := majority_name(mode)) in drawn],
        "votes": compact_votes(made["reinforcement_votes"], found) if "reinforcement_votes" in made else None,
        "samples": found.largest if found.explored else 0,
        "target": found.target,
        "claims": grouped(claims) if claims else [],
        "verdicts": verdict_counts(claims) if claims else "",
        "monitoring": compact_monitoring(made["reinforcement_monitoring"]),
        "warnings": warnings(found),
        "failures": failures(found),
        "judges": judges(found),
        "rows": let_through(found),
    }
