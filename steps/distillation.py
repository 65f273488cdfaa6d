"""What the report knows of distillation: runs with their starts and teachers, doses of training, what was forecast.

Reads results/…/{forecast,generate} and, beside the manifests of stages `opd` and `distill`, positions and rollouts.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from steps import estimators
from steps.arms import Arm, Checkpoint, Score, paired, pooled, resampled, root_of
from steps.common import MANIFEST, PROVENANCE, read_json, read_jsonl
from steps.distillation_stats import (
    Share,
    cost_estimate,
    cost_ratio,
    crossing,
    level,
    mean_difference,
    recovered,
)
from steps.reinforcement import END, logged, matched, settings_of
from steps.tables import Estimate, setting_text

# On-policy, off-policy.
STAGES = ("opd", "distill")
AXES = ("target", "general")
# Settings that say how much is trained: arms that differ in nothing else are doses of one method.
DOSES = ("steps", "epochs")
# Settings that change neither what is learned nor how much of it.
WITHOUT_EFFECT = (
    "seed", "saves", "keep_samples", "diagnostics", "resident", "sample_batch", "sampler", "gradient_checkpointing",
    "short_answer_words",
)  # fmt: skip
# What the sources say already.
# The part of the gap that a run must close for its teacher to have helped.
HALF = 0.5
# A property of Forecast that may count as help, and one that may stand for the forecast → how a table calls it.
COUNTS = {"helped": "at least half of the gap closed", "gained": "any gain beyond chance"}
RULES = {"says": "as given", "says_by_ratio": "by the overlap ratio"}
# The bar of the overlap ratio: more in common than not. `steps/forecast.py` tells why it does not judge by it.
RATIO = 0.5
LINEAGE = ("sources", "weights", "data")


@dataclass
class Run:
    """An arm of stage opd or distill (or a merge of what teaches one), with what it started from and learned from."""

    arm: Arm
    start: Arm
    teachers: list[Arm]
    sources: list[dict]  # {"data", "share", "teachers": places in `teachers`}, one per data set
    domains: list["Domain"]

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def stage(self) -> str:
        return self.arm.stage

    @property
    def data(self) -> tuple[str, ...]:
        return tuple(source["data"] for source in self.sources)


@dataclass
class Domain:
    """One axis that an arm was to learn, and the teacher whose score it is measured by."""

    axis: str  # of AXES
    teacher: Arm
    data: tuple[str, ...]  # the data sets of this axis


@dataclass
class Recovery:
    """How much of the way from its start to its teacher an arm went, on one axis; None where it was not measured.

    `share` is (after − before) / (teacher − before); None with a `gap` that cannot be told from nothing.
    """

    run: Run
    domain: Domain
    before: Estimate | None
    teacher: Estimate | None
    after: Estimate | None
    change: Estimate | None  # after − before
    gap: Estimate | None  # teacher − before
    share: Estimate | None

    drawn: Share | None = None  # the share with its resamples, to compare two of them

    @property
    def reads(self) -> str:
        """Whether the score "rose", "fell" or "did not move beyond chance"; "" where it was not measured."""
        if self.change is None:
            return ""
        if self.change.low > 0:
            return "rose"
        return "fell" if self.change.high < 0 else "did not move beyond chance"


@dataclass
class Forecast:
    """What steps/forecast.py said of one pair before training, and what came of it."""

    data: str
    student: str  # node or model
    teacher: str  # node or model
    axis: str
    found: dict  # forecast.json
    prefixes: list[dict[str, str]]  # prefixes.csv
    member: Checkpoint | None  # the one run of this pair with the reference's settings
    outcome: Estimate | None  # its change on the axis
    share: Estimate | None = None  # of the gap, closed by that run; None where there is no gap to speak of

    @property
    def says(self) -> bool:
        return self.found["helps"]

    @property
    def says_by_ratio(self) -> bool:
        """The verdict, had likeness been judged by the share of the k likeliest tokens in common."""
        others = [check["passed"] for check in self.found["checks"] if check["check"] != "thinks alike"]
        return self.found["overlap"]["low"] >= RATIO and all(passed is not False for passed in others)

    @property
    def gained(self) -> bool | None:
        """Whether the change is above nothing with its whole interval; None while there is no such run."""
        return self.outcome.low > 0 if self.outcome else None

    @property
    def helped(self) -> bool | None:
        """Whether it gained, and by at least HALF of the gap where there is one."""
        return self.gained and (self.share is None or self.share.value >= HALF)

    @property
    def right(self) -> bool | None:
        return self.says == self.helped if self.outcome else None


@dataclass
class ForecastScore:
    """How often forecasts were right, beside what guessing would give."""

    rule: str  # what stands for the forecast
    counts: str  # what counts as help
    pairs: int
    recipes: int
    said: int  # pairs that were to be helped
    helped: int  # pairs that were
    right: int
    accuracy: Estimate
    commoner: float  # accuracy of always giving the commoner outcome
    guess: float  # expected accuracy of an independent guess that says "helps" as often
    kappa: float | None  # Cohen's; None where guess is 1


@dataclass
class Dose:
    """One budget of one method; tokens are means over seeds."""

    arm: Arm
    budget: int | float  # steps or epochs
    steps: int
    generated: int  # by the student in its training; by the teacher for distill
    trained: int
    scored: int  # by teachers
    flops: float | None
    seconds: float | None
    score: Estimate


@dataclass
class Series:
    """Doses of one method, smallest first."""

    name: str  # "SFT", "RL", "OPD", "distillation", …
    stage: str
    doses: list[Dose]
    seeds: list[int]  # those that all doses and the RL arm have


@dataclass
class Reached:
    """What a series needs to reach a score: cost of the crossing (Estimate over items), or why there is none."""

    cost: Estimate | float | None  # a plain number where its upper end is not known
    bound: bool  # the smallest dose is there already: cost is at most that
    share: float  # of the resamples that reach it


@dataclass
class Budget:
    """Methods from one start against the score of RL from there; each over the seeds that its doses and RL share."""

    start: Arm
    rl: Arm
    score: Estimate
    series: list[Series]


@dataclass
class Family:
    """What was made of several teachers together: one student of all, merges of them."""

    start: Arm
    teachers: dict[str, Arm]  # axis → the teacher for it
    students: list[Run]
    merges: list[Arm]


@dataclass
class Generation:
    """The accounting of one teacher's generations."""

    data: str
    teacher: str
    counts: dict


