"""The tables of checkpoints: scores on both axes, tasks, sampling, perplexity, grids, and what was run."""

from steps.report.candidates import (
    Candidate,
    difference,
    forgetting,
    retention,
    root_of,
    seeds_text,
)
from steps.report.columns import IDENTITY, ORIGIN, identity
from steps.report.language import tr
from steps.report.tables import Column, Table, cell_text
from steps.settings.axes import AXES
from steps.stats.bootstrap import RESAMPLES


def checkpoints_table(candidates: list[Candidate], every: dict[str, Candidate]) -> Table:
    """Both axes of every evaluated candidate, with what it gained and lost against its root."""
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
    for candidate in candidates:
        root, target, general = root_of(candidate, every), candidate.axis("target"), candidate.axis("general")
        trained = candidate is not root
        spread = [e.seed_sd for e in (target, general) if e and e.seed_sd is not None]
        rows.append(
            {
                **identity(candidate),
                "target": target,
                "gain": difference(candidate, root, "target") if trained else None,
                "general": general,
                "forgetting": forgetting(candidate, root) if trained else None,
                "retention": retention(candidate, root) if trained else None,
                "harder": candidate.axis("harder"),
                "n": " / ".join(str(e.n) if e else "–" for e in (target, general)),
                "seed_sd": " / ".join(f"{100 * sd:.1f}" for sd in spread) or None,
            }
        )
    caption = tr(
        "95 % intervals; n and seed SD (in points) are of target / general. An axis is the plain mean of its tasks."
        " Levels: Wilson intervals per task, combined. Gain: checkpoint minus base on the target; forgetting: base"
        " minus checkpoint on the general tasks; kept: the share of the base's general score. The first"
        " two: Wilson intervals of the items gained and lost, added; kept: paired bootstrap over items"
        " ({resamples} resamples). With several seeds the mean over seeds; the interval covers"
        " items and seeds.",
        resamples=f"{RESAMPLES:,}",
    )
    return Table("checkpoints", caption, columns, rows)


def tasks_table(candidates: list[Candidate], every: dict[str, Candidate]) -> Table:
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
        Column("others", "the same answers by other judges, %"),
        Column("truncated", "cut off %", "percent"),
        Column("seed_sd", "seed SD, points", "percent"),
        *ORIGIN,
    ]
    rows = []
    for candidate in candidates:
        root = root_of(candidate, every)
        for task, score in candidate.scores.items():
            rows.append(
                {
                    "axis": score.axis,
                    "task": task,
                    **identity(candidate),
                    "score": score.estimate,
                    "stderr": score.estimate.stderr,
                    "change": difference(candidate, root, task=task) if candidate is not root else None,
                    "forgetting": forgetting(candidate, root, task)
                    if candidate is not root and score.axis == "general"
                    else None,
                    "n": score.estimate.n,
                    "metric": score.metric,
                    "others": ", ".join(
                        f"{name.replace(',', ' ')} {cell_text('percent', v)}" for name, v in score.others.items()
                    ),
                    "truncated": score.truncated,
                    "seed_sd": score.estimate.seed_sd,
                }
            )
    order = {candidate.name: index for index, candidate in enumerate(candidates)}
    rows.sort(key=lambda row: (AXES.index(row["axis"]), row["task"], order[row["checkpoint"]]))
    caption = (
        "95 % Wilson intervals; change against the base by those of the items gained and lost. Forgetting: base minus"
        " checkpoint, of general tasks. Greedy decoding. By other judges: the benchmark's other metrics, filters and,"
        " where it has a judge of its own, judge_number or judge_math, by which rewards go. Cut off: the share of"
        " answers that reached the task's length without an end."
    )
    return Table("tasks", caption, columns, rows)


# From so many checkpoints on, the page has them down and the tasks across.
MANY_ARMS = 8


def compact_tasks(candidates: list[Candidate]) -> Table:
    """Tasks by checkpoint, for the page: the same estimates as `tasks_table`, side by side."""
    caption = (
        "Percent right, greedy decoding, 95 % Wilson intervals. Standard errors and changes are in the full table."
    )
    if len(candidates) >= MANY_ARMS:
        by_task = {
            score.task: score for candidate in candidates for score in candidate.scores.values() if score.axis != "dev"
        }
        ordered = sorted(by_task.values(), key=lambda score: AXES.index(score.axis))
        columns = [IDENTITY[0]]
        space = "\N{NO-BREAK SPACE}"
        columns += [Column(s.task, f"{s.axis} {s.task}, n{space}={space}{s.estimate.n:,}", "percent") for s in ordered]
        rows = [
            {"checkpoint": candidate.name} | {task: score.estimate for task, score in candidate.scores.items()}
            for candidate in candidates
        ]
        return Table("tasks", caption, columns, rows)
    columns = [Column("axis", "axis"), Column("task", "task", "code"), Column("n", "n", "integer")]
    columns += [
        Column(
            candidate.name,
            candidate.name if len(candidate.seeds) < 2 else f"{candidate.name} ({len(candidate.seeds)} seeds)",
            "percent",
        )
        for candidate in candidates
    ]
    of_task: dict[str, dict] = {}
    for candidate in candidates:
        for task, score in ((task, score) for task, score in candidate.scores.items() if score.axis != "dev"):
            row = of_task.setdefault(task, {"axis": score.axis, "task": task, "n": score.estimate.n})
            row[candidate.name] = score.estimate
    return Table("tasks", caption, columns, sorted(of_task.values(), key=lambda row: AXES.index(row["axis"])))


def sampling_table(candidates: list[Candidate]) -> Table | None:
    rows, names = [], []
    for candidate in candidates:
        for task, metrics in candidate.sampling().items():
            names += [name for name in sorted(metrics, key=_metric_order) if name not in names]
            setup = next(m.results["sampling"][task] for m in candidate.members if m.results)
            rest = {key: setup[key] for key in ("n", "samples", "temperature")}
            rows.append({"task": task, **identity(candidate), **metrics, **rest})
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


def perplexity_table(candidates: list[Candidate]) -> Table | None:
    rows = []
    for candidate in candidates:
        for name, estimate in candidate.perplexity().items():
            tokens = next(m.results["perplexity"][name]["tokens"] for m in candidate.members if m.results)
            row = {"rows": name, **identity(candidate), "perplexity": estimate, "stderr": estimate.stderr}
            rows.append({**row, "n": estimate.n, "tokens": tokens})
    columns = [Column("rows", "rows"), *IDENTITY, Column("perplexity", "perplexity", "decimal")]
    columns += [
        Column("stderr", "SE", "decimal"),
        Column("n", "n rows", "integer"),
        Column("tokens", "tokens", "integer"),
    ]
    caption = "Perplexity per response token, 95 % interval over rows (delta method)."
    return Table("perplexity", caption, columns + ORIGIN, rows) if rows else None


def unlearned_table(candidate: Candidate, items: list[dict]) -> Table:
    columns = [Column("task", "task", "code"), Column("doc_id", "item", "code"), Column("prompt", "prompt", "quote")]
    columns += [
        Column("reference", "reference", "quote"),
        Column("answer", "greedy answer", "quote"),
        Column("sampled", "samples right"),
    ]
    caption = tr(
        "Target items that {name} answers wrong greedily and in every sample. Seeds: {seeds}.",
        name=candidate.name,
        seeds=seeds_text(candidate),
    )
    return Table("unlearned", caption, columns, items)
