"""The tables of stability and plasticity: the arena, its cost, the published numbers, correlations, paths, merges."""

from pathlib import Path
from statistics import fmean

from steps.report.candidates import Candidate, difference, forgetting
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.estimates import over_seeds
from steps.report.language import tr
from steps.report.sentences import Sentences
from steps.report.tables import Column, Estimate, Table, number_text, setting_text
from steps.stability.section import published as peft_arena
from steps.stability.section.claims import arena_text, chosen_text, claims_table, overshoot, set_correlation
from steps.stability.section.facts import (
    Arena,
    CheckpointSet,
    Interpolation,
    Stability,
    adapter_kind,
    adapter_text,
    checkpoint_sets,
    measure_label,
    ranked,
    short_name,
    trained_parameters,
)
from steps.stability.section.statistics import LEAST_RECIPES, point
from steps.stats.bootstrap import RESAMPLES

say = Sentences(Path(__file__).parent)

# Of the measures, those that the arena shows; all of them are in the table of geometry.
SHOWN_MEASURES = {
    "csd_un_general": "drift, normalised",
    "csd_rel_general": "drift, relative",
    "procrustes_general": "Procrustes",
    "cka_general": "CKA",
    "stable_rank": "stable rank",
}
SCORES = [
    Column("target", "target %", "percent"),
    Column("gain", "gain, points", "points"),
    Column("general", "general %", "percent"),
    Column("forgetting", "forgetting, points", "points"),
]
# What candidates have in common that are compared.
COMPARED = [Column("root", "from", "code"), Column("data", "data"), Column("tokens", "tokens", "integer")]


def _compared(arena: Arena) -> dict:
    return {"root": arena.root.name, "data": arena.data, "tokens": arena.tokens}


def scores(candidate: Candidate, root: Candidate) -> dict:
    """Both axes, and what was gained and forgotten since the root."""
    target, general = candidate.axis("target"), candidate.axis("general")
    trained = candidate is not root
    return {
        "target": target,
        "gain": difference(candidate, root, "target") if trained else None,
        "general": general,
        "forgetting": forgetting(candidate, root) if trained else None,
        "n": " / ".join(str(e.n) if e else "–" for e in (target, general)),
    }


# --- the arena -----------------------------------------------------------------------------------


def arena_table(stability: Stability) -> Table:
    columns = [IDENTITY[0], Column("adapter", "adapter"), Column("trained", "trained parameters", "integer"), *SCORES]
    columns += [Column(name, label, "number") for name, label in SHOWN_MEASURES.items()]
    columns += [Column("n", "n"), *COMPARED, *ORIGIN]
    rows = []
    for arena in stability.arenas:
        for candidate in (arena.root, *ranked(arena)):
            rows.append(
                {
                    **identity(candidate),
                    "adapter": adapter_text(candidate),
                    "trained": trained_parameters(candidate) if candidate is not arena.root else None,
                    **scores(candidate, arena.root),
                    **{name: over_seeds(stability.values(candidate, name)) for name in SHOWN_MEASURES},
                    **_compared(arena),
                    "short": short_name(candidate, arena),
                }
            )
    caption = say("arena_caption")
    return Table("arena", caption, columns, rows)


def compact_arenas(table: Table) -> list[tuple[Table, Table]]:
    """For the page: the scores of each arena, and how far its candidates moved, from the table of all arenas."""
    arenas = []
    for key in dict.fromkeys(_key(row) for row in table.rows):
        rows = [row for row in table.rows if _key(row) == key]
        levels = [" / ".join(number_text("percent", row[axis].value) for axis in ("target", "general")) for row in rows]
        name = Column("short", "checkpoint", "code")
        columns = [
            name,
            Column("adapter", "adapter"),
            Column("trained", "trained", "integer"),
            Column("levels", "target / general"),
        ]
        columns += [Column("gain", "gain", "points"), Column("forgetting", "forgetting", "points")]
        caption = "Scores in percent, gain and forgetting in points; least forgetting first. With n and seeds:"
        scored = Table(table.name, caption, columns, [r | {"levels": v} for r, v in zip(rows, levels, strict=True)])
        columns = [name, *(c for c in table.columns if c.key in SHOWN_MEASURES)]
        plain = [{key: _plain(row[key]) for key in SHOWN_MEASURES} for row in rows]
        caption = "Means over modules and seeds, on general prompts. With intervals:"
        moved = Table(table.name, caption, columns, [r | v for r, v in zip(rows, plain, strict=True)][1:])
        arenas.append((scored, moved))
    return arenas


