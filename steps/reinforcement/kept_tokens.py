"""Log-probabilities of tokens that were drawn from a part of the vocabulary (`top_p`, `top_k`, `min_p`).

Such a token was drawn from p(y) / sum over S of p, S being what the cut left at its place. That is the policy that
acted, and of which a gradient and a ratio must be: with p over the whole vocabulary instead, the ratio of sampler and
policy is off by the sum, and the gradient raises S as a whole against what was never tried. S goes by the policy that
drew, and another policy's own S is another set, outside of which a drawn token may lie. So the sampler's S is kept, and
every policy that scores the token does so within it: the one that learns, the older one, the start, a self-teacher
(DeepSeek-V3.2, arXiv:2512.02556, section 3.1, "Keep Sampling Mask").

Kept are the ids of each token, a few on average; a part of the batch gets them as bits, an eighth of a byte for each
entry of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from steps.engines.interface import Sample

if TYPE_CHECKING:
    from torch import Tensor


def bits(samples: Sequence[Sample], width: int, vocabulary: int) -> Tensor:
    """[samples, width, ceil(vocabulary / 8)] uint8: which ids each token was drawn from; all, behind the last."""
    import torch

    found = np.full((len(samples), width, -(-vocabulary // 8)), 255, np.uint8)
    for own, sample in zip(found, samples, strict=True):
        assert len(sample.kept) == sample.tokens, "a sampler that does not say what its tokens were drawn from"
        places = np.repeat(np.arange(sample.tokens), [len(ids) for ids in sample.kept])
        which = np.zeros((sample.tokens, vocabulary), bool)
        which[places, np.concatenate(sample.kept)] = True
        own[: sample.tokens] = np.packbits(which, axis=-1, bitorder="little")
    return torch.from_numpy(found)


def within(logits: Tensor, kept: Tensor) -> Tensor:
    """Logits [..., V] as they are at the kept entries, and -inf elsewhere; kept is of `bits`, [..., ceil(V / 8)]."""
    import torch

    each = torch.arange(8, dtype=torch.uint8, device=kept.device)
    inside = ((kept[..., None] >> each) & 1).flatten(-2)[..., : logits.shape[-1]].bool()
    return logits.masked_fill(~inside, -torch.inf)
