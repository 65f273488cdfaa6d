"""The formulas of reinforcement learning a second time, in NumPy loops over samples and tokens, for the tests.

B samples in groups of consecutive ones, T completion tokens, V vocabulary. Written from the papers and from TRL's
documentation; nothing here is shared with what it checks.
"""

import math

import numpy as np


def log_softmax(logits):
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def chosen(logits, tokens):
    """[B, T] log-probability of each sampled token."""
    logps = log_softmax(logits)
    batch, length = tokens.shape
    return np.array([[logps[b, t, tokens[b, t]] for t in range(length)] for b in range(batch)])


def entropy(logits):
    logps = log_softmax(logits)
    return -(np.exp(logps) * logps).sum(-1)


# --- groups --------------------------------------------------------------------------------------


def siblings(correct, size):
    found = []
    for i in range(len(correct)):
        begin = i - i % size
        others = [j for j in range(begin, begin + size) if j != i and correct[j]]
        found.append(others[0] if others else -1)
    return found


# --- GRPO ----------------------------------------------------------------------------------------


def group_advantages(rewards, size, scale):
    """r - mean of the group, over the deviation (n - 1) of the group or batch + 1e-4 unless scale is none."""
    found = []
    for begin in range(0, len(rewards), size):
        group = [float(r) for r in rewards[begin : begin + size]]
        mean = sum(group) / size
        over = {"group": group, "batch": [float(r) for r in rewards]}.get(scale)
        if over is None:
            deviation = 1.0
        else:
            middle = sum(over) / len(over)
            deviation = math.sqrt(sum((r - middle) ** 2 for r in over) / (len(over) - 1)) + 1e-4
        found += [(r - mean) / deviation for r in group]
    return np.array(found)


def surrogate(logp, old_logp, advantages, low, high, beta=0.0, ref_logp=None):
    """[B, T]: -min(rho A, clip(rho) A) + beta rho k3; `advantages` are [B] or [B, T].

    The rho before k3, which has its part in the gradient, is of DeepSeek-V3.2 (arXiv 2512.02556) and TRL's default.
    """
    batch, length = logp.shape
    found = np.zeros((batch, length))
    for b in range(batch):
        for t in range(length):
            a = advantages[b] if np.ndim(advantages) == 1 else advantages[b, t]
            ratio = math.exp(logp[b, t] - old_logp[b, t])
            found[b, t] = -min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
            if beta:
                log_ratio = ref_logp[b, t] - logp[b, t]
                found[b, t] += beta * ratio * (math.exp(log_ratio) - log_ratio - 1)
    return found


def aggregate(per_token, mask, loss_type, longest):
    """Scalar. `longest` is the limit of a completion's tokens, which Dr. GRPO divides by."""
    sums = [sum(x for x, m in zip(*row, strict=True) if m) for row in zip(per_token, mask, strict=True)]
    if loss_type == "grpo":
        return sum(s / max(sum(m), 1) for s, m in zip(sums, mask, strict=True)) / len(sums)
    if loss_type == "dr_grpo":
        return sum(sums) / (len(sums) * longest)
    assert loss_type in ("bnpo", "dapo")  # they differ only where a batch is taken in parts
    return sum(sums) / max(np.sum(mask), 1)


# --- its kin -------------------------------------------------------------------------------------


def divergence(student_logits, teacher_logits, alpha, top_k=None):
    """[B, T], from probabilities: (1 - alpha) KL(S || M) + alpha KL(T || M), M = (1 - alpha) S + alpha T."""
    batch, length, size = np.shape(student_logits)
    found = np.zeros((batch, length))
    students, teachers = np.exp(log_softmax(student_logits)), np.exp(log_softmax(teacher_logits))
    for b in range(batch):
        for t in range(length):
            s, q = students[b, t], teachers[b, t]
            if top_k is not None and top_k < size:
                kept = sorted(range(size), key=lambda v: -s[v])[:top_k]  # noqa: B023
                rest = [v for v in range(size) if v not in kept]
                s, q = ([p[v] for v in kept] + [sum(p[v] for v in rest)] for p in (s, q))
            if alpha == 0:
                found[b, t] = kl(q, s)
            elif alpha == 1:
                found[b, t] = kl(s, q)
            else:
                mixture = [(1 - alpha) * x + alpha * y for x, y in zip(s, q, strict=True)]
                found[b, t] = (1 - alpha) * kl(s, mixture) + alpha * kl(q, mixture)
    return found


def kl(p, q):
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def reweighted(advantages, student_logp, teacher_logp, mix, clip, towards, which=None):
    """[B, T]: A [(1 - mix) + mix clip(w)], w = (P_T / P_S)^sign(A) towards the teacher, the inverse away from it.

    Args:
        which: [B], the samples that are reweighted; None: all.
    """
    batch, length = np.shape(student_logp)
    found = np.zeros((batch, length))
    for b in range(batch):
        for t in range(length):
            a = advantages[b]
            ratio = math.exp(teacher_logp[b, t]) / math.exp(student_logp[b, t])
            if not towards:
                ratio = 1 / ratio
            weight = 1.0 if a == 0 else ratio if a > 0 else 1 / ratio
            weight = min(max(weight, max(0.0, 1 - clip)), 1 + clip)
            found[b, t] = a * ((1 - mix) + mix * weight) if which is None or which[b] else a
    return found


def distilled(correct, size, method):
    """[B] bool: who is distilled by SDPO or SRPO."""
    has = [place >= 0 for place in siblings(correct, size)]
    return [m and (method == "sdpo" or not c) for m, c in zip(has, correct, strict=True)]


def entropy_weights(teacher_entropy, mask, beta):
    raw = np.array(
        [
            [math.exp(-beta * h) if m else 0.0 for h, m in zip(*row, strict=True)]
            for row in zip(teacher_entropy, mask, strict=True)
        ]
    )
    kept = [w for row, m in zip(raw, mask, strict=True) for w, keep in zip(row, m, strict=True) if keep]
    mean = sum(kept) / len(kept) if kept else 1.0
    return raw / mean