def _key(row: dict) -> tuple:
    return tuple(row[column.key] for column in COMPARED)


def _plain(value: Estimate | float | None) -> float | None:
    """Three digits without an interval."""
    value = value.value if isinstance(value, Estimate) else value
    return None if value is None else float(f"{value:.3g}")


def timing_adapters_table(stability: Stability) -> Table | None:
    """Time and memory of every trained candidate, and over those of full fine-tuning there. Alone holds times."""
    columns = [IDENTITY[0], Column("adapter", "adapter"), Column("seconds", "seconds", "tenths")]
    columns += [Column("speed", "tokens/s", "integer"), Column("peak_mib", "peak memory, MiB", "tenths")]
    columns += [Column("time_ratio", "time / full", "decimal"), Column("memory_ratio", "memory / full", "decimal")]
    columns += [*COMPARED, *ORIGIN]
    rows = []
    for arena in stability.arenas:
        cost = {candidate.name: _cost(candidate) for candidate in arena.candidates}
        full = cost.get(arena.of_kind["full"].name) if "full" in arena.of_kind else None
        for candidate in arena.candidates:
            if cost[candidate.name]:
                seconds, speed, peak = cost[candidate.name]
                ratios = {"time_ratio": seconds / full[0], "memory_ratio": peak / full[2]} if full else {}
                known = {"seconds": seconds, "speed": round(speed), "peak_mib": peak}
                rows.append(
                    {
                        **identity(candidate),
                        "adapter": adapter_text(candidate),
                        **known,
                        **ratios,
                        "of": arena_text(arena),
                    }
                )
    caption = (
        "The whole step, loading and saving included, as a mean over seeds; peak memory of its process. Ratios to full"
        " fine-tuning with the same tokens. A training that was interrupted counts from where it went on."
    )
    return Table("timing_adapters", caption, columns, rows) if rows else None


def _cost(candidate: Candidate) -> tuple[float, float, float] | None:
    """Seconds, tokens a second, peak MiB."""
    records = [m.provenance for m in candidate.members if m.provenance and m.provenance["tokens"]]
    if not records:
        return None
    return (
        fmean(r["seconds"] for r in records),
        fmean(r["tokens"] / r["seconds"] for r in records),
        fmean(r["peak_memory_mib"] for r in records),
    )


def published_table(stability: Stability) -> Table:
    """PEFT-Arena's averages beside the largest arena here, the method that forgets least there first."""
    arena = stability.arenas[0]
    columns = [Column("method", "PEFT-Arena's method"), Column("there_trained", "trained there, M")]
    columns += [Column("there_gain", "gain there", "points"), Column("there_forgetting", "forgetting there", "points")]
    columns += [IDENTITY[0], Column("trained", "trained here", "integer"), Column("gain", "gain here", "points")]
    columns += [Column("forgetting", "forgetting here", "points"), Column("n", "n"), *ORIGIN]
    candidates = dict(arena.of_kind)
    rows = []
    for method in sorted(peft_arena.methods().values(), key=lambda m: m.forgetting):
        stands = peft_arena.REPRESENTS.get(method.kind) == method.name
        here = candidates.pop(method.kind, None) if stands else None
        rows.append(
            {
                "method": method.name,
                "there_trained": " / ".join(f"{count:,g}" for count in method.trained_millions),
                "there_gain": method.gain / 100,
                "there_forgetting": method.forgetting / 100,
                **(_here(here, arena) if here else {}),
            }
        )
    rows += [{"method": "–", **_here(candidate, arena)} for candidate in candidates.values()]
    caption = say("published_caption", citation=peft_arena.CITATION, arena=arena_text(arena))
    return Table("arena_published", caption, columns, rows)


def _here(candidate: Candidate, arena: Arena) -> dict:
    known = scores(candidate, arena.root)
    return {**identity(candidate), "trained": trained_parameters(candidate)} | {
        k: known[k] for k in ("gain", "forgetting", "n")
    }


