"""What the report knows of reinforcement learning: runs from one start, how they went, what they did to exploration.

Reads results/…/{explore,gate} and, beside the manifests of stages `rl` and `reward`, their rollouts and reward.json.
"""

import csv
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from steps import estimators
from steps.arms import Arm, Checkpoint, Score, best_points, difference, paired, pooled
from steps.common import MANIFEST, read_json, read_jsonl
from steps.tables import Estimate
from steps.verify import canonical

# In the order of tables and legends.
METHODS = {"grpo": "GRPO", "sdpo": "SDPO", "srpo": "SRPO", "rlsd": "RLSD", "rlrt": "RLRT"}
# How a task was answered: with the working written out, or with nothing but the answer.
MODES = ("cot", "direct")
# What arms must have in common for one to be called better than another.
BUDGET = ("data", "rewards", "pass_rate", "steps", "prompts", "generations", "max_new_tokens")
# A control of the same budget was trained on at most so many times the tokens of the other side, and so few.
SAME_TOKENS = 1.1


@dataclass
class Explored:
    """Repeated sampling of one checkpoint."""

    tasks: dict[str, dict[str, dict]]  # task → mode → what explore.json says of it
    folder: Path

    @cached_property
    def items(self) -> dict[tuple[str, str], dict[Any, tuple[list[bool], float]]]:
        """(task, mode) → item → (which samples are correct, the chance that the majority of all is)."""
        found: dict[tuple[str, str], dict[Any, tuple[list[bool], float]]] = {}
        for row in read_jsonl(self.folder / "items.jsonl"):
            votes = [None if answer is None else canonical(answer) for answer in row["answers"]]
            judged = row["correct"], estimators.majority(votes, row["correct"])
            found.setdefault((row["task"], row["mode"]), {})[row["doc_id"]] = judged
        return found

    def per_item(self, task: str, mode: str, metric: str) -> dict[Any, float]:
        """Item → its pass@k, or its majority@k where k is the number of samples."""
        name, k = metric.split("@")
        rows = self.items[task, mode]
        if name == "majority":
            assert int(k) == self.tasks[task][mode]["samples"], metric
            return {doc: majority for doc, (_, majority) in rows.items()}
        values = estimators.pass_at_k(np.array([correct for correct, _ in rows.values()], dtype=bool), int(k))
        return dict(zip(rows, values.tolist(), strict=True))


@dataclass
class Gate:
    """What the gate of one node found: its checks, and how many rows it let through."""

    checks: list[dict[str, str]]
    counts: dict


@dataclass
class Comparison:
    """Runs of reinforcement learning from one start, and what else was made of that start to compare them with."""

    start: Arm
    arms: list[Arm]
    controls: list[Arm]

    @property
    def shown(self) -> list[Arm]:
        return [self.start, *self.arms, *self.controls]

    @property
    def of_method(self) -> dict[str, Arm]:
        """One arm per method, in the order of METHODS: of the arms with equal budget and rewards, where most methods
        have one; of several, the one with most seeds, of these the best on dev."""
        groups: dict[str, dict[str, Arm]] = {}
        for arm in self.arms:
            of_budget = groups.setdefault(repr([settings_of(arm).get(key) for key in BUDGET]), {})
            known = of_budget.get(method(arm))
            if known is None or _rank(arm) > _rank(known):
                of_budget[method(arm)] = arm
        best = max(groups.values(), key=len)
        return {name: best[name] for name in METHODS if name in best}


def settings_of(arm: Arm) -> dict:
    return arm.members[0].settings


def method(arm: Arm) -> str:
    """The method of an arm of stage rl, "" of any other."""
    return settings_of(arm)["method"] if arm.stage == "rl" else ""


def method_name(arm: Arm) -> str:
    return METHODS.get(method(arm), method(arm))


def _rank(arm: Arm) -> tuple[int, float]:
    dev = arm.axis("dev")
    return len(arm.members), dev.value if dev else 0.0


