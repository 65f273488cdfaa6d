"""The tables of reinforcement learning: what each method came to, how its runs went, how fast; and all of them."""

from statistics import fmean, median

from steps.reinforcement.section.claims import claims_table
from steps.reinforcement.section.disagreements import disagreements_table
from steps.reinforcement.section.exploration_tables import changes_table, exploration_table, votes_table
from steps.reinforcement.section.facts import (
    Comparison,
    Reinforcement,
    counted,
    flags,
    gain,
    held_out,
    method_name,
    steps,
)
from steps.reinforcement.section.gate_tables import gate_table, prompts_table
from steps.reinforcement.section.pair_tables import pairs_table
from steps.reinforcement.section.roles import METHOD, role
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate, negated
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.estimates import over_seeds
from steps.report.logs import ends, logged, spent
from steps.report.tables import Column, Estimate, Table

# Quantities of the training log: column, what it is called, how its cells read.
WATCHED = [
    ("correct", "correct %", "percent"),
    ("reward", "reward", "decimal"),
    ("entropy", "entropy, nats/token", "decimal"),
    ("length", "response, tokens", "tenths"),
    ("no_signal", "groups without signal %", "percent"),
]
# Of the held-out questions that a run was asked under way: of its start, and of the weights that were kept.
HELD_OUT = ("start", "kept")
# Those of which a mean over the run says enough.
AVERAGED = [("clipped", "clipped tokens %", "percent"), ("distilled", "distilled samples %", "percent")]


def reinforcement_tables(study: Reinforcement) -> list[Table]:
    tables = [final_table(study), changes_table(study), exploration_table(study), votes_table(study)]
    tables += [claims_table(study), monitoring_table(study), gate_table(study), prompts_table(study)]
    tables += [pairs_table(study), timing_table(study), disagreements_table(study)]
    return [table for table in tables if table]


# --- what each method came to --------------------------------------------------------------------


def final_table(study: Reinforcement) -> Table:
    """One line per candidate: cost, the target sampled and greedy, the other tasks, the general axis, length and
    entropy."""
    harder = [task for task in study.tasks if task != study.target]
    columns = [IDENTITY[0], METHOD, Column("from", "from", "code"), Column("steps", "steps", "integer")]
    columns += [Column("generated", "tokens generated", "integer"), Column("tokens", "tokens trained", "integer")]
    columns += _sampled_columns(study) if study.target else []
    columns += [Column("target", "greedy target %", "percent"), Column("greedy_gain", "greedy gain, points", "points")]
    columns += [Column(f"greedy_{task}", f"greedy {task} %", "percent") for task in harder]
    columns += [Column("general", "general %", "percent"), Column("forgetting", "forgetting, points", "points")]
    columns += [Column("length", "response, tokens", "tenths"), Column("entropy", "entropy, nats/token", "decimal")]
    columns += [Column("n", "n sampled / target / general"), *ORIGIN]
    rows = []
    for candidate in study.shown:
        start = study.start_of(candidate)
        cells = {"method": role(candidate, study), "from": start.name if start else None}
        cells |= {"steps": steps(candidate), "tokens": spent(candidate) if start else None}
        cells |= {"generated": spent(candidate, "generated")}
        cells |= {axis: candidate.axis(axis) for axis in ("target", "general")}
        cells |= {f"greedy_{task}": candidate.scores[task].estimate for task in harder if task in candidate.scores}
        if start:
            kept = gain(candidate, start, "general")
            cells |= {"greedy_gain": gain(candidate, start, "target"), "forgetting": negated(kept) if kept else None}
        if study.target:
            cells |= _sampled_cells(study, candidate, start)
        once = study.level(candidate, study.target, "pass@1")
        n = " / ".join(f"{e.n:,}" if e else "–" for e in (once, cells["target"], cells["general"]))
        rows.append({**identity(candidate), **cells, "n": n})
    sampled = {"target": study.target, "temperature": study.temperature} if study.target else None
    caption = say("final_caption", sampled=sampled)
    return Table("reinforcement_final", caption, columns, rows)


