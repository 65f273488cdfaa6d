"""The bootstrap: resamples that all tables share, so that differences between checkpoints are paired. NumPy.

Our own, because a resample is shared: `scipy.stats.bootstrap` draws anew for each statistic and returns an interval,
while here the same draws of the same items stand behind every checkpoint, ratio and contrast of a report, kept as
counts that one matrix product turns into 2,000 means.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
SEED = 0


def seed_of(key: str) -> list[int]:
    """The seed of a set of items, by its name: sets of equal size need draws of their own, or their errors would be
    correlated."""
    return [SEED, zlib.crc32(key.encode())]


def counts(times: np.ndarray, seed: Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """How often each kind of item occurs in each resample of all items.

    Items that hold the same are one kind: drawing kinds is the same distribution as drawing items, at a cost that does
    not grow with them.

    Args:
        times: [kinds] integers, how many items are of each.

    Returns:
        [resamples, kinds]; each row sums to the number of items.
    """
    n = int(times.sum())
    return np.random.default_rng(seed).multinomial(n, times / n, size=resamples)


def families(of: Sequence[str]) -> np.ndarray:
    """[RESAMPLES, n] how often each of n points is drawn when families of them are, whole; the same for the same ones.

    Args:
        of: [n] the family of each point.
    """
    names = sorted(set(of))
    place = np.array([names.index(family) for family in of])
    times = counts(np.ones(len(names), dtype=int), seed_of(" ".join(of)))
    return times[:, place].astype(float)


def of_sums(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: Sequence[int]) -> np.ndarray:
    """[RESAMPLES] values of a statistic of sums over rows, rows resampled.

    Args:
        values: [rows, k] integers.
        statistic: [draws, k] sums → [draws] values; nan where it is not defined.
    """
    patterns, times = np.unique(values, axis=0, return_counts=True)
    return statistic((counts(times, seed) @ patterns).astype(float))


def shares(n: int, seed: Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """Share of each of n items in each resample: [resamples, n], rows sum to 1; times values, it is resampled means."""
    return counts(np.ones(n, dtype=int), seed, resamples) / n
