"""Intervals for stability and plasticity: over seeds, over checkpoints (correlations), along a path. NumPy."""

from collections.abc import Sequence

import numpy as np

from steps.report.tables import Estimate
from steps.stability.section.facts import Interpolation
from steps.stats import bootstrap, intervals
from steps.stats.correlation import COEFFICIENTS

# Fewer recipes than this give a correlation no interval: of five points each order is one of 120, so that little but a
# perfect one would be beyond chance, and a resample of five has three different ones.
LEAST_RECIPES = 6


# --- correlations --------------------------------------------------------------------------------


def correlation(
    x: Sequence[float],
    y: Sequence[float],
    families: Sequence[str],
    coefficient: str,
    other: Sequence[float] | None = None,
) -> Estimate | float | None:
    """Correlation of two measures over checkpoints, by a bootstrap of families; `other` in place of x is taken off it.

    Checkpoints of one recipe are no independent evidence: they are drawn together. None where a side does not vary,
    without an interval where there are fewer than `LEAST_RECIPES` families.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)

    def statistic(times: np.ndarray) -> np.ndarray:
        values = COEFFICIENTS[coefficient](x, y, times)
        return values if other is None else values - COEFFICIENTS[coefficient](np.asarray(other, dtype=float), y, times)

    value = float(statistic(np.ones((1, len(x))))[0]) if len(x) > 2 else np.nan
    if not np.isfinite(value):
        return None
    if len(set(families)) < LEAST_RECIPES:
        return value
    drawn = statistic(bootstrap.families(families))
    drawn = drawn[np.isfinite(drawn)]
    return Estimate(value, *intervals.percentile(drawn), float(drawn.std(ddof=1)), len(x))


# --- paths ---------------------------------------------------------------------------------------


def _levels(interpolation: Interpolation, alpha: float, axis: str) -> np.ndarray:
    """[seeds, 3] value of an axis at a point, and its interval over items: as of any level, Wilson's per task."""
    levels = []
    for tasks in interpolation.at(alpha, axis):
        values = [task["value"] for task in tasks]
        within = intervals.combine(values, [intervals.wilson(task["value"], task["n"]) for task in tasks])
        levels.append((float(np.mean(values)), *within))
    return np.array(levels)


def _items(interpolation: Interpolation, alpha: float, axis: str) -> int:
    return sum(task["n"] for task in interpolation.at(alpha, axis)[0])


def point(interpolation: Interpolation, alpha: float, axis: str) -> Estimate:
    """An axis at one point of a path: a mean over seeds, with the chance of items and seeds."""
    levels = _levels(interpolation, alpha, axis)
    value, *within = (float(edge) for edge in levels.mean(axis=0))
    seeds = tuple(levels[:, 0].tolist())
    low, high = intervals.widen(value, tuple(within), seeds)
    stderr = (within[1] - within[0]) / (2 * intervals.Z)
    return Estimate(value, max(0.0, low), min(1.0, high), stderr, _items(interpolation, alpha, axis), seeds)


def _gap(ours: Interpolation, alpha: float, theirs: Interpolation, other: float, axis: str) -> tuple[np.ndarray, float]:
    """How much higher one point lies than another, [seeds] in pairs of those that both have, and the half-width over
    items.

    Items are taken as independent, which is too wide where both points give the same answers.
    """
    sides = [(_levels(ours, alpha, axis), ours.seeds), (_levels(theirs, other, axis), theirs.seeds)]
    if ours is not theirs:
        common = [seed for seed in ours.seeds if seed in theirs.seeds]
        sides = [(of[[seeds.index(seed) for seed in common]], common) for of, seeds in sides]
    levels = np.array([of for of, _ in sides])
    halves = (levels[..., 2] - levels[..., 1]) / 2
    return levels[0, :, 0] - levels[1, :, 0], float(np.sqrt(np.square(halves).sum(axis=0)).mean())


def _estimate(per_seed: np.ndarray, half: float, n: int, of: int = 1) -> Estimate:
    value = float(per_seed.mean())
    low, high = intervals.widen(value, (value - half, value + half), per_seed, of=of)
    return Estimate(value, low, high, half / intervals.Z, n, tuple(per_seed.tolist()))


def point_difference(interpolation: Interpolation, alpha: float, other: float, axis: str, of: int = 1) -> Estimate:
    """How much higher a path is at one point than at another; the interval is one of so many (`intervals.widen`)."""
    return _estimate(*_gap(interpolation, alpha, interpolation, other, axis), _items(interpolation, alpha, axis), of)


def path_difference(ours: Interpolation, theirs: Interpolation, alphas: Sequence[float]) -> Estimate:
    """How much higher one path lies than another in the sum of both axes, as a mean over points.

    The same items stand behind all points, so that their errors are taken as one.
    """
    axes = ("target", "general")
    gaps = [[_gap(ours, alpha, theirs, alpha, axis) for axis in axes] for alpha in alphas]
    per_seed = np.mean([sum(gap for gap, _ in both) for both in gaps], axis=0)
    half = float(np.mean([np.hypot(*(half for _, half in both)) for both in gaps]))
    return _estimate(per_seed, half, sum(_items(ours, alphas[0], axis) for axis in axes))