@dataclass
class Reinforcement:
    """All runs of stage rl, as far as they are done."""

    every: dict[str, Arm]
    comparisons: list[Comparison]  # the one with most arms first
    explored: dict[str, Explored] = field(default_factory=dict)  # by node
    gates: dict[str, Gate] = field(default_factory=dict)  # by node
    rollouts: dict[str, list[dict]] = field(default_factory=dict)  # by node
    judges: dict[str, list[dict]] = field(default_factory=dict)  # arm of stage reward → reward.json, seed by seed

    @property
    def arms(self) -> list[Arm]:
        """Of stage rl, in the order of comparisons."""
        return [arm for comparison in self.comparisons for arm in comparison.arms]

    @property
    def shown(self) -> list[Arm]:
        return list({arm.name: arm for comparison in self.comparisons for arm in comparison.shown}.values())

    def short_name(self, arm: Arm) -> str:
        """The recipe of a grid's chosen point, where no other point of it is shown."""
        alone = sum(other.recipe == arm.recipe for other in self.shown) == 1
        return arm.recipe if arm.grid and alone else arm.name

    @property
    def tasks(self) -> list[str]:
        """The tasks that were explored, in the order of the settings."""
        return list(dict.fromkeys(task for run in self.explored.values() for task in run.tasks))

    @property
    def target(self) -> str | None:
        """The task that speaks for the target: the first of that axis or, where none is, the first of all; None while
        nothing was explored."""
        of_target = {score.task for arm in self.every.values() for score in arm.on("target")}
        return next((task for task in self.tasks if task in of_target), next(iter(self.tasks), None))

    @property
    def largest(self) -> int:
        """The largest k of pass@k that every explored checkpoint has."""
        return min(row["samples"] for run in self.explored.values() for of in run.tasks.values() for row in of.values())

    @property
    def ks(self) -> list[int]:
        """The k of pass@k: powers of two, and the largest."""
        return [2**power for power in range(self.largest.bit_length()) if 2**power < self.largest] + [self.largest]

    def _runs(self, arm: Arm, task: str, mode: str) -> list[Explored]:
        runs = [self.explored[m.node] for m in arm.members if m.node in self.explored]
        return [run for run in runs if mode in run.tasks.get(task, {})]

    def level(self, arm: Arm, task: str | None, metric: str, mode: str = "cot") -> Estimate | None:
        """What explore.json says of an arm, over its seeds; None where it was not measured."""
        rows = [run.tasks[task][mode] for run in self._runs(arm, task, mode)]
        if not rows or any(row.get(metric) is None for row in rows):
            return None
        if metric in ("tokens", "entropy"):
            return pooled([row[metric] for row in rows], rows[0]["n"], None)
        return pooled([_share(row[metric], row["n"]) for row in rows], rows[0]["n"])

    def score(self, arm: Arm, task: str, metric: str, mode: str = "cot") -> Score | None:
        """The same level with its items, each a mean over seeds, so that it can be paired."""
        estimate = self.level(arm, task, metric, mode)
        if estimate is None:
            return None
        seeds = [run.per_item(task, mode, metric) for run in self._runs(arm, task, mode)]
        items = {doc: fmean(seed[doc] for seed in seeds) for doc in seeds[0]}
        return Score(task, mode, metric, estimate, items)

    def change(self, arm: Arm, other: Arm, metric: str, task: str | None = None, mode: str = "cot") -> Estimate | None:
        """How much more of a metric one arm has than another, on a task (the target), paired by item and seed."""
        task = task or self.target
        if task is None:
            return None
        ours, theirs = (self.score(side, task, metric, mode) for side in matched(arm, other))
        return paired([ours], [theirs]) if ours and theirs else None

    def vote(self, arm: Arm, task: str, mode: str) -> Estimate | None:
        """How much the majority of all samples beats a single one, paired by item."""
        ours, theirs = (self.score(arm, task, name, mode) for name in (f"majority@{self.largest}", "pass@1"))
        return paired([ours], [theirs]) if ours and theirs else None


def _share(found: float | dict, n: int) -> dict:
    """A share with its error; one without has at most that of n items. Where all items agree, resampling shows no
    chance at all, and Wilson's interval stands in."""
    if not isinstance(found, dict):
        return {"value": found, "stderr": float(np.sqrt(found * (1 - found) / n))}
    return found if found["stderr"] else found | {"interval": estimators.wilson(found["value"], n)}


def matched(arm: Arm, other: Arm) -> tuple[Arm, Arm]:
    """Two arms with no more than the seeds that both have; as they are where they have none in common."""
    common = set(arm.seeds) & set(other.seeds)
    return _with_seeds(arm, common), _with_seeds(other, common)


def _with_seeds(arm: Arm, seeds: set[int]) -> Arm:
    return arm if not seeds or seeds == set(arm.seeds) else Arm(arm.name, [m for m in arm.members if m.seed in seeds])


def gain(arm: Arm, other: Arm, axis: str | None = None, task: str | None = None) -> Estimate | None:
    """How much more an arm gets right of an axis or a task by greedy decoding, paired by item and seed."""
    return difference(*matched(arm, other), axis, task)


# --- training logs -------------------------------------------------------------------------------


