"""The formulas of GRPO's self-distilled kin against NumPy loops, limit cases and finite differences, in float64."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from steps.reinforcement.methods import groups, method_of, rlrt, rlsd, sdpo, srpo
from tests import by_hand

SIZE, LENGTH, VOCABULARY = 4, 5, 11
# Every kind of group: mixed, unique correct (first, last), all wrong, all correct.
CORRECT = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]]).bool()
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


class Batch:
    """Random rollouts with the rewards of `correct`, as tensors of float64 and as the same NumPy arrays."""

    def __init__(self, seed: int, correct: torch.Tensor = CORRECT, spread: float = 1.0):
        draw = torch.Generator().manual_seed(seed)
        self.correct = correct.flatten()
        shape = (len(self.correct), LENGTH)
        self.tokens = torch.randint(VOCABULARY, shape, generator=draw)
        self.student = torch.randn(*shape, VOCABULARY, generator=draw, dtype=torch.float64) * 2
        noise = torch.randn(*shape, VOCABULARY, generator=draw, dtype=torch.float64)
        self.teacher = self.student + spread * noise
        self.lengths = torch.randint(1, LENGTH + 1, (len(self.correct),), generator=draw)
        self.mask = (torch.arange(LENGTH) < self.lengths.unsqueeze(1)).long()
        self.advantages = torch.tensor(by_hand.group_advantages(self.correct.tolist(), SIZE, "group"))

    def logp(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1).gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)


@pytest.fixture(scope="module", params=range(3))
def batch(request) -> Batch:
    seed = request.param
    if seed == 0:
        return Batch(seed)
    draw = torch.Generator().manual_seed(seed)
    return Batch(seed, torch.rand(6, SIZE, generator=draw) < 0.4, spread=0.3)


# --- groups --------------------------------------------------------------------------------------


def test_a_sample_is_shown_the_first_correct_other_one():
    assert groups.siblings(CORRECT.flatten(), SIZE).view(-1, SIZE).tolist() == [
        [2, 0, 0, 0],
        [-1, 4, 4, 4],
        [11, 11, 11, -1],
        [-1, -1, -1, -1],
        [17, 16, 16, 16],
        [21, 22, 21, 21],
    ]


def test_groups_of_any_size_match_loops(batch):
    for size in (1, 2, 3, 4, 6, 12, 24):
        assert groups.siblings(batch.correct, size).tolist() == by_hand.siblings(batch.correct.tolist(), size)


# --- SDPO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [None, 1, 4, VOCABULARY - 1])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_divergence_matches_loops(batch, alpha, top_k):
    found = sdpo.divergence(batch.student, batch.teacher, alpha, top_k)
    assert found.shape == (len(batch.correct), LENGTH)
    close(found, by_hand.divergence(batch.student.numpy(), batch.teacher.numpy(), alpha, top_k))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_all_tokens_as_top_k_are_the_full_divergence(batch, alpha):
    full = sdpo.divergence(batch.student, batch.teacher, alpha, None)
    for top_k in (VOCABULARY, VOCABULARY + 5):
        assert torch.equal(sdpo.divergence(batch.student, batch.teacher, alpha, top_k), full)
    # A bucket hides differences, it makes none.
    assert (sdpo.divergence(batch.student, batch.teacher, alpha, 3) <= full + 1e-9).all()


@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_teacher_that_agrees_teaches_nothing(batch, alpha, top_k):
    student = batch.student.clone().requires_grad_()
    found = sdpo.divergence(student, batch.student, alpha, top_k)
    close(found.detach(), 0.0)
    found.sum().backward()
    close(student.grad, 0.0)


def test_the_importance_ratio_is_clipped_above_only_and_held_fixed(batch):
    logp = batch.logp(batch.student).requires_grad_()
    old_logp = batch.logp(batch.teacher)
    per_token = torch.ones_like(old_logp)
    found = sdpo.ratio_clipped(per_token, logp, old_logp, 2.0)
    ratios = [
        [min(math.exp(a - b), 2.0) for a, b in zip(*row, strict=True)]
        for row in zip(logp.tolist(), old_logp.tolist(), strict=True)
    ]
    assert not found.requires_grad and found.max() == 2 and found.min() < 1
    close(found, ratios)
    close(sdpo.ratio_clipped(per_token, old_logp, old_logp, 2.0), 1.0)


def test_sdpo_loss_is_the_mean_over_distilled_tokens(batch):
    per_token = sdpo.divergence(batch.student, batch.teacher, 0.5, 4)
    mask = batch.mask * sdpo.routed(batch.correct, SIZE).unsqueeze(-1)
    expected = by_hand.divergence(batch.student.numpy(), batch.teacher.numpy(), 0.5, 4)
    kept = by_hand.distilled(batch.correct.tolist(), SIZE, "sdpo")
    terms = [expected[b, t] for b in range(len(kept)) if kept[b] for t in range(batch.lengths[b])]
    close(sdpo.loss(per_token, mask, len(terms)), sum(terms) / len(terms))
    # In parts, as gradients are accumulated.
    parts = [sdpo.loss(per_token[rows], mask[rows], mask.sum()) for rows in (slice(0, 9), slice(9, None))]
    close(sum(parts), sum(terms) / len(terms))


def test_without_a_distilled_token_the_losses_are_zero(batch):
    student = batch.student.clone().requires_grad_()
    nobody = torch.zeros_like(batch.mask)
    per_token = sdpo.divergence(student, batch.teacher, 0.5, None)
    weights = srpo.token_weights(torch.ones(nobody.shape), nobody, 1.0)
    for loss in (
        sdpo.loss(per_token, nobody, 0),
        sdpo.loss(per_token, nobody, nobody.sum()),
        srpo.loss(per_token, weights, 7),
        srpo.loss(per_token, srpo.token_weights(torch.ones(nobody.shape), nobody, 1.0, weights.mean()), 7),
    ):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        assert not gradient.any()


# --- SRPO ----------------------------------------------------------------------------------------


def test_srpo_matches_loops(batch):
    routed = srpo.routed(batch.correct, SIZE)
    kept = by_hand.distilled(batch.correct.tolist(), SIZE, "srpo")
    assert routed.tolist() == kept
    advantages = srpo.advantages(batch.advantages, routed)
    assert advantages.tolist() == [0 if k else a for k, a in zip(kept, batch.advantages.tolist(), strict=True)]

    entropies = torch.distributions.Categorical(logits=batch.teacher).entropy()
    mask = batch.mask * routed.unsqueeze(-1)
    weights = srpo.token_weights(entropies, mask, 1.0)
    expected = by_hand.entropy_weights(by_hand.entropy(batch.teacher.numpy()), mask.numpy(), 1.0)
    close(weights, expected)

    divergences = by_hand.divergence(batch.student.numpy(), batch.teacher.numpy(), 0.5)
    n = int(batch.mask.sum())
    loss = srpo.loss(sdpo.divergence(batch.student, batch.teacher, 0.5, None), weights, n)
    close(loss, (divergences * expected).sum() / n)


def test_entropy_weights_have_mean_one_and_take_a_mean_of_the_whole_batch(batch):
    entropies = torch.distributions.Categorical(logits=batch.teacher).entropy()
    mask = batch.mask
    close(srpo.token_weights(entropies, mask, 0.0), mask)
    whole = srpo.token_weights(entropies, mask, 0.7)
    close(whole.sum() / mask.sum(), 1.0)
    plain = srpo.token_weights(entropies, mask, 0.7, mean=1.0)
    close(plain, torch.exp(-0.7 * entropies) * mask)
    mean = plain.sum() / mask.sum()
    parts = [srpo.token_weights(entropies[rows], mask[rows], 0.7, mean) for rows in (slice(0, 5), slice(5, None))]
    close(torch.cat(parts), whole)
    assert not srpo.token_weights(entropies.requires_grad_(), mask, 0.7).requires_grad


# --- RLSD and RLRT -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mix", "clip"), [(0.5, 0.2), (1.0, 0.5), (0.3, 1.0), (1.0, 1.5)])
def test_token_advantages_match_loops(batch, mix, clip):
    student, teacher = batch.logp(batch.student), batch.logp(batch.teacher)
    values = batch.advantages.numpy(), student.numpy(), teacher.numpy(), mix, clip
    found = rlsd.advantages(batch.advantages, student, teacher, mix, clip)
    close(found, by_hand.reweighted(*values, towards=True))
    found = rlrt.advantages(batch.advantages, batch.correct, student, teacher, mix, clip)
    close(found, by_hand.reweighted(*values, towards=False, which=batch.correct.tolist()))


def test_advantages_of_either_sign_are_reweighted_whatever_is_called_correct():
    # With rewards of several parts, a correct sample can fall below its group's mean.
    batch = Batch(5)
    batch.advantages = torch.randn(len(batch.correct), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    test_token_advantages_match_loops(batch, 0.5, 0.2)


def plain(batch: Batch) -> torch.Tensor:
    return batch.advantages.unsqueeze(-1).expand(-1, LENGTH)


@pytest.mark.parametrize(
    ("same", "mix", "clip"), [(True, 0.5, 0.2), (False, 0.0, 0.2), (False, 0.5, 0.0)], ids=["teacher", "mix", "clip"]
)
def test_limits_are_plain_grpo(batch, same, mix, clip):
    student = batch.logp(batch.student)
    teacher = student if same else batch.logp(batch.teacher)
    close(rlsd.advantages(batch.advantages, student, teacher, mix, clip), plain(batch))
    close(rlrt.advantages(batch.advantages, batch.correct, student, teacher, mix, clip), plain(batch))


def test_ties_give_nothing_and_signs_never_flip(batch):
    student, teacher = batch.logp(batch.student), batch.logp(batch.teacher)
    for clip in (0.2, 1.0, 1.5):
        for found in (
            rlsd.advantages(batch.advantages, student, teacher, 1.0, clip),
            rlrt.advantages(batch.advantages, batch.correct, student, teacher, 1.0, clip),
        ):
            assert not found[batch.advantages == 0].any()
            assert (found * plain(batch) >= 0).all()


def test_rlrt_is_rlsd_turned_round_on_correct_samples():
    batch = Batch(0)
    student, teacher = batch.logp(batch.student), batch.logp(batch.teacher)
    towards = rlsd.advantages(batch.advantages, teacher, student, 0.5, 0.2)
    away = rlrt.advantages(batch.advantages, batch.correct, student, teacher, 0.5, 0.2)
    assert torch.equal(away[batch.correct], towards[batch.correct])
    assert torch.equal(away[~batch.correct], plain(batch)[~batch.correct])


def test_token_advantages_carry_no_gradient(batch):
    student, teacher = batch.logp(batch.student).requires_grad_(), batch.logp(batch.teacher).requires_grad_()
    assert not rlsd.advantages(batch.advantages, student, teacher, 0.5, 0.2).requires_grad
    assert not rlrt.advantages(batch.advantages, batch.correct, student, teacher, 0.5, 0.2).requires_grad


def test_the_mix_falls_linearly():
    assert [rlsd.mix_at(step, 0.5, 50) for step in (0, 25, 50, 80)] == [0.5, 0.25, 0.0, 0.0]
    assert rlsd.mix_at(1000, 0.5, None) == 0.5


# --- who gets which signal -----------------------------------------------------------------------

# Rows of the samples in groups of 4: [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1].
PLACES = {
    "correct, with a correct sibling": [0, 1],
    "correct, unique": [5],
    "wrong, with a correct sibling": [2, 3, 4, 6, 7],
    "the whole group wrong": [8, 9, 10, 11],
    "the whole group correct": [12, 13, 14, 15],
}
SIGNALS = {
    "grpo": ["A > 0", "A > 0", "A < 0", "nothing", "nothing"],
    "sdpo": ["KL", "nothing", "KL", "nothing", "KL"],
    "srpo": ["A > 0", "A > 0", "KL", "nothing", "nothing"],
    "rlsd": ["A > 0, T/S", "A > 0, T/S", "A < 0, S/T", "nothing", "nothing"],
    "rlrt": ["A > 0, S/T", "A > 0, S/T", "A < 0", "nothing", "nothing"],
}


def signal(distils: bool, found: torch.Tensor, advantage: float, towards: torch.Tensor) -> str:
    """What one sample gets.

    Args:
        found: [T] token advantages of the method.
        advantage: GRPO's.
        towards: [T] P_T / P_S.
    """
    if distils:
        return "nothing, KL" if found.any() else "KL"
    if not found.any():
        return "nothing"
    sign = "A > 0" if advantage > 0 else "A < 0"
    kinds = {"": torch.ones_like(towards), ", T/S": towards, ", S/T": 1 / towards}
    matches = [
        name
        for name, ratio in kinds.items()
        if torch.allclose(found, advantage * (0.5 + 0.5 * ratio.clamp(0.8, 1.2)), rtol=0, atol=1e-9)
    ]
    assert len(matches) == 1
    return sign + matches[0]


@pytest.mark.parametrize("method", SIGNALS)
def test_who_gets_which_signal(method):
    correct = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    batch = Batch(3, correct, spread=0.2)
    student, teacher = batch.logp(batch.student), batch.logp(batch.teacher)
    nobody = torch.zeros_like(batch.correct)
    distils, found = {
        "grpo": lambda: (nobody, batch.advantages),
        "sdpo": lambda: (sdpo.routed(batch.correct, SIZE), torch.zeros_like(batch.advantages)),
        "srpo": lambda: (
            srpo.routed(batch.correct, SIZE),
            srpo.advantages(batch.advantages, srpo.routed(batch.correct, SIZE)),
        ),
        "rlsd": lambda: (nobody, rlsd.advantages(batch.advantages, student, teacher, 0.5, 0.2)),
        "rlrt": lambda: (nobody, rlrt.advantages(batch.advantages, batch.correct, student, teacher, 0.5, 0.2)),
    }[method]()
    found = found if found.dim() == 2 else found.unsqueeze(-1).expand(-1, LENGTH)
    towards = (teacher - student).exp()
    for (kind, places), expected in zip(PLACES.items(), SIGNALS[method], strict=True):
        got = {signal(bool(distils[b]), found[b], float(batch.advantages[b]), towards[b]) for b in places}
        assert got == {expected}, kind
    assert sorted(b for places in PLACES.values() for b in places) == list(range(16))


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradients_of_the_distilled_losses_are_finite_differences(alpha, top_k):
    batch = Batch(7, CORRECT[:1])
    student, teacher = batch.student.clone().requires_grad_(), batch.teacher.clone().requires_grad_()
    entropies = torch.distributions.Categorical(logits=teacher).entropy()
    logp, old_logp = batch.logp(batch.student), batch.logp(batch.teacher)

    def sdpo_loss(logits):
        per_token = sdpo.divergence(logits, teacher, alpha, top_k)
        mask = batch.mask * sdpo.routed(batch.correct, SIZE).unsqueeze(-1)
        # The ratio is held fixed by the paper: finite differences must not move it.
        return sdpo.loss(sdpo.ratio_clipped(per_token, logp, old_logp, 2.0), mask, mask.sum())

    def srpo_loss(logits):
        mask = batch.mask * srpo.routed(batch.correct, SIZE).unsqueeze(-1)
        weights = srpo.token_weights(entropies, mask, 1.0)
        return srpo.loss(sdpo.divergence(logits, teacher, alpha, top_k), weights, batch.mask.sum())

    for loss in (sdpo_loss, srpo_loss):
        assert torch.autograd.gradcheck(loss, (student,), eps=1e-6, atol=1e-7, rtol=1e-5)
        ours, none = torch.autograd.grad(loss(student), (student, teacher), allow_unused=True)
        assert ours.any() and none is None


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradient_of_the_divergence_is_that_of_the_formula(batch, alpha):
    # d KL(T||S) / d logits = S - T; d KL(S||T) / d logits = S (log S/T - KL(S||T)).
    student = batch.student.clone().requires_grad_()
    sdpo.divergence(student, batch.teacher, alpha, None).sum().backward()
    logs, logt = by_hand.log_softmax(batch.student.numpy()), by_hand.log_softmax(batch.teacher.numpy())
    if alpha == 0:
        expected = np.exp(logs) - np.exp(logt)
    else:
        expected = np.exp(logs) * (logs - logt - (np.exp(logs) * (logs - logt)).sum(-1, keepdims=True))
    close(student.grad, expected)


@pytest.mark.parametrize("method", ["rlsd", "rlrt"])
def test_gradient_of_the_surrogate_with_token_advantages_is_finite_differences(method):
    batch = Batch(9, CORRECT[:1])
    teacher = batch.logp(batch.teacher)
    old = batch.logp(batch.student + 0.1 * batch.teacher)

    def token_advantages(logp):
        if method == "rlsd":
            return rlsd.advantages(batch.advantages, logp, teacher, 0.5, 0.2)
        return rlrt.advantages(batch.advantages, batch.correct, logp, teacher, 0.5, 0.2)

    logits = batch.student.clone().requires_grad_()
    logp = batch.logp(logits)
    ratio = torch.exp(logp - old)
    found = token_advantages(logp)
    per_token = -torch.min(ratio * found, ratio.clamp(0.8, 1.28) * found)
    ((per_token * batch.mask).sum() / batch.mask.sum()).backward()

    held, mask, tokens = found.numpy(), batch.mask.numpy(), batch.tokens.numpy()

    def value(moved):
        per_token = by_hand.surrogate(by_hand.chosen(moved, tokens), old.numpy(), held, 0.2, 0.28)
        return by_hand.aggregate(per_token, mask, "dapo", LENGTH)

    start = batch.student.numpy()
    for b in range(SIZE):
        for v in range(VOCABULARY):
            step = np.zeros_like(start)
            step[b, 0, v] = 1e-5
            slope = (value(start + step) - value(start - step)) / 2e-5
            np.testing.assert_allclose(logits.grad[b, 0, v], slope, rtol=0, atol=1e-8)


def test_cispo_says_what_a_row_lacks_without_settings_of_the_loss():
    """As the gate asks it."""
    assert method_of({"method": "cispo"}).problem({"answer": "4"}) is None
    assert method_of({"method": "cispo", "clip": {"high": 4.0}}).config == {"loss_type": "cispo", "epsilon_high": 5.0}