# --- geometry ------------------------------------------------------------------------------------


def geometry_table(stability: Stability) -> Table | None:
    """Every measure of every checkpoint that has been measured."""
    if not stability.moved:
        return None
    columns = [IDENTITY[0], Column("adapter", "adapter")]
    columns += [Column(name, measure_label(name), "number") for name in stability.measures] + ORIGIN
    candidates = [
        candidate for candidate in stability.candidates if any(m.node in stability.moved for m in candidate.members)
    ]
    rows = [
        {**identity(candidate), "adapter": adapter_text(candidate)}
        | {name: over_seeds(stability.values(candidate, name)) for name in stability.measures}
        for candidate in candidates
    ]
    caption = "Means over the modules measured; brackets: 95 % intervals over seeds. modules.csv has every module."
    return Table("geometry", caption, columns, rows)


def correlations_table(stability: Stability) -> Table | None:
    """Every measure against forgetting and gain."""
    columns = [Column("over", "over"), Column("measure", "measure")]
    for outcome in ("forgetting", "gain"):
        columns += [Column(f"{outcome}_{c}", f"{outcome}, {c.title()}", "decimal") for c in ("pearson", "spearman")]
    columns += [Column("published", "PEFT-Arena, Pearson / Spearman"), Column("n", "n checkpoints", "integer")]
    columns += [Column("recipes", "recipes", "integer"), Column("seeds", "seeds")]
    rows = [
        _correlation_row(stability, checkpoint_set, name)
        for checkpoint_set in checkpoint_sets(stability)
        for name in stability.measures
    ]
    caption = say("correlations_caption", resamples=RESAMPLES, least=LEAST_RECIPES)
    return Table("geometry_correlations", caption, columns, rows) if rows else None


def _correlation_row(stability: Stability, checkpoint_set: CheckpointSet, name: str) -> dict:
    places = checkpoint_set.measured(stability, (name,))
    correlations = {
        f"{outcome}_{coefficient}": set_correlation(
            stability, checkpoint_set, (name,), getattr(checkpoint_set, outcome), coefficient
        )
        for outcome in ("forgetting", "gain")
        for coefficient in ("pearson", "spearman")
    }
    published = peft_arena.CORRELATIONS.get(name)
    against = "gain" if name.endswith("_target") else "forgetting"
    numbers = " / ".join(f"{value:.3f}".replace("-", "−") for value in published or ())
    seeds = sorted({seed for i in places for seed in checkpoint_set.candidates[i].seeds})
    return {
        "over": tr("{over}, from {root}", over=tr(checkpoint_set.over), root=checkpoint_set.root.name),
        "measure": measure_label(name),
        **correlations,
        "published": f"{numbers} ({against})" if published else None,
        "n": len(places),
        "recipes": len({checkpoint_set.families[i] for i in places}),
        "seeds": " ".join(map(str, seeds)),
    }


# --- paths and merges ----------------------------------------------------------------------------


def path_text(interpolation: Interpolation) -> str:
    generator = interpolation.settings.get("generator")
    return interpolation.settings["path"] + (f" ({generator})" if generator else "")


def paths_table(stability: Stability) -> Table | None:
    columns = [IDENTITY[0], Column("start", "from", "code"), Column("end", "to", "code"), Column("path", "path")]
    columns += [Column("rewind", "rewinding"), Column("alpha", "chosen alpha"), *SCORES]
    columns += [Column("more_target", "target less the end's", "points")]
    columns += [Column("more_general", "general less the end's", "points"), Column("overshoot", "end overshoots")]
    columns += [Column("rule", "rule"), Column("n", "n"), *ORIGIN]
    rows = []
    for interpolation in stability.interpolations:
        beyond = overshoot(interpolation)
        evaluated = interpolation.candidate.axis("target") and interpolation.candidate.axis("general")
        rows.append(
            {
                **identity(interpolation.candidate),
                "start": interpolation.start.name,
                "end": interpolation.end.name,
                "path": path_text(interpolation),
                "rewind": interpolation.settings["rewind"],
                "alpha": chosen_text(interpolation),
                **(scores(interpolation.candidate, stability.root(interpolation.candidate)) if evaluated else {}),
                "more_target": difference(interpolation.candidate, interpolation.end, "target"),
                "more_general": difference(interpolation.candidate, interpolation.end, "general"),
                "overshoot": beyond and beyond.reading,
                "rule": "; ".join(dict.fromkeys(run["rule"] for run in interpolation.runs)),
            }
        )
    caption = (
        "Chosen on the tasks of the path, reported on the others; alpha for each seed where they differ. Against the"
        " end: paired by item and seed. The end overshoots (held) where a point between has more general and no less"
        " target score, whichever it is; it does not where all have less of one: on the path's own tasks."
    )
    return Table("paths", caption, columns, rows) if rows else None


