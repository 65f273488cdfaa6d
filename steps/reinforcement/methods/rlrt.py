"""RLRT, the rebellious student (arXiv 2605.10781), as pure functions of tensors.

The teacher is the policy with a correct sample in its prompt. RLSD turned round: tokens of correct samples gain weight
where the policy finds them more likely than the teacher does, so that what it found on its own is kept; wrong samples
learn by plain GRPO. Without that gate the paper's runs diverge.

B samples, T completion tokens. Nothing here carries a gradient. No source says whether the mix decays: constant here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.reinforcement.methods import groups, rlsd
from steps.reinforcement.methods.interface import Weighted

if TYPE_CHECKING:
    from torch import Tensor


class Method(Weighted):
    """Advantages against the self-teacher, on right responses."""

    def shown(self, correct: Tensor, size: int) -> Tensor:
        import torch

        shown = groups.siblings(correct, size)
        # What a unique correct sample is shown, the paper leaves open: itself, as in others' implementations.
        return torch.where((shown < 0) & correct, torch.arange(len(shown), device=shown.device), shown)

    def taught(self, correct: Tensor, plain: Tensor, size: int) -> Tensor:
        return correct & (plain != 0)

    def token_advantages(self, plain: Tensor, correct: Tensor, student: Tensor, teacher: Tensor, step: int) -> Tensor:
        return advantages(plain, correct, student, teacher, self.own["mix"], self.own["clip"])


def advantages(
    advantages: Tensor, correct: Tensor, student_logp: Tensor, teacher_logp: Tensor, mix: float, clip: float
) -> Tensor:
    """A_hat_t = A * [(1 - mix) + mix * clip((P_S / P_T)^sign(A), 1 - clip, 1 + clip)] for correct samples, else A.

    The lower end max(0, 1 - clip) of others' implementations is the same: the ratio is positive.

    Args:
        advantages: A, [B], GRPO's.
        correct: [B] bool.
        student_logp, teacher_logp: [B, T], log-probability of the sampled token.
        mix: lambda, 0.5 in the paper; 0 is GRPO.
        clip: eps_w; the paper's: 1.0 for base, 0.5 for instruction-tuned, 0.2 for thinking models.

    Returns:
        [B, T].
    """
    import torch

    rebellious = rlsd.reweighted(advantages, student_logp - teacher_logp, mix, clip)
    return torch.where(correct.unsqueeze(-1), rebellious, advantages.detach().unsqueeze(-1))
