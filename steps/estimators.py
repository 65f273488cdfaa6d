"""Estimates from repeated samples, with their uncertainty. Pure NumPy.

Items are the unit of chance everywhere: several samples of one item are not independent, so a standard error
that counted samples would be too small. Each function first makes one value per item.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np

INTERVAL = 0.95
# Its normal quantile.
Z = 1.959964


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each item (Chen et al. 2021, arXiv:2107.03374, equation 1).

    Args:
        correct: [items, samples] booleans.
        k: at most the number of samples.

    Returns:
        [items]: 1 − C(n − c, k) / C(n, k), as a product (no factorial overflows), for c of n samples correct.
    """
    n = correct.shape[1]
    assert 1 <= k <= n, (k, n)
    wrong = n - correct.sum(axis=1)
    # C(w, k) / C(n, k) = ∏_{i<k} (w − i) / (n − i); a factor is 0, never negative, once w < k.
    factors = np.clip(wrong[:, None] - np.arange(k), 0, None) / (n - np.arange(k))
    return 1.0 - factors.prod(axis=1)


def majority(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Chance that the most frequent answer of one item is correct (Wang et al. 2023, arXiv:2203.11171).

    A tie is broken at random, and the chance is exact: no draw is made. None (no answer found) does not vote;
    an item without any vote counts 0. Samples with equal answers are equally correct.
    """
    votes: dict[Hashable, int] = {}
    right: dict[Hashable, bool] = {}
    for answer, is_right in zip(answers, correct, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
            right[answer] = is_right
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return sum(right[answer] for answer in winners) / len(winners)


def majority_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], ks: Sequence[int]) -> list[float]:
    """Expected `majority` over every choice of k of one item's n samples, for each k: exact, no subset is drawn.

    For a right answer to win with v votes, v of its samples are chosen, at most v of each other answer, and it wins
    1 / (1 + t) of the ties with t others. Counting the choices by t is a product of polynomials in the number chosen.
    Answers with fewer than v samples can be chosen freely, as can those without a vote, so that few factors are left:
    64 samples take at most a few milliseconds for all k, no more than some hundred random subsets would.

    Args:
        answers, correct: [n], as `majority` takes them, n at most 1,000 (binomials of more overflow).
        ks: each at most n.

    Returns:
        [ks]; for k = n what `majority` returns, for k = 1 the share of right answers.
    """
    n = len(answers)
    assert 1 <= min(ks) <= max(ks) <= n <= 1000, (ks, n)
    counts = Counter(answer for answer in answers if answer is not None)
    right = {answer for answer, is_right in zip(answers, correct, strict=True) if is_right and answer is not None}
    wins = np.zeros(n + 1)
    for winner in right:
        rivals = [count for answer, count in counts.items() if answer != winner]
        for v in range(1, counts[winner] + 1):
            held = [count for count in rivals if count >= v]
            free = n - counts[winner] - sum(held)
            # ways[t, s]: choices of s samples of the others in which t rivals tie.
            ways = np.zeros((len(held) + 1, n - v + 1))
            ways[0, : free + 1] = [comb(free, s) for s in range(free + 1)]
            for count in held:
                ways = _choose_of_rival(ways, count, v)
            shares = (ways / np.arange(1, len(held) + 2)[:, None]).sum(axis=0)
            wins[v:] += comb(counts[winner], v) * shares
    return [float(wins[k] / comb(n, k)) for k in ks]


def _choose_of_rival(ways: np.ndarray, count: int, v: int) -> np.ndarray:
    """The choices when at most v of a rival's `count` samples are added: v of them are one tie more."""
    size = ways.shape[1]
    added = np.zeros_like(ways)
    for j in range(v):
        added[:, j:] += comb(count, j) * ways[:, : size - j]
    added[1:, v:] += comb(count, v) * ways[:-1, : size - v]
    return added


def mean(values: np.ndarray) -> dict[str, float]:
    """Mean over items and its standard error, s / √n with s of n − 1 degrees of freedom: {"value", "stderr"}."""
    n = len(values)
    stderr = values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return {"value": float(values.mean()), "stderr": float(stderr)}


def bootstrap_mean(values: np.ndarray, resamples: int, seed: int) -> dict[str, float | list[float]]:
    """Mean over items with its bootstrap standard error and 95 % percentile interval, resampling items.

    For what is bounded and skewed, such as pass@k near 1, where ± a standard error would leave [0, 1].
    """
    rng = np.random.default_rng(seed)
    # In slices: 2,000 resamples of 1,319 items at once would take 20 MB of indices and as much of values.
    means = np.concatenate(
        [values[rng.integers(len(values), size=(100, len(values)))].mean(axis=1) for _ in range(-(-resamples // 100))]
    )
    tail = (1 - INTERVAL) / 2
    return {
        "value": float(values.mean()),
        "stderr": float(means.std(ddof=1)),
        "interval": [float(edge) for edge in np.quantile(means, [tail, 1 - tail])],
    }


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


def wilson(value: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion of n items (Wilson 1927): stays in [0, 1] and has a width at 0 and 1."""
    z2 = Z**2
    center = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * np.sqrt(value * (1 - value) / n + z2 / (4 * n**2))
    return float(max(0.0, center - half)), float(min(1.0, center + half))


def combine(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % interval of the plain mean of independent estimates, from the interval of each.

    Half-widths add in quadrature, each side for itself (MOVER; Zou and Donner 2008, doi:10.1002/sim.3095). One
    estimate keeps its interval.
    """
    center, k = float(np.mean(values)), len(values)
    below = np.sqrt(sum((v - low) ** 2 for v, (low, _) in zip(values, intervals, strict=True))) / k
    above = np.sqrt(sum((high - v) ** 2 for v, (_, high) in zip(values, intervals, strict=True))) / k
    return center - float(below), center + float(above)


def widen(value: float, interval: tuple[float, float], seed_values: Sequence[float]) -> tuple[float, float]:
    """Add the chance of the seeds to an interval over items: Z·s/√seeds in quadrature. One seed adds nothing."""
    if len(seed_values) < 2:
        return interval
    seeds = Z * np.std(seed_values, ddof=1) / np.sqrt(len(seed_values))
    return value - float(np.hypot(value - interval[0], seeds)), value + float(np.hypot(interval[1] - value, seeds))


def resample_shares(n: int, resamples: int, seed: Sequence[int]) -> np.ndarray:
    """Share of each of n items in each bootstrap resample: [resamples, n], rows sum to 1.

    `resample_shares(…) @ values` are the resampled means. The same shares for every checkpoint pair their differences.
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n


# --- incomplete learning: Xue et al., ACL 2026, section 3.1 -----------------------------------------


def pass_fraction(correct: np.ndarray) -> np.ndarray:
    """pass@N of that paper: the *fraction* of an item's N runs that are right, [..., runs] → [...].

    It is not the usual pass@k (any of k right), which is `pass_at_k`.
    """
    return np.mean(correct, axis=-1)


def best_of_n(correct: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Whether the most confident of an item's N runs is right (BoN of that paper); the first of a tie.

    Args:
        correct: [..., runs] booleans.
        confidence: [..., runs].
    """
    most = np.argmax(confidence, axis=-1)[..., None]
    return np.take_along_axis(np.asarray(correct), most, axis=-1)[..., 0]


def js_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats, from 0 (equal) to ln 2 (disjoint): ½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2.

    That paper's D_JS, between what the base and the tuned model believe of an item's options.

    Args:
        p, q: [..., options] distributions; 0 · ln 0 is 0.
    """
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    middle = (p + q) / 2

    def kl(a: np.ndarray) -> np.ndarray:
        return np.sum(a * np.log(np.divide(a, middle, out=np.ones_like(a), where=a > 0)), axis=-1)

    # Rounding can leave equal distributions a little below 0.
    return np.clip((kl(p) + kl(q)) / 2, 0.0, np.log(2))