@dataclass
class Distillation:
    """All runs of stages opd and distill, as far as they are done."""

    every: dict[str, Arm]
    runs: list[Run]  # in the order of recipes, grid points included
    reference: Run | None  # the run that others differ from in one thing
    families: list[Family]
    axes: dict[str, str]  # data set → axis, where it is not target
    members: dict[str, Checkpoint]  # by node
    starts: dict[str, str]  # node of a run → the node that it started from
    teaching: dict[str, list[str]]  # node of a run → the nodes of its teachers
    parameters: dict[str, int]  # node → how many it has
    merged: list[Run] = field(default_factory=list)  # merges of a family's teachers, as runs from its start
    forecasts: list[Forecast] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    positions: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # by node: positions.csv
    rollouts: dict[str, list[dict]] = field(default_factory=dict)  # by node: rollouts.jsonl
    budget: Budget | None = None
    # What was computed once: nodes → them as an arm, their sampled scores; (run, axis, teacher, nodes) → recovery.
    _arms: dict[tuple[str, ...], Arm] = field(default_factory=dict)
    _scores: dict[tuple[str, ...], list[Score]] = field(default_factory=dict)
    _recoveries: dict[tuple, Recovery] = field(default_factory=dict)

    # --- scores ---

    @property
    def target(self) -> str | None:
        """The sampled task of the target axis; None where nothing was sampled, so that scores are greedy."""
        return " and ".join(self.sampled) or None

    @cached_property
    def sampled(self) -> list[str]:
        """The sampled tasks of the target axis."""
        found: dict[str, None] = {}
        for member in self.members.values():
            sampling = member.results["sampling"] if member.results else {}
            found |= dict.fromkeys(t for t in sampling if member.results["tasks"][t]["axis"] == "target")
        return list(found)

    def scores(self, arm: Arm, axis: str) -> list[Score]:
        """The tasks of an axis. Target: pass@1 of sampled answers, an item's value being its share of right ones
        (greedy where nothing was sampled); general: greedy."""
        if axis != "target" or not self.sampled:
            return arm.on(axis)
        key = tuple(m.node for m in arm.members)
        if key not in self._scores:
            self._scores[key] = [score for task in self.sampled if (score := _sampled(arm, task))]
        return self._scores[key]

    def level(self, arm: Arm, axis: str) -> Estimate | None:
        """Target: pass@1 of sampled answers (greedy where nothing was sampled); general: greedy."""
        if axis != "target" or not self.sampled:
            return arm.axis(axis)
        found = [score.estimate for score in self.scores(arm, axis)]
        if len(found) < 2:
            return found[0] if found else None
        value = fmean(e.value for e in found)
        within = estimators.combine([e.value for e in found], [(e.low, e.high) for e in found])
        seeds = tuple(fmean(values) for values in zip(*(e.seed_values for e in found), strict=True))
        stderr = float(np.sqrt(sum(e.stderr**2 for e in found))) / len(found)
        return Estimate(value, *within, stderr, sum(e.n for e in found), seeds)

    def greedy(self, arm: Arm, axis: str = "target") -> Estimate | None:
        return arm.axis(axis)

    def change(self, arm: Arm, other: Arm, axis: str) -> Estimate | None:
        """How much higher one arm scores than another on an axis (`both`: the mean of the two), paired by item and
        seed, over the seeds that both have; None where one was not measured."""
        return self._difference(*matched(arm, other), axis)

    def _difference(self, arm: Arm, other: Arm, axis: str) -> Estimate | None:
        if axis == "both":
            return mean_difference(*([self.scores(side, axis) for axis in AXES] for side in (arm, other)))
        return paired(self.scores(arm, axis), self.scores(other, axis))

    def _arm(self, nodes: Iterable[str]) -> Arm:
        """Some nodes as one arm; a node may stand in several seeds' place."""
        key = tuple(nodes)
        if key not in self._arms:
            self._arms[key] = Arm(key[0], [self.members[node] for node in key])
        return self._arms[key]

    def since_start(self, run: Run, axis: str) -> Estimate | None:
        """The change of a run on an axis against its start, each seed against the very checkpoint that it came from."""
        nodes = self._measured(run)
        return self._difference(self._arm(nodes), self._arm(self.starts[n] for n in nodes), axis) if nodes else None

    def _measured(self, run: Run, teachers: Iterable[int] = (), seeds: Iterable[int] | None = None) -> list[str]:
        """The nodes of a run, of some seeds, that are evaluated as their starts and teachers at some places are."""
        return [
            m.node
            for m in run.arm.members
            if (seeds is None or m.seed in seeds)
            and all(
                self.members[node].results
                for node in (m.node, self.starts[m.node], *(self.teaching[m.node][i] for i in teachers))
            )
        ]

    # --- recovery ---

    def recoveries(self, run: Run, seeds: Iterable[int] | None = None) -> list[Recovery]:
        """One per domain, over some seeds or all; start and teacher of a seed are the checkpoints that it used."""
        found = []
        for domain in run.domains:
            place = next(i for i, teacher in enumerate(run.teachers) if teacher is domain.teacher)
            nodes = self._measured(run, [place], seeds)
            found.append(self._recovery(run, domain, nodes, [self.teaching[node][place] for node in nodes]))
        return found

    def recovery(self, run: Run, seeds: Iterable[int] | None = None) -> Recovery:
        """Of the axis of its first data set."""
        return next(r for r in self.recoveries(run, seeds) if r.domain.axis == self.axis_of(run))

    def axis_of(self, run: Run) -> str:
        return self.axes.get(run.data[0], "target")

    def restored(self, run: Run) -> Recovery | None:
        """Recovery of what the start forgot: the general axis with the root model as the teacher. None where the start
        is that root."""
        root = root_of(run.start, self.every)
        if root is run.start:
            return None
        nodes = [node for node in self._measured(run) if root.members[0].results]
        domain = Domain("general", root, run.data)
        return self._recovery(run, domain, nodes, [root.members[0].node for _ in nodes])

    def _recovery(self, run: Run, domain: Domain, nodes: list[str], teachers: list[str]) -> Recovery:
        key = run.name, domain.axis, domain.data, *nodes, *teachers
        if key not in self._recoveries:
            self._recoveries[key] = self._recovered(run, domain, nodes, teachers)
        return self._recoveries[key]

    def _recovered(self, run: Run, domain: Domain, nodes: list[str], teachers: list[str]) -> Recovery:
        if not nodes:
            return Recovery(run, domain, None, None, None, None, None, None)
        sides = [self._arm(self.starts[node] for node in nodes), self._arm(teachers), self._arm(nodes)]
        before, teacher, after = (self.scores(side, domain.axis) for side in sides)
        share = recovered(before, teacher, after) if all((before, teacher, after)) else None
        return Recovery(
            run,
            domain,
            *(self.level(side, domain.axis) for side in sides),
            change=paired(after, before),
            gap=paired(teacher, before),
            share=share.estimate if share else None,
            drawn=share,
        )

    # --- what differs ---

    def differs(self, run: Run, other: Run | None = None) -> dict[str, tuple]:
        """Setting, `stage`, `from`, `teachers` or `data` → (its value here, in the other: the reference)."""
        other = other or self.reference
        if other is None or other is run:
            return {}
        found = {"stage": (run.stage, other.stage), "from": (run.start.name, other.start.name)}
        found["teachers"] = tuple([teacher.name for teacher in side.teachers] for side in (run, other))
        found["data"] = tuple(
            [[s["data"], s["share"], [side.teachers[i].name for i in s["teachers"]]] for s in side.sources]
            if side.stage == run.stage == other.stage else list(side.data)
            for side in (run, other)
        )  # fmt: skip
        if found["data"][0] != found["data"][1] and run.data == other.data and len(run.data) == 1:
            del found["data"]  # the teachers alone
        if run.stage == other.stage:
            ours, theirs = (_settings(side.arm) for side in (run, other))
            found |= {key: (ours.get(key), theirs.get(key)) for key in ours | theirs}
        return {key: both for key, both in found.items() if both[0] != both[1]}

    def difference_text(self, run: Run) -> str:
        """What differs from the reference, in words; "the reference" for itself."""
        if run is self.reference:
            return "the reference"
        told = []
        for key, (value, _) in self.differs(run).items():
            if key == "stage":
                settings = settings_of(run.arm)
                told.append({"distill": f"off-policy ({settings.get('objective')})"}.get(
                    value, " ".join(filter(None, [value, settings.get("method")]))
                ))  # fmt: skip
            elif key == "data":
                shares = [f"{s['share']:g} " if s.get("share") not in (None, 1, 1.0) else "" for s in run.sources]
                names = " and ".join(share + name for share, name in zip(shares, run.data, strict=True))
                told.append(f"prompts {names}")
            elif key == "teachers":
                routed = len({tuple(s["teachers"]) for s in run.sources}) > 1
                joined = " and ".join(teacher.name for teacher in run.teachers)
                by = ", one per data set" if routed else ", mixed" if len(run.teachers) > 1 else ""
                told.append(f"taught by {joined}{by}" if run.stage != "merge" else f"of {joined}")
            elif key == "from":
                told.append(f"from {value}")
            else:
                told.append(f"{key} {'none' if value is None else setting_text(value)}")
        return "; ".join(told)

    def alike(self, *keys: str) -> list[Run]:
        """The runs of stage opd that differ from the reference in these things and nothing else."""
        return [
            run
            for run in self.runs
            if run.stage == "opd" and run is not self.reference and set(self.differs(run)) == set(keys)
        ]

    # --- lineage ---

    def trained_on(self, arm: Arm, stage: str = "sft") -> tuple[str, ...]:
        """The data sets of an arm and its first parents of a stage, the earliest first: how it was taught to write."""
        found = []
        while arm.members[0].parents:
            if arm.stage == stage:
                found.append(settings_of(arm).get("data"))
            arm = self.arm_of(arm.members[0].parents[0])
        return tuple(reversed(found))

    def arm_of(self, node: str) -> Arm:
        return self._arm_of_node[node]

    @cached_property
    def _arm_of_node(self) -> dict[str, Arm]:
        return {m.node: arm for arm in self.every.values() for m in arm.members}

    def size(self, arm: Arm) -> int | None:
        return self.parameters.get(arm.members[0].node)

    # --- several teachers ---

    def best_merge(self, family: Family) -> Arm | None:
        """The merge that scores highest on the mean of both axes; the first of equal ones."""
        known = [(fmean(e.value for e in found), arm) for arm in family.merges if all(found := self.both(arm))]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def both(self, arm: Arm) -> list[Estimate | None]:
        return [self.level(arm, axis) for axis in AXES]

    # --- doses ---

    def reaches(self, series: Series, cost: str, less: float = 0.0) -> Reached:
        """What it takes to come to the RL score less some. cost: generated, trained, steps, flops or seconds."""
        crossed = self._crossings(series, cost, less)
        if crossed is None:
            return Reached(None, False, 0.0)
        value, drawn, bound = crossed
        n = series.doses[0].score.n
        return Reached(cost_estimate(value, drawn, n), bound, float(np.isfinite(drawn).mean()))

    def cheaper(self, ours: Series, theirs: Series, cost: str) -> Estimate | None:
        """How many times as much the other series needs to come to the RL score; None where neither does, or where a
        dose has no such cost."""
        both = [self._crossings(series, cost, 0.0) for series in (ours, theirs)]
        if not all(both):
            return None
        (a, drawn_a, _), (b, drawn_b, _) = both
        return cost_ratio((a, b), (drawn_a, drawn_b), ours.doses[0].score.n)

    def _crossings(self, series: Series, cost: str, less: float) -> tuple[float, np.ndarray, bool] | None:
        """(at the scores themselves, at each resample of items, whether the smallest dose is there already)."""
        doses = [dose for dose in series.doses if getattr(dose, cost)]
        if not doses or len(doses) < len(series.doses):
            return None
        doses.sort(key=lambda dose: getattr(dose, cost))
        rl = self.scores(_with_seeds(self.budget.rl, series.seeds), "target")
        sides = [self.scores(dose.arm, "target") for dose in doses]
        costs = np.array([getattr(dose, cost) for dose in doses], dtype=float)
        values = np.array([[level(side) for side in sides]])
        at = crossing(costs, values, np.array([level(rl) - less]))[0]
        drawn = crossing(costs, np.stack([resampled(side) for side in sides], axis=1), resampled(rl) - less)
        # RL needs for its own score what it took, no less.
        itself = doses[0].arm.name == self.budget.rl.name and not less
        return float(at), drawn, bool(values[0, 0] >= level(rl) - less) and not itself

    # --- forecasts ---

    @property
    def scored_forecasts(self) -> list[Forecast]:
        """Those whose outcome is known."""
        return [forecast for forecast in self.forecasts if forecast.outcome]

    def score_forecasts(self, rule: str = "says", counts: str = "helped") -> ForecastScore | None:
        """How often a rule of RULES was right about what of COUNTS counts as help."""
        known = self.scored_forecasts
        if not known:
            return None
        n = len(known)
        said, helped = (sum(getattr(f, key) for f in known) for key in (rule, counts))
        right = sum(getattr(f, rule) == getattr(f, counts) for f in known)
        accuracy = right / n
        guess = (said * helped + (n - said) * (n - helped)) / n**2
        low, high = estimators.wilson(accuracy, n)
        return ForecastScore(
            rule=RULES[rule],
            counts=COUNTS[counts],
            pairs=n,
            recipes=len({forecast.member.recipe for forecast in known}),
            said=said,
            helped=helped,
            right=right,
            accuracy=Estimate(accuracy, low, high, float(np.sqrt(accuracy * (1 - accuracy) / n)), n),
            commoner=max(helped, n - helped) / n,
            guess=guess,
            kappa=(accuracy - guess) / (1 - guess) if guess < 1 else None,
        )

    # --- curves ---

    def curve(self, run: Run, column: str) -> list[tuple[list[float], list[float]]]:
        """(steps, values) of a column of the training log, seed by seed."""
        return logged(run.arm, column)

    def positions_of(self, node: str, column: str, end: str) -> dict[tuple[int, int], tuple[float, float]]:
        """(begin, end) of a place in the answer → (token-weighted mean, tokens) over a tenth of the steps of one run.

        Args:
            end: which tenth, `first` or `last`.
        """
        rows = self.positions.get(node, [])
        steps = sorted({row["step"] for row in rows})
        window = max(1, round(END * len(steps)))
        chosen = set(steps[:window] if end == "first" else steps[-window:])
        sums: dict[tuple[int, int], list[float]] = {}
        for row in rows:
            if row["step"] in chosen and row.get(column) is not None and row["tokens"]:
                total = sums.setdefault((int(row["begin"]), int(row["end"])), [0.0, 0.0])
                total[0] += row["tokens"] * row[column]
                total[1] += row["tokens"]
        return {place: (total / tokens, tokens) for place, (total, tokens) in sorted(sums.items())}

    def by_position(self, run: Run, column: str, end: str) -> list[tuple[int, int, float]]:
        """(begin, end, mean over seeds) by place in the answer, over the `first` or `last` tenth of the steps. Places
        that few responses come to are left out."""
        seeds = [_frequent(self.positions_of(m.node, column, end)) for m in run.arm.members]
        places = sorted({place for seed in seeds for place in seed})
        return [(*place, fmean(seed[place] for seed in seeds if place in seed)) for place in places]

    def at_place(self, run: Run, column: str, place: str, end: str) -> list[float]:
        """Seed by seed, a column at the `begin` or the `end` of the answer, over the first or last tenth of steps."""
        found = []
        for member in run.arm.members:
            places = list(_frequent(self.positions_of(member.node, column, end)).values())
            if places:
                found.append(places[0 if place == "begin" else -1])
        return found


