"""Means over items with their standard errors and, of bounded values, their intervals. NumPy.

Items are the unit of chance everywhere: several samples of one item are not independent, so that a standard error
that counted samples would be too small. Values are one per item.
"""

import numpy as np

from steps.stats import intervals


def mean(values: np.ndarray) -> dict[str, float]:
    """Mean over items and its standard error, s / √n with s of n − 1 degrees of freedom: {"value", "stderr"}."""
    n = len(values)
    stderr = values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return {"value": float(values.mean()), "stderr": float(stderr)}


def bounded(values: np.ndarray) -> dict[str, float | list[float]]:
    """Mean over items of values from 0 to 1, its error and 95 % interval: {"value", "stderr", "interval"}."""
    return mean(values) | {"interval": list(intervals.bounded(values))}


def linearised(value: float, above: np.ndarray, below: np.ndarray, level: float) -> np.ndarray:
    """[seeds] a ratio seed by seed, as far as it is linear: value + (above − value · below) / level.

    The ratio of one seed whose denominator happens to be small would say nothing (ratio estimators: Cochran 1977,
    Sampling Techniques, chapter 6).

    Args:
        value: the ratio over all seeds; level: its denominator.
        above, below: [seeds] numerators and denominators.
    """
    return value + (above - value * below) / level


def perplexity(nll: np.ndarray, tokens: np.ndarray) -> dict[str, float | int]:
    """Token-weighted perplexity exp(Σ nll / Σ tokens) over rows, with its standard error.

    The mean nll r is a ratio of two sums over rows, so rows are the unit of chance: its variance is
    n / (n − 1) · Σ (nllᵢ − r·tokensᵢ)² / (Σ tokens)² (linearization; Cochran 1977, Sampling Techniques, chapter 6),
    and the delta method carries it to exp(r).

    Args:
        nll: [rows] summed negative log-likelihood of each row's scored tokens, in nats.
        tokens: [rows] number of scored tokens.

    Returns:
        {"value", "stderr", "tokens": their sum, "n": rows}.
    """
    n, total = len(nll), tokens.sum()
    rate = nll.sum() / total
    variance = n / (n - 1) * np.square(nll - rate * tokens).sum() / total**2 if n > 1 else 0.0
    value = float(np.exp(rate))
    return {"value": value, "stderr": value * float(np.sqrt(variance)), "tokens": int(total), "n": n}