def logged(arm: Arm, column: str) -> list[tuple[list[float], list[float]]]:
    """(steps, values) of a column of the training log, seed by seed; those of which it has none are left out."""
    found = []
    for member in arm.members:
        rows = [row for row in member.log if column in row]
        if rows:
            found.append(([row["step"] for row in rows], [row[column] for row in rows]))
    return found


# The part of a run, at either end, that a table compares.
END = 0.1


def ends(arm: Arm, column: str) -> tuple[list[float], list[float]]:
    """Means of a column over the first and over the last tenth of the steps, seed by seed."""
    first, last = [], []
    for _, values in logged(arm, column):
        window = max(1, round(END * len(values)))
        first.append(fmean(values[:window]))
        last.append(fmean(values[-window:]))
    return first, last


def spent(arm: Arm, column: str = "tokens") -> int | None:
    """Tokens of an arm's own training, a mean over seeds: of the sequences, or those `generated`."""
    totals = [values[-1] for _, values in logged(arm, column)]
    return round(fmean(totals)) if totals else None


def same_tokens(arm: Arm, control: Arm) -> bool:
    ours, theirs = spent(arm), spent(control)
    return bool(ours and theirs) and 1 / SAME_TOKENS <= theirs / ours <= SAME_TOKENS


def flags(arm: Arm) -> list[tuple[Checkpoint, str]]:
    """What went wrong in an arm's runs, one sentence each."""
    trained = [m for m in arm.members if m.manifest]
    return [(m, sentence) for m in trained for sentence in m.manifest["counts"].get("collapse", [])]


def counted(arm: Arm, key: str) -> Counter[str]:
    """Failures by reward, or timeouts, over an arm's runs."""
    total: Counter[str] = Counter()
    for member in arm.members:
        found = member.manifest["counts"].get(key, 0) if member.manifest else 0
        total.update(found if isinstance(found, dict) else {key: found})
    return +total


# --- reading -------------------------------------------------------------------------------------


def read_reinforcement(graph: dict, arms: dict[str, Arm], results: Path) -> Reinforcement | None:
    """None while no checkpoint of stage rl is done.

    Args:
        graph: what `Graph.describe` says of the graph.
    """
    folders = {node["name"]: Path(node["folder"]) for node in graph["nodes"]}
    hidden = {p.name for points, best in best_points(arms).values() if best for p in points if p is not best}
    trained = [arm for arm in arms.values() if arm.stage == "rl" and arm.name not in hidden]
    trained = [arm for arm in trained if any(m.manifest for m in arm.members)]
    if not trained:
        return None
    explored = {
        name: _explored(results / "explore" / name)
        for name in graph["explore"]
        if (results / "explore" / name / MANIFEST).is_file()
    }
    gates = {
        name: Gate(_rows(results / "gate" / name / "gate.csv"), read_json(results / "gate" / name / MANIFEST)["counts"])
        for name in graph["gates"]
        if (results / "gate" / name / MANIFEST).is_file()
    }
    done = [m.node for arm in trained for m in arm.members if m.manifest]
    rollouts = {name: list(read_jsonl(folders[name] / "rollouts.jsonl")) for name in done}
    judges = {
        arm.name: [read_json(folders[m.node] / "reward.json") for m in arm.members if m.manifest]
        for arm in arms.values()
        if arm.stage == "reward" and any(m.manifest for m in arm.members)
    }
    comparisons = _comparisons(trained, arms, graph["explore"])
    return Reinforcement(arms, comparisons, explored, gates, rollouts, judges)


def _explored(folder: Path) -> Explored:
    order = read_json(folder / MANIFEST)["settings"]["tasks"]
    tasks = read_json(folder / "explore.json")["tasks"]
    return Explored({task: tasks[task] for task in order}, folder)


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _comparisons(trained: list[Arm], arms: dict[str, Arm], compared: list[str]) -> list[Comparison]:
    """`compared` are the nodes to explore, whether that is done or not: what is not of stage rl there is a control."""
    of_node = {m.node: arm for arm in arms.values() for m in arm.members}

    def start(arm: Arm) -> Arm | None:
        parents = arm.members[0].parents
        return of_node[parents[0]] if parents else None

    comparisons: dict[str, Comparison] = {}
    for arm in trained:
        comparisons.setdefault(start(arm).name, Comparison(start(arm), [], [])).arms.append(arm)
    for comparison in comparisons.values():
        order = list(METHODS)
        comparison.arms.sort(key=lambda a: order.index(method(a)) if method(a) in order else len(order))
        comparison.controls = [
            arm
            for arm in arms.values()
            if arm.stage != "rl" and start(arm) is comparison.start and any(m.node in compared for m in arm.members)
        ]
    return sorted(comparisons.values(), key=lambda comparison: -len(comparison.arms))
