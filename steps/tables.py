"""The tables of the report: scores with intervals, row accounting, quarantine, grids, timing.

Pure functions from what `steps.report` gathered to `Table`s, each of which writes itself as CSV (raw numbers) and
Markdown (rounded, with intervals); the page renders the same cells.
"""

import csv
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from steps import estimators

RESAMPLES = 2000
BOOTSTRAP_SEED = 0
DATA_STEPS = ("ingest", "filter", "dedup", "decontaminate", "split")
AXES = ("target", "harder", "general", "dev")
EXAMPLES_PER_REASON = 3


# --- values --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, its standard error and the number of items behind it."""

    value: float
    low: float
    high: float
    stderr: float
    n: int
    seed_values: tuple[float, ...] = ()

    @property
    def seed_sd(self) -> float | None:
        return float(np.std(self.seed_values, ddof=1)) if len(self.seed_values) > 1 else None


@dataclass(frozen=True)
class Link:
    """A file beside the report: text to show, path relative to the page, sha256 of the file."""

    text: str
    href: str
    sha256: str


@dataclass(frozen=True)
class Column:
    """One column: key into the rows, heading, and how its cells read.

    Kinds: text, code, integer, number, tenths, decimal (three), percent (a share), points (of percent), links.
    """

    key: str
    label: str
    kind: str = "text"


@dataclass
class Table:
    name: str
    caption: str
    columns: list[Column]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def filled(self) -> list[Column]:
        """The columns with anything in them."""
        return [c for c in self.columns if any(row.get(c.key) not in (None, "", []) for row in self.rows)]

    def csv(self) -> str:
        """Raw numbers, six digits; an estimate becomes five columns."""
        rows = [dict(pair for c in self.columns for pair in _csv_cells(c.key, row.get(c.key))) for row in self.rows]
        names: list[str] = []
        for column in self.columns:
            # The row with most columns names them: where one arm has an estimate and another has none.
            wide = max((_csv_cells(column.key, row.get(column.key)) for row in self.rows), key=len, default=None)
            names += [name for name, _ in wide] if wide else [column.key]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def markdown(self) -> str:
        def line(cells: Iterable[str]) -> str:
            return (
                "| " + " | ".join(" ".join(c.replace("\\", "\\\\").replace("|", "\\|").split()) for c in cells) + " |"
            )

        rule = ["---" if c.kind in ("text", "code", "links") else "---:" for c in self.columns]
        rows = [line(cell_text(c.kind, row.get(c.key)) for c in self.columns) for row in self.rows]
        return "\n".join([line(c.label for c in self.columns), line(rule), *rows, "", self.caption, ""])


def cell_text(kind: str, value: Any) -> str:
    """A cell as a reader sees it: "92.3 [89.1, 94.8]" for an estimate, "–" for nothing."""
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, Estimate):
        return f"{number_text(kind, value.value)} {interval_text(kind, value)}"
    if kind == "links":
        return ", ".join(link.text for link in value)
    return number_text(kind, value)


def number_text(kind: str, value: Any) -> str:
    if kind == "percent":
        return f"{100 * value:.1f}"
    if kind == "points":
        text = f"{100 * value:+.1f}".replace("-", "−")
        return "0.0" if text[1:] == "0.0" else text
    if kind == "integer":
        return f"{value:,}"
    if kind in ("tenths", "decimal"):
        return f"{value:,.{1 if kind == 'tenths' else 3}f}"
    if kind == "number":
        return f"{value:,.4g}"
    return str(value)


def interval_text(kind: str, estimate: Estimate) -> str:
    return f"[{number_text(kind, estimate.low)}, {number_text(kind, estimate.high)}]"


