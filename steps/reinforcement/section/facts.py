"""What the report knows of reinforcement learning: runs from one start, how they went, what they did to exploration."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.files import read_jsonl
from steps.judges.canonical import canonical
from steps.report.budgets import TOLERANCE
from steps.report.candidates import (
    Candidate,
    Checkpoint,
    Score,
    difference,
    items_of,
    matched,
    paired,
    pooled,
    settings_of,
)
from steps.report.logs import logged, spent
from steps.report.tables import Estimate
from steps.settings import methods
from steps.stats import intervals, sampling

# How a task was answered: with the working written out, or with nothing but the answer.
MODES = ("cot", "direct")
# What candidates must have in common for one to be called better than another.
BUDGET = ("data", "rewards", "pass_rate", "steps", "prompts", "generations", "max_new_tokens")


@dataclass
class Explored:
    """Repeated sampling of one checkpoint."""

    tasks: dict[str, dict[str, dict]]  # task → mode → what explore.json says of it
    folder: Path

    @cached_property
    def items(self) -> dict[tuple[str, str], dict[Any, tuple[list[bool], float]]]:
        """(task, mode) → item → (which samples are correct, the chance that the majority of all is)."""
        items: dict[tuple[str, str], dict[Any, tuple[list[bool], float]]] = {}
        for row in read_jsonl(self.folder / "items.jsonl"):
            votes = [None if answer is None else canonical(answer) for answer in row["answers"]]
            judged = row["correct"], sampling.majority(votes, row["correct"])
            items.setdefault((row["task"], row["mode"]), {})[row["doc_id"]] = judged
        return items

    def per_item(self, task: str, mode: str, metric: str) -> dict[Any, float]:
        """Item → its pass@k, or its majority@k where k is the number of samples."""
        name, k = metric.split("@")
        rows = self.items[task, mode]
        if name == "majority":
            assert int(k) == self.tasks[task][mode]["samples"], metric
            return {doc: majority for doc, (_, majority) in rows.items()}
        values = sampling.pass_at_k(np.array([correct for correct, _ in rows.values()], dtype=bool), int(k))
        return dict(zip(rows, values.tolist(), strict=True))


@dataclass
class Gate:
    """What the gate of one node saw: its checks, and how many rows it let through."""

    checks: list[dict[str, str]]
    counts: dict


@dataclass
class Comparison:
    """Runs of reinforcement learning from one start, and what else was made of that start to compare them with."""

    start: Candidate
    candidates: list[Candidate]
    controls: list[Candidate]

    @property
    def shown(self) -> list[Candidate]:
        return [self.start, *self.candidates, *self.controls]

    @property
    def of_method(self) -> dict[str, Candidate]:
        """One candidate per method, in the order of the methods: of the candidates with equal budget and rewards,
        where most methods have one; of several, the one with most seeds, of these the best on dev."""
        groups: dict[str, dict[str, Candidate]] = {}
        for candidate in self.candidates:
            of_budget = groups.setdefault(repr([settings_of(candidate).get(key) for key in BUDGET]), {})
            known = of_budget.get(method(candidate))
            if known is None or _rank(candidate) > _rank(known):
                of_budget[method(candidate)] = candidate
        best = max(groups.values(), key=len)
        return {name: best[name] for name in sorted(best, key=method_order)}


def method(candidate: Candidate) -> str:
    """The method of a candidate of stage rl, "" of any other."""
    return settings_of(candidate)["method"] if candidate.stage == "rl" else ""


def method_name(candidate: Candidate) -> str:
    return methods.label(method(candidate))


def method_order(name: str) -> int:
    """Its place in tables and legends; what is not known comes last."""
    known = list(methods.METHODS)
    return known.index(name) if name in known else len(known)


def _rank(candidate: Candidate) -> tuple[int, float]:
    dev = candidate.axis("dev")
    return len(candidate.members), dev.value if dev else 0.0


@dataclass
class Reinforcement:
    """All runs of stage rl, as far as they are done."""

    every: dict[str, Candidate]
    comparisons: list[Comparison]  # the one with most candidates first
    explored: dict[str, Explored] = field(default_factory=dict)  # by node
    gates: dict[str, Gate] = field(default_factory=dict)  # by node
    rollouts: dict[str, list[dict]] = field(default_factory=dict)  # by node
    disagreements: dict[str, list[dict]] = field(default_factory=dict)  # by node
    judges: dict[str, list[dict]] = field(default_factory=dict)  # candidate of stage reward → reward.json, seed by seed

    @property
    def candidates(self) -> list[Candidate]:
        """Of stage rl, in the order of comparisons."""
        return [candidate for comparison in self.comparisons for candidate in comparison.candidates]

    @property
    def shown(self) -> list[Candidate]:
        return list(
            {candidate.name: candidate for comparison in self.comparisons for candidate in comparison.shown}.values()
        )

    def is_start(self, candidate: Candidate) -> bool:
        return any(candidate is comparison.start for comparison in self.comparisons)

    def start_of(self, candidate: Candidate) -> Candidate | None:
        """What a candidate is compared with: its comparison's start; None for that itself."""
        sides = ((c.start, [*c.candidates, *c.controls]) for c in self.comparisons)
        return next((start for start, candidates in sides if candidate in candidates), None)

    def short_name(self, candidate: Candidate) -> str:
        """The recipe of a grid's chosen point, where no other point of it is shown."""
        alone = sum(other.recipe == candidate.recipe for other in self.shown) == 1
        return candidate.recipe if candidate.grid and alone else candidate.name

    @property
    def tasks(self) -> list[str]:
        """The tasks that were explored, in the order of the settings."""
        return list(dict.fromkeys(task for run in self.explored.values() for task in run.tasks))

    @property
    def target(self) -> str | None:
        """The task that speaks for the target: the first of that axis or, where none is, the first of all; None while
        nothing was explored."""
        of_target = {score.task for candidate in self.every.values() for score in candidate.on("target")}
        return next((task for task in self.tasks if task in of_target), next(iter(self.tasks), None))

    @property
    def largest(self) -> int:
        """The largest k of pass@k that every explored checkpoint has."""
        return min(row["samples"] for run in self.explored.values() for of in run.tasks.values() for row in of.values())

    @property
    def temperature(self) -> float:
        """At which exploration sampled."""
        return next(
            row["temperature"] for run in self.explored.values() for of in run.tasks.values() for row in of.values()
        )

    @property
    def ks(self) -> list[int]:
        """The k of pass@k: powers of two, and the largest."""
        return [2**power for power in range(self.largest.bit_length()) if 2**power < self.largest] + [self.largest]

    def _runs(self, candidate: Candidate, task: str, mode: str) -> dict[int | None, Explored]:
        """By seed: what was explored of a candidate."""
        runs = {m.seed: self.explored[m.node] for m in candidate.members if m.node in self.explored}
        return {seed: run for seed, run in runs.items() if mode in run.tasks.get(task, {})}

    def level(self, candidate: Candidate, task: str | None, metric: str, mode: str = "cot") -> Estimate | None:
        """What explore.json says of a candidate, over its seeds; None where it was not measured."""
        of_seed = {seed: run.tasks[task][mode] for seed, run in self._runs(candidate, task, mode).items()}
        rows = list(of_seed.values())
        if not rows or any(row.get(metric) is None for row in rows):
            return None
        if metric in ("tokens", "entropy"):
            return pooled([row[metric] for row in rows], rows[0]["n"], None, list(of_seed))
        return pooled([_share(row[metric], row["n"]) for row in rows], rows[0]["n"], seeds=list(of_seed))

    def score(self, candidate: Candidate, task: str, metric: str, mode: str = "cot") -> Score | None:
        """The same level with its items, each a mean over seeds, so that it can be paired."""
        estimate = self.level(candidate, task, metric, mode)
        if estimate is None:
            return None
        runs = self._runs(candidate, task, mode)
        items = items_of([run.per_item(task, mode, metric) for run in runs.values()])
        return Score(task, mode, metric, estimate, items, tuple(runs))

    def change(
        self, candidate: Candidate, other: Candidate, metric: str, task: str | None = None, mode: str = "cot"
    ) -> Estimate | None:
        """How much more of a metric one candidate has than another, on a task (the target), paired by item and seed."""
        task = task or self.target
        if task is None:
            return None
        ours, theirs = (self.score(side, task, metric, mode) for side in matched(candidate, other))
        return paired([ours], [theirs]) if ours and theirs else None

    def vote(self, candidate: Candidate, task: str, mode: str) -> Estimate | None:
        """How much the majority of all samples beats a single one, paired by item."""
        ours, theirs = (self.score(candidate, task, name, mode) for name in (f"majority@{self.largest}", "pass@1"))
        return paired([ours], [theirs]) if ours and theirs else None


