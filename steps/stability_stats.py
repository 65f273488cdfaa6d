"""Intervals for stability and plasticity: over seeds, over checkpoints (correlations), along a path. NumPy."""

import zlib
from collections.abc import Sequence

import numpy as np

from steps import estimators
from steps.arms import BOOTSTRAP_SEED, RESAMPLES
from steps.stability import Trail
from steps.tables import Estimate

# Fewer recipes than this give a correlation no interval: of five points each order is one of 120, so that little but a
# perfect one would be beyond chance, and a resample of five has three different ones.
LEAST_RECIPES = 6


def over_seeds(values: Sequence[float]) -> Estimate | float | None:
    """The mean of what was measured once per seed; the interval is over seeds only, so that one seed has none."""
    if len(values) < 2:
        return float(values[0]) if len(values) else None
    value = float(np.mean(values))
    low, high = estimators.widen(value, (value, value), values)
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(value, low, high, stderr, len(values), tuple(values))


# --- correlations --------------------------------------------------------------------------------


def pearson(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[draws] correlations of points that each draw takes so many times; nan where one side does not vary.

    Args:
        x, y: [n] or [draws, n].
        times: [draws, n].
    """
    total = times.sum(axis=1, keepdims=True)

    def centred(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = np.broadcast_to(v, times.shape)
        off = v - (times * v).sum(axis=1, keepdims=True) / total
        square = (times * off**2).sum(axis=1)
        # Equal values leave what rounding leaves.
        return off, np.where(square > 1e-20 * (times * v**2).sum(axis=1), square, np.nan)

    (x, xx), (y, yy) = centred(x), centred(y)
    return np.clip((times * x * y).sum(axis=1) / np.sqrt(xx * yy), -1, 1)


def ranks(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[draws, n] mean ranks of points that each draw takes so many times: ties share the mean of their places."""
    below, same = (x[None] < x[:, None]).astype(float), (x[None] == x[:, None]).astype(float)
    return times @ below.T + (times @ same.T + 1) / 2


def spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[draws] correlations of the ranks."""
    return pearson(ranks(x, times), ranks(y, times), times)


COEFFICIENTS = {"pearson": pearson, "spearman": spearman}


def _draws(families: Sequence[str]) -> np.ndarray:
    """[RESAMPLES, n] how often each point is drawn when families are, whole; the same for the same families."""
    names = sorted(set(families))
    place = np.array([names.index(family) for family in families])
    rng = np.random.default_rng([BOOTSTRAP_SEED, zlib.crc32(" ".join(families).encode())])
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)[:, place].astype(float)


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
        found = COEFFICIENTS[coefficient](x, y, times)
        return found if other is None else found - COEFFICIENTS[coefficient](np.asarray(other, dtype=float), y, times)

    value = float(statistic(np.ones((1, len(x))))[0]) if len(x) > 2 else np.nan
    if not np.isfinite(value):
        return None
    if len(set(families)) < LEAST_RECIPES:
        return value
    drawn = statistic(_draws(families))
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - estimators.INTERVAL) / 2
    low, high = (float(edge) for edge in np.quantile(drawn, [tail, 1 - tail]))
    return Estimate(value, low, high, float(drawn.std(ddof=1)), len(x))


# --- paths ---------------------------------------------------------------------------------------


def _levels(trail: Trail, alpha: float, axis: str) -> np.ndarray:
    """[seeds, 3] value of an axis at a point, and its interval over items: as of any level, Wilson's per task."""
    found = []
    for tasks in trail.at(alpha, axis):
        values = [task["value"] for task in tasks]
        within = estimators.combine(values, [estimators.wilson(task["value"], task["n"]) for task in tasks])
        found.append((float(np.mean(values)), *within))
    return np.array(found)


def _items(trail: Trail, alpha: float, axis: str) -> int:
    return sum(task["n"] for task in trail.at(alpha, axis)[0])


def point(trail: Trail, alpha: float, axis: str) -> Estimate:
    """An axis at one point of a path: a mean over seeds, with the chance of items and seeds."""
    found = _levels(trail, alpha, axis)
    value, *within = (float(edge) for edge in found.mean(axis=0))
    seeds = tuple(found[:, 0].tolist())
    low, high = estimators.widen(value, tuple(within), seeds)
    stderr = (within[1] - within[0]) / (2 * estimators.Z)
    return Estimate(value, max(0.0, low), min(1.0, high), stderr, _items(trail, alpha, axis), seeds)


def _gap(ours: Trail, alpha: float, theirs: Trail, other: float, axis: str) -> tuple[np.ndarray, float]:
    """How much higher one point lies than another, [seeds] in pairs, and the half-width over items.

    Items are taken as independent, which is too wide where both points give the same answers.
    """
    seeds = min(len(ours.runs), len(theirs.runs))
    found = np.array([_levels(ours, alpha, axis)[:seeds], _levels(theirs, other, axis)[:seeds]])
    halves = (found[..., 2] - found[..., 1]) / 2
    return found[0, :, 0] - found[1, :, 0], float(np.sqrt(np.square(halves).sum(axis=0)).mean())


def _estimate(per_seed: np.ndarray, half: float, n: int) -> Estimate:
    value = float(per_seed.mean())
    low, high = estimators.widen(value, (value - half, value + half), per_seed)
    return Estimate(value, low, high, half / estimators.Z, n, tuple(per_seed.tolist()))


def point_difference(trail: Trail, alpha: float, other: float, axis: str) -> Estimate:
    """How much higher a path is at one point than at another."""
    return _estimate(*_gap(trail, alpha, trail, other, axis), _items(trail, alpha, axis))


def path_difference(ours: Trail, theirs: Trail, alphas: Sequence[float]) -> Estimate:
    """How much higher one path lies than another in the sum of both axes, as a mean over points.

    The same items stand behind all points, so that their errors are taken as one.
    """
    axes = ("target", "general")
    gaps = [[_gap(ours, alpha, theirs, alpha, axis) for axis in axes] for alpha in alphas]
    per_seed = np.mean([sum(gap for gap, _ in both) for both in gaps], axis=0)
    half = float(np.mean([np.hypot(*(half for _, half in both)) for both in gaps]))
    return _estimate(per_seed, half, sum(_items(ours, alphas[0], axis) for axis in axes))