def _csv_cells(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Estimate):
        parts = [("", value.value), ("_low", value.low), ("_high", value.high), ("_stderr", value.stderr)]
        cells = [(key + end, f"{number:.6g}") for end, number in parts] + [(f"{key}_n", value.n)]
        return cells + [(f"{key}_seed_sd", "" if value.seed_sd is None else f"{value.seed_sd:.6g}")]
    if isinstance(value, float):
        return [(key, f"{value:.6g}")]
    if isinstance(value, list):
        return [
            (key, " ".join(link.href for link in value)),
            (f"{key}_sha256", " ".join(link.sha256 for link in value)),
        ]
    return [(key, value)]


# --- checkpoints ---------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """One node of the recipe graph and what was measured of it; what does not exist yet is None or empty."""

    node: str
    recipe: str
    study: str | None
    stage: str
    parents: list[str]
    seed: int | None
    grid: dict[str, Any]
    settings: dict[str, Any]
    manifest: dict | None = None
    manifest_link: Link | None = None
    provenance: dict | None = None
    log: list[dict[str, float]] = field(default_factory=list)
    results: dict | None = None
    samples: list[dict] = field(default_factory=list)


@dataclass
class Score:
    """One task of one arm: the estimate over seeds and, per item, the mean over seeds of being right."""

    task: str
    axis: str
    metric: str
    estimate: Estimate
    items: dict[Any, float]


class Arm:
    """A recipe at one grid point (or a model), over its seeds: the unit that tables compare."""

    def __init__(self, name: str, members: list[Checkpoint]):
        self.name, self.members = name, members
        self.stage, self.recipe, self.grid = members[0].stage, members[0].recipe, members[0].grid
        self.seeds = [m.seed for m in members if m.seed is not None]
        self.links = [m.manifest_link for m in members if m.manifest_link]
        evaluated = [m for m in members if m.results]
        tasks = evaluated[0].results["tasks"] if evaluated else {}
        self.scores = {task: _score(task, evaluated) for task in tasks}

    def on(self, axis: str) -> list[Score]:
        return [score for score in self.scores.values() if score.axis == axis]

    def axis(self, axis: str) -> Estimate | None:
        """Plain mean of the axis' tasks: Wilson intervals per task, combined, widened by the seeds."""
        scores = self.on(axis)
        if not scores:
            return None
        values = [s.estimate.value for s in scores]
        seeds = tuple(float(np.mean(v)) for v in zip(*(s.estimate.seed_values for s in scores), strict=True))
        within = estimators.combine(values, [estimators.wilson(s.estimate.value, s.estimate.n) for s in scores])
        low, high = estimators.widen(float(np.mean(values)), within, seeds)
        stderr = float(np.sqrt(sum(s.estimate.stderr**2 for s in scores))) / len(scores)
        total = sum(s.estimate.n for s in scores)
        return Estimate(float(np.mean(values)), max(0.0, low), min(1.0, high), stderr, total, seeds)

    def sampling(self) -> dict[str, dict[str, Estimate]]:
        """{task: {"pass@1": Estimate, …}} over seeds; empty when nothing was sampled."""
        runs = [m.results["sampling"] for m in self.members if m.results and m.results.get("sampling")]
        if not runs:
            return {}
        return {
            task: {name: _pooled([run[task][name] for run in runs], first["n"]) for name in first if "@" in name}
            for task, first in runs[0].items()
        }

    def perplexity(self) -> dict[str, Estimate]:
        runs = [m.results["perplexity"] for m in self.members if m.results and m.results.get("perplexity")]
        return {
            name: _pooled([run[name] for run in runs], first["n"], None) for name, first in (runs or [{}])[0].items()
        }


