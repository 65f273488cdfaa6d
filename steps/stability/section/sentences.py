"""Which sentences the section on stability and plasticity says, from which facts; their wording is in sentences.j2."""

from pathlib import Path

from steps.report.candidates import Candidate, difference, forgetting
from steps.report.claims import grouped, tally
from steps.report.sentences import Sentences
from steps.report.tables import Estimate, Table
from steps.stability.section import published as peft_arena
from steps.stability.section.claims import arena_text, set_correlation
from steps.stability.section.facts import Arena, CheckpointSet, Stability, checkpoint_sets, measure_label
from steps.stability.section.figures import arena_name, best_measures, points_name
from steps.stability.section.statistics import LEAST_RECIPES, correlation
from steps.stability.section.tables import compact_arenas, compact_merges, compact_paths, path_tasks

say = Sentences(Path(__file__).parent)


def kept_most(stability: Stability) -> str:
    """Which candidate of the largest arena kept most, and at what gain; "" where there is no choice."""
    arena = stability.arenas[0]
    if len(arena.candidates) < 2:
        return ""
    best = arena.chosen("general")
    return say(
        "kept_most",
        n=len(arena.candidates),
        arena=arena_text(arena),
        best=best.name,
        costs=_costs(best, arena),
        divided=not arena.parts.whole,
    )


def _costs(candidate: Candidate, arena: Arena) -> str:
    """By the questions that report."""
    ours, root = (arena.parts.reporting[one.name] for one in (candidate, arena.root))
    return say(
        "costs",
        lost=forgetting(ours, root),
        gain=difference(ours, root, "target"),
        general=ours.axis("general"),
        target=ours.axis("target"),
    )


def lead(arena: Arena) -> str:
    """What an arena compares, and its two ends."""

    def with_costs(candidate: Candidate) -> dict[str, str]:
        return {"name": candidate.name, "costs": _costs(candidate, arena)}

    if len(arena.candidates) == 1:
        return say("lead_of_one", arena=arena_text(arena), one=with_costs(arena.candidates[0]))
    first, last, gained = arena.chosen("general"), arena.chosen("general", min), arena.chosen("target")
    return say(
        "lead",
        n=len(arena.candidates),
        arena=arena_text(arena),
        most=with_costs(first),
        least=with_costs(last),
        gained=with_costs(gained) if gained not in (first, last) else None,
        divided=not arena.parts.whole,
    )


def published_sentence(arena: Arena) -> str:
    """How far the order of forgetting is that of the published table."""
    candidates = {kind: candidate for kind, candidate in arena.of_kind.items() if peft_arena.of_kind(kind)}
    lost = [-candidate.axis("general").value for candidate in candidates.values()]
    there = [peft_arena.of_kind(kind).forgetting for kind in candidates]
    rank = correlation(lost, there, list(candidates), "spearman")
    return "" if rank is None else say("published_order", kinds=len(candidates), rank=rank)


def correlation_sentence(stability: Stability, checkpoint_set: CheckpointSet) -> str:
    """Which measure goes with forgetting most, or why that is not said."""
    recipes, root = len(set(checkpoint_set.families)), checkpoint_set.root.name
    if recipes < LEAST_RECIPES:
        return say("too_few_recipes", recipes=recipes, root=root, least=LEAST_RECIPES)
    name = next(iter(best_measures(stability, checkpoint_set)), None)
    rank = name and set_correlation(stability, checkpoint_set, (name,), checkpoint_set.forgetting, "spearman")
    if not isinstance(rank, Estimate):
        return ""
    return say("goes_with_forgetting", recipes=recipes, root=root, measure=measure_label(name), rank=rank)


def page(stability: Stability, tables: dict[str, Table], figures: dict[str, str]) -> dict:
    """What the section says beside its tables and figures."""
    trained = [checkpoint_set for checkpoint_set in checkpoint_sets(stability) if checkpoint_set.over == "trained"]
    claims = tables.get("arena_claims")
    correlations = [correlation_sentence(stability, checkpoint_set) for checkpoint_set in trained]
    rules = (run["rule"] for interpolation in stability.interpolations for run in interpolation.runs)
    return {
        "arenas": [
            {"lead": lead(arena), "figure": arena_name(i), "scored": scored, "moved": moved}
            for i, (arena, (scored, moved)) in enumerate(
                zip(stability.arenas, compact_arenas(tables["arena"]), strict=True)
            )
        ],
        "claims": grouped(claims) if claims else [],
        "verdicts": tally(claims) if claims else "",
        "published": published_sentence(stability.arenas[0]),
        "correlations": [text for text in correlations if text],
        "drifts": [name for name in figures if name.startswith("drift_")],
        "interpolations": [points_name(interpolation) for interpolation in stability.interpolations],
        "rules": list(dict.fromkeys(rules)),
        "paths": compact_paths(tables["paths"]) if "paths" in tables else None,
        "merges": compact_merges(tables["merges"]) if "merges" in tables else None,
        "path_tasks": path_tasks(stability),
    }
