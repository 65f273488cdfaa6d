"""How alike two models think, read off a text of one of them: the diagnostics of Rethinking On-Policy Distillation
(arXiv:2604.13016, section 3 and appendix B.1).

p is the student's next-token distribution, q the teacher's, I the intersection of their k likeliest tokens:

    overlap ratio        |I| / k
    overlap mass         Σ_I p and Σ_I q, not renormalised
    overlap advantage    mean over I of p̄ (log q̄ − log p̄), both renormalised on I: at most 0, and 0 where they agree
    entropy gap          |H(q) − H(p)|
    likeness             of what p holds on its own k likeliest tokens, the share on I; the same of q; the lesser

Likeness is not the paper's. It says what the masses say where k tokens hold all of the probability, and stays 1 for
equal models where they do not.
The paper leaves open whether entropies are of the whole vocabulary: here they are, in nats.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steps.distillation.divergence import shared

if TYPE_CHECKING:
    from torch import Tensor

# Logits compared at a time: the temporaries of a vocabulary of 152,000 stay below a gigabyte.
AT_ONCE = 2**25
NAMES = ("overlap", "mass_student", "mass_teacher", "advantage", "entropy", "teacher_entropy", "entropy_gap")


def measure(student_logits: Tensor, teacher_logits: Tensor, k: int, tokens: Tensor | None = None) -> dict[str, Tensor]:
    """The diagnostics at every place, without gradients.

    Args:
        student_logits, teacher_logits: [..., T, V].
        k: at most V tokens of each are compared.
        tokens: [..., T], what was written.

    Returns:
        NAMES, "likeness", and "divergence", KL(p ‖ q) over the whole vocabulary in nats, each [..., T]; with `tokens`
        also "log_ratio", log q(y) − log p(y).
    """
    import torch

    shape, width = student_logits.shape[:-1], student_logits.shape[-1]
    flat = [x.detach().reshape(-1, width) for x in (student_logits, teacher_logits)]
    written = [] if tokens is None else [tokens.reshape(-1, 1)]
    size = max(1, AT_ONCE // width)
    parts = []
    with torch.no_grad():
        for begin in range(0, len(flat[0]), size):
            parts.append(_measure(*(x[begin : begin + size] for x in (*flat, *written)), k=min(k, width)))
        if not parts:
            parts.append(_measure(*(x[:0] for x in (*flat, *written)), k=min(k, width)))
        return {name: torch.cat([part[name] for part in parts]).view(shape) for name in parts[0]}


def _measure(student: Tensor, teacher: Tensor, tokens: Tensor | None = None, *, k: int) -> dict[str, Tensor]:
    """The same for [N, V], all at once."""
    import torch

    p, q = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    by_student, by_teacher = p.topk(k, dim=-1), q.topk(k, dim=-1)
    members = shared(by_student.indices, by_teacher.indices)
    p_on, q_on = by_student.values, q.gather(-1, by_student.indices)
    probability = p.exp()
    entropy, teacher_entropy = -(probability * p).sum(-1), -(q.exp() * q).sum(-1)
    # Where nothing is shared, the two renormalised distributions are of nothing: their advantage is 0.
    kept = members | ~members.any(-1, keepdim=True)
    p_bar, q_bar = (x.masked_fill(~kept, -math.inf).log_softmax(-1).masked_fill(~kept, 0.0) for x in (p_on, q_on))
    advantage = (p_bar.exp() * (q_bar - p_bar)).masked_fill(~members, 0.0).sum(-1) / members.sum(-1).clamp(min=1)
    masses = [(on.exp() * members).sum(-1) for on in (p_on, q_on)]
    held = [of.values.exp().sum(-1) for of in (by_student, by_teacher)]
    measured = {
        "overlap": members.float().mean(-1),
        "mass_student": masses[0],
        "mass_teacher": masses[1],
        "likeness": torch.minimum(masses[0] / held[0], masses[1] / held[1]).clamp(max=1.0),
        "advantage": advantage,
        "entropy": entropy,
        "teacher_entropy": teacher_entropy,
        "entropy_gap": (teacher_entropy - entropy).abs(),
        "divergence": (probability * (p - q)).sum(-1),
    }
    if tokens is not None:
        measured["log_ratio"] = (q.gather(-1, tokens) - p.gather(-1, tokens)).squeeze(-1)
    return measured