def _score(task: str, members: list[Checkpoint]) -> Score:
    rows = [m.results["tasks"][task] for m in members]
    values = tuple(float(row["value"]) for row in rows)
    value, n = float(np.mean(values)), rows[0]["n"]
    low, high = estimators.widen(value, estimators.wilson(value, n), values)
    # lm-eval gives no standard error for some metrics: then that of a share.
    stderr = rows[0]["stderr"] if len(rows) == 1 else None
    stderr = float(np.sqrt(value * (1 - value) / n)) if stderr is None else stderr
    per_seed = [
        {s["doc_id"]: float(s["correct"][0]) for s in m.samples if s["task"] == task and s["kind"] == "greedy"}
        for m in members
    ]
    items = {doc: float(np.mean([seed[doc] for seed in per_seed])) for doc in per_seed[0]}
    if items and abs(np.mean(list(items.values())) - value) > 1e-6:
        items = {}  # a graded metric: being right or wrong does not make it up, so nothing is paired
    estimate = Estimate(value, max(0.0, low), min(1.0, high), stderr, n, values)
    return Score(task, rows[0]["axis"], rows[0]["metric"], estimate, items)


def _pooled(rows: list[dict], n: int, ceiling: float | None = 1.0) -> Estimate:
    """One estimate from that of each seed, all over the same items."""
    values = tuple(float(row["value"]) for row in rows)
    value, stderr = float(np.mean(values)), float(np.mean([row["stderr"] for row in rows]))
    if all("interval" in row for row in rows):
        within = tuple(float(np.mean(edge)) for edge in zip(*(row["interval"] for row in rows), strict=True))
    else:
        within = (value - estimators.Z * stderr, value + estimators.Z * stderr)
    low, high = estimators.widen(value, within, values)
    return Estimate(value, max(0.0, low), high if ceiling is None else min(ceiling, high), stderr, n, values)


