"""Checkpoints as the report compares them: a candidate is a recipe over its seeds. Scores and paired differences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import numpy as np

from steps.report.tables import Estimate, Link, setting_text
from steps.stats import bootstrap, intervals


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
    teachers: list[str] = field(default_factory=list)
    manifest: dict | None = None
    manifest_link: Link | None = None
    provenance: dict | None = None
    log: list[dict[str, float]] = field(default_factory=list)
    results: dict | None = None
    samples: list[dict] = field(default_factory=list)
    # The trained checkpoints that it was made from or taught by, over all generations (`candidates_of`).
    rests_on: frozenset[str] = frozenset()


@dataclass
class Score:
    """One task of one candidate: the estimate over seeds, per item its value of 0 to 1 in each seed (none where that
    does not make up the metric), the share of its answers that were cut (None where it writes none), and what other
    metrics, filters and judges make of the same answers: a mean over seeds each."""

    task: str
    axis: str
    metric: str
    estimate: Estimate
    items: dict[Any, tuple[float, ...]]
    seeds: tuple[int | None, ...] = ()
    truncated: float | None = None
    others: dict[str, float] = field(default_factory=dict)

    @cached_property
    def values(self) -> np.ndarray:
        """[items, seeds], in the order of the items' names."""
        return np.array([self.items[doc] for doc in sorted(self.items, key=str)])


class Candidate:
    """A recipe at one grid point (or a model), over its seeds: the unit that tables compare."""

    def __init__(self, name: str, members: list[Checkpoint]):
        self.name, self.members = name, members
        self.stage, self.recipe, self.grid = members[0].stage, members[0].recipe, members[0].grid
        self.seeds = [m.seed for m in members if m.seed is not None]
        self.links = [m.manifest_link for m in members if m.manifest_link]
        self.rates = 1  # learning rates that its recipe was tried at
        evaluated = [m for m in members if m.results]
        tasks = evaluated[0].results["tasks"] if evaluated else {}
        self.scores = {task: _score(task, evaluated) for task in tasks}

    def on(self, axis: str) -> list[Score]:
        return [score for score in self.scores.values() if score.axis == axis]

    def axis(self, axis: str) -> Estimate | None:
        """Plain mean of the axis' tasks, with the chance of items and seeds."""
        scores = self.on(axis)
        if not scores:
            return None
        values = [s.estimate.value for s in scores]
        seeds = tuple(float(np.mean(v)) for v in zip(*(s.estimate.seed_values for s in scores), strict=True))
        if all(s.items for s in scores):
            low, high = intervals.share([s.values for s in scores])
        else:
            within = intervals.combine(values, [intervals.wilson(s.estimate.value, s.estimate.n) for s in scores])
            low, high = intervals.widen(float(np.mean(values)), within, seeds)
        stderr = float(np.sqrt(sum(s.estimate.stderr**2 for s in scores))) / len(scores)
        total = sum(s.estimate.n for s in scores)
        return Estimate(float(np.mean(values)), max(0.0, low), min(1.0, high), stderr, total, seeds)

    def sampling(self) -> dict[str, dict[str, Estimate]]:
        """{task: {"pass@1": Estimate, …}} over seeds; empty when nothing was sampled."""
        runs = [m.results["sampling"] for m in self.members if m.results and m.results.get("sampling")]
        if not runs:
            return {}
        return {
            task: {name: pooled([run[task][name] for run in runs], first["n"]) for name in first if "@" in name}
            for task, first in runs[0].items()
        }

    def perplexity(self) -> dict[str, Estimate]:
        runs = [m.results["perplexity"] for m in self.members if m.results and m.results.get("perplexity")]
        return {
            name: pooled([run[name] for run in runs], first["n"], None) for name, first in (runs or [{}])[0].items()
        }


def _score(task: str, members: list[Checkpoint]) -> Score:
    rows = [m.results["tasks"][task] for m in members]
    values = tuple(float(row["value"]) for row in rows)
    value, n = float(np.mean(values)), rows[0]["n"]
    # lm-eval gives no standard error for some metrics: then that of a share.
    stderr = rows[0]["stderr"] if len(rows) == 1 else None
    stderr = float(np.sqrt(value * (1 - value) / n)) if stderr is None else stderr
    per_seed = [
        {s["doc_id"]: float(s["correct"][0]) for s in m.samples if s["task"] == task and s["kind"] == "greedy"}
        for m in members
    ]
    items = items_of(per_seed)
    if items and abs(np.mean(list(items.values())) - value) > 1e-6:
        items = {}  # a graded metric: being right or wrong does not make it up, so nothing is paired
    if items:
        low, high = intervals.share([np.array(list(items.values()))])
    else:
        low, high = intervals.widen(value, intervals.wilson(value, n), values)
    estimate = Estimate(value, max(0.0, low), min(1.0, high), stderr, n, values)
    cut = [row["truncated"] for row in rows if "truncated" in row]
    truncated = float(np.mean(cut)) if cut else None
    told = [row.get("others", {}) for row in rows]
    others = {name: float(np.mean([own[name]["value"] for own in told if name in own])) for name in told[0]}
    seeds = tuple(m.seed for m in members)
    return Score(task, rows[0]["axis"], rows[0]["metric"], estimate, items, seeds, truncated, others)