def _sampled_columns(study: Reinforcement) -> list[Column]:
    k = study.largest
    columns = [Column("pass@1", "pass@1 %", "percent"), Column("gain", "gain in pass@1, points", "points")]
    columns += [Column(f"pass@{j}", f"pass@{j} %", "percent") for j in study.ks if j in (8, k) and j > 1]
    columns += [Column("reach", f"gain in pass@{k}, points", "points")] if k > 1 else []
    columns += [Column(f"majority@{k}", f"majority@{k} %", "percent")]
    columns += [Column("direct", "pass@1, answer only %", "percent")]
    return [*columns, Column("direct_majority", f"majority@{k}, answer only %", "percent")]


def _sampled_cells(study: Reinforcement, candidate: Candidate, start: Candidate | None) -> dict[str, Estimate | None]:
    """What repeated sampling on the target measured."""
    task, k = study.target, study.largest
    names = [column.key for column in _sampled_columns(study) if "@" in column.key]
    cells = {name: study.level(candidate, task, name) for name in names}
    cells |= {"direct": study.level(candidate, task, "pass@1", "direct")}
    cells |= {"direct_majority": study.level(candidate, task, f"majority@{k}", "direct")}
    cells |= {"length": study.level(candidate, task, "tokens"), "entropy": study.level(candidate, task, "entropy")}
    if start:
        cells |= {"gain": study.change(candidate, start, "pass@1")}
        cells |= {"reach": study.change(candidate, start, f"pass@{k}")}
    return cells


def compact_final(table: Table, comparison: Comparison) -> Table:
    """For the page: gains, losses and what became of exploration, of one comparison."""
    names = [candidate.name for candidate in comparison.shown]
    sampled = any(row.get("pass@1") for row in table.rows)
    level, gained = ("pass@1", "gain") if sampled else ("target", "greedy_gain")
    columns = [IDENTITY[0], Column("level", "pass@1 %" if sampled else "target %", "percent")]
    columns += [Column("gained", "gain", "points"), Column("forgetting", "forgetting", "points")]
    columns += [Column("length", "tokens", "tenths"), Column("entropy", "entropy", "decimal")]

    def plain(value: Estimate | None) -> float | None:
        return value.value if value else None

    rows = [
        row
        | {"level": plain(row.get(level)), "gained": row.get(gained), "length": plain(row.get("length"))}
        | {"entropy": plain(row.get("entropy"))}
        for row in table.rows
        if row["checkpoint"] in names
    ]
    caption = say("final_short_caption", sampled=sampled, start=comparison.start.name)
    return Table(table.name, caption, columns, rows)


# --- monitoring ----------------------------------------------------------------------------------


def monitoring_table(study: Reinforcement) -> Table:
    """How each run went: both ends of the curves, what failed, what was flagged."""
    columns = [IDENTITY[0], METHOD, Column("steps", "steps", "integer"), Column("samples", "samples", "integer")]
    for key, label, kind in WATCHED:
        columns += [Column(f"{key}_first", f"{label}, first", kind), Column(f"{key}_last", f"{label}, last", kind)]
    columns += [Column("kl_last", "KL to the start, nats/token, last", "decimal")]
    columns += [Column(f"held_out_{key}", f"held-out right %, {key}", "percent") for key in HELD_OUT]
    columns += [Column("held_out_step", "kept step", "tenths")]
    columns += [Column(key, label, kind) for key, label, kind in AVERAGED]
    columns += [Column("failures", "rewards that failed"), Column("timeouts", "timeouts", "integer")]
    columns += [Column("flags", "flags"), *ORIGIN]
    rows = []
    for candidate in study.candidates:
        cells = {"method": method_name(candidate), "steps": steps(candidate)}
        for key, *_ in WATCHED:
            first, last = ends(candidate, key)
            cells |= {f"{key}_first": over_seeds(first), f"{key}_last": over_seeds(last)}
        cells["kl_last"] = over_seeds(ends(candidate, "kl")[1])
        asked = held_out(candidate)
        cells |= {f"held_out_{key}": over_seeds([of[key] for of in asked]) for key in HELD_OUT}
        cells["held_out_step"] = over_seeds([of["kept_steps"] for of in asked])
        cells |= {key: over_seeds([fmean(values) for _, values in logged(candidate, key)]) for key, *_ in AVERAGED}
        cells["samples"] = sum(m.manifest["counts"].get("samples", 0) for m in candidate.members if m.manifest)
        cells["failures"] = say("failure_counts", counts=sorted(counted(candidate, "failures").items()))
        cells["timeouts"] = counted(candidate, "timeouts")["timeouts"]
        flagged = dict.fromkeys((m.node, text) for m, text in flags(candidate))
        rows.append(identity(candidate) | cells | {"flags": say("flags", flags=list(flagged))})
    return Table("reinforcement_monitoring", say("monitoring_caption"), columns, rows)