def arms_of(checkpoints: Iterable[Checkpoint]) -> dict[str, Arm]:
    """Checkpoints by recipe and grid point, in the order of the recipes."""
    groups: dict[tuple, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        groups.setdefault((checkpoint.recipe, setting_text(checkpoint.grid)), []).append(checkpoint)
    arms = [Arm(_arm_name(members), members) for members in groups.values()]
    return {arm.name: arm for arm in arms}


def _arm_name(members: list[Checkpoint]) -> str:
    return members[0].node.removesuffix(f"-s{members[0].seed}") if len(members) > 1 else members[0].node


def root_of(arm: Arm, arms: dict[str, Arm]) -> Arm:
    """The model at the start of an arm's chain of first parents: what its gain and loss are measured from."""
    by_node = {m.node: a for a in arms.values() for m in a.members}
    while arm.members[0].parents:
        arm = by_node[arm.members[0].parents[0]]
    return arm


# --- paired differences --------------------------------------------------------------------------


@cache
def _shares(task: str, n: int) -> np.ndarray:
    # Tasks of equal length need draws of their own, or their errors would be correlated.
    return estimators.resample_shares(n, RESAMPLES, [BOOTSTRAP_SEED, zlib.crc32(task.encode())])


def _resampled(scores: list[Score]) -> np.ndarray:
    """[RESAMPLES] means over tasks, items resampled within each task."""
    means = [
        _shares(s.task, len(s.items)) @ np.array([s.items[doc] for doc in sorted(s.items, key=str)]) for s in scores
    ]
    return np.mean(means, axis=0)


def _comparable(ours: list[Score], theirs: list[Score]) -> bool:
    if [s.task for s in ours] != [s.task for s in theirs]:
        return False
    return bool(ours) and all(a.items and a.items.keys() == b.items.keys() for a, b in zip(ours, theirs, strict=True))


def difference(arm: Arm, root: Arm, axis: str | None = None, task: str | None = None) -> Estimate | None:
    """Arm minus root on an axis or a task, paired by item; None when they did not answer the same items."""
    ours = arm.on(axis) if axis else [s for s in arm.scores.values() if s.task == task]
    theirs = root.on(axis) if axis else [s for s in root.scores.values() if s.task == task]
    if not _comparable(ours, theirs):
        return None
    found = _contrast(ours, theirs, lambda a, b: a - b)
    if found.stderr:
        return found
    # Not one item changed: resampling shows no chance at all. Newcombe 1998, method 10, from the levels instead.
    (a_low, a_high), (b_low, b_high) = (
        estimators.combine([s.estimate.value for s in side], [(s.estimate.low, s.estimate.high) for s in side])
        for side in (ours, theirs)
    )
    a, b = (float(np.mean([s.estimate.value for s in side])) for side in (ours, theirs))
    low, high = float(np.hypot(a - a_low, b_high - b)), float(np.hypot(a_high - a, b - b_low))
    return replace(found, low=found.value - low, high=found.value + high)


def retention(arm: Arm, root: Arm) -> Estimate | None:
    """Share of the root's general score that the arm keeps, paired by item; None when the root has none."""
    ours, theirs = arm.on("general"), root.on("general")
    if not _comparable(ours, theirs) or root.axis("general").value == 0:
        return None
    return _contrast(ours, theirs, lambda a, b: a / b)


def _contrast(ours: list[Score], theirs: list[Score], contrast) -> Estimate:
    a, b = (float(np.mean([s.estimate.value for s in side])) for side in (ours, theirs))
    drawn = contrast(_resampled(ours), _resampled(theirs))
    per_seed = np.mean([s.estimate.seed_values for s in ours], axis=0)
    seeds = tuple(float(contrast(value, b)) for value in per_seed)
    tail = (1 - estimators.INTERVAL) / 2
    within = tuple(float(edge) for edge in np.quantile(drawn, [tail, 1 - tail]))
    value = float(contrast(a, b))
    low, high = estimators.widen(value, within, seeds)
    return Estimate(value, low, high, float(drawn.std(ddof=1)), sum(s.estimate.n for s in ours), seeds)


# --- tables of scores ----------------------------------------------------------------------------

IDENTITY = [Column("checkpoint", "checkpoint", "code"), Column("stage", "stage")]
ORIGIN = [Column("seeds", "seeds"), Column("manifest", "manifest", "links")]


def _identity(arm: Arm) -> dict:
    return {"checkpoint": arm.name, "stage": arm.stage, "seeds": seeds_text(arm), "manifest": arm.links}


def seeds_text(arm: Arm) -> str:
    return " ".join(map(str, arm.seeds)) or "–"


def checkpoints_table(arms: list[Arm], every: dict[str, Arm]) -> Table:
    """Both axes of every evaluated arm, with what it gained and lost against its root."""
    columns = [
        IDENTITY[0],
        Column("target", "target %", "percent"),
        Column("gain", "gain, points", "points"),
        Column("general", "general %", "percent"),
        Column("loss", "change, points", "points"),
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
                **_identity(arm),
                "target": target,
                "gain": difference(arm, root, "target") if trained else None,
                "general": general,
                "loss": difference(arm, root, "general") if trained else None,
                "retention": retention(arm, root) if trained else None,
                "harder": arm.axis("harder"),
                "n": " / ".join(str(e.n) if e else "–" for e in (target, general)),
                "seed_sd": " / ".join(f"{100 * sd:.1f}" for sd in spread) or None,
            }
        )
    caption = (
        "95 % intervals; n and seed SD (in points) are of target / general. An axis is the plain mean of its tasks."
        " Levels: Wilson intervals per task, combined. Gain, change and share kept of the base's score"
        f": paired bootstrap over items ({RESAMPLES:,} resamples). With several seeds the mean over seeds;"
        " the interval covers items and seeds."
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
                    **_identity(arm),
                    "score": score.estimate,
                    "stderr": score.estimate.stderr,
                    "change": difference(arm, root, task=task) if arm is not root else None,
                    "n": score.estimate.n,
                    "metric": score.metric,
                    "seed_sd": score.estimate.seed_sd,
                }
            )
    order = {arm.name: index for index, arm in enumerate(arms)}
    rows.sort(key=lambda row: (AXES.index(row["axis"]), row["task"], order[row["checkpoint"]]))
    caption = "95 % Wilson intervals; change against the base by paired bootstrap over items. Greedy decoding."
    return Table("tasks", caption, columns, rows)


