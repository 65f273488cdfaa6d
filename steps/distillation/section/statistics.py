"""Estimates for distillation: shares of gaps that were closed, means of both axes, costs at which a score is reached.

Items are resampled together on all sides, by the same shares as every other paired difference of the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steps.report.candidates import Score, paired, resampled
from steps.report.tables import Estimate
from steps.stats import intervals, means


def level(scores: Sequence[Score]) -> float:
    return float(np.mean([score.estimate.value for score in scores]))


def per_seed(scores: Sequence[Score]) -> np.ndarray:
    """[seeds] means over tasks."""
    return np.mean([score.estimate.seed_values for score in scores], axis=0)


# --- the share of a gap --------------------------------------------------------------------------


@dataclass
class Share:
    """(after − before) / (teacher − before): its value, what resampled items make of it, and seed by seed.

    `seeds` are linearised (`means.linearised`).
    """

    value: float
    drawn: np.ndarray  # [RESAMPLES]
    seeds: np.ndarray  # [seeds]
    n: int
    # What the resamples do not show where no item tells two sides apart: half-widths below and above.
    at_least: tuple[float, float] = (0.0, 0.0)

    def times(self, factor: float) -> "Share":
        at_least = factor * self.at_least[0], factor * self.at_least[1]
        return Share(factor * self.value, factor * self.drawn, factor * self.seeds, self.n, at_least)

    @property
    def estimate(self) -> Estimate:
        return _estimate(self.value, self.drawn, self.seeds, self.n, self.at_least)


def recovered(before: list[Score], teacher: list[Score], after: list[Score]) -> Share | None:
    """The share of the gap that was closed; None where a side was not measured on the same items, or where the
    interval of the gap itself contains 0."""
    gap = paired(teacher, before)
    change = paired(after, before)
    if gap is None or change is None or gap.low <= 0 <= gap.high:
        return None
    levels = [level(side) for side in (before, teacher, after)]
    drawn = [resampled(side) for side in (before, teacher, after)]
    seeds = np.broadcast_arrays(*(per_seed(side) for side in (before, teacher, after)))
    value = (levels[2] - levels[0]) / (levels[1] - levels[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (drawn[2] - drawn[0]) / (drawn[1] - drawn[0])
    each = means.linearised(value, seeds[2] - seeds[0], seeds[1] - seeds[0], levels[1] - levels[0])
    at_least = (0.0, 0.0)
    if not np.ptp(ratios[np.isfinite(ratios)]):
        # After is item by item what one of the others is: the chance of their difference, over the gap.
        alike = change if abs(value) < 0.5 else paired(after, teacher)
        halves = (alike.value - alike.low) / abs(gap.value), (alike.high - alike.value) / abs(gap.value)
        at_least = halves if gap.value > 0 else halves[::-1]
    return Share(value, ratios, each, gap.n, at_least)


def share_difference(ours: Share, theirs: Share) -> Estimate:
    """How much larger a share of its gap one candidate closed; items resampled together, seeds in pairs."""
    seeds = ours.seeds - theirs.seeds if len(ours.seeds) == len(theirs.seeds) else np.array([0.0])
    (a, b), (c, d) = ours.at_least, theirs.at_least
    at_least = float(np.hypot(a, d)), float(np.hypot(b, c))
    return _estimate(ours.value - theirs.value, ours.drawn - theirs.drawn, seeds, ours.n, at_least)


def _estimate(
    value: float, drawn: np.ndarray, seeds: np.ndarray, n: int, at_least: tuple[float, float] = (0.0, 0.0)
) -> Estimate:
    drawn = drawn[np.isfinite(drawn)]
    low, high = intervals.percentile(drawn)
    within = min(low, value - at_least[0]), max(high, value + at_least[1])
    low, high = intervals.widen(value, within, seeds.tolist())
    return Estimate(float(value), low, high, float(drawn.std(ddof=1)), n, tuple(seeds.tolist()))


# --- the cost of a score -------------------------------------------------------------------------


def crossing(costs: np.ndarray, scores: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The smallest cost at which each curve comes to its level, linear in the logarithm of the cost between doses.

    Args:
        costs: [doses], rising, above 0.
        scores: [curves, doses].
        level: [curves].

    Returns:
        [curves]; the first dose where that is at the level already, inf where no dose is.
    """
    there = scores >= level[:, None]
    crossings = np.full(len(scores), np.inf)
    first = there.argmax(axis=1)
    rows = np.flatnonzero(there.any(axis=1))
    for row in rows:
        i = first[row]
        if i == 0 or scores[row, i] == level[row]:
            crossings[row] = costs[i]
            continue
        below, above = scores[row, i - 1], scores[row, i]
        part = (level[row] - below) / (above - below)
        crossings[row] = np.exp(np.log(costs[i - 1]) + part * (np.log(costs[i]) - np.log(costs[i - 1])))
    return crossings


def cost_estimate(value: float, drawn: np.ndarray, n: int) -> Estimate | float | None:
    """A cost with its interval over items; without one where too many resamples do not reach the level for its upper
    end to be known, or where all of them agree on a dose; None where the curve itself does not reach it."""
    if not np.isfinite(value):
        return None
    low, high = intervals.order_statistics(drawn)
    if not np.isfinite(high) or low == high:
        return value
    return Estimate(value, low, high, float(drawn[np.isfinite(drawn)].std(ddof=1)), n)


def cost_ratio(values: tuple[float, float], drawn: tuple[np.ndarray, np.ndarray], n: int) -> Estimate | None:
    """How many times the cost of `theirs` is that of `ours`, given as (ours, theirs); an interval over items, whose
    ends may be 0 or inf where one side does not reach the level; None where neither does."""
    if not any(np.isfinite(values)):
        return None
    ours, theirs = drawn
    known = np.isfinite(ours) | np.isfinite(theirs)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Resamples in which neither arrives speak for neither.
        ratios = np.where(known, theirs / ours, 1.0)
    low, high = intervals.order_statistics(ratios)
    finite = ratios[np.isfinite(ratios)]
    stderr = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    return Estimate(float(values[1] / values[0]), low, high, stderr, n)