# The end of the answer is where still so large a share of the responses goes on.
STILL_WRITING = 0.1


def _frequent(places: dict[tuple[int, int], tuple[float, float]]) -> dict[tuple[int, int], float]:
    most = max((tokens for _, tokens in places.values()), default=0.0)
    return {place: mean for place, (mean, tokens) in places.items() if tokens >= STILL_WRITING * most}


def _settings(arm: Arm) -> dict:
    return {k: v for k, v in settings_of(arm).items() if k not in (*WITHOUT_EFFECT, *LINEAGE)}


def _sampled(arm: Arm, task: str) -> Score | None:
    """pass@1 of one task; an item's value is the share of its samples that are right, a mean over seeds."""
    members = [m for m in arm.members if m.results and task in m.results["sampling"]]
    if not members:
        return None
    rows = [m.results["sampling"][task] for m in members]
    n = rows[0]["n"]
    once = [
        row["pass@1"] if row["pass@1"]["stderr"]
        # Where all items agree, resampling shows no chance at all.
        else row["pass@1"] | {"interval": estimators.wilson(row["pass@1"]["value"], n)}
        for row in rows
    ]  # fmt: skip
    if any("interval" in row for row in once):
        once = [
            row if "interval" in row else
            row | {"interval": tuple(row["value"] + side * estimators.Z * row["stderr"] for side in (-1, 1))}
            for row in once
        ]  # fmt: skip
    seeds = [
        {s["doc_id"]: fmean(s["correct"]) for s in m.samples if s["task"] == task and s["kind"] == "sampled"}
        for m in members
    ]
    items = {doc: fmean(seed[doc] for seed in seeds) for doc in seeds[0]}
    return Score(task, "target", "pass@1", pooled(once, n), items)