def compact_tasks(arms: list[Arm]) -> Table:
    """Tasks by checkpoint, for the page: the same estimates as `tasks_table`, side by side."""
    columns = [Column("axis", "axis"), Column("task", "task", "code"), Column("n", "n", "integer")]
    columns += [
        Column(arm.name, arm.name if len(arm.seeds) < 2 else f"{arm.name} ({len(arm.seeds)} seeds)", "percent")
        for arm in arms
    ]
    rows: dict[str, dict] = {}
    for arm in arms:
        for task, score in ((task, score) for task, score in arm.scores.items() if score.axis != "dev"):
            row = rows.setdefault(task, {"axis": score.axis, "task": task, "n": score.estimate.n})
            row[arm.name] = score.estimate
    ordered = sorted(rows.values(), key=lambda row: AXES.index(row["axis"]))
    caption = (
        "Percent right, greedy decoding, 95 % Wilson intervals. Standard errors and changes are in the full table."
    )
    return Table("tasks", caption, columns, ordered)


def sampling_table(arms: list[Arm]) -> Table | None:
    rows, names = [], []
    for arm in arms:
        for task, metrics in arm.sampling().items():
            names += [name for name in sorted(metrics, key=_metric_order) if name not in names]
            setup = next(m.results["sampling"][task] for m in arm.members if m.results)
            rest = {key: setup[key] for key in ("n", "samples", "temperature")}
            rows.append({"task": task, **_identity(arm), **metrics, **rest})
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
            row = {"rows": name, **_identity(arm), "perplexity": estimate, "stderr": estimate.stderr}
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
        Column("study", "study"),
        Column("seed", "seed", "integer"),
        Column("settings", "settings"),
        Column("manifest", "manifest", "links"),
    ]
    rows = []
    for c in checkpoints:
        shown = {key: c.settings[key] for key in stage_defaults_shown if key in c.settings} | c.grid
        rows.append(
            {
                "node": c.node,
                "stage": c.stage,
                "from": " + ".join(c.parents),
                "study": c.study,
                "seed": c.seed,
                "settings": ", ".join(f"{key} {setting_text(value)}" for key, value in shown.items()),
                "manifest": [c.manifest_link] if c.manifest_link else None,
            }
        )
    return Table("nodes", "Every node of the recipe graph; full settings are under Provenance.", columns, rows)


def setting_text(value: Any) -> str:
    if isinstance(value, dict):
        rest = [f"{k}={setting_text(v)}" for k, v in value.items() if k != "kind"]
        return " ".join([value["kind"], *rest] if "kind" in value else rest)
    return json.dumps(value) if isinstance(value, list | bool) else str(value)


def grid_table(name: str, points: list[Arm], best: Arm | None) -> Table:
    keys = sorted({key for arm in points for key in arm.grid})
    columns = [Column(key, key, "number") for key in keys]
    columns += [Column(axis, f"{axis} %", "percent") for axis in ("dev", "target", "general")]
    columns += [Column("n", "n dev / target / general"), Column("best", "chosen"), *ORIGIN]
    rows = []
    for arm in points:
        scores = {axis: arm.axis(axis) for axis in ("dev", "target", "general")}
        n = " / ".join(str(e.n) if e else "–" for e in scores.values())
        rows.append({**_identity(arm), **arm.grid, **scores, "n": n, "best": "best on dev" if arm is best else None})
    caption = "The point is chosen on dev, which is disjoint from the target; target and general are reported for it."
    return Table(f"grid_{name}", caption, columns, rows)


def unlearned_table(arm: Arm, items: list[dict]) -> Table:
    columns = [Column("task", "task", "code"), Column("doc_id", "item", "code"), Column("prompt", "prompt")]
    columns += [Column("reference", "reference"), Column("answer", "greedy answer"), Column("sampled", "samples right")]
    caption = f"Target items that {arm.name} answers wrong greedily and in every sample. Seeds: {seeds_text(arm)}."
    return Table("unlearned", caption, columns, items)


# --- tables of rows ------------------------------------------------------------------------------


