"""The tables of reinforcement learning: what each method came to, exploration, votes, monitoring, the gate, speed."""

from dataclasses import replace
from statistics import fmean, median

from steps.arms import RESAMPLES, Arm, negated
from steps.reinforcement import (
    MODES,
    Comparison,
    Reinforcement,
    counted,
    ends,
    flags,
    gain,
    logged,
    method_name,
    spent,
)
from steps.reinforcement_claims import claims_table
from steps.score_tables import IDENTITY, ORIGIN, identity
from steps.stability_stats import over_seeds
from steps.tables import Column, Estimate, Table

MODE_LABELS = {"cot": "with working", "direct": "answer only"}
METHOD = Column("method", "method")
# Quantities of the training log: column, what it is called, how its cells read.
WATCHED = [
    ("correct", "correct %", "percent"),
    ("reward", "reward", "decimal"),
    ("entropy", "entropy, nats/token", "decimal"),
    ("length", "response, tokens", "tenths"),
    ("no_signal", "groups without signal %", "percent"),
]
# Those of which a mean over the run says enough.
AVERAGED = [("clipped", "clipped tokens %", "percent"), ("distilled", "distilled samples %", "percent")]


def role(arm: Arm, found: Reinforcement) -> str:
    """What an arm is to the comparison."""
    if arm.stage == "rl":
        return method_name(arm)
    return "start" if any(arm is comparison.start for comparison in found.comparisons) else f"control ({arm.stage})"


def _start(arm: Arm, found: Reinforcement) -> Arm | None:
    """What an arm is compared with: its comparison's start; None for that itself."""
    members = ((c.start, [*c.arms, *c.controls]) for c in found.comparisons)
    return next((start for start, arms in members if arm in arms), None)


# --- what each method came to --------------------------------------------------------------------


def final_table(found: Reinforcement) -> Table:
    """One line per arm: cost, the target sampled and greedy, the other tasks, the general axis, length and entropy."""
    harder = [task for task in found.tasks if task != found.target]
    columns = [IDENTITY[0], METHOD, Column("from", "from", "code"), Column("steps", "steps", "integer")]
    columns += [Column("generated", "tokens generated", "integer"), Column("tokens", "tokens trained", "integer")]
    sampled = found.explored and found.target
    if sampled:
        k = found.largest
        columns += [Column("pass@1", "pass@1 %", "percent"), Column("gain", "gain in pass@1, points", "points")]
        columns += [Column(f"pass@{j}", f"pass@{j} %", "percent") for j in found.ks if j in (8, k) and j > 1]
        columns += [Column("reach", f"gain in pass@{k}, points", "points")] if k > 1 else []
        columns += [Column(f"majority@{k}", f"majority@{k} %", "percent")]
        columns += [Column("direct", "pass@1, answer only %", "percent")]
        columns += [Column("direct_majority", f"majority@{k}, answer only %", "percent")]
    columns += [Column("target", "greedy target %", "percent"), Column("greedy_gain", "greedy gain, points", "points")]
    columns += [Column(f"greedy_{task}", f"greedy {task} %", "percent") for task in harder]
    columns += [Column("general", "general %", "percent"), Column("forgetting", "forgetting, points", "points")]
    columns += [Column("length", "response, tokens", "tenths"), Column("entropy", "entropy, nats/token", "decimal")]
    columns += [Column("n", "n sampled / target / general"), *ORIGIN]
    rows = []
    for arm in found.shown:
        start = _start(arm, found)
        cells = {"method": role(arm, found), "from": start.name if start else None}
        cells |= {"steps": steps(arm), "tokens": spent(arm) if start else None}
        cells |= {"generated": spent(arm, "generated"), "target": arm.axis("target"), "general": arm.axis("general")}
        cells |= {f"greedy_{task}": arm.scores[task].estimate for task in harder if task in arm.scores}
        if start:
            cells |= {
                "greedy_gain": gain(arm, start, "target"),
                "forgetting": negated(kept) if (kept := gain(arm, start, "general")) else None,
            }
        once = found.level(arm, found.target, "pass@1")
        if sampled:
            names = [c.key for c in columns if "@" in c.key]
            cells |= {name: found.level(arm, found.target, name) for name in names}
            cells |= {"direct": found.level(arm, found.target, "pass@1", "direct")}
            cells |= {"direct_majority": found.level(arm, found.target, f"majority@{k}", "direct")}
            cells |= {"length": found.level(arm, found.target, "tokens")}
            cells |= {"entropy": found.level(arm, found.target, "entropy")}
            if start:
                cells |= {"gain": found.change(arm, start, "pass@1"), "reach": found.change(arm, start, f"pass@{k}")}
        n = " / ".join(f"{e.n:,}" if e else "–" for e in (once, cells["target"], cells["general"]))
        rows.append({**identity(arm), **cells, "n": n})
    where = f" Sampled on {found.target} at T = {temperature(found):g}." if sampled else ""
    caption = (
        f"Gains and forgetting are against the start.{where} Greedy scores and the general axis are those of the"
        f" table of checkpoints. 95 % intervals over items and seeds: changes by paired bootstrap ({RESAMPLES:,}"
        " resamples), seeds in pairs, so that an arm of fewer seeds is compared with these of its start. Length and"
        " entropy are of the sampled responses; entropy is minus the mean log-probability of a sampled token. Tokens:"
        " of the arm's own training, prompts included; generated: of the sampled responses."
    )
    return Table("reinforcement_final", caption, columns, rows)


