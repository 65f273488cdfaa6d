"""RLSD, self-distilled reinforcement learning with verifiable rewards (arXiv 2604.03128), as pure functions of tensors.

The teacher is the policy with the ground-truth answer in its prompt. Where it finds a sampled token more likely than
the policy does, a good sample's token gains weight and a bad sample's loses it; the sign always stays the reward's.
The result takes the place of the advantage in GRPO's clipped surrogate, as equation 15 and the paper's algorithm have
it; equation 16 writes the surrogate without the ratio of policies, which reads as an oversight.

B samples, T completion tokens. Nothing here carries a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.data.rows import RowProblem
from steps.reinforcement.methods.interface import Weighted

if TYPE_CHECKING:
    from torch import Tensor


class Method(Weighted):
    """Advantages weighted by the self-teacher."""

    def problem(self, row: dict) -> RowProblem | None:
        if row["answer"] is not None:
            return None
        hint = "rlsd shows every row's to its teacher: give the row one, or choose another rl.method"
        return RowProblem("unjudgeable", "answer", hint, "it has no answer")

    def taught(self, correct: Tensor, plain: Tensor, size: int) -> Tensor:
        return plain != 0

    def token_advantages(self, plain: Tensor, correct: Tensor, student: Tensor, teacher: Tensor, step: int) -> Tensor:
        mix = mix_at(step, self.own["mix"], self.own["until"])
        return advantages(plain, student, teacher, mix, self.own["clip"])


def reweighted(advantages: Tensor, log_ratio: Tensor, mix: float, clip: float) -> Tensor:
    """A * [(1 - mix) + mix * clip(w, 1 - clip, 1 + clip)] with w = exp(sign(A) * log_ratio), held fixed.

    w > 0: a clip of 1 or more has no lower end.

    Args:
        advantages: A, [B].
        log_ratio: [B, T].

    Returns:
        [B, T]; 0 where A is.
    """
    import torch

    advantages = advantages.detach().unsqueeze(-1)
    weights = torch.exp(torch.sign(advantages) * log_ratio.detach()).clamp(1 - clip, 1 + clip)
    return advantages * ((1 - mix) + mix * weights)


def advantages(advantages: Tensor, student_logp: Tensor, teacher_logp: Tensor, mix: float, clip: float) -> Tensor:
    """A_hat_t = A * [(1 - mix) + mix * clip((P_T / P_S)^sign(A), 1 - clip, 1 + clip)] (equation 15), of all samples.

    Args:
        advantages: A, [B], GRPO's.
        student_logp, teacher_logp: [B, T], log-probability of the sampled token.
        mix: lambda, of `mix_at`; 0 is GRPO.
        clip: eps_w, 0.2 in the paper.

    Returns:
        [B, T].
    """
    return reweighted(advantages, teacher_logp - student_logp, mix, clip)


def mix_at(step: int, mix: float, until: int | None) -> float:
    """`mix` falling linearly to 0 at step `until` and staying there; constant where that is None.

    The paper's are 0.5 and 50. Steps count from 0: the first has all of `mix`.
    """
    return mix if until is None else mix * max(0.0, 1 - step / until)