@dataclass
class Flow:
    """Where the rows of a data set went: counts[file][outcome]; outcomes are "train", "valid" or (step, reason)."""

    dataset: str
    counts: dict[str, dict[Any, int]]

    @property
    def outcomes(self) -> list[Any]:
        seen = {outcome for row in self.counts.values() for outcome in row}
        kept = [o for o in ("train", "valid", "kept") if o in seen]
        return kept + sorted((o for o in seen if isinstance(o, tuple)), key=lambda o: (DATA_STEPS.index(o[0]), o[1]))

    def total(self, outcome: Any) -> int:
        return sum(row.get(outcome, 0) for row in self.counts.values())

    @property
    def quarantined(self) -> int:
        return sum(m for row in self.counts.values() for outcome, m in row.items() if isinstance(outcome, tuple))

    @property
    def rows_in(self) -> int:
        return sum(sum(row.values()) for row in self.counts.values())


def flow_of(dataset: str, manifests: dict[str, dict], held_out: Mapping[str, int]) -> Flow:
    """Follow every source file through the manifests of the data steps; what enters must come out.

    Args:
        manifests: data step → manifest, of the steps done so far.
        held_out: source file → rows of the validation part.
    """
    counts: dict[str, dict[Any, int]] = {}
    kept: dict[str, int] = {}
    for step in (step for step in DATA_STEPS if step in manifests):
        rows = manifests[step]["counts"]["by_file"]
        # A file of which nothing is left does not enter the next step.
        assert step == "ingest" or {f: row["in"] for f, row in rows.items()} == {f: m for f, m in kept.items() if m}, (
            f"{dataset}: {step} does not take what the step before it kept"
        )
        kept = {file: row["kept"] for file, row in rows.items()}
        for file, row in rows.items():
            assert row["in"] == row["kept"] + sum(row["quarantined"].values()), f"{dataset}: {file} in {step}"
            counts.setdefault(file, {}).update({(step, reason): m for reason, m in row["quarantined"].items() if m})
    for file, left in kept.items():
        parts = {"train": left - held_out.get(file, 0), "valid": held_out.get(file, 0)}
        counts[file] |= parts if "split" in manifests else {"kept": left}
    return Flow(dataset, counts)


OUTCOME_LABELS = {"train": "trained", "valid": "validation", "kept": "kept"}


def rows_table(flow: Flow) -> Table:
    columns = [Column("step", "step"), Column("outcome", "outcome"), Column("all", "all files", "integer")]
    columns += [Column(file, short_path(file), "integer") for file in flow.counts]
    rows = []
    for outcome in flow.outcomes:
        step, reason = outcome if isinstance(outcome, tuple) else ("", OUTCOME_LABELS[outcome])
        counts = {file: row.get(outcome, 0) for file, row in flow.counts.items()}
        rows.append({"step": step, "outcome": reason, "all": flow.total(outcome), **counts})
    totals = {file: sum(row.values()) for file, row in flow.counts.items()}
    rows.append({"step": "", "outcome": "entered", "all": flow.rows_in, **totals})
    caption = "Counts of rows. Every row that entered is in exactly one line above the last."
    return Table(f"rows_{flow.dataset}", caption, columns, rows)


def short_path(file: str) -> str:
    return file.rsplit("/", 1)[-1]


def quarantine_table(dataset: str, examples: list[dict]) -> Table:
    names = ("step", "reason", "file", "line", "column", "hint", "detail", "excerpt")
    columns = [Column(name, name, "code" if name in ("reason", "column", "excerpt") else "text") for name in names]
    caption = (
        f"The first {EXAMPLES_PER_REASON} quarantined rows of each reason; all are in quarantine.jsonl of the step."
    )
    return Table(f"quarantine_{dataset}", caption, columns, examples)