def _with_seeds(arm: Arm, seeds: Iterable[int]) -> Arm:
    """An arm with some of its seeds; as it is where it has none of them."""
    wanted = set(seeds)
    members = [m for m in arm.members if m.seed in wanted]
    return Arm(arm.name, members) if members and len(members) < len(arm.members) else arm


# --- reading -------------------------------------------------------------------------------------


def read_distillation(settings: dict, arms: dict[str, Arm], results: Path) -> Distillation | None:
    """None while no checkpoint of stage opd or distill is done.

    Args:
        settings: what `Graph.describe` says: the graph and every section.
    """
    graph = settings["graph"]
    nodes = {node["name"]: node for node in graph["nodes"]}
    trained = [arm for arm in arms.values() if arm.stage in STAGES and any(m.manifest for m in arm.members)]
    if not trained:
        return None
    axes = settings.get("forecast", {}).get("axes", {})
    members = {m.node: m for arm in arms.values() for m in arm.members}
    done = [m.node for arm in trained for m in arm.members]
    starts = {node: members[node].parents[0] for node in done}
    teaching = {node: list(nodes[node]["teachers"]) for node in done}
    found = Distillation(arms, [], None, [], axes, members, starts, teaching, _parameters(members))
    for arm in trained:
        node = arm.members[0].node
        teachers = [found.arm_of(name) for name in teaching[node]]
        run = Run(arm, found.arm_of(starts[node]), teachers, nodes[node]["sources"], [])
        run.domains = _domains(found, run)
        found.runs.append(run)
    found.reference = _reference(found)
    found.families = _families(found)
    found.generations = [
        Generation(made["data"], made["teacher"], read_json(Path(made["folder"]) / MANIFEST)["counts"])
        for made in graph["generations"]
        if (Path(made["folder"]) / MANIFEST).is_file()
    ]
    found.budget = _budget(found, results)
    found.forecasts = _forecasts(found, graph["forecasts"])
    for member in (members[node] for node in done):
        folder = Path(nodes[member.node]["folder"])
        if member.manifest and (folder / "positions.csv").is_file():
            found.positions[member.node] = [
                {key: float(value) for key, value in row.items() if value} for row in _rows(folder / "positions.csv")
            ]
        if member.manifest and (folder / "rollouts.jsonl").is_file():
            found.rollouts[member.node] = list(read_jsonl(folder / "rollouts.jsonl"))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _parameters(members: dict[str, Checkpoint]) -> dict[str, int]:
    """Node → its number of parameters, as its own manifest, that of a run it taught or that of its parent counts it."""
    found: dict[str, int] = {}
    for node, member in members.items():
        counts = member.manifest["counts"] if member.manifest else {}
        own = counts.get("parameters")
        if own:
            found[node] = own["total"] if isinstance(own, dict) else own
        for teacher, size in counts.get("teachers", {}).items():
            found.setdefault(teacher, size)
    for node, member in members.items():
        while node not in found and member.parents:
            member = members[member.parents[0]]
            if member.node in found:
                found[node] = found[member.node]
    return found


