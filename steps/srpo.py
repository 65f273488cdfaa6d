"""SRPO, sample-routed policy optimisation (arXiv 2604.02288), as pure functions of tensors.

Wrong samples that have a correct sibling are distilled as in SDPO, the others learn by GRPO. A distilled token weighs
less where the teacher is unsure, and both parts share one denominator, the number of all completion tokens:

    L = (sum over GRPO tokens of l_GRPO + sum over distilled tokens of w * l_SDPO) / n

B samples, T completion tokens. The paper's formula divides advantages by the group's deviation while the baseline that
it names does not; that is GRPO's `scale_rewards` and left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps import sdpo

if TYPE_CHECKING:
    from torch import Tensor


def routed(correct: Tensor, size: int) -> Tensor:
    """[B] bool, from [B] bool: who is distilled. z = (1 - c) m: wrong, with a correct sample in its group."""
    return ~correct & sdpo.routed(correct, size)


def advantages(advantages: Tensor, routed: Tensor) -> Tensor:
    """[B] for the GRPO part, from [B] and [B] bool: 0 for distilled samples, which it thereby leaves out."""
    return advantages.masked_fill(routed, 0)


def token_weights(teacher_entropy: Tensor, mask: Tensor, beta: float, mean: Tensor | float | None = None) -> Tensor:
    """w = exp(-beta H) / mean of it over the distilled tokens of the whole batch; without gradient.

    The paper does not say that w is held fixed; anything else would reward a policy for an unsure teacher.

    Args:
        teacher_entropy: H, [B, T], nats, of the teacher's next-token distribution.
        mask: [B, T], 1 on completion tokens of distilled samples, else 0.
        beta: 1 in the paper; 0 weighs all tokens alike.
        mean: of exp(-beta H) over the distilled tokens of the whole batch of rollouts, where this is a part of it.
            None: over those of `mask`. With 1, the result is exp(-beta H) itself.

    Returns:
        [B, T], 0 outside of the mask.
    """
    import torch

    weights = torch.exp(-beta * teacher_entropy.detach()) * mask
    if mean is None:
        mean = weights.sum() / mask.sum().clamp(min=1)
    # Without a distilled token the mean is 0 like every weight, and so is the quotient.
    return weights / max(mean, torch.finfo(weights.dtype).tiny)


def loss(per_token: Tensor, weights: Tensor, n: Tensor | float) -> Tensor:
    """The distilled part: sum of w * l over n.

    Args:
        per_token: [B, T], of `sdpo.divergence`.
        weights: [B, T], of `token_weights`.
        n: completion tokens of the whole batch of rollouts, those of both parts.

    Returns:
        Scalar; parts of a batch add up to the whole's.
    """
    return sdpo.loss(per_token, weights, n)
