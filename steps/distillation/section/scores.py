"""What every candidate scores on an axis, and how much more one scores than another."""

from collections.abc import Iterable
from functools import cached_property
from statistics import fmean

import numpy as np

from steps.report.candidates import Candidate, Score, matched, paired, paired_axes, sampled_score
from steps.report.choice import CHOOSES, half
from steps.report.tables import Estimate
from steps.settings.axes import CAPABILITIES
from steps.stats import intervals


class Scores:
    """Target: pass@1 of sampled answers, greedy where nothing was sampled; general: greedy."""

    def __init__(self, candidates: dict[str, Candidate]):
        self.members = {m.node: m for candidate in candidates.values() for m in candidate.members}
        # Nodes → them as one candidate, their sampled scores: what was computed once.
        self._candidates: dict[tuple[str, ...], Candidate] = {}
        self._of_target: dict[tuple[str, ...], list[Score]] = {}

    @property
    def target(self) -> str | None:
        """The sampled task of the target axis; None where nothing was sampled, so that scores are greedy."""
        return " and ".join(self.sampled) or None

    @cached_property
    def sampled(self) -> list[str]:
        """The sampled tasks of the target axis."""
        tasks: dict[str, None] = {}
        for member in self.members.values():
            sampling = member.results["sampling"] if member.results else {}
            tasks |= dict.fromkeys(t for t in sampling if member.results["tasks"][t]["axis"] == "target")
        return list(tasks)

    def of(self, candidate: Candidate, axis: str, part: int | None = None) -> list[Score]:
        """The tasks of an axis; of sampled answers an item's value is its share of right ones.

        Args:
            part: by the half of the questions that chooses or reports (CHOOSES, REPORTS of steps.report.choice).
        """
        if part is not None:
            return [half(score, part) for score in self.of(candidate, axis)]
        if axis != "target" or not self.sampled:
            return candidate.on(axis)
        nodes = tuple(m.node for m in candidate.members)
        if nodes not in self._of_target:
            self._of_target[nodes] = [score for task in self.sampled if (score := sampled_score(candidate, task))]
        return self._of_target[nodes]

    def level(self, candidate: Candidate, axis: str, part: int | None = None) -> Estimate | None:
        if part is None and (axis != "target" or not self.sampled):
            return candidate.axis(axis)
        levels = [score.estimate for score in self.of(candidate, axis, part)]
        if len(levels) < 2:
            return levels[0] if levels else None
        value = fmean(e.value for e in levels)
        within = intervals.combine([e.value for e in levels], [(e.low, e.high) for e in levels])
        seeds = tuple(fmean(values) for values in zip(*(e.seed_values for e in levels), strict=True))
        stderr = float(np.sqrt(sum(e.stderr**2 for e in levels))) / len(levels)
        return Estimate(value, *within, stderr, sum(e.n for e in levels), seeds)

    def levels(self, candidate: Candidate, part: int | None = None) -> list[Estimate | None]:
        """On each of CAPABILITIES."""
        return [self.level(candidate, axis, part) for axis in CAPABILITIES]

    def best(self, candidates: Iterable[Candidate]) -> Candidate | None:
        """The highest on the mean of both axes, by the half of the questions that chooses: the first of equal ones.
        None where none was measured on both."""
        levels = [(candidate, self.levels(candidate, CHOOSES)) for candidate in candidates]
        known = [(fmean(e.value for e in of), candidate) for candidate, of in levels if all(of)]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def change(self, candidate: Candidate, other: Candidate, axis: str, part: int | None = None) -> Estimate | None:
        """How much higher one candidate scores than another on an axis (`both`: the mean of the two), paired by item
        and seed, over the seeds that both have; None where one was not measured."""
        return self.difference(*matched(candidate, other), axis, part)

    def difference(self, candidate: Candidate, other: Candidate, axis: str, part: int | None = None) -> Estimate | None:
        """The same of all seeds as they stand."""
        if axis == "both":
            sides = ([self.of(side, axis, part) for axis in CAPABILITIES] for side in (candidate, other))
            return paired_axes(*sides)
        return paired(self.of(candidate, axis, part), self.of(other, axis, part))

    def candidate(self, nodes: Iterable[str]) -> Candidate:
        """Some nodes as one candidate; a node may stand in several seeds' place."""
        key = tuple(nodes)
        if key not in self._candidates:
            self._candidates[key] = Candidate(key[0], [self.members[node] for node in key])
        return self._candidates[key]
