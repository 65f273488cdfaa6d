"""How far two distributions, two sets or several raters agree. NumPy and SciPy."""

import numpy as np
from scipy.special import rel_entr


def js_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats, from 0 (equal) to ln 2 (disjoint): ½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2.

    D_JS of Xue et al. (ACL 2026, section 3.1), between what the base and the tuned model believe of an item's options.
    By SciPy's `rel_entr` and not by its `jensenshannon` (1.17.1), which takes a root: rounding can leave the sum a
    little below 0, so that of distributions which differ by 1e-9, a third or more come out as nan. Elsewhere they
    agree to 4e-16.

    Args:
        p, q: [..., options] distributions; 0 · ln 0 is 0.
    """
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    middle = (p + q) / 2
    return np.clip((rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / 2, 0.0, np.log(2))


def fleiss_kappa(marks: np.ndarray) -> float | None:
    """Agreement beyond chance of several raters on yes or no (Fleiss 1971). None when all marks are equal.

    Args:
        marks: [items, raters] booleans, at least two raters.
    """
    raters = marks.shape[1]
    yes = marks.sum(axis=1)
    share = yes.sum() / marks.size
    chance = share**2 + (1 - share) ** 2
    if chance == 1:
        return None
    agreed = (yes * (yes - 1) + (raters - yes) * (raters - yes - 1)) / (raters * (raters - 1))
    return float((agreed.mean() - chance) / (1 - chance))


def jaccard(a: np.ndarray, b: np.ndarray) -> float | None:
    """|a ∩ b| / |a ∪ b| of two sets as masks; None when both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else None
