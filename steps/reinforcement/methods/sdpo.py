"""SDPO, self-distillation policy optimisation (arXiv 2601.20802): its loss as pure functions of tensors.

The student is the policy at a prompt and its own sample; the teacher is the same model, or a moving average of it, at
the same sample with a correct sibling's solution in the prompt. The loss is the divergence of their next-token
distributions on every token of a sample that has such a sibling; rewards enter by that choice alone:

    L = sum_t D(P_S(.|x, y_<t) || sg P_T(.|x, solution, y_<t)) / n

B samples, T completion tokens, V vocabulary. The divergence and the importance ratio are TRL's
(trl.experimental.sdpo). TRL's trainer then takes the mean of each sample first and of samples afterwards; the paper's
code, and `loss` here, the mean over all distilled tokens.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from steps.models import head
from steps.reinforcement.methods.groups import siblings
from steps.reinforcement.methods.interface import Distilled, Lesson

if TYPE_CHECKING:
    from torch import Tensor


class Method(Distilled):
    """The self-teacher distilled, and nothing else."""

    def taught(self, correct: Tensor, plain: Tensor, size: int) -> Tensor:
        return routed(correct, size)

    def advantages(self, plain: Tensor, taught: Tensor) -> Tensor:
        import torch

        return torch.zeros_like(plain)

    def loss(self, lesson: Lesson) -> Tensor:
        return loss(self.per_token(lesson), lesson.mask, lesson.taught)

    def per_token(self, lesson: Lesson) -> Tensor:
        """[b, T] divergences, corrected for what an older policy drew."""
        compared = partial(divergence, alpha=self.own["divergence"], top_k=self.own["top_k"])
        per_token = head.per_place(compared, [lesson.student, lesson.teacher])
        if lesson.old_logps is None:
            return per_token
        return ratio_clipped(per_token, lesson.logps, lesson.old_logps, self.own["ratio_clip"])


def routed(correct: Tensor, size: int) -> Tensor:
    """[B] bool, from [B] bool: who is distilled. Right or wrong, whoever has another correct sample in its group."""
    return siblings(correct, size) >= 0


def divergence(student_logits: Tensor, teacher_logits: Tensor, alpha: float, top_k: int | None) -> Tensor:
    """Divergence of student and teacher at each token; no gradient reaches the teacher.

    With M = (1 - alpha) P_S + alpha P_T, as the paper's code has it: (1 - alpha) KL(P_S || M) + alpha KL(P_T || M).
    The ends are defined apart: alpha 0 is KL(P_T || P_S) (forward), alpha 1 is KL(P_S || P_T) (reverse).

    Args:
        student_logits, teacher_logits: [..., V], already divided by the sampling temperature.
        alpha: 0 to 1.
        top_k: the student's most probable tokens that are compared; the rest is one bucket more. None: all.

    Returns:
        [...], nats.
    """
    from trl.experimental.sdpo import loss_utils

    teacher_logits = teacher_logits.detach()
    # All tokens would leave a bucket of nothing, to which TRL gives 1e-7.
    if top_k is None or top_k >= student_logits.shape[-1]:
        return loss_utils.compute_full_logit_self_distillation_loss(
            student_logits, teacher_logits, distillation_alpha=alpha
        )
    return loss_utils.compute_topk_self_distillation_loss(
        student_logits,
        teacher_logits,
        distillation_topk=top_k,
        distillation_alpha=alpha,
        distillation_add_tail=True,
    )


def ratio_clipped(per_token: Tensor, logp: Tensor, old_logp: Tensor, most: float) -> Tensor:
    """per_token * min(P_S / P_old, most): corrects for samples that an older policy drew, by the paper's code.

    The ratio carries no gradient; its logarithm is held within 20.

    Args:
        per_token: [B, T], of `divergence`.
        logp, old_logp: [B, T], log-probability of the sampled token now and when it was drawn.
        most: the clip, 2 in the paper.

    Returns:
        [B, T].
    """
    from trl.experimental.sdpo.loss_utils import apply_importance_sampling_clipping

    return apply_importance_sampling_clipping(per_token, logp, old_logp, most)


def loss(per_token: Tensor, mask: Tensor, n: Tensor | float) -> Tensor:
    """Mean over the distilled tokens of the whole batch of rollouts, of which this may be a part.

    Args:
        per_token: [B, T].
        mask: [B, T], 1 on completion tokens of distilled samples, else 0.
        n: distilled tokens in the whole batch; of several processes, which average their gradients, over their number.
            Where it is 0, the loss is 0.

    Returns:
        Scalar; parts of a batch add up to the whole's.
    """
    return (per_token * mask).sum() / (n if n > 0 else 1)
