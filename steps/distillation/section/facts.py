"""What the report knows of distillation: runs with their starts and teachers, budgets, what was forecast."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from steps.distillation.section.budgets import Budget
from steps.distillation.section.forecasts import Forecast
from steps.distillation.section.positions import Positions
from steps.distillation.section.runs import Domain, Family, Generation, Recovery, Run, method_settings
from steps.distillation.section.scores import Scores
from steps.distillation.section.statistics import recovered
from steps.report.candidates import Candidate, paired, root_of, settings_of
from steps.report.choice import reporting
from steps.report.tables import Estimate


@dataclass
class Distillation:
    """All runs of stages opd and distill, as far as they are done."""

    every: dict[str, Candidate]
    scores: Scores
    axes: dict[str, str]  # data set → axis, where it is not target
    starts: dict[str, str]  # node of a run → the node that it started from
    teaching: dict[str, list[str]]  # node of a run → the nodes of its teachers
    parameters: dict[str, int]  # node → how many it has
    runs: list[Run] = field(default_factory=list)  # in the order of recipes, grid points included
    reference: Run | None = None  # the run that others differ from in one thing
    families: list[Family] = field(default_factory=list)
    merged: list[Run] = field(default_factory=list)  # merges of a family's teachers, as runs from its start
    forecasts: list[Forecast] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    positions: Positions = field(default_factory=Positions)
    rollouts: dict[str, list[dict]] = field(default_factory=dict)  # by node: rollouts.jsonl
    budget: Budget | None = None
    # What was computed once: (run, axis, its data, nodes, teachers) → recovery.
    _recoveries: dict[tuple, Recovery] = field(default_factory=dict, init=False, repr=False)

    @property
    def main_run(self) -> Run:
        """The run that the section opens with: the reference or, where none is on-policy, the first."""
        return self.reference or self.runs[0]

    # --- lineage ---

    def candidate_of(self, node: str) -> Candidate:
        return self._candidate_of_node[node]

    @cached_property
    def _candidate_of_node(self) -> dict[str, Candidate]:
        return {m.node: candidate for candidate in self.every.values() for m in candidate.members}

    def trained_on(self, candidate: Candidate, stage: str = "sft") -> tuple[str, ...]:
        """The data sets of a candidate and its first parents of a stage, the earliest first: how it was taught to
        write."""
        data = []
        while candidate.members[0].parents:
            if candidate.stage == stage:
                data.append(settings_of(candidate).get("data"))
            candidate = self.candidate_of(candidate.members[0].parents[0])
        return tuple(reversed(data))

    def size(self, candidate: Candidate) -> int | None:
        return self.parameters.get(candidate.members[0].node)

    def axis_of_data(self, data: str) -> str:
        return self.axes.get(data, "target")

    def axis_of(self, run: Run) -> str:
        """The axis of its first data set."""
        return self.axis_of_data(run.data[0])

    # --- recovery ---

    def since_start(self, run: Run, axis: str) -> Estimate | None:
        """The change of a run on an axis against its start, each seed against the very checkpoint that it came from."""
        nodes = self._measured(run)
        if not nodes:
            return None
        start = self.scores.candidate(self.starts[node] for node in nodes)
        return self.scores.difference(self.scores.candidate(nodes), start, axis)

    def _measured(self, run: Run, teachers: Iterable[int] = (), seeds: Iterable[int] | None = None) -> list[str]:
        """The nodes of a run, of some seeds, that are evaluated as their starts and teachers at some places are; by the
        number of their seed."""
        return [
            m.node
            for m in sorted(run.candidate.members, key=lambda member: member.seed or 0)
            if (seeds is None or m.seed in seeds)
            and all(
                self.scores.members[node].results
                for node in (m.node, self.starts[m.node], *(self.teaching[m.node][i] for i in teachers))
            )
        ]

    def recoveries(self, run: Run, seeds: Iterable[int] | None = None) -> list[Recovery]:
        """One per domain, over some seeds or all; start and teacher of a seed are the checkpoints that it used."""
        recoveries = []
        for domain in run.domains:
            place = next(i for i, teacher in enumerate(run.teachers) if teacher is domain.teacher)
            nodes = self._measured(run, [place], seeds)
            recoveries.append(self._recovery(run, domain, nodes, [self.teaching[node][place] for node in nodes]))
        return recoveries

    def recovery(self, run: Run, seeds: Iterable[int] | None = None) -> Recovery:
        """Of the axis of its first data set."""
        return next(r for r in self.recoveries(run, seeds) if r.domain.axis == self.axis_of(run))

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
        sides = [self.scores.candidate(of) for of in ((self.starts[node] for node in nodes), teachers, nodes)]
        before, teacher, after = (self.scores.of(side, domain.axis) for side in sides)
        share = recovered(before, teacher, after) if all((before, teacher, after)) else None
        return Recovery(
            run,
            domain,
            *(self.scores.level(side, domain.axis) for side in sides),
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
        both = {"stage": (run.stage, other.stage), "from": (run.start.name, other.start.name)}
        both["teachers"] = tuple([teacher.name for teacher in side.teachers] for side in (run, other))
        both["data"] = tuple(
            [[s["data"], s["share"], [side.teachers[i].name for i in s["teachers"]]] for s in side.sources]
            if side.stage == run.stage == other.stage else list(side.data)
            for side in (run, other)
        )  # fmt: skip
        if both["data"][0] != both["data"][1] and run.data == other.data and len(run.data) == 1:
            del both["data"]  # the teachers alone
        if run.stage == other.stage:
            ours, theirs = (method_settings(side.candidate) for side in (run, other))
            both |= {key: (ours.get(key), theirs.get(key)) for key in ours | theirs}
        return {key: (here, there) for key, (here, there) in both.items() if here != there}

    def alike(self, *keys: str) -> list[Run]:
        """The runs of stage opd that differ from the reference in these things and nothing else."""
        return [
            run
            for run in self.runs
            if run.stage == "opd" and run is not self.reference and set(self.differs(run)) == set(keys)
        ]

    # --- several teachers ---

    def best_merge(self, family: Family) -> Candidate | None:
        """The merge that scores highest on the mean of both axes, by the questions that choose."""
        return self.scores.best(family.merges)

    def beyond_merge(self, family: Family, candidate: Candidate) -> Estimate | None:
        """How much higher a candidate scores than the best merge on that mean, by questions that did not choose it."""
        best = self.best_merge(family)
        return self.scores.change(candidate, best, "both", reporting(family.merges)) if best else None
