"""Who can learn from whom inside a group of rollouts of one prompt; SDPO, SRPO and RLRT ask for it.

A batch of B samples holds its groups one after the other, `size` consecutive samples each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def siblings(correct: Tensor, size: int) -> Tensor:
    """The solution that each sample is shown: the first correct sample of its group that is not itself.

    As SDPO's code has it with its defaults (arXiv 2601.20802; the caption of the paper's Table 2 would let a sample be
    shown itself).

    Args:
        correct: [B] bool.
        size: samples of a group; B is a multiple of it.

    Returns:
        [B] long: place in the batch, -1 where there is none.
    """
    import torch

    groups = correct.view(-1, size)
    others = ~torch.eye(size, dtype=torch.bool, device=correct.device)
    shown = (groups.unsqueeze(1) & others).view(-1, size)
    begins = torch.arange(len(correct), device=correct.device) // size * size
    # argmax takes the first of equals; it knows no bool.
    return torch.where(shown.any(-1), begins + shown.int().argmax(-1), -1)
