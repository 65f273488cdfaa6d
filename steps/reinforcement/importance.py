"""Correction for a sampler that is not the policy: the same weights, computed otherwise (vLLM in bfloat16).

A response drawn by the sampler's distribution μ is an estimate of the gradient under the policy π as it was then when
it counts π / μ times. `truncate` bounds that weight (truncated importance sampling, Ionides 2008; for samplers: Yao et
al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"), `mask` leaves out what lies outside
of the bounds (masked importance sampling: IcePop, Ling team 2025, arXiv:2510.18855). TRL has both in its loss for the
vLLM that it runs itself; the ratio here, for ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def ratios(policy: Tensor, sampler: Tensor, mask: Tensor, correction: dict) -> tuple[Tensor, Tensor]:
    """Weights of the tokens in the loss, without gradient.

    Args:
        policy, sampler: [B, T], log-probabilities of the sampled tokens by both, at the time of sampling.
        mask: [B, T], 1 on completion tokens.
        correction: {"kind": truncate or mask, "level": token or sequence, "most"} and, perhaps, "least".

    Returns:
        [B, T] of tokens, [B, 1] of sequences, whose ratio is the product over their tokens; and the same shape, bool:
        whether the bounds acted.
    """
    import torch

    logs = (policy.detach() - sampler) * mask
    if correction["level"] == "sequence":
        logs = logs.sum(-1, keepdim=True)
    ratio = torch.exp(logs)
    least, most = correction.get("least") or 0.0, correction["most"]
    outside = (ratio < least) | (ratio > most)
    if correction["kind"] == "mask":
        return ratio.masked_fill(outside, 0.0), outside
    return ratio.clamp(least, most), outside
