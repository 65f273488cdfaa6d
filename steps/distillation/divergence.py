"""How far a student's next-token distribution is from a teacher's: three divergences over four kinds of support.

p is the student's distribution at a place of a text, q the teacher's at the same place. `reverse_kl` is KL(p ‖ q), what
on-policy distillation minimises (arXiv:2604.13016), `forward_kl` KL(q ‖ p), `jsd` the generalised Jensen-Shannon
divergence of GKD (arXiv:2306.13649), β KL(q ‖ m) + (1 − β) KL(p ‖ m) with m = β q + (1 − β) p.

A support says over which tokens the sum goes. `full`: the vocabulary. `top_k`: the k likeliest tokens of the student or
the teacher, or the union or overlap of both, where p and q are renormalised on those (the paper) or keep the rest as
one more bucket (`tail`, TRL). `sampled`: the token that the student wrote.

Two known traps. Renormalised on one token, p and q are both 1: the divergence is 0 whatever they are, and `check`
refuses it. And a divergence summed to one detached number per place, used as the advantage of the sampled token, has
an expected gradient of 0: here the sum stays differentiable, token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def per_token(
    student_logits: Tensor, teacher_logits: Tensor, tokens: Tensor, divergence: dict, support: dict
) -> Tensor:
    """The divergence at every place; no gradient reaches the teacher.

    Args:
        student_logits, teacher_logits: [..., T, V], already over the temperature.
        tokens: [..., T], what the student wrote. Read where the support is `sampled` only.
        divergence: {"kind"} and, for jsd, "beta".
        support: {"kind"} and, for top_k, "of", "k", "rest".

    Returns:
        [..., T], nats. Of `sampled` the value is an unbiased estimate from the token written, and so is the gradient,
        in expectation over what the student writes. Where an overlap is empty, 0.
    """
    teacher_logits = teacher_logits.detach()
    if support["kind"] == "sampled":
        return _sampled(student_logits, teacher_logits, tokens, divergence)
    if support["kind"] == "full" or support["k"] >= student_logits.shape[-1]:
        return _between(student_logits.log_softmax(-1), teacher_logits.log_softmax(-1), divergence)
    ids, members = chosen(student_logits, teacher_logits, support["of"], support["k"])
    if support["rest"] == "renormalised":
        empty = ~members.any(-1)
        # A place without members must not make the gradient of the others undefined.
        members = members | empty[..., None]
        p, q = (x.gather(-1, ids).masked_fill(~members, -math.inf) for x in (student_logits, teacher_logits))
        per_place = _between(p.log_softmax(-1), q.log_softmax(-1), divergence, members)
        return per_place.masked_fill(empty, 0.0)
    import torch

    p, q = (_with_tail(x, ids, members) for x in (student_logits, teacher_logits))
    # A union that is the whole vocabulary has no tail.
    return _between(p, q, divergence, torch.cat([members, p[..., -1:].isfinite()], dim=-1))


def chosen(student_logits: Tensor, teacher_logits: Tensor, of: str, k: int) -> tuple[Tensor, Tensor]:
    """The tokens of a top-k support: ids [..., n], and [..., n] bool, which of them belong to it, no id twice."""
    import torch

    by_student = student_logits.detach().topk(k, dim=-1).indices if of != "teacher" else None
    by_teacher = teacher_logits.topk(k, dim=-1).indices if of != "student" else None
    if of in ("student", "teacher"):
        ids = by_student if of == "student" else by_teacher
        return ids, torch.ones_like(ids, dtype=torch.bool)
    if of == "overlap":
        return by_student, shared(by_student, by_teacher)
    assert of == "union", of
    own = torch.ones_like(by_student, dtype=torch.bool)
    return torch.cat([by_student, by_teacher], dim=-1), torch.cat([own, ~shared(by_teacher, by_student)], dim=-1)


def shared(ids: Tensor, others: Tensor) -> Tensor:
    """[..., n] bool: which of ids [..., n] are among others [..., m]."""
    return (ids[..., :, None] == others[..., None, :]).any(-1)


def mixed(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Several teachers as one, in logit space: the log of their normalised weighted geometric mean.

    Args:
        logits: of each teacher, [..., V].
        weights: one per teacher, with a sum of 1.

    Returns:
        [..., V] log-probabilities.
    """
    total = sum(weight * one.log_softmax(-1) for one, weight in zip(logits, weights, strict=True))
    return total.log_softmax(-1)


def _sampled(student_logits: Tensor, teacher_logits: Tensor, tokens: Tensor, divergence: dict) -> Tensor:
    """With D = Σ_v g(p(v), q(v)), the gradient of D is E_{y~p}[g'(p(y)) ∇ log p(y)], g' = ∂g/∂p less any constant."""
    import torch

    p, q = (x.gather(-1, tokens[..., None]).squeeze(-1) - x.logsumexp(-1) for x in (student_logits, teacher_logits))
    now = p.detach()
    if divergence["kind"] == "reverse_kl":
        value = slope = now - q
    elif divergence["kind"] == "forward_kl":
        # 1 more than the derivative −q/p: a baseline, so that equal models leave no noise.
        slope = -torch.expm1(q - now)
        value = (q - now).exp() * (q - now)
    else:
        beta = divergence["beta"]
        m = torch.logaddexp(now + math.log1p(-beta), q + math.log(beta))
        slope = (1 - beta) * (now - m)
        value = beta * (q - now).exp() * (q - m) + slope
    return value + slope * (p - now)


def _between(p: Tensor, q: Tensor, divergence: dict, members: Tensor | None = None) -> Tensor:
    """The divergence of log-probabilities [..., n]; what is no member, -inf in both, adds nothing."""
    import torch

    if members is not None:
        p, q = p.masked_fill(~members, 0.0), q.masked_fill(~members, 0.0)
    if divergence["kind"] == "reverse_kl":
        terms = p.exp() * (p - q)
    elif divergence["kind"] == "forward_kl":
        terms = q.exp() * (q - p)
    else:
        beta = divergence["beta"]
        m = torch.logaddexp(p + math.log1p(-beta), q + math.log(beta))
        terms = beta * q.exp() * (q - m) + (1 - beta) * p.exp() * (p - m)
    return (terms if members is None else terms.masked_fill(~members, 0.0)).sum(-1)


def _with_tail(logits: Tensor, ids: Tensor, members: Tensor) -> Tensor:
    """[..., n + 1] log-probabilities of the members, and of all other tokens together; summed over those, for 1 minus
    the members' sum has no digits left where they hold nearly all."""
    import torch

    total = logits.logsumexp(-1, keepdim=True)
    # An id that a union lists twice is a member once: the larger of both marks counts.
    marks = torch.zeros_like(logits, dtype=torch.int8).scatter_reduce(-1, ids, members.to(torch.int8), "amax")
    inside = marks.bool()
    rest = logits.masked_fill(inside, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, ids), rest], dim=-1) - total