def sampled_score(candidate: Candidate, task: str) -> Score | None:
    """pass@1 of one sampled task of the target; an item's value is the share of its samples that are right, in each
    seed. None where it was not sampled."""
    members = [m for m in candidate.members if m.results and task in m.results["sampling"]]
    if not members:
        return None
    rows = [m.results["sampling"][task] for m in members]
    n = rows[0]["n"]
    once = [
        row["pass@1"] if row["pass@1"]["stderr"]
        # Where all items agree, resampling shows no chance at all.
        else row["pass@1"] | {"interval": intervals.wilson(row["pass@1"]["value"], n)}
        for row in rows
    ]  # fmt: skip
    if any("interval" in row for row in once):
        once = [
            row if "interval" in row else
            row | {"interval": tuple(row["value"] + side * intervals.Z * row["stderr"] for side in (-1, 1))}
            for row in once
        ]  # fmt: skip
    seeds = [
        {s["doc_id"]: float(np.mean(s["correct"])) for s in m.samples if s["task"] == task and s["kind"] == "sampled"}
        for m in members
    ]
    return Score(task, "target", "pass@1", pooled(once, n), items_of(seeds), tuple(m.seed for m in members))


def items_of(seeds: Sequence[dict[Any, float]]) -> dict[Any, tuple[float, ...]]:
    """Item → its value in each seed, from what each seed made of the same items."""
    return {doc: tuple(seed[doc] for seed in seeds) for doc in seeds[0]}


def pooled(rows: list[dict], n: int, ceiling: float | None = 1.0, seeds: Sequence[int | None] = ()) -> Estimate:
    """One estimate from that of each seed, all over the same items; `seeds` are which they are."""
    values = tuple(float(row["value"]) for row in rows)
    value, stderr = float(np.mean(values)), float(np.mean([row["stderr"] for row in rows]))
    if all("interval" in row for row in rows):
        within = tuple(float(np.mean(edge)) for edge in zip(*(row["interval"] for row in rows), strict=True))
    else:
        within = (value - intervals.Z * stderr, value + intervals.Z * stderr)
    low, high = intervals.widen(value, within, values)
    high = high if ceiling is None else min(ceiling, high)
    return Estimate(value, max(0.0, low), high, stderr, n, values, tuple(seeds))