def compact_monitoring(table: Table) -> Table:
    """For the page: from the first to the last tenth of the steps."""
    kinds = {key: kind for key, _, kind in WATCHED}

    def value(cell) -> float | None:
        return cell.value if isinstance(cell, Estimate) else cell

    def text(key: str, row: dict) -> str | None:
        first, last = (value(row[f"{key}_{end}"]) for end in ("first", "last"))
        if first is None:
            return None
        scale, digits = {"percent": (100, 0), "tenths": (1, 0), "decimal": (1, 2)}[kinds[key]]
        return " → ".join(f"{scale * v:.{digits}f}".replace("-", "−") for v in (first, last))

    columns = [IDENTITY[0]]
    columns += [Column(f"{key}_ends", label) for key, label, _ in WATCHED if key != "reward"]
    columns += [Column("kl_plain", "KL, nats/token", "decimal"), Column("failures", "failed"), table.columns[-4]]
    rows = [
        row | {f"{key}_ends": text(key, row) for key in kinds} | {"kl_plain": value(row["kl_last"])}
        for row in table.rows
    ]
    return Table(table.name, say("monitoring_short_caption"), columns, rows)


# --- speed ---------------------------------------------------------------------------------------


def timing_table(study: Reinforcement) -> Table | None:
    """Tokens per second of every run; alone holds times."""
    columns = [IDENTITY[0], METHOD, Column("speed", "tokens/s, median step", "integer")]
    columns += [Column("slowest", "slowest step", "integer"), Column("fastest", "fastest step", "integer")]
    columns += [Column("seconds", "seconds", "tenths"), Column("peak_mib", "peak memory, MiB", "tenths"), *ORIGIN]
    rows = []
    for candidate in study.candidates:
        records = [m.provenance for m in candidate.members if m.provenance and m.provenance.get("speed")]
        if records:
            speeds = [speed for record in records for speed in record["speed"]]
            cells = {"speed": round(median(speeds)), "slowest": round(min(speeds)), "fastest": round(max(speeds))}
            cells |= {"seconds": fmean(r["seconds"] for r in records)}
            cells |= {"peak_mib": fmean(r["peak_memory_mib"] for r in records)}
            rows.append({**identity(candidate), "method": method_name(candidate), **cells})
    return Table("timing_reinforcement", say("timing_caption"), columns, rows) if rows else None


# --- for the few numbers that runs are compared by -----------------------------------------------


def metrics(study: Reinforcement) -> dict[str, dict]:
    return {"reinforcement": sampled_levels(study)}


def sampled_levels(study: Reinforcement) -> dict[str, dict[str, float]]:
    """Candidate → its pass@1 and pass@k on the target."""
    names = dict.fromkeys(["pass@1", f"pass@{study.largest}"]) if study.explored else {}
    levels = {
        candidate.name: {name: study.level(candidate, study.target, name) for name in names}
        for candidate in study.shown
    }
    return {
        candidate: {name: round(estimate.value, 6) for name, estimate in of_arm.items() if estimate}
        for candidate, of_arm in levels.items()
        if any(of_arm.values())
    }