def _share(share: float | dict, n: int) -> dict:
    """A share with its error; one without has at most that of n items. Where all items agree, resampling shows no
    chance at all, and Wilson's interval stands in."""
    if not isinstance(share, dict):
        return {"value": share, "stderr": float(np.sqrt(share * (1 - share) / n))}
    return share if share["stderr"] else share | {"interval": intervals.wilson(share["value"], n)}


def gain(candidate: Candidate, other: Candidate, axis: str | None = None, task: str | None = None) -> Estimate | None:
    """How much more a candidate gets right of an axis or a task by greedy decoding, paired by item and seed."""
    return difference(*matched(candidate, other), axis, task)


# --- training logs -------------------------------------------------------------------------------


def steps(candidate: Candidate) -> int | None:
    """Steps of a candidate of stage rl, the most over its seeds."""
    if candidate.stage != "rl":
        return None
    return int(max((steps[-1] for steps, _ in logged(candidate, "loss")), default=0)) or None


def same_tokens(candidate: Candidate, control: Candidate) -> bool:
    ours, theirs = spent(candidate), spent(control)
    return bool(ours and theirs) and 1 / TOLERANCE <= theirs / ours <= TOLERANCE


def curve_of(candidate: Candidate, column: str) -> list[tuple[list[float], list[float]]]:
    """`logged`; of held-out questions the start's share too, which comes before the first step."""
    if column != "valid_correct":
        return logged(candidate, column)
    curves, members = logged(candidate, column), [m for m in candidate.members if any(column in row for row in m.log)]
    for member, (steps, values) in zip(members, curves, strict=True):
        # One that is made anew has its log before its manifest.
        if counts := member.manifest and member.manifest["counts"].get("valid"):
            steps.insert(0, 0.0)
            values.insert(0, counts["start"])
    return curves