def quarantine_examples(records: Iterable[dict]) -> list[dict]:
    """The first few records of each step and reason, in the order of the steps."""
    found: dict[tuple, list[dict]] = {}
    for record in records:
        bucket = found.setdefault((record["step"], record["reason"]), [])
        if len(bucket) < EXAMPLES_PER_REASON:
            bucket.append(record | {"detail": setting_text(record.get("detail") or "")})
    return [r for key in sorted(found, key=lambda k: (DATA_STEPS.index(k[0]), k[1])) for r in found[key]]


def dirt_table(dataset: str, scored: list[dict[str, str]]) -> Table:
    """How well the cleaning found the planted dirt, from the rows of dirt.csv."""

    def share(row: dict[str, str], name: str, n: int) -> Estimate | None:
        if not row[name]:
            return None
        value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
        return Estimate(value, low, high, float(np.sqrt(value * (1 - value) / n)), n)

    columns = [Column("kind", "planted kind", "code"), Column("planted", "planted", "integer")]
    columns += [Column("found", "found", "integer"), Column("recall", "recall %", "percent")]
    columns += [Column("quarantined", "quarantined", "integer"), Column("correct", "rightly", "integer")]
    columns += [Column("precision", "precision %", "percent")]
    rows = []
    for row in scored:
        counts = {key: int(row[key]) for key in ("planted", "found", "quarantined", "correct")}
        recall, precision = share(row, "recall", counts["planted"]), share(row, "precision", counts["quarantined"])
        rows.append({"kind": row["kind"], **counts, "recall": recall, "precision": precision})
    caption = "Cleaning against the dirt that was planted in the raw rows. 95 % Wilson intervals; duplicates by group."
    return Table(f"dirt_{dataset}", caption, columns, rows)


def bucket_table(dataset: str, manifest: dict) -> Table:
    counts, settings = manifest["counts"], manifest["settings"]
    low, high = settings["edges"]
    rates = {
        "easy": f"≥ {high:g}",
        "medium": f"{low:g} to {high:g}",
        "hard": f"< {low:g}",
        "unverified": "no answer to check",
    }
    n = counts["in"]
    rows = []
    for bucket, meaning in rates.items():
        value = counts[bucket] / n
        interval = estimators.wilson(value, n)
        share = Estimate(value, *interval, float(np.sqrt(value * (1 - value) / n)), n)
        rows.append({"bucket": bucket, "rate": meaning, "rows": counts[bucket], "share": share})
    columns = [Column("bucket", "bucket"), Column("rate", "pass rate of the base"), Column("rows", "rows", "integer")]
    columns.append(Column("share", "share %", "percent"))
    caption = f"Training rows by how often the base solves them, {settings['samples']} samples each (n = {n:,} rows)."
    return Table(f"buckets_{dataset}", caption, columns, rows)


# --- timing --------------------------------------------------------------------------------------


def timing_table(benchmarks: list[dict]) -> Table:
    columns = [Column("rule", "rule", "code"), Column("seconds", "seconds", "tenths")]
    columns += [Column("cpu_seconds", "CPU seconds", "tenths"), Column("peak_mib", "peak memory, MiB", "tenths")]
    caption = "Measured by Snakemake when each rule last ran; below a second it is too late to see the memory."
    return Table("timing", caption, columns, sorted(benchmarks, key=lambda row: -row["seconds"]))


# --- choices -------------------------------------------------------------------------------------


def best_points(arms: dict[str, Arm]) -> dict[str, tuple[list[Arm], Arm | None]]:
    """{recipe: (its grid points, the one with the highest dev score)}; None where dev was not measured."""
    gridded = sorted((arm for arm in arms.values() if arm.grid), key=lambda arm: arm.recipe)
    found = {}
    for recipe, group in groupby(gridded, key=lambda arm: arm.recipe):
        points = list(group)
        measured = [arm for arm in points if arm.axis("dev")]
        # The first in order wins a tie, so that two equal runs choose alike.
        best = max(measured, key=lambda arm: arm.axis("dev").value) if measured else None
        found[recipe] = (points, best)
    return found


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other point beats on both coordinates (higher is better), by the first."""
    front = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(front, key=lambda name: points[name])