def candidates_of(checkpoints: Iterable[Checkpoint]) -> dict[str, Candidate]:
    """Checkpoints by recipe and grid point, in the order of the recipes."""
    groups: dict[tuple, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        groups.setdefault((checkpoint.recipe, setting_text(checkpoint.grid)), []).append(checkpoint)
    candidates = [Candidate(_name_of(members), members) for members in groups.values()]
    by_node = {m.node: m for candidate in candidates for m in candidate.members}
    rates: dict[str, set[str]] = {}
    for candidate in candidates:
        rates.setdefault(candidate.recipe, set()).add(str(settings_of(candidate).get("learning_rate")))
    for candidate in candidates:
        candidate.rates = len(rates[candidate.recipe])
        for member in candidate.members:
            member.rests_on = _rests_on(member, by_node)
    return {candidate.name: candidate for candidate in candidates}


def _rests_on(member: Checkpoint, by_node: dict[str, Checkpoint]) -> frozenset[str]:
    chain = [*member.parents, *member.teachers]
    for name in chain:
        known = by_node.get(name)
        chain += [] if known is None else [n for n in (*known.parents, *known.teachers) if n not in chain]
    return frozenset(name for name in chain if name in by_node and by_node[name].stage != "model")


def clusters(shared: Sequence[frozenset[str]]) -> list[int]:
    """The cluster of each of several runs, from what each rests on: runs with anything in common are of one cluster."""
    labels = list(range(len(shared)))
    for i, ours in enumerate(shared):
        for j, theirs in enumerate(shared[:i]):
            if ours & theirs and labels[i] != labels[j]:
                old, new = labels[i], labels[j]
                labels = [new if label == old else label for label in labels]
    return labels


def _name_of(members: list[Checkpoint]) -> str:
    return members[0].node.removesuffix(f"-s{members[0].seed}") if len(members) > 1 else members[0].node


def root_of(candidate: Candidate, candidates: dict[str, Candidate]) -> Candidate:
    """The model at the start of a candidate's chain of first parents: what its gain and loss are measured from."""
    by_node = {m.node: a for a in candidates.values() for m in a.members}
    while candidate.members[0].parents:
        candidate = by_node[candidate.members[0].parents[0]]
    return candidate


def seeds_text(candidate: Candidate) -> str:
    return " ".join(map(str, candidate.seeds)) or "–"


# --- paired differences --------------------------------------------------------------------------


@cache
def _shares(task: str, n: int) -> np.ndarray:
    return bootstrap.shares(n, bootstrap.seed_of(task))


def resampled(scores: Sequence[Score]) -> np.ndarray:
    """[RESAMPLES] means over tasks, items resampled within each task."""
    return np.mean([_shares(s.task, len(s.items)) @ s.values.mean(axis=1) for s in scores], axis=0)


def _comparable(ours: list[Score], theirs: list[Score]) -> bool:
    if [s.task for s in ours] != [s.task for s in theirs]:
        return False
    return bool(ours) and all(a.items and a.items.keys() == b.items.keys() for a, b in zip(ours, theirs, strict=True))


def difference(
    candidate: Candidate, root: Candidate, axis: str | None = None, task: str | None = None
) -> Estimate | None:
    """Candidate minus root on an axis or a task, paired by item; None when they did not answer the same items."""
    ours = candidate.on(axis) if axis else [s for s in candidate.scores.values() if s.task == task]
    theirs = root.on(axis) if axis else [s for s in root.scores.values() if s.task == task]
    return paired(ours, theirs)


def paired(ours: list[Score], theirs: list[Score]) -> Estimate | None:
    """How much higher the mean of some tasks is than that of the same tasks elsewhere; None where items differ."""
    return paired_axes([ours], [theirs])


def paired_axes(ours: list[list[Score]], theirs: list[list[Score]]) -> Estimate | None:
    """The same of the plain mean over axes, of each of which the tasks are given; None where one cannot be paired."""
    if not all(_comparable(a, b) for a, b in zip(ours, theirs, strict=True)):
        return None
    values, edges, variance, n = [], [], 0.0, 0
    for axis, others in zip(ours, theirs, strict=True):
        changes = [a.values.mean(axis=1) - b.values.mean(axis=1) for a, b in zip(axis, others, strict=True)]
        means = [float(change.mean()) for change in changes]
        values.append(float(np.mean(means)))
        edges.append(intervals.combine(means, [intervals.paired(change) for change in changes]))
        variance += sum(change.var() / len(change) for change in changes) / len(changes) ** 2 / len(ours) ** 2
        n += sum(map(len, changes))
    gap = Estimate(float(np.mean(values)), *intervals.combine(values, edges), float(np.sqrt(variance)), n)
    return _over_seeds(gap, ours, theirs, 1.0, 1.0)


def forgetting(candidate: Candidate, root: Candidate, task: str | None = None) -> Estimate | None:
    """Root minus candidate on the general axis or on one task, paired by item: what was lost of what was there."""
    change = difference(candidate, root, task=task) if task else difference(candidate, root, "general")
    return negated(change) if change else None


def negated(estimate: Estimate) -> Estimate:
    value, low, high, *seeds = (0.0 - x for x in (estimate.value, estimate.high, estimate.low, *estimate.seed_values))
    return replace(estimate, value=value, low=low, high=high, seed_values=tuple(seeds))


def retention(candidate: Candidate, root: Candidate) -> Estimate | None:
    """Share of the root's general score that the candidate keeps, paired by item; None when the root has none."""
    ours, theirs = candidate.on("general"), root.on("general")
    if not _comparable(ours, theirs) or root.axis("general").value == 0:
        return None
    after, before = (float(np.mean([s.estimate.value for s in side])) for side in (ours, theirs))
    kept, drawn = after / before, resampled(ours) / resampled(theirs)
    stderr, n = float(drawn.std(ddof=1)), sum(s.estimate.n for s in ours)
    # Of the seeds, as far as it is linear in both levels: a ratio of one seed whose root is low would say nothing.
    share = Estimate(kept, *intervals.percentile(drawn), stderr, n)
    return _over_seeds(share, [ours], [theirs], 1 / before, kept / before)


def _over_seeds(within: Estimate, ours: list[list[Score]], theirs: list[list[Score]], a: float, b: float) -> Estimate:
    """A contrast of two sides with the chance of the seeds of both, as far as it goes by a · ours − b · theirs.

    Seeds that both sides have are pairs, as are all of one side with the single one of the other.
    """
    weights = [1 / len(ours) / len(axis) for axis in ours for _ in axis]
    left, right = [score for axis in ours for score in axis], [score for axis in theirs for score in axis]
    sides = [[w * a * s.values for w, s in zip(weights, left, strict=True)]]
    sides += [[w * b * s.values for w, s in zip(weights, right, strict=True)]]
    order = _pairs(*([*score.seeds] or [None] * score.values.shape[1] for score in (left[0], right[0])))
    if order is not None:
        sides = [[x - y[:, order] for x, y in zip(*sides, strict=True)]]
    seeds = [np.sum([task.mean(axis=0) for task in side], axis=0) for side in sides]
    low, high = intervals.widen(within.value, (within.low, within.high), *seeds)
    each = within.value + seeds[0] - seeds[0].mean()
    return replace(within, low=low, high=high, seed_values=tuple(map(float, each)))


def _pairs(ours: Sequence[int | None], theirs: Sequence[int | None]) -> list[int] | None:
    """Which seeds of theirs belong to ours, in the order of ours; None where both have several and not the same.

    A checkpoint of one seed may stand in the place of each of the other side's.
    """
    k, m = len(ours), len(theirs)
    once = any(len(set(side)) == 1 for side in (ours, theirs))
    if 1 in (k, m) or (k == m and (once or ours == theirs)):
        return list(range(m))
    if sorted(map(str, ours)) == sorted(map(str, theirs)) and len(set(ours)) == k:
        return [theirs.index(seed) for seed in ours]
    return None


def apart(ours: Estimate, theirs: Estimate) -> Estimate:
    """How much more one side has of what was measured as a whole: items as independent, seeds in pairs by number."""
    value, stderr = ours.value - theirs.value, float(np.hypot(ours.stderr, theirs.stderr))
    half = intervals.Z * stderr
    seeds, others = (np.array(side.seed_values or (side.value,)) for side in (ours, theirs))
    single = 1 in (len(seeds), len(others))
    order = None if single or not (ours.seeds and theirs.seeds) else _pairs(ours.seeds, theirs.seeds)
    pairs = seeds - (others if single else others[order]) if single or order is not None else None
    groups = [seeds, others] if pairs is None else [pairs]
    low, high = intervals.widen(value, (value - half, value + half), *groups)
    each = value + groups[0] - groups[0].mean()
    return Estimate(value, low, high, stderr, ours.n, tuple(map(float, each)))


# --- choices -------------------------------------------------------------------------------------


def best_points(candidates: dict[str, Candidate]) -> dict[str, tuple[list[Candidate], Candidate | None]]:
    """{recipe: (its grid points, the one with the highest dev score)}; None where dev was not measured."""
    gridded = sorted(
        (candidate for candidate in candidates.values() if candidate.grid), key=lambda candidate: candidate.recipe
    )
    grids = {}
    for recipe, group in groupby(gridded, key=lambda candidate: candidate.recipe):
        points = list(group)
        measured = [candidate for candidate in points if candidate.axis("dev")]
        # The first in order wins a tie, so that two equal runs choose alike.
        best = max(measured, key=lambda candidate: candidate.axis("dev").value) if measured else None
        grids[recipe] = (points, best)
    return grids


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other point beats on both coordinates (higher is better), by the first."""
    front = [
        name
        for name, (x, y) in points.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
    ]
    return sorted(front, key=lambda name: points[name])


def settings_of(candidate: Candidate) -> dict:
    return candidate.members[0].settings


def matched(candidate: Candidate, other: Candidate) -> tuple[Candidate, Candidate]:
    """Two candidates with no more than the seeds that both have; as they are where they have none in common. While a
    study is half done, with no more than those of which both were measured."""
    common = _measured_seeds(candidate) & _measured_seeds(other)
    ours, theirs = with_seeds(candidate, common), with_seeds(other, common)
    if common and ours.seeds != theirs.seeds and sorted(ours.seeds) == sorted(theirs.seeds):
        theirs = with_seeds(theirs, common, sorted(theirs.members, key=lambda member: ours.seeds.index(member.seed)))
    return ours, theirs


def _measured_seeds(candidate: Candidate) -> set[int]:
    measured = {m.seed for m in candidate.members if m.results and m.seed is not None}
    return measured or set(candidate.seeds)


def with_seeds(candidate: Candidate, seeds: set[int], order: list[Checkpoint] | None = None) -> Candidate:
    """A candidate with no more than some of its seeds; as it is where these are none.

    Args:
        order: of its members, where it shall be another.
    """
    if not order and (not seeds or seeds == set(candidate.seeds)):
        return candidate
    some = Candidate(candidate.name, [m for m in order or candidate.members if m.seed in seeds])
    some.rates = candidate.rates
    return some