def _domains(found: Distillation, run: Run) -> list[Domain]:
    """One per axis; of several teachers of its data sets the one that scores highest on it."""
    domains = []
    for axis in AXES:
        sources = [s for s in run.sources if found.axes.get(s["data"], "target") == axis]
        if not sources:
            continue
        teachers = [run.teachers[i] for i in sorted({i for s in sources for i in s["teachers"]})]
        best = max(teachers, key=lambda arm: e.value if (e := found.level(arm, axis)) else -1.0)
        domains.append(Domain(axis, best, tuple(s["data"] for s in sources)))
    return domains


def _reference(found: Distillation) -> Run | None:
    """Of the on-policy runs of one teacher on one data set, one whose settings most of them have; rather one whose
    teacher RL made of the run's own start, on these prompts."""
    single = [run for run in found.runs if run.stage == "opd" and len(run.teachers) == len(run.sources) == 1]
    if not single:
        return None
    common = Counter(json.dumps(_settings(run.arm), sort_keys=True) for run in single)

    def rank(run: Run) -> tuple:
        (teacher,) = run.teachers
        of_start = teacher.stage == "rl" and found.arm_of(teacher.members[0].parents[0]) is run.start
        same_rows = settings_of(teacher).get("data") == run.data[0]
        return common[json.dumps(_settings(run.arm), sort_keys=True)], of_start, same_rows, len(run.arm.members)

    return max(single, key=rank)


