"""The tables of checkpoints: scores on both axes, tasks, sampling, perplexity, grids, and what was run."""

from collections.abc import Iterable
from typing import Any

from steps.arms import RESAMPLES, Arm, Checkpoint, difference, forgetting, retention, root_of, seeds_text
from steps.tables import Column, Table, setting_text

AXES = ("target", "harder", "general", "dev")


IDENTITY = [Column("checkpoint", "checkpoint", "code"), Column("stage", "stage")]
ORIGIN = [Column("seeds", "seeds"), Column("manifest", "manifest", "links")]


def identity(arm: Arm) -> dict:
    return {"checkpoint": arm.name, "stage": arm.stage, "seeds": seeds_text(arm), "manifest": arm.links}


def checkpoints_table(arms: list[Arm], every: dict[str, Arm]) -> Table:
    """Both axes of every evaluated arm, with what it gained and lost against its root."""
    columns = [
        IDENTITY[0],
        Column("target", "target %", "percent"),
        Column("gain", "gain, points", "points"),
        Column("general", "general %", "percent"),
        Column("forgetting", "forgetting, points", "points"),
        Column("retention", "kept %", "percent"),
        Column("harder", "harder %", "percent"),
        Column("n", "n"),
        Column("seed_sd", "seed SD"),
        *ORIGIN,
    ]
    rows = []
    for arm in arms:
        root, target, general = root_of(arm, every), arm.axis("target"), arm.axis("general")
        trained = arm is not root
        spread = [e.seed_sd for e in (target, general) if e and e.seed_sd is not None]
        rows.append(
            {
                **identity(arm),
                "target": target,
                "gain": difference(arm, root, "target") if trained else None,
                "general": general,
                "forgetting": forgetting(arm, root) if trained else None,
                "retention": retention(arm, root) if trained else None,
                "harder": arm.axis("harder"),
                "n": " / ".join(str(e.n) if e else "–" for e in (target, general)),
                "seed_sd": " / ".join(f"{100 * sd:.1f}" for sd in spread) or None,
            }
        )
    caption = (
        "95 % intervals; n and seed SD (in points) are of target / general. An axis is the plain mean of its tasks."
        " Levels: Wilson intervals per task, combined. Gain: checkpoint minus base on the target; forgetting: base"
        " minus checkpoint on the general tasks; kept: the share of the base's general score. All three: paired"
        f" bootstrap over items ({RESAMPLES:,} resamples). With several seeds the mean over seeds; the interval covers"
        " items and seeds."
    )
    return Table("checkpoints", caption, columns, rows)


def tasks_table(arms: list[Arm], every: dict[str, Arm]) -> Table:
    columns = [
        Column("axis", "axis"),
        Column("task", "task", "code"),
        *IDENTITY,
        Column("score", "score %", "percent"),
        Column("stderr", "SE, points", "percent"),
        Column("change", "against base, points", "points"),
        Column("forgetting", "forgetting, points", "points"),
        Column("n", "n", "integer"),
        Column("metric", "metric"),
        Column("seed_sd", "seed SD, points", "percent"),
        *ORIGIN,
    ]
    rows = []
    for arm in arms:
        root = root_of(arm, every)
        for task, score in arm.scores.items():
            rows.append(
                {
                    "axis": score.axis,
                    "task": task,
                    **identity(arm),
                    "score": score.estimate,
                    "stderr": score.estimate.stderr,
                    "change": difference(arm, root, task=task) if arm is not root else None,
                    "forgetting": forgetting(arm, root, task) if arm is not root and score.axis == "general" else None,
                    "n": score.estimate.n,
                    "metric": score.metric,
                    "seed_sd": score.estimate.seed_sd,
                }
            )
    order = {arm.name: index for index, arm in enumerate(arms)}
    rows.sort(key=lambda row: (AXES.index(row["axis"]), row["task"], order[row["checkpoint"]]))
    caption = (
        "95 % Wilson intervals; change against the base by paired bootstrap over items. Forgetting: base minus"
        " checkpoint, of general tasks. Greedy decoding."
    )
    return Table("tasks", caption, columns, rows)


# From so many checkpoints on, the page has them down and the tasks across.
MANY_ARMS = 8


def compact_tasks(arms: list[Arm]) -> Table:
    """Tasks by checkpoint, for the page: the same estimates as `tasks_table`, side by side."""
    caption = (
        "Percent right, greedy decoding, 95 % Wilson intervals. Standard errors and changes are in the full table."
    )
    if len(arms) >= MANY_ARMS:
        found = {score.task: score for arm in arms for score in arm.scores.values() if score.axis != "dev"}
        ordered = sorted(found.values(), key=lambda score: AXES.index(score.axis))
        columns = [IDENTITY[0]]
        space = "\N{NO-BREAK SPACE}"
        columns += [Column(s.task, f"{s.axis} {s.task}, n{space}={space}{s.estimate.n:,}", "percent") for s in ordered]
        rows = [{"checkpoint": arm.name} | {task: score.estimate for task, score in arm.scores.items()} for arm in arms]
        return Table("tasks", caption, columns, rows)
    columns = [Column("axis", "axis"), Column("task", "task", "code"), Column("n", "n", "integer")]
    columns += [
        Column(arm.name, arm.name if len(arm.seeds) < 2 else f"{arm.name} ({len(arm.seeds)} seeds)", "percent")
        for arm in arms
    ]
    of_task: dict[str, dict] = {}
    for arm in arms:
        for task, score in ((task, score) for task, score in arm.scores.items() if score.axis != "dev"):
            row = of_task.setdefault(task, {"axis": score.axis, "task": task, "n": score.estimate.n})
            row[arm.name] = score.estimate
    return Table("tasks", caption, columns, sorted(of_task.values(), key=lambda row: AXES.index(row["axis"])))


