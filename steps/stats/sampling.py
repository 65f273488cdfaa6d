"""What repeated samples of an item say: pass@k, the majority's answer, the most confident one. NumPy."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np


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


def pass_fraction(correct: np.ndarray) -> np.ndarray:
    """pass@N of Xue et al. (ACL 2026, section 3.1), [..., runs] → [...]: the *fraction* of an item's runs that are
    right.

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
