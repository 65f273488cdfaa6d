"""What a method may change of a step of GRPO; the module of a method overrides what it does otherwise.

A step samples groups of responses and scores them; GRPO gives every token of a response its advantage within the
group. A self-taught method lets the same model score some of the samples again, as a teacher that knows more: a
`Weighted` one for the log-probability of the tokens that were sampled, by which it weights their advantages, a
`Distilled` one for its whole distribution, towards which it pulls the policy's.

B samples in groups of consecutive ones, b of them in one part of the batch, T completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.data.rows import RowProblem
from steps.reinforcement.methods import groups

if TYPE_CHECKING:
    from torch import Tensor


class Method:
    """GRPO alone.

    Args:
        settings: of the recipe; the gate, which asks `problem` only, has not all of them.

    Attributes:
        own: the settings under the method's name; None where it has none.
    """

    def __init__(self, settings: dict):
        self.settings = settings
        self.own = settings.get(settings["method"])

    @property
    def config(self) -> dict[str, Any]:
        """What TRL's GRPOConfig is given besides, or otherwise."""
        return {}

    def problem(self, row: dict) -> RowProblem | None:
        """What a row lacks that the method needs; None where it lacks nothing."""
        return None

    def check_parts(self, parts: int) -> None:
        """Raises ValueError where a step's samples must not be divided into so many parts."""


class SelfTaught(Method):
    """The policy, shown more than the prompt, scores some of the samples again."""

    def shown(self, correct: Tensor, size: int) -> Tensor:
        """[B] long, the sample whose response the teacher of each is shown (-1: none), from [B] bool."""
        return groups.siblings(correct, size)

    def taught(self, correct: Tensor, plain: Tensor, size: int) -> Tensor:
        """[B] bool: the samples that the teacher scores.

        Args:
            correct, plain: [B], bool, and GRPO's advantages.
            size: samples of a group.
        """
        raise NotImplementedError


class Weighted(SelfTaught):
    """The teacher's log-probabilities of the sampled tokens weight the tokens' advantages."""

    def token_advantages(self, plain: Tensor, correct: Tensor, student: Tensor, teacher: Tensor, step: int) -> Tensor:
        """[b, T].

        Args:
            plain, correct: [b], GRPO's advantages, and bool.
            student, teacher: [b, T], log-probabilities of the sampled tokens; the student's where it is not taught.
            step: of the optimizer, from 0.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Lesson:
    """What the policy and its teacher say of the b taught samples in one part of a batch.

    Attributes:
        student, teacher: logits over the temperature, [b, T, V], or the `steps.models.head.Places` that stand for them.
        mask: [b, T], 1 on completion tokens.
        logps, old_logps: [b, T], log-probabilities of the sampled tokens by the policy, now and when it drew them; None
            where that is now.
        taught, tokens: how many tokens of the whole batch are taught, and how many there are; of several processes,
            whose gradients are averaged, over their number.
        mean_weight: of `Distilled.mean_weight`; None where this part is the whole batch.
    """

    student: Any
    teacher: Any
    mask: Tensor
    logps: Tensor
    old_logps: Tensor | None
    taught: Tensor
    tokens: Tensor
    mean_weight: Tensor | None


class Distilled(SelfTaught):
    """The policy's distribution is pulled towards the teacher's, at every token of a taught sample."""

    def advantages(self, plain: Tensor, taught: Tensor) -> Tensor:
        """[B], those that GRPO's part of the loss is left, from its own [B] and [B] bool."""
        raise NotImplementedError

    def mean_weight(self, parts: Iterable[tuple[Any, Tensor]], device: Any) -> Tensor | None:
        """What the weights of tokens need to know of a batch that the loss sees part by part; None: nothing.

        Args:
            parts: the teacher's logits [b, T, V] and the mask [b, T] of the taught samples; computed as they are read.
        """
        return None

    def loss(self, lesson: Lesson) -> Tensor:
        """Scalar; parts of a batch add up to the whole's."""
        raise NotImplementedError
