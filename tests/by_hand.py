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


def chosen_among(logits, tokens, kept):
    """[B, T] the same where each token was drawn from the kept ones alone, [B] of [tokens] of ids; 0 behind it."""
    found = np.zeros(tokens.shape)
    for b, places in enumerate(kept):
        for t, ids in enumerate(places):
            weights = {i: math.exp(logits[b, t, i]) for i in ids}
            found[b, t] = math.log(weights[tokens[b, t]] / math.fsum(weights.values()))
    return found


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


def each_advantages(values, weights, size):
    """GDPO's: every reward less its mean in the group, over its deviation there (n - 1) + 1e-4; their weighted sum less
    its mean in the batch, over its deviation + 1e-4. `values` is [B, rewards]."""
    columns = [group_advantages(list(column), size, "group") for column in np.transpose(values)]
    sums = [sum(w * column[i] for w, column in zip(weights, columns, strict=True)) for i in range(len(values))]
    return group_advantages(sums, len(sums), "group")


def importance(policy_logp, sampler_logp, mask, correction):
    """[B, T] weights: policy over sampler, of a token or of a whole response, bounded or left out."""
    batch, length = np.shape(policy_logp)
    found = np.zeros((batch, length))
    for b in range(batch):
        tokens = [t for t in range(length) if mask[b, t]]
        each = {t: math.exp(policy_logp[b, t]) / math.exp(sampler_logp[b, t]) for t in tokens}
        whole = math.prod(each.values())
        for t in tokens:
            ratio = whole if correction["level"] == "sequence" else each[t]
            inside = correction.get("least", 0) <= ratio <= correction["most"]
            bounded = min(max(ratio, correction.get("least", 0)), correction["most"])
            found[b, t] = bounded if correction["kind"] == "truncate" else ratio if inside else 0
    return found


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


def weighted_surrogate(logp, old_logp, weights, advantages, beta=0.0, ref_logp=None):
    """[B, T] of CISPO: -w A log P + beta rho k3 at every token; `weights` [B, T] are the clipped ratios, without a
    gradient."""
    found = np.zeros(logp.shape)
    for b in range(len(logp)):
        for t in range(logp.shape[1]):
            found[b, t] = -weights[b, t] * advantages[b] * logp[b, t]
            if beta:
                log_ratio = ref_logp[b, t] - logp[b, t]
                ratio = math.exp(logp[b, t] - old_logp[b, t])
                found[b, t] += beta * ratio * (math.exp(log_ratio) - log_ratio - 1)
    return found


def sequence_surrogate(logp, old_logp, mask, advantages, low, high, beta=0.0, ref_logp=None):
    """[B, T] of GSPO: -min(s A, clip(s) A) + beta s k3 at every token, s = (P / P_old)^(1 / tokens) of the response."""
    batch, length = logp.shape
    found = np.zeros((batch, length))
    for b in range(batch):
        tokens = [t for t in range(length) if mask[b, t]]
        if not tokens:
            continue
        now, old = (math.prod(math.exp(x[b, t]) for t in tokens) for x in (logp, old_logp))
        ratio = (now / old) ** (1 / len(tokens))
        for t in tokens:
            found[b, t] = -min(ratio * advantages[b], min(max(ratio, 1 - low), 1 + high) * advantages[b])
            if beta:
                log_ratio = ref_logp[b, t] - logp[b, t]
                found[b, t] += beta * ratio * (math.exp(log_ratio) - log_ratio - 1)
    return found


def spoken_advantages(values, weights, size, normalized):
    """Advantages where rewards may say nothing (None): `values` is [B, rewards]. Of the sum of those that speak, over
    the group, or of each over those of the group that it speaks of (a lone one has no deviation, and none says so)."""
    found = []
    for begin in range(0, len(values), size):
        group = [list(row) for row in values[begin : begin + size]]
        if normalized:
            for k in range(len(weights)):
                spoken = [i for i in range(size) if group[i][k] is not None]
                column = [float(group[i][k]) for i in spoken]
                each = group_advantages(column, len(column), "group") if len(column) > 1 else [0.0] * len(column)
                for i, value in zip(spoken, each, strict=True):
                    group[i][k] = value
        totals = [sum(w * v for w, v in zip(weights, row, strict=True) if v is not None) for row in group]
        voiced = [i for i in range(size) if any(v is not None for v in values[begin + i])]
        mean = sum(totals[i] for i in voiced) / max(len(voiced), 1)
        found += [totals[i] - mean if i in voiced else 0.0 for i in range(size)]
    return np.array(found)