def compact_paths(table: Table) -> Table:
    """For the page: where each path leads and what was chosen on it; the rule is told beside it."""
    left_out = ("gain", "forgetting", "rule", "n", *(column.key for column in ORIGIN))
    columns = [column for column in table.columns if column.key not in left_out]
    return Table(table.name, table.caption, columns, table.rows)


def path_points_table(stability: Stability) -> Table | None:
    columns = [IDENTITY[0], Column("alpha", "alpha", "number"), Column("target", "target %", "percent")]
    columns += [Column("general", "general %", "percent"), Column("chosen", "chosen in seeds")]
    columns += [Column("n", "n"), *ORIGIN]
    rows = []
    for interpolation in stability.interpolations:
        for alpha in interpolation.alphas:
            target, general = (point(interpolation, alpha, axis) for axis in ("target", "general"))
            chosen = sum(run["chosen"] == alpha for run in interpolation.runs)
            rows.append(
                {
                    **identity(interpolation.candidate),
                    "alpha": alpha,
                    "target": target,
                    "general": general,
                    "chosen": f"{chosen} of {len(interpolation.runs)}" if chosen else None,
                    "n": f"{target.n} / {general.n}",
                }
            )
    caption = say("path_points_caption", tasks=path_tasks(stability))
    return Table("path_points", caption, columns, rows) if rows else None


def path_tasks(stability: Stability) -> list[str]:
    """The tasks that points of paths are chosen by."""
    settings = (interpolation.settings for interpolation in stability.interpolations)
    return list(dict.fromkeys(task for each in settings for axis in ("target", "general") for task in each[axis]))


def merges_table(stability: Stability) -> Table | None:
    columns = [IDENTITY[0], Column("method", "method"), Column("settings", "settings"), Column("from", "from"), *SCORES]
    columns += [Column("chosen", "chosen"), Column("n", "n"), *ORIGIN]
    of_node = {m.node: candidate.name for candidate in stability.every.values() for m in candidate.members}
    rows = []
    for candidate in stability.merges:
        settings = {k: v for k, v in candidate.members[0].settings.items() if k != "method"}
        rows.append(
            {
                **identity(candidate),
                "method": candidate.members[0].settings["method"],
                "settings": ", ".join(f"{key} {_value_text(value)}" for key, value in settings.items()),
                "from": " + ".join(of_node[parent] for parent in candidate.members[0].parents),
                **scores(candidate, stability.root(candidate)),
                "chosen": "best on dev" if stability.chosen(candidate) else None,
            }
        )
    caption = "Gain and forgetting against the model that all parents descend from. Of a sweep every point is here."
    return Table("merges", caption, columns, rows) if rows else None


def compact_merges(table: Table) -> Table:
    """For the page: what was merged how, and what came of it."""
    shown = ("checkpoint", "method", "settings", "from", "gain", "forgetting", "chosen")
    return Table(table.name, table.caption, [c for c in table.columns if c.key in shown], table.rows)


def _value_text(value) -> str:
    return " ".join(f"{v:.4g}" for v in value) if isinstance(value, list) else setting_text(value)


def stability_tables(stability: Stability) -> list[Table]:
    tables = [arena_table(stability), claims_table(stability), timing_adapters_table(stability)]
    if any(adapter_kind(candidate) in peft_arena.REPRESENTS for candidate in stability.arenas[0].candidates):
        tables.append(published_table(stability))
    tables += [geometry_table(stability), correlations_table(stability)]
    tables += [paths_table(stability), path_points_table(stability), merges_table(stability)]
    return [table for table in tables if table]
