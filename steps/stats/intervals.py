"""95 % intervals: of a share, a paired difference, resamples, a mean of estimates, with the chance of the seeds.

Every interval of every table, verdict and figure comes from here. Items and seeds are both drawn: the variance of a
mean over both has a part of each, and how few seeds stand behind its second part is said by Satterthwaite's degrees of
freedom (1946, doi:10.2307/3002019). tests/stats/test_coverage.py simulates what the intervals cover. NumPy and SciPy.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from steps.stats.level import TAIL, Z


def quantile(freedom: float, of: int = 1) -> float:
    """How many standard errors half an interval has, with so many degrees of freedom.

    Args:
        of: intervals that shall all hold at once with this level, each as wide as that takes (Bonferroni).
    """
    return Z if freedom > 1e6 and of == 1 else float(stdtrit(min(freedom, 1e6), 1 - TAIL / of))


def wilson(value: float, n: float, z: float = Z) -> tuple[float, float]:
    """95 % interval of a proportion of n items (Wilson 1927): stays in [0, 1] and has a width at 0 and 1.

    Our own: `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")` (scipy 1.17.1) refuses a k that is no integer,
    which the mean over seeds of a share of the same items is; it also does an exact test first, at hundreds of times
    the cost (0.4 ms). Where k is an integer the two agree to 4e-9, the rounding of `Z`.

    Args:
        value: the share, 0 to 1; of several seeds, its mean.
        n: items of one seed, or as many as its variance is worth.
        z: standard errors of half an interval.
    """
    z2 = z**2
    center = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * np.sqrt(value * (1 - value) / n + z2 / (4 * n**2))
    # At 0 and at 1 an end is the share itself, which rounding must not leave outside.
    return float(max(0.0, min(value, center - half))), float(min(1.0, max(value, center + half)))


def combine(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % interval of the plain mean of independent estimates, from the interval of each.

    Half-widths add in quadrature, each side for itself (MOVER; Zou and Donner 2008, doi:10.1002/sim.3095). One
    estimate keeps its interval.
    """
    center, k = float(np.mean(values)), len(values)
    below = np.sqrt(sum((v - low) ** 2 for v, (low, _) in zip(values, intervals, strict=True))) / k
    above = np.sqrt(sum((high - v) ** 2 for v, (_, high) in zip(values, intervals, strict=True))) / k
    return center - float(below), center + float(above)


def widen(value: float, interval: tuple[float, float], *groups: Sequence[float], of: int = 1) -> tuple[float, float]:
    """Add the chance of the seeds to an interval over items.

    Variances add, s²/k of k seeds to that of the items on each side; the quantile is t's with Satterthwaite's degrees
    of freedom (k − 1 of the seeds' part, the items' taken as known). What is of neither items nor seeds alone is in
    both parts, which is on the safe side: to take it out once, by the residual of a two-way table, leaves intervals of
    two and three seeds too short where seeds differ. One seed adds nothing.

    Args:
        groups: the values of each seed; of a difference of sides without common seeds, those of each side.
        of: intervals that shall all hold at once.
    """
    spreads = [(np.var(seeds, ddof=1) / len(seeds), len(seeds) - 1) for seeds in groups if len(seeds) > 1]
    seeds = sum(spread for spread, _ in spreads)
    if not seeds and of == 1:
        return interval
    uncertain = sum(spread**2 / freedom for spread, freedom in spreads)
    ends = []
    for side in (value - interval[0], interval[1] - value):
        variance = (side / Z) ** 2 + seeds
        freedom = float(variance**2 / uncertain) if uncertain else np.inf
        ends.append(quantile(freedom, of) * np.sqrt(variance))
    return value - float(ends[0]), value + float(ends[1])


def share(tasks: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the plain mean over tasks of shares over items and seeds.

    Wilson's, of as many items as the variance of both is worth, so that it stays in [0, 1] and has a width at its ends
    (as surveys do: Korn and Graubard 1998, Survey Methodology 24, 193). Of one task and one seed it is `wilson`.

    Args:
        tasks: [items, seeds] each, values in [0, 1]; the seeds of all are the same.
    """
    value, count, k = float(np.mean([task.mean() for task in tasks])), len(tasks), tasks[0].shape[1]
    items = sum(task.mean(axis=1).var() / len(task) for task in tasks) / count**2
    seeds = np.mean([task.mean(axis=0) for task in tasks], axis=0)
    spread = float(seeds.var(ddof=1)) / k if k > 1 else 0.0
    variance = items + spread
    z = quantile(variance**2 * (k - 1) / spread**2) if spread else Z
    worth = value * (1 - value) / variance if variance else sum(map(len, tasks))
    return wilson(value, worth, z)


def bounded(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over items of values from 0 to 1 that are no plain yes or no, such as pass@k.

    Near 1 few items fall short, and by how much others would is not seen: their spread says too little. So the mean of
    what falls short is taken as that of so many items that do by one size, by which their sum and their sum of squares
    stay what they are, and has Wilson's interval; so is what the items have; and the wider end of both counts, on each
    side.
    """
    n = len(values)
    (have_low, have_high), (lack_low, lack_high) = _sized(values, n), _sized(1 - values, n)
    return max(0.0, min(have_low, 1 - lack_high)), min(1.0, max(have_high, 1 - lack_low))


def _sized(values: np.ndarray, n: int) -> tuple[float, float]:
    total = float(values.sum())
    size = float(np.square(values).sum()) / total if total else 1.0
    low, high = wilson(min(1.0, total / n / size), n)
    return size * low, size * high


def paired(changes: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean difference between two sides that answered the same items.

    That of the share of items gained less that of items lost: half-widths of Wilson's intervals of both add in
    quadrature with their correlation (MOVER; Zou and Donner 2008, doi:10.1002/sim.3095), which holds where few items or
    none differ; resampling then shows too little chance, or none.

    Changes that are parts of an item, as means over seeds are, count as so many whole ones of one size, by which their
    sum and their sum of squares stay what they are.

    Args:
        changes: [items] from −1 to 1; of several seeds, means over them.
    """
    n, total = len(changes), float(np.abs(changes).sum())
    size = float(np.square(changes).sum()) / total if total else 1.0
    up, down = (float(np.clip(side, 0, None).mean()) / size for side in (changes, -changes))
    (up_low, up_high), (down_low, down_high) = wilson(up, n), wilson(down, n)
    # An item is not both: their covariance is −up · down / n.
    together = float(np.sqrt(up * down / ((1 - up) * (1 - down)))) if max(up, down) < 1 else 0.0
    below, above = _added(up - up_low, down_high - down, together), _added(up_high - up, down - down_low, together)
    return size * (up - down - below), size * (up - down + above)


def _added(a: float, b: float, together: float) -> float:
    return float(np.sqrt(a**2 + b**2 + 2 * together * a * b))


def percentile(drawn: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of a statistic, [resamples] values of it, all finite."""
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    return float(low), float(high)


def order_statistics(drawn: np.ndarray) -> tuple[float, float]:
    """`percentile` without interpolation, so that infinite values have their place."""
    ordered, left = np.sort(drawn), int(TAIL * len(drawn))
    return float(ordered[left]), float(ordered[-1 - left])