def clipped(logp, old_logp, mask, advantages, low, high, method):
    """Share of the tokens, of GSPO of the responses, whose ratio is clipped: where it takes the gradient away or, of
    CISPO, where it takes of the weight."""
    hits = []
    for b in range(len(logp)):
        tokens = [t for t in range(logp.shape[1]) if mask[b, t]]
        logs = [logp[b, t] - old_logp[b, t] for t in tokens]
        each = [advantages[b]] * len(tokens) if np.ndim(advantages) == 1 else [advantages[b, t] for t in tokens]
        if method == "gspo":
            logs, each = [sum(logs) / max(len(logs), 1)], [advantages[b]]
        for log, a in zip(logs, each, strict=True):
            above, below = math.exp(log) > 1 + high, math.exp(log) < 1 - low
            hits.append((above and a != 0) if method == "cispo" else (above and a > 0) or (below and a < 0))
    return sum(hits) / len(hits)


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
                kept = sorted(range(size), key=lambda v: -s[v])[:top_k]
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


# --- on-policy distillation ----------------------------------------------------------------------


def probabilities(logits):
    return np.exp(log_softmax(logits)).tolist()


def likeliest(p, k):
    """The k most probable places, as a set."""
    return set(sorted(range(len(p)), key=lambda v: -p[v])[:k])


def compared(p, q, support):
    """The places that student p and teacher q are compared at, as a set."""
    if support["kind"] == "full":
        return set(range(len(p)))
    student, teacher = likeliest(p, support["k"]), likeliest(q, support["k"])
    return {
        "student": student,
        "teacher": teacher,
        "union": student | teacher,
        "overlap": student & teacher,
    }[support["of"]]


def distance(p, q, divergence):
    """Of two lists of probabilities, by the definitions; where both are 0 a place adds nothing."""

    def kl_of(x, y):
        return sum(a * (math.log(a) - math.log(b)) for a, b in zip(x, y, strict=True) if a > 0)

    if divergence["kind"] == "reverse_kl":
        return kl_of(p, q)
    if divergence["kind"] == "forward_kl":
        return kl_of(q, p)
    beta = divergence["beta"]
    middle = [beta * b + (1 - beta) * a for a, b in zip(p, q, strict=True)]
    return beta * kl_of(q, middle) + (1 - beta) * kl_of(p, middle)


def distillation(student_logits, teacher_logits, divergence, support, places=None):
    """One token's loss, from the logits [V] of both.

    Args:
        places: what they are compared at; None: as `support` says at these logits.
    """
    p, q = probabilities(student_logits), probabilities(teacher_logits)
    places = sorted(compared(p, q, support) if places is None else places)
    if not places:
        return 0.0
    inside = [[x[v] for v in places] for x in (p, q)]
    if len(places) < len(p):
        if support["rest"] == "tail":
            outside = [sum(x[v] for v in range(len(p)) if v not in places) for x in (p, q)]
            inside = [[*own, rest] for own, rest in zip(inside, outside, strict=True)]
        else:
            inside = [[value / sum(own) for value in own] for own in inside]
    return distance(*inside, divergence)


def mixture(logits, weights):
    """Weighted geometric mean of distributions, normalised: log-probabilities [V] from a list of logits [V]."""
    product = [
        math.prod(p**w for p, w in zip(each, weights, strict=True))
        for each in zip(*map(probabilities, logits), strict=True)
    ]
    return np.array([math.log(value / sum(product)) for value in product])


def overlap_of(student_logits, teacher_logits, k):
    """The diagnostics of one token, from the logits [V] of both."""
    p, q = probabilities(student_logits), probabilities(teacher_logits)
    both = likeliest(p, k) & likeliest(q, k)
    mass_p, mass_q = sum(p[v] for v in both), sum(q[v] for v in both)
    h_p, h_q = (-sum(x * math.log(x) for x in y if x > 0) for y in (p, q))
    return {
        "overlap": len(both) / k,
        "mass_student": mass_p,
        "mass_teacher": mass_q,
        "likeness": min(mass / sum(y[v] for v in likeliest(y, k)) for mass, y in ((mass_p, p), (mass_q, q))),
        "advantage": sum(p[v] / mass_p * (math.log(q[v] / mass_q) - math.log(p[v] / mass_p)) for v in both)
        / max(1, len(both)),
        "entropy": h_p,
        "teacher_entropy": h_q,
        "entropy_gap": abs(h_q - h_p),
        "divergence": distance(p, q, {"kind": "reverse_kl"}),
    }