def _families(found: Distillation) -> list[Family]:
    families: dict[tuple, Family] = {}
    for run in found.runs:
        names = frozenset(teacher.name for teacher in run.teachers)
        if len(names) > 1:
            key = run.start.name, names
            if key not in families:
                teachers = {domain.axis: domain.teacher for domain in run.domains}
                families[key] = Family(run.start, teachers, [], [])
            families[key].students.append(run)
    for (_, names), family in families.items():
        first = family.students[0]
        for arm in found.every.values():
            parents = [found.arm_of(name) for name in arm.members[0].parents]
            merged = arm.stage == "merge" and any(m.manifest for m in arm.members)
            if not merged or {p.name for p in parents} != names or arm in family.merges:
                continue
            family.merges.append(arm)
            of_seed = {m.seed: found.starts[m.node] for m in first.arm.members}
            for member in arm.members:
                found.starts[member.node] = of_seed.get(member.seed, next(iter(of_seed.values())))
                found.teaching[member.node] = list(member.parents)
            places = {teacher.name: i for i, teacher in enumerate(parents)}
            sources = [
                s | {"share": None, "teachers": [places[first.teachers[i].name] for i in s["teachers"]]}
                for s in first.sources
            ]
            run = Run(arm, first.start, parents, sources, [])
            run.domains = _domains(found, run)
            found.merged.append(run)
    return list(families.values())