def sampling_table(arms: list[Arm]) -> Table | None:
    rows, names = [], []
    for arm in arms:
        for task, metrics in arm.sampling().items():
            names += [name for name in sorted(metrics, key=_metric_order) if name not in names]
            setup = next(m.results["sampling"][task] for m in arm.members if m.results)
            rest = {key: setup[key] for key in ("n", "samples", "temperature")}
            rows.append({"task": task, **identity(arm), **metrics, **rest})
    if not rows:
        return None
    columns = [Column("task", "task", "code"), IDENTITY[0], *(Column(name, f"{name} %", "percent") for name in names)]
    columns += [Column("n", "n", "integer"), Column("samples", "samples", "integer")]
    columns += [Column("temperature", "temperature", "number"), *ORIGIN]
    caption = "95 % intervals over items; pass@k unbiased (Chen et al. 2021), ties of the majority broken at random."
    return Table("sampling", caption, columns, rows)


def _metric_order(name: str) -> tuple:
    kind, k = name.split("@")
    return (kind != "pass", int(k))


def perplexity_table(arms: list[Arm]) -> Table | None:
    rows = []
    for arm in arms:
        for name, estimate in arm.perplexity().items():
            tokens = next(m.results["perplexity"][name]["tokens"] for m in arm.members if m.results)
            row = {"rows": name, **identity(arm), "perplexity": estimate, "stderr": estimate.stderr}
            rows.append({**row, "n": estimate.n, "tokens": tokens})
    columns = [Column("rows", "rows"), *IDENTITY, Column("perplexity", "perplexity", "decimal")]
    columns += [
        Column("stderr", "SE", "decimal"),
        Column("n", "n rows", "integer"),
        Column("tokens", "tokens", "integer"),
    ]
    caption = "Perplexity per response token, 95 % interval over rows (delta method)."
    return Table("perplexity", caption, columns + ORIGIN, rows) if rows else None


def nodes_table(checkpoints: list[Checkpoint], stage_defaults_shown: Iterable[str]) -> Table:
    """What was run: one row per node. `stage_defaults_shown` are the settings worth a column of prose."""
    columns = [
        Column("node", "node", "code"),
        Column("stage", "stage"),
        Column("from", "from"),
        Column("teachers", "teachers"),
        Column("study", "study"),
        Column("seed", "seed", "integer"),
        Column("settings", "settings"),
        Column("manifest", "manifest", "links"),
    ]
    rows = []
    for c in checkpoints:
        known = {} if c.stage == "model" else c.settings  # of a model: where it lies
        shown = {key: known[key] for key in stage_defaults_shown if key in known} | c.grid
        rows.append(
            {
                "node": c.node,
                "stage": c.stage,
                "from": " + ".join(c.parents),
                "teachers": " + ".join(c.teachers) or None,
                "study": c.study,
                "seed": c.seed,
                "settings": ", ".join(f"{key} {setting_text(value)}" for key, value in shown.items()),
                "manifest": [c.manifest_link] if c.manifest_link else None,
            }
        )
    return Table("nodes", "Every node of the recipe graph; full settings are under Provenance.", columns, rows)


def grid_table(name: str, points: list[Arm], best: Arm | None) -> Table:
    keys = sorted({key for arm in points for key in arm.grid})
    plain = [all(_is_number(arm.grid[key]) for arm in points) for key in keys]
    columns = [Column(key, key, "number" if number else "text") for key, number in zip(keys, plain, strict=True)]
    columns += [Column(axis, f"{axis} %", "percent") for axis in ("dev", "target", "general")]
    columns += [Column("n", "n dev / target / general"), Column("best", "chosen"), *ORIGIN]
    rows = []
    for arm in points:
        scores = {axis: arm.axis(axis) for axis in ("dev", "target", "general")}
        n = " / ".join(str(e.n) if e else "–" for e in scores.values())
        grid = {key: value if _is_number(value) else setting_text(value) for key, value in arm.grid.items()}
        rows.append({**identity(arm), **grid, **scores, "n": n, "best": "best on dev" if arm is best else None})
    caption = "The point is chosen on dev, which is disjoint from the target; target and general are reported for it."
    return Table(f"grid_{name}", caption, columns, rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def unlearned_table(arm: Arm, items: list[dict]) -> Table:
    columns = [Column("task", "task", "code"), Column("doc_id", "item", "code"), Column("prompt", "prompt")]
    columns += [Column("reference", "reference"), Column("answer", "greedy answer"), Column("sampled", "samples right")]
    caption = f"Target items that {arm.name} answers wrong greedily and in every sample. Seeds: {seeds_text(arm)}."
    return Table("unlearned", caption, columns, items)


def timing_table(benchmarks: list[dict]) -> Table:
    columns = [Column("rule", "rule", "code"), Column("seconds", "seconds", "tenths")]
    columns += [Column("cpu_seconds", "CPU seconds", "tenths"), Column("peak_mib", "peak memory, MiB", "tenths")]
    caption = "Measured by Snakemake when each rule last ran; below a second it is too late to see the memory."
    return Table("timing", caption, columns, sorted(benchmarks, key=lambda row: -row["seconds"]))
