"""What methods spend to come to the score of reinforcement learning from the same start."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from steps.distillation.section.scores import Scores
from steps.distillation.section.statistics import cost_estimate, cost_ratio, crossing, level
from steps.report.candidates import Candidate, resampled
from steps.report.choice import best_on_dev
from steps.report.tables import Estimate

# As near to the RL score as "no worse" is elsewhere in the report.
NEAR = 0.02


@dataclass
class BudgetPoint:
    """One budget of one method; tokens are means over seeds."""

    candidate: Candidate
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
    """Budgets of one method, smallest first."""

    name: str  # "SFT", "RL", "OPD", "distillation", …
    stage: str
    budget_points: list[BudgetPoint]
    seeds: list[int]  # those that all of them and the RL candidate have

    @property
    def best(self) -> BudgetPoint:
        """On dev; by the score itself where a budget was not measured on it."""
        points = {point.candidate.name: point for point in self.budget_points}
        chosen = best_on_dev([point.candidate for point in points.values()], lambda one: points[one.name].score.value)
        return points[chosen.name]

    def costs(self, cost: str) -> list[int | float | None]:
        """generated, trained, steps, flops or seconds, budget by budget."""
        return [getattr(point, cost) for point in self.budget_points]


@dataclass
class Reached:
    """What a series needs to reach a score: cost of the crossing (Estimate over items), or why there is none."""

    cost: Estimate | float | None  # a plain number where its upper end is not known
    bound: bool  # the smallest budget is there already: cost is at most that
    share: float  # of the resamples that reach it


@dataclass
class Budget:
    """Methods from one start against the score of RL from there; each over the seeds that its budgets and RL share."""

    start: Candidate
    rl: Candidate
    score: Estimate
    series: list[Series]
    scores: Scores = field(repr=False)

    def of_stage(self, stage: str) -> Series | None:
        """The first series of a stage."""
        return next((series for series in self.series if series.stage == stage), None)

    def reaches(self, series: Series, cost: str, less: float = 0.0) -> Reached:
        """What it takes to come to the RL score less some. cost: generated, trained, steps, flops or seconds."""
        crossed = self._crossings(series, cost, less)
        if crossed is None:
            return Reached(None, False, 0.0)
        value, drawn, bound = crossed
        n = series.budget_points[0].score.n
        return Reached(cost_estimate(value, drawn, n), bound, float(np.isfinite(drawn).mean()))

    def cheaper(self, ours: Series, theirs: Series, cost: str) -> Estimate | None:
        """How many times as much the other series needs to come to the RL score; None where neither does, or where a
        budget has no such cost."""
        both = [self._crossings(series, cost, 0.0) for series in (ours, theirs)]
        if not all(both):
            return None
        (a, drawn_a, _), (b, drawn_b, _) = both
        return cost_ratio((a, b), (drawn_a, drawn_b), ours.budget_points[0].score.n)

    def _crossings(self, series: Series, cost: str, less: float) -> tuple[float, np.ndarray, bool] | None:
        """(at the scores themselves, at each resample of items, whether the smallest budget is there already)."""
        if not all(series.costs(cost)):
            return None
        points = sorted(series.budget_points, key=lambda point: getattr(point, cost))
        rl = self.scores.of(with_seeds(self.rl, series.seeds), "target")
        sides = [self.scores.of(point.candidate, "target") for point in points]
        costs = np.array([getattr(point, cost) for point in points], dtype=float)
        values = np.array([[level(side) for side in sides]])
        at = crossing(costs, values, np.array([level(rl) - less]))[0]
        drawn = crossing(costs, np.stack([resampled(side) for side in sides], axis=1), resampled(rl) - less)
        # RL needs for its own score what it took, no less.
        itself = points[0].candidate.name == self.rl.name and not less
        return float(at), drawn, bool(values[0, 0] >= level(rl) - less) and not itself


def with_seeds(candidate: Candidate, seeds: Iterable[int]) -> Candidate:
    """A candidate with some of its seeds; as it is where it has none of them."""
    wanted = set(seeds)
    members = [m for m in candidate.members if m.seed in wanted]
    return Candidate(candidate.name, members) if members and len(members) < len(candidate.members) else candidate