def temperature(found: Reinforcement) -> float:
    runs = found.explored.values()
    return next(row["temperature"] for run in runs for of in run.tasks.values() for row in of.values())


def steps(arm: Arm) -> int | None:
    return int(max((steps[-1] for steps, _ in logged(arm, "loss")), default=0)) or None if arm.stage == "rl" else None


def compact_final(table: Table, comparison: Comparison) -> Table:
    """For the page: gains, losses and what became of exploration, of one comparison."""
    names = [arm.name for arm in comparison.shown]
    once = any(row.get("pass@1") for row in table.rows)
    level, gained = ("pass@1", "gain") if once else ("target", "greedy_gain")
    columns = [IDENTITY[0], Column("level", "pass@1 %" if once else "target %", "percent")]
    columns += [Column("gained", "gain", "points"), Column("forgetting", "forgetting", "points")]
    columns += [Column("length", "tokens", "tenths"), Column("entropy", "entropy", "decimal")]
    rows = [row for row in table.rows if row["checkpoint"] in names]

    def plain(value: Estimate | None) -> float | None:
        return value.value if value else None

    rows = [
        row
        | {"level": plain(row.get(level)), "gained": row.get(gained), "length": plain(row.get("length"))}
        | {"entropy": plain(row.get("entropy"))}
        for row in rows
    ]
    caption = (
        f"{'Sampled: pass@1' if once else 'Greedy score'} and its gain; gain and forgetting in points, against"
        f" {comparison.start.name}, of the same seeds. Length and entropy of sampled responses, in tokens and in nats"
        " per token. With all intervals, n and seeds:"
    )
    return Table(table.name, caption, columns, rows)


def sampled_levels(found: Reinforcement) -> dict[str, dict[str, float]]:
    """Arm → its pass@1 and pass@k on the target, for the few numbers that runs are compared by."""
    names = dict.fromkeys(["pass@1", f"pass@{found.largest}"]) if found.explored else {}
    levels = {arm.name: {name: found.level(arm, found.target, name) for name in names} for arm in found.shown}
    return {
        arm: {name: round(estimate.value, 6) for name, estimate in of_arm.items() if estimate}
        for arm, of_arm in levels.items()
        if any(of_arm.values())
    }


# --- exploration and votes -----------------------------------------------------------------------


