"""Sampling from a part of the vocabulary: the likeliest tokens, by top_k, top_p and min_p.

In vLLM's order, each on what the one before left: first `min_p` (tokens of at least so much of the likeliest one's
probability, arXiv:2407.01082), then `top_k`, then `top_p` (the smallest set that holds so much, arXiv:1904.09751).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Truncation(NamedTuple):
    """What is cut off; nothing, by default."""

    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        return self.top_p < 1 or self.top_k is not None or self.min_p > 0


def ordered(probability: Tensor, cut: Truncation) -> tuple[Tensor, Tensor]:
    """What is left of distributions, the likeliest token first.

    Args:
        probability: [rows, vocabulary].

    Returns:
        [rows, vocabulary], not normalised again, 0 for what is cut off; and the ids in that order.
    """
    probability, order = probability.sort(dim=-1, descending=True, stable=True)
    if cut.min_p > 0:
        probability = probability.masked_fill(probability < cut.min_p * probability[:, :1], 0.0)
    if cut.top_k is not None:
        probability[:, cut.top_k :] = 0.0
    if cut.top_p < 1:
        sums = probability.cumsum(-1)
        probability = probability.masked_fill(sums - probability >= cut.top_p * sums[:, -1:], 0.0)
    return probability, order