# --- doses ---------------------------------------------------------------------------------------

# What a method is called, in the order of tables and legends.
METHODS = {"sft": "SFT", "distill": "distillation", "rl": "RL", "opd": "OPD"}


def _budget(found: Distillation, results: Path) -> Budget | None:
    """Doses of every method from the reference's start, where RL made the reference's teacher of that start."""
    if found.reference is None:
        return None
    start, (rl,) = found.reference.start, found.reference.teachers
    if rl.stage != "rl" or found.arm_of(rl.members[0].parents[0]) is not start:
        return None
    runs = {run.name: run for run in found.runs}
    methods: dict[str, list[Arm]] = {}
    for arm in found.every.values():
        parents = arm.members[0].parents
        if arm.stage not in METHODS or not parents or found.arm_of(parents[0]) is not start:
            continue
        if arm.stage in STAGES and (arm.name not in runs or runs[arm.name].teachers != [rl]):
            continue
        alike = {"rl": rl, "opd": found.reference.arm}.get(arm.stage)
        if alike and _recipe(found, alike) != _recipe(found, arm):
            continue
        if any(m.manifest and m.results for m in arm.members):
            methods.setdefault(_recipe(found, arm), []).append(arm)
    score = found.level(rl, "target")
    if score is None or not methods:
        return None
    budget = Budget(start, rl, score, [])
    for members in methods.values():
        shared = set.intersection(*(set(arm.seeds) for arm in [rl, *members]))
        seeds = sorted(shared) or sorted(set.intersection(*(set(arm.seeds) for arm in members)))
        doses = [_dose(found, _with_seeds(arm, seeds) if seeds else arm, results) for arm in members]
        doses = sorted((dose for dose in doses if dose), key=lambda dose: (dose.budget, dose.trained))
        if doses:
            budget.series.append(Series("", members[0].stage, doses, seeds))
    budget.series.sort(key=lambda series: list(METHODS).index(series.stage))
    stages = Counter(series.stage for series in budget.series)
    for series in budget.series:
        name = METHODS[series.stage]
        series.name = name if stages[series.stage] == 1 else f"{name} ({series.doses[-1].arm.recipe})"
    return budget