def exploration_table(found: Reinforcement) -> Table | None:
    """Every level of repeated sampling: arm by task and mode."""
    if not found.explored:
        return None
    ks = found.ks
    columns = [Column("task", "task", "code"), Column("mode", "mode"), IDENTITY[0], METHOD]
    columns += [Column(f"pass@{k}", f"pass@{k} %", "percent") for k in ks]
    columns += [Column(f"majority@{k}", f"majority@{k} %", "percent") for k in ks if k > 1]
    columns += [Column("tokens", "response, tokens", "tenths"), Column("entropy", "entropy, nats/token", "decimal")]
    columns += [Column("unparsed", "without an answer %", "percent"), Column("truncated", "cut off %", "percent")]
    columns += [Column("n", "n", "integer"), *ORIGIN]
    metrics = [c.key for c in columns[4:-3]]
    rows = []
    for task in found.tasks:
        for mode in MODES:
            for arm in found.shown:
                if once := found.level(arm, task, "pass@1", mode):
                    cells = {name: found.level(arm, task, name, mode) for name in metrics}
                    rows.append(
                        {"task": task, "mode": MODE_LABELS[mode], **identity(arm), "method": role(arm, found)}
                        | cells
                        | {"n": once.n}
                    )
    caption = (
        f"{found.largest} samples per item at T = {temperature(found):g}. pass@k: the unbiased estimator (Chen et al."
        " 2021, arXiv:2107.03374); majority@k: the most frequent answer of k samples is right (Wang et al. 2023,"
        " arXiv:2203.11171). 95 % intervals over items and seeds."
    )
    return Table("reinforcement_exploration", caption, columns, rows)


def changes_table(found: Reinforcement) -> Table | None:
    """Against the start, paired by item: pass@1, pass@k and the vote, on every task."""
    if not found.explored:
        return None
    k = found.largest
    metrics = dict.fromkeys(["pass@1", f"pass@{k}", f"majority@{k}"])
    columns = [Column("task", "task", "code"), IDENTITY[0], METHOD, Column("from", "against", "code")]
    columns += [Column(name, f"{name}, points", "points") for name in metrics]
    columns += [Column("greedy", "greedy, points", "points"), Column("reads", "exploration")]
    columns += [Column("n", "n", "integer")]
    rows = []
    for task in found.tasks:
        for arm in found.shown:
            start = _start(arm, found)
            cells = {name: found.change(arm, start, name, task) for name in metrics} if start else {}
            if cells.get("pass@1"):
                row = {"task": task, **identity(arm), "method": role(arm, found), "from": start.name, **cells}
                row |= {"greedy": gain(arm, start, task=task), "n": cells["pass@1"].n}
                rows.append(row | {"reads": reading(cells["pass@1"], cells[f"pass@{k}"])})
    caption = (
        f"Changes against the start, paired by item and seed ({RESAMPLES:,} resamples). Sharper: pass@1 rises. Wider,"
        f" narrower: pass@{k}, what {k} samples reach at all, rises or falls. Each beyond its 95 % interval."
    )
    return Table("reinforcement_changes", caption, columns + ORIGIN, rows) if rows else None


def compact_changes(table: Table, comparison: Comparison, task: str) -> Table:
    """For the page: one task and one comparison."""
    rows = [row for row in table.rows if row["task"] == task and row["from"] == comparison.start.name]
    columns = [c for c in table.columns if "@" in c.key or c.key in ("checkpoint", "reads")]
    columns = [replace(c, label=c.label.removesuffix(", points")) for c in columns]
    caption = f"On {task}, points against {comparison.start.name}. All tasks, with n and seeds:"
    return Table(table.name, caption, columns, rows)


def reading(once: Estimate, reach: Estimate) -> str:
    """What the changes of pass@1 and of pass@k say of exploration."""
    said = [word for word, e in (("sharper", once), ("wider", reach)) if e.low > 0]
    said += [word for word, e in (("duller", once), ("narrower", reach)) if e.high < 0]
    return " and ".join(said) or "no change beyond chance"