def held_out(candidate: Candidate) -> list[dict]:
    """What each run's manifest counts of the held-out questions that it was asked under way."""
    found = [m.manifest["counts"].get("valid") for m in candidate.members if m.manifest]
    return [counts for counts in found if counts]


def flags(candidate: Candidate) -> list[tuple[Checkpoint, str]]:
    """What went wrong in a candidate's runs, one sentence each: a reward that is exploited, a collapse."""
    return [*exploited(candidate), *_counted_sentences(candidate, "collapse")]


def exploited(candidate: Candidate) -> list[tuple[Checkpoint, str]]:
    """Where the gap between what the reward counts as correct and a stricter judge opened."""
    return _counted_sentences(candidate, "exploits")


def _counted_sentences(candidate: Candidate, key: str) -> list[tuple[Checkpoint, str]]:
    trained = [m for m in candidate.members if m.manifest]
    return [(m, sentence) for m in trained for sentence in m.manifest["counts"].get(key, [])]


def counted(candidate: Candidate, key: str) -> Counter[str]:
    """Failures by reward, or timeouts, over a candidate's runs."""
    total: Counter[str] = Counter()
    for member in candidate.members:
        count = member.manifest["counts"].get(key, 0) if member.manifest else 0
        total.update(count if isinstance(count, dict) else {key: count})
    return +total
