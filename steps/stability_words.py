"""Stability and plasticity in words, all of them computed: the first screen's sentence and those of the section."""

from steps import peft_arena
from steps.arms import Arm, difference, forgetting
from steps.claims import grouped, percent, points, verdict_counts
from steps.stability import Arena, Pool, Stability, measure_label, pools, ranked
from steps.stability_claims import arena_text, pool_correlation
from steps.stability_figures import arena_name, best_measures, families_shown, points_name
from steps.stability_stats import LEAST_RECIPES, correlation
from steps.stability_tables import compact_arenas, compact_merges, compact_paths, path_tasks
from steps.tables import Estimate, Table, cell_text


def kept_most(stability: Stability) -> str:
    """Which arm of the largest arena kept most, and at what gain; "" where there is no choice."""
    arena = stability.arenas[0]
    if len(arena.arms) < 2:
        return ""
    best = ranked(arena)[0]
    return f"Of {len(arena.arms)} {arena_text(arena)}, {best.name} kept most: {_costs(best, arena)}."


def _costs(arm: Arm, arena: Arena) -> str:
    lost, gain = forgetting(arm, arena.root), difference(arm, arena.root, "target")
    if lost is None or gain is None:  # a graded metric: nothing is paired
        return f"{percent(arm.axis('general'))} general, {percent(arm.axis('target'))} target"
    return f"{points(lost)} forgotten for {points(gain)} gained"


def lead(arena: Arena) -> str:
    """What an arena compares, and its two ends."""
    first, last = ranked(arena)[0], ranked(arena)[-1]
    text = f"{len(arena.arms)} {arena_text(arena)}"
    if first is last:
        return f"{text.replace('arms', 'arm', 1)}: {first.name}, {_costs(first, arena)}. Nothing to compare it with."
    gained = max(arena.arms, key=lambda arm: arm.axis("target").value)
    text += f". {first.name} kept most: {_costs(first, arena)}. {last.name} kept least: {_costs(last, arena)}."
    return text + (f" {gained.name} gained most: {_costs(gained, arena)}." if gained not in (first, last) else "")


def published_sentence(arena: Arena) -> str:
    """How far the order of forgetting is that of the published table."""
    arms = {kind: arm for kind, arm in arena.of_kind.items() if peft_arena.of_kind(kind)}
    lost = [-arm.axis("general").value for arm in arms.values()]
    there = [peft_arena.of_kind(kind).forgetting for kind in arms]
    found = correlation(lost, there, list(arms), "spearman")
    if found is None:
        return ""
    text = cell_text("decimal", found) if isinstance(found, Estimate) else f"{found:.3f}, too few for an interval"
    return f"Over the {len(arms)} kinds of adapter that both measured, the rank correlation of forgetting is {text}."


def correlation_sentence(stability: Stability, pool: Pool) -> str:
    """Which measure goes with forgetting most, or why that is not said."""
    recipes = len(set(pool.families))
    if recipes < LEAST_RECIPES:
        return (
            f"{recipes} recipes were trained from {pool.root.name}: too few for intervals of correlations, which need"
            f" {LEAST_RECIPES}."
        )
    name = next(iter(best_measures(stability, pool)), None)
    found = name and pool_correlation(stability, pool, (name,), pool.forgetting, "spearman")
    if not isinstance(found, Estimate):
        return ""
    return (
        f"Over {found.n} checkpoints of {recipes} recipes trained from {pool.root.name}, forgetting goes most with"
        f" {measure_label(name)}: rank correlation {cell_text('decimal', found)}."
    )


def section(stability: Stability, made: dict[str, Table], drawn: dict[str, str]) -> dict:
    """What the section says beside its tables and figures."""
    trained = [pool for pool in pools(stability) if pool.over == "trained"]
    claims = made.get("arena_claims")
    return {
        "arenas": [
            {"lead": lead(arena), "figure": arena_name(i), "scored": scored, "moved": moved}
            for i, (arena, (scored, moved)) in enumerate(
                zip(stability.arenas, compact_arenas(made["arena"]), strict=True)
            )
        ],
        "families": families_shown(stability),
        "claims": grouped(claims) if claims else [],
        "verdicts": verdict_counts(claims) if claims else "",
        "published": published_sentence(stability.arenas[0]),
        "correlations": [text for pool in trained if (text := correlation_sentence(stability, pool))],
        "drifts": [name for name in drawn if name.startswith("drift_")],
        "trails": [points_name(trail) for trail in stability.trails],
        "rules": list(dict.fromkeys(run["rule"] for trail in stability.trails for run in trail.runs)),
        "paths": compact_paths(made["paths"]) if "paths" in made else None,
        "merges": compact_merges(made["merges"]) if "merges" in made else None,
        "path_tasks": path_tasks(stability),
    }