def votes_table(found: Reinforcement) -> Table | None:
    """Self-consistency: one sample against the majority, with the working and without, on every task."""
    if not found.explored or found.largest < 2:
        return None
    k = found.largest
    columns = [Column("task", "task", "code"), IDENTITY[0], METHOD]
    for mode in MODES:
        of = MODE_LABELS[mode]
        columns += [Column(f"{mode}_once", f"pass@1, {of} %", "percent")]
        columns += [Column(f"{mode}_vote", f"majority@{k}, {of} %", "percent")]
        columns += [Column(f"{mode}_gain", f"vote's gain, {of}, points", "points")]
    columns += [Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for task in found.tasks:
        for arm in found.shown:
            cells = {}
            for mode in MODES:
                cells[f"{mode}_once"] = found.level(arm, task, "pass@1", mode)
                cells[f"{mode}_vote"] = found.level(arm, task, f"majority@{k}", mode)
                cells[f"{mode}_gain"] = found.vote(arm, task, mode)
            if cells["cot_once"]:
                n = cells["cot_once"].n
                rows.append({"task": task, **identity(arm), "method": role(arm, found), **cells, "n": n})
    caption = (
        "Self-consistency. With working: as asked; answer only: the response is begun so that nothing but the answer"
        f" follows. Vote's gain: majority@{k} less pass@1, paired by item."
    )
    return Table("reinforcement_votes", caption, columns, rows)


def compact_votes(table: Table, found: Reinforcement) -> Table:
    """For the page: the target alone, the vote's gain with its interval."""
    rows = [row for row in table.rows if row["task"] == found.target]
    kept = [c for c in table.columns[1:-3] if c.key == "checkpoint" or c.key.endswith("_gain")]
    columns = []
    for column in kept:
        if column.key.endswith("_gain"):
            mode = column.key.removesuffix("_gain")
            columns += [Column(f"{mode}_levels", f"{MODE_LABELS[mode]}, one / vote %"), column]
        else:
            columns.append(column)

    def levels(row: dict, mode: str) -> str | None:
        both = (row[f"{mode}_once"], row[f"{mode}_vote"])
        return " / ".join(f"{100 * e.value:.1f}" for e in both) if all(both) else None

    rows = [row | {f"{mode}_levels": levels(row, mode) for mode in MODES} for row in rows]
    caption = f"On {found.target}, percent and points. All tasks, with intervals, n and seeds:"
    return Table(table.name, caption, columns, rows)


# --- monitoring ----------------------------------------------------------------------------------


def monitoring_table(found: Reinforcement) -> Table:
    """How each run went: both ends of the curves, what failed, what was flagged."""
    columns = [IDENTITY[0], METHOD, Column("steps", "steps", "integer"), Column("samples", "samples", "integer")]
    for key, label, kind in WATCHED:
        columns += [Column(f"{key}_first", f"{label}, first", kind), Column(f"{key}_last", f"{label}, last", kind)]
    columns += [Column("kl_last", "KL to the start, nats/token, last", "decimal")]
    columns += [Column(key, label, kind) for key, label, kind in AVERAGED]
    columns += [Column("failures", "rewards that failed"), Column("timeouts", "timeouts", "integer")]
    columns += [Column("flags", "flags"), *ORIGIN]
    rows = []
    for arm in found.arms:
        cells = {}
        for key, *_ in WATCHED:
            first, last = ends(arm, key)
            cells |= {f"{key}_first": over_seeds(first), f"{key}_last": over_seeds(last)}
        cells["kl_last"] = over_seeds(ends(arm, "kl")[1])
        cells |= {key: over_seeds([fmean(values) for _, values in logged(arm, key)]) for key, *_ in AVERAGED}
        failed = counted(arm, "failures")
        manifests = [m.manifest for m in arm.members if m.manifest]
        rows.append(
            {**identity(arm), "method": method_name(arm), "steps": steps(arm)}
            | cells
            | {
                "samples": sum(m["counts"].get("samples", 0) for m in manifests),
                "failures": ", ".join(f"{name} {n}" for name, n in sorted(failed.items())) or "none",
                "timeouts": counted(arm, "timeouts")["timeouts"],
                "flags": "; ".join(dict.fromkeys(f"{m.node}: {text}" for m, text in flags(arm))) or "none",
            }
        )
    caption = (
        "First and last: means over a tenth of the steps at either end; clipped and distilled over all steps. Means"
        " over seeds, brackets their 95 % intervals. Samples, failures and timeouts are summed over seeds."
    )
    return Table("reinforcement_monitoring", caption, columns, rows)


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
    caption = "From the first to the last tenth of the steps, means over seeds. With intervals and seeds:"
    return Table(table.name, caption, columns, rows)


# --- the gate ------------------------------------------------------------------------------------


def _alike(found: Reinforcement, cells: dict[str, list[tuple]]) -> list[tuple[tuple, str, str]]:
    """Equal cells once, as (cells, recipes, seeds): the gates of recipes with equal rewards and start are alike.

    Args:
        cells: node → what its gate found, piece by piece.
    """
    of_node = {m.node: m for arm in found.every.values() for m in arm.members}
    recipes: dict[tuple, dict[str, None]] = {}  # (piece, seed) → recipes
    for node, pieces in cells.items():
        for piece in pieces:
            recipes.setdefault((piece, of_node[node].seed), {})[of_node[node].recipe] = None
    seeds: dict[tuple, list[int]] = {}  # (piece, recipes) → seeds
    for (piece, seed), names in recipes.items():
        seeds.setdefault((piece, " ".join(names)), []).append(seed)
    return [(piece, names, " ".join(map(str, of))) for (piece, names), of in seeds.items()]


GATED = [Column("recipes", "recipes", "code"), Column("seeds", "seeds")]


def gate_table(found: Reinforcement) -> Table | None:
    cells = {
        node: [(c["check"], float(c["value"]), float(c["bar"]), int(c["n"]), c["verdict"]) for c in gate.checks]
        for node, gate in found.gates.items()
    }
    columns = [Column("check", "check"), Column("value", "value", "number"), Column("bar", "bar", "number")]
    columns += [Column("n", "n", "integer"), Column("verdict", "verdict"), *GATED]
    keys = [column.key for column in columns]
    rows = [dict(zip(keys, (*piece, *of), strict=True)) for piece, *of in _alike(found, cells)]
    order = list(dict.fromkeys(row["check"] for row in rows))
    caption = (
        "Before training: known-good answers must score above known-bad and malformed ones, answers must parse, and the"
        " start's own samples must differ in reward within their groups. A check that fails stops the run."
    )
    rows.sort(key=lambda row: order.index(row["check"]))
    return Table("reinforcement_gate", caption, columns, rows) if rows else None


def prompts_table(found: Reinforcement) -> Table | None:
    """How many rows train, and why the others do not."""
    counts = {node: gate.counts for node, gate in found.gates.items()}
    reasons = sorted({reason for of_node in counts.values() for reason in of_node["quarantined"]})
    keys = ["in", "kept", *reasons]
    cells = {node: [tuple((of | of["quarantined"]).get(key, 0) for key in keys)] for node, of in counts.items()}
    rows = [dict(zip([*keys, "recipes", "seeds"], (*piece, *of), strict=True)) for piece, *of in _alike(found, cells)]
    columns = [Column("in", "rows", "integer"), Column("kept", "train", "integer")]
    columns += [Column(reason, reason.replace("_", " "), "integer") for reason in reasons]
    caption = "Rows of the data set that the gate let through, and those left out by their pass rate under the start."
    return Table("reinforcement_rows", caption, columns + GATED, rows) if rows else None


# --- speed ---------------------------------------------------------------------------------------


def timing_table(found: Reinforcement) -> Table | None:
    """Tokens per second of every run; alone holds times."""
    columns = [IDENTITY[0], METHOD, Column("speed", "tokens/s, median step", "integer")]
    columns += [Column("slowest", "slowest step", "integer"), Column("fastest", "fastest step", "integer")]
    columns += [Column("seconds", "seconds", "tenths"), Column("peak_mib", "peak memory, MiB", "tenths"), *ORIGIN]
    rows = []
    for arm in found.arms:
        records = [m.provenance for m in arm.members if m.provenance and m.provenance.get("speed")]
        if records:
            speeds = [speed for record in records for speed in record["speed"]]
            known = {"speed": round(median(speeds)), "slowest": round(min(speeds)), "fastest": round(max(speeds))}
            known |= {"seconds": fmean(r["seconds"] for r in records)}
            known |= {"peak_mib": fmean(r["peak_memory_mib"] for r in records)}
            rows.append({**identity(arm), "method": method_name(arm), **known})
    caption = (
        "Tokens of the sampled sequences, prompts included, per second of a step: sampling, rewards and the update"
        " together. Seconds are of the whole step of the pipeline, a mean over seeds."
    )
    return Table("timing_reinforcement", caption, columns, rows) if rows else None


def reinforcement_tables(found: Reinforcement) -> list[Table]:
    made = [final_table(found), changes_table(found), exploration_table(found), votes_table(found)]
    made += [claims_table(found), monitoring_table(found), gate_table(found), prompts_table(found), timing_table(found)]
    return [table for table in made if table]