def _recipe(found: Distillation, arm: Arm) -> str:
    """All but the budget: equal for arms that are doses of one method."""
    settings = {k: v for k, v in _settings(arm).items() if k not in DOSES}
    told = [arm.stage, settings_of(arm).get("data"), settings]
    if arm.stage in STAGES:
        teachers = [found.arm_of(teacher).name for teacher in found.teaching[arm.members[0].node]]
        told += [settings_of(arm).get("sources"), teachers]
    return json.dumps(told, sort_keys=True)


def _dose(found: Distillation, arm: Arm, results: Path) -> Dose | None:
    score = found.level(arm, "target")
    trained, steps = _last(arm, "tokens"), _last(arm, "step")
    if score is None or not trained or not steps:
        return None
    settings, stage, size = settings_of(arm), arm.stage, found.size(arm)
    generated, scored, by_teacher = _last(arm, "generated"), _last(arm, "scored"), 0
    seconds = [m.provenance["seconds"] for m in arm.members if m.provenance]
    if stage == "distill":
        by_teacher, prepared = _prepared(found, arm, results)
        seconds = [value + prepared for value in seconds]
        if settings.get("objective") == "forward_kl":
            scored = round(trained / settings["epochs"])  # the teacher read every row once
    sizes = [found.parameters.get(teacher) for teacher in found.teaching.get(arm.members[0].node, [])]
    # Every sampled sequence is read and written once, then trained on; RL may train on it several times.
    sampled = trained if stage in ("rl", "opd") else 0
    passes = settings.get("iterations", 1) if stage == "rl" else 1
    known = size and all(sizes)
    of_teachers = 2 * (fmean(sizes) if known and sizes else 0) * (scored + by_teacher)
    return Dose(
        arm=arm,
        budget=settings.get("epochs", settings.get("steps", steps)),
        steps=steps,
        generated=generated + by_teacher,
        trained=trained * passes,
        scored=scored,
        flops=2.0 * size * sampled + 6.0 * size * trained * passes + of_teachers if known else None,
        seconds=fmean(seconds) if seconds else None,
        score=score,
    )


def _prepared(found: Distillation, arm: Arm, results: Path) -> tuple[int, float]:
    """Tokens that the teachers of an off-policy arm wrote for it, and the seconds of that and of the log-probabilities
    that were stored; means over seeds."""
    sources = next(run.sources for run in found.runs if run.name == arm.name)
    tokens, seconds = 0, 0.0
    for member in arm.members:
        made = [(s["data"], found.teaching[member.node][i]) for s in sources for i in s["teachers"]]
        folders = [results / "generate" / data / teacher for data, teacher in made]
        counts = [read_json(folder / MANIFEST)["counts"] for folder in folders if (folder / MANIFEST).is_file()]
        tokens += sum(of["generated_tokens"] for of in counts)
        if member.settings.get("objective") == "forward_kl":
            folders += [results / "logprobs" / data / teacher for data, teacher in made]
        seconds += sum(read_json(f / PROVENANCE)["seconds"] for f in folders if (f / PROVENANCE).is_file())
    return round(tokens / len(arm.members)), seconds / len(arm.members)


def _last(arm: Arm, column: str) -> int:
    """The last value of a column of the log, a mean over seeds; 0 where there is none."""
    totals = [m.log[-1][column] for m in arm.members if m.log and column in m.log[-1]]
    return round(fmean(totals)) if totals else 0


# --- forecasts -----------------------------------------------------------------------------------


def _forecasts(found: Distillation, planned: list[dict]) -> list[Forecast]:
    made = []
    for pair in planned:
        folder = Path(pair["folder"])
        if not (folder / MANIFEST).is_file():
            continue
        axis = found.axes.get(pair["data"], "target")
        prefixes = _rows(folder / "prefixes.csv") if (folder / "prefixes.csv").is_file() else []
        said = read_json(folder / "forecast.json")
        came = _outcome(found, pair, axis)
        made.append(Forecast(pair["data"], pair["student"], pair["teacher"], axis, said, prefixes, *came))
    return made


def _outcome(found: Distillation, pair: dict, axis: str) -> tuple[Checkpoint | None, Estimate | None, Estimate | None]:
    """The run of exactly this student, teacher and data set with the reference's settings, its change, and the share of
    the gap that it closed."""
    for run in found.runs:
        if run.stage != "opd" or run.data != (pair["data"],) or len(run.teachers) != 1:
            continue
        if set(found.differs(run)) - {"from", "teachers", "data"}:
            continue
        for member in run.arm.members:
            if found.starts[member.node] == pair["student"] and found.teaching[member.node] == [pair["teacher"]]:
                sides = (found._arm([member.node]), found._arm([pair["student"]]))
                if outcome := found._difference(*sides, axis):
                    return member, outcome, found.recovery(run, [member.seed]).share
    return None, None, None
