"""SRPO, sample-routed policy optimisation (arXiv 2604.02288), as pure functions of tensors.

Wrong samples that have a correct sibling are distilled as in SDPO, the others learn by GRPO. A distilled token weighs
less where the teacher is unsure, and both parts share one denominator, the number of all completion tokens:

    L = (sum over GRPO tokens of l_GRPO + sum over distilled tokens of w * l_SDPO) / n

B samples, T completion tokens. The paper's formula divides advantages by the group's deviation while the baseline that
it names does not; that is GRPO's `scale_rewards` and left to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from steps.core import processes
from steps.models import head
from steps.reinforcement.methods import sdpo
from steps.reinforcement.methods.interface import Lesson

if TYPE_CHECKING:
    from torch import Tensor


class Method(sdpo.Method):
    """Wrong responses distilled, right ones left to GRPO."""

    def check_parts(self, parts: int) -> None:
        if self.settings["iterations"] > 1 and parts > 1:
            samples = self.settings["prompts"] * self.settings["generations"]
            raise ValueError(
                f"iterations: srpo with {self.settings['iterations']} needs all {samples} samples of a step in one"
                f" pass, and they are in {parts}: memory ran out, or there are {processes.count()} processes; set it"
                " to 1"
            )

    def taught(self, correct: Tensor, plain: Tensor, size: int) -> Tensor:
        return routed(correct, size)

    def advantages(self, plain: Tensor, taught: Tensor) -> Tensor:
        return advantages(plain, taught)

    def mean_weight(self, parts: Iterable[tuple[Any, Tensor]], device: Any) -> Tensor:
        """Scalar: exp(-beta H), over the taught tokens of the whole batch of rollouts."""
        import torch
        from trl.trainer.utils import entropy_from_logits

        total = count = torch.zeros((), device=device)
        for logits, mask in parts:
            weights = torch.exp(-self.own["entropy_weight"] * head.per_place(entropy_from_logits, [logits]))
            total = total + (weights * mask).sum()
            count = count + mask.sum()
        total, count = processes.gathered(torch.stack([total, count])[None]).sum(0)
        return total / count if count else torch.ones_like(total)

    def loss(self, lesson: Lesson) -> Tensor:
        from trl.trainer.utils import entropy_from_logits

        per_token = self.per_token(lesson)
        entropy = head.per_place(entropy_from_logits, [lesson.teacher])
        weights = token_weights(entropy, lesson.mask, self.own["entropy_weight"], lesson.mean_weight)
        return loss(per_token, weights, lesson.tokens)


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
