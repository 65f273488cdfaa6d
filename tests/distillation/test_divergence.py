"""The losses of on-policy distillation against NumPy, finite differences, limits, and TRL; the two known traps."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from steps.distillation import divergence
from steps.settings.opd import fit_divergence
from tests import by_hand

B, T, V = 2, 3, 24
REVERSE, FORWARD = {"kind": "reverse_kl"}, {"kind": "forward_kl"}
OBJECTIVES = {
    "reverse": REVERSE,
    "forward": FORWARD,
    "jsd-0.1": {"kind": "jsd", "beta": 0.1},
    "jsd-0.5": {"kind": "jsd", "beta": 0.5},
    "jsd-0.9": {"kind": "jsd", "beta": 0.9},
}
FULL, SAMPLED = {"kind": "full"}, {"kind": "sampled"}
TOP_K = {
    f"{of}-{k}-{rest}": {"kind": "top_k", "of": of, "k": k, "rest": rest}
    for of, k, rest in itertools.product(
        ("student", "teacher", "union", "overlap"), (1, 4, 16), ("renormalised", "tail")
    )
}
SUPPORTS = {"full": FULL} | TOP_K
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


def logits(seed: int = 2, scale: float = 2.0, shape=(B, T, V)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a student, of a teacher that shares its first choice at some of the places, and tokens."""
    draw = np.random.default_rng(seed)
    student = draw.normal(scale=scale, size=shape)
    teacher = 0.6 * student + draw.normal(scale=0.8 * scale, size=shape)
    tokens = draw.integers(shape[-1], size=shape[:-1])
    return torch.tensor(student, requires_grad=True), torch.tensor(teacher), torch.tensor(tokens)


def by_places(student, teacher, objective, support) -> np.ndarray:
    """[B, T] in loops."""
    student, teacher = student.detach().numpy(), teacher.numpy()
    return np.array(
        [
            [by_hand.distillation(student[b, t], teacher[b, t], objective, support) for t in range(student.shape[1])]
            for b in range(len(student))
        ]
    )


def slopes(student, teacher, objective, support, width: float = 1e-5) -> np.ndarray:
    """[B, T, V]: of the value in loops along each logit, the compared places held at those of the point itself."""
    student, teacher = student.detach().numpy(), teacher.numpy()
    found = np.zeros(student.shape)
    for b, t in np.ndindex(student.shape[:2]):
        p, q = (by_hand.probabilities(x[b, t]) for x in (student, teacher))
        places = by_hand.compared(p, q, support)
        for v in range(student.shape[2]):
            ends = []
            for by in (width, -width):
                moved = student[b, t].copy()
                moved[v] += by
                ends.append(by_hand.distillation(moved, teacher[b, t], objective, support, places))
            found[b, t, v] = (ends[0] - ends[1]) / (2 * width)
    return found


def gradient(per_token: torch.Tensor, student: torch.Tensor) -> np.ndarray:
    """A loss that is 0 by construction may have no graph at all."""
    if not per_token.requires_grad:
        return np.zeros(student.shape)
    (found,) = torch.autograd.grad(per_token.sum(), student, allow_unused=True, retain_graph=True)
    return np.zeros(student.shape) if found is None else found.numpy()


def expected_gradient(estimate, student: torch.Tensor) -> np.ndarray:
    """[B, T, V]: of estimate(tokens) [B, T], over tokens drawn from the student, each possible one in turn."""
    chances = student.detach().softmax(-1)
    found = np.zeros(student.shape)
    for v in range(student.shape[-1]):
        tokens = torch.full(student.shape[:-1], v)
        per_token = estimate(tokens) * chances[..., v]
        found += gradient(per_token, student)
    return found


# --- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("support", SUPPORTS)
def test_value_and_gradient_are_those_of_the_definition(objective, support):
    student, teacher, tokens = logits()
    of = OBJECTIVES[objective], SUPPORTS[support]
    found = divergence.per_token(student, teacher, tokens, *of)
    assert found.shape == (B, T) and found.dtype == torch.float64
    expected = by_places(student, teacher, *of)
    close(found.detach(), expected)
    close(gradient(found, student), slopes(student, teacher, *of))
    # Not everything that is compared here is 0 anyway; one place that both have alone is 1 in both.
    one_place = "-1-" in support and "union" not in support and support.endswith("renormalised")
    assert one_place == (np.abs(expected).max() < 1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_support_of_the_whole_vocabulary_is_the_full_divergence(objective):
    student, teacher, tokens = logits()
    expected = divergence.per_token(student, teacher, tokens, OBJECTIVES[objective], FULL)
    for of, rest in itertools.product(("student", "teacher", "union", "overlap"), ("renormalised", "tail")):
        support = {"kind": "top_k", "of": of, "k": V, "rest": rest}
        found = divergence.per_token(student, teacher, tokens, OBJECTIVES[objective], support)
        close(found.detach(), expected.detach())
        close(gradient(found, student), gradient(expected, student))


def test_the_gradient_of_full_reverse_kl_is_the_analytic_one():
    student, teacher, tokens = logits(seed=1)
    found = gradient(divergence.per_token(student, teacher, tokens, REVERSE, FULL), student)
    p, q = (np.exp(by_hand.log_softmax(x.detach())) for x in (student, teacher))
    kl = (p * np.log(p / q)).sum(-1, keepdims=True)
    close(found, p * (np.log(p / q) - kl), atol=1e-10)


def test_the_gradient_of_full_forward_kl_is_the_difference_of_the_probabilities():
    student, teacher, tokens = logits(seed=1)
    found = gradient(divergence.per_token(student, teacher, tokens, FORWARD, FULL), student)
    p, q = (np.exp(by_hand.log_softmax(x.detach())) for x in (student, teacher))
    close(found, p - q, atol=1e-10)


# --- one sampled token ---------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_sampled_token_has_the_value_and_gradient_of_the_full_divergence_on_average(objective):
    student, teacher, tokens = logits()
    objective = OBJECTIVES[objective]

    def estimate(tokens):
        return divergence.per_token(student, teacher, tokens, objective, SAMPLED)

    full = divergence.per_token(student, teacher, tokens, objective, FULL)
    close(expected_gradient(estimate, student), gradient(full, student), atol=1e-10)
    # Of one token it is another one, or there was nothing to average.
    assert np.abs(gradient(estimate(tokens), student) - gradient(full, student)).max() > 1e-2
    chances = student.detach().softmax(-1)
    values = torch.stack([estimate(torch.full((B, T), v)).detach() for v in range(V)], dim=-1)
    close((chances * values).sum(-1), full.detach(), atol=1e-10)


def test_the_value_of_a_sampled_token_of_reverse_kl_is_its_log_ratio():
    student, teacher, tokens = logits()
    found = divergence.per_token(student, teacher, tokens, REVERSE, SAMPLED)
    expected = by_hand.chosen(student.detach(), tokens) - by_hand.chosen(teacher, tokens)
    close(found.detach(), expected, atol=1e-10)


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("support", SUPPORTS | {"sampled": SAMPLED})
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_models_have_no_divergence_and_no_gradient(objective, support):
    student, _, tokens = logits()
    support = (SUPPORTS | {"sampled": SAMPLED})[support]
    found = divergence.per_token(student, student.detach().clone(), tokens, OBJECTIVES[objective], support)
    close(found.detach(), 0, atol=1e-12)
    close(gradient(found, student), 0, atol=1e-12)


@pytest.mark.parametrize("support", [FULL, TOP_K["student-4-tail"], TOP_K["union-4-renormalised"]])
def test_jsd_goes_over_into_both_kl_divergences(support):
    student, teacher, tokens = logits()
    small = 1e-6
    for beta, limit in ((small, FORWARD), (1 - small, REVERSE)):
        found = divergence.per_token(student, teacher, tokens, {"kind": "jsd", "beta": beta}, support) / small
        expected = divergence.per_token(student, teacher, tokens, limit, support)
        np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-3)
        np.testing.assert_allclose(gradient(found, student), gradient(expected, student), rtol=0, atol=1e-3)
        assert expected.detach().min() > 0.01


def test_jsd_of_a_half_is_symmetric_and_bounded():
    student, teacher, tokens = logits(scale=6.0)
    half, skew = OBJECTIVES["jsd-0.5"], OBJECTIVES["jsd-0.1"]
    there = divergence.per_token(student, teacher, tokens, half, FULL).detach()
    back = divergence.per_token(teacher, student.detach(), tokens, half, FULL)
    close(there, back, atol=1e-12)
    assert (there > 0).all() and (there < np.log(2)).all()
    there = divergence.per_token(student, teacher, tokens, skew, FULL).detach()
    back = divergence.per_token(teacher, student.detach(), tokens, skew, FULL)
    assert (there - back).abs().max() > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_more_places_tell_more_apart(objective):
    """A divergence never grows where places are put together in one bucket."""
    student, teacher, tokens = logits()
    found = [
        divergence.per_token(
            student,
            teacher,
            tokens,
            OBJECTIVES[objective],
            {"kind": "top_k", "of": "student", "k": k, "rest": "tail"},
        ).detach()
        for k in (1, 4, 16, V)
    ]
    for fewer, more in itertools.pairwise(found):
        assert (fewer <= more + 1e-12).all()
    assert (found[0] < found[-1] - 1e-3).any()


# --- what can break ------------------------------------------------------------------------------


@pytest.mark.parametrize("support", SUPPORTS | {"sampled": SAMPLED})
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_gradient_reaches_the_teacher(objective, support):
    student, teacher, tokens = logits()
    teacher.requires_grad_(True)
    support = (SUPPORTS | {"sampled": SAMPLED})[support]
    found = divergence.per_token(student, teacher, tokens, OBJECTIVES[objective], support)
    if not found.requires_grad:
        return
    found.sum().backward()
    assert teacher.grad is None or not teacher.grad.any()


@pytest.mark.parametrize("rest", ["renormalised", "tail"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_where_nothing_overlaps_a_token_adds_nothing(objective, rest):
    student, teacher = torch.zeros(1, 2, V, dtype=torch.float64), torch.zeros(1, 2, V, dtype=torch.float64)
    student[..., :4], teacher[..., 4:8] = torch.tensor([4.0, 3, 2, 1]), torch.tensor([4.0, 3, 2, 1])
    teacher[0, 1, 2] = 5.0  # the second token has one place in common, which a tail compares with the rest
    student.requires_grad_(True)
    support = {"kind": "top_k", "of": "overlap", "k": 4, "rest": rest}
    tokens = torch.zeros(1, 2, dtype=torch.long)
    found = divergence.per_token(student, teacher, tokens, OBJECTIVES[objective], support)
    slope = gradient(found, student)
    close(found.detach()[0, 0], 0, atol=1e-12)
    close(slope[0, 0], 0, atol=1e-12)
    expected = by_hand.distillation(student.detach()[0, 1], teacher[0, 1], OBJECTIVES[objective], support)
    close(found.detach()[0, 1], expected)
    assert np.isfinite(slope).all() and (expected > 0.05) == (rest == "tail")


@pytest.mark.parametrize("support", SUPPORTS | {"sampled": SAMPLED})
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sure_models_in_float32_keep_values_and_gradients_finite(objective, support):
    """Logits as far apart as trained models have them: the rest has a mass that float32 cannot tell from 0."""
    draw = np.random.default_rng(0)
    student = torch.tensor(draw.normal(size=(1, 4, V)), dtype=torch.float32)
    teacher = torch.tensor(draw.normal(size=(1, 4, V)), dtype=torch.float32)
    student[0, 0, 3] += 60  # sure, and sure of the same
    teacher[0, 0, 3] += 60
    student[0, 1, 3] += 60  # sure of another
    teacher[0, 1, 5] += 60
    student[0, 2, 3] += 60  # the student alone
    teacher[0, 3, 3] += 60  # the teacher alone
    student.requires_grad_(True)
    chosen = (SUPPORTS | {"sampled": SAMPLED})[support]
    tokens = torch.full((1, 4), 3)
    found = divergence.per_token(student, teacher, tokens, OBJECTIVES[objective], chosen)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert np.isfinite(gradient(found, student)).all()
    if support == "sampled":
        return
    expected = by_places(student.double(), teacher.double(), OBJECTIVES[objective], chosen)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_union_that_covers_the_vocabulary_has_a_tail_of_nothing():
    """Few tokens left outside, then none: no infinity may meet another in the value or the gradient."""
    student, teacher = torch.zeros(1, 2, 8, dtype=torch.float64), torch.zeros(1, 2, 8, dtype=torch.float64)
    student[..., :4] = torch.tensor([4.0, 3, 2, 1])
    teacher[0, 0, 4:], teacher[0, 1, 3:7] = torch.tensor([4.0, 3, 2, 1]), torch.tensor([4.0, 3, 2, 1])
    student.requires_grad_(True)
    support = {"kind": "top_k", "of": "union", "k": 4, "rest": "tail"}
    for objective in OBJECTIVES.values():
        found = divergence.per_token(student, teacher, torch.zeros(1, 2).long(), objective, support)
        close(found.detach(), by_places(student, teacher, objective, support))
        close(gradient(found, student), slopes(student, teacher, objective, support))


def test_padding_of_equal_logits_keeps_gradients_finite():
    student, teacher, tokens = torch.zeros(1, 2, V, requires_grad=True), torch.zeros(1, 2, V), torch.zeros(1, 2).long()
    for objective, support in itertools.product(OBJECTIVES.values(), [*SUPPORTS.values(), SAMPLED]):
        found = divergence.per_token(student, teacher, tokens, objective, support)
        assert torch.isfinite(found).all() and np.isfinite(gradient(found, student)).all()


def test_any_leading_shape_will_do():
    student, teacher, tokens = logits()
    for objective, support in itertools.product(OBJECTIVES.values(), [*SUPPORTS.values(), SAMPLED]):
        whole = divergence.per_token(student, teacher, tokens, objective, support).detach()
        flat = divergence.per_token(student.view(-1, V), teacher.view(-1, V), tokens.view(-1), objective, support)
        close(flat.detach(), whole.flatten(), atol=1e-12)


# --- several teachers ----------------------------------------------------------------------------


def test_mixed_teachers_are_the_normalised_geometric_mean():
    draw = np.random.default_rng(2)
    parts = [torch.tensor(draw.normal(scale=2, size=(B, T, V))) for _ in range(3)]
    weights = [0.5, 0.2, 0.3]
    found = divergence.mixed(parts, weights)
    assert found.shape == (B, T, V)
    for b, t in np.ndindex(B, T):
        close(found[b, t], by_hand.mixture([part[b, t].numpy() for part in parts], weights), atol=1e-10)
    close(found.logsumexp(-1), 0, atol=1e-12)


def test_one_weight_alone_gives_that_teacher():
    draw = np.random.default_rng(2)
    parts = [torch.tensor(draw.normal(scale=2, size=(B, T, V))) for _ in range(3)]
    for i in range(3):
        found = divergence.mixed(parts, [float(j == i) for j in range(3)])
        close(found, by_hand.log_softmax(parts[i]), atol=1e-12)
    close(divergence.mixed(parts[:1], [1.0]), by_hand.log_softmax(parts[0]), atol=1e-12)
    close(divergence.mixed([parts[0]] * 2, [0.4, 0.6]), by_hand.log_softmax(parts[0]), atol=1e-12)


# --- TRL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_full_divergences_are_those_of_trl(objective):
    from trl.experimental.gkd import GKDTrainer

    student, teacher, tokens = (x.detach() for x in logits())
    student, teacher = student.float().requires_grad_(True), teacher.float()
    chosen = OBJECTIVES[objective]
    beta = {"reverse_kl": 1.0, "forward_kl": 0.0}.get(chosen["kind"], chosen.get("beta"))
    expected = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="none").sum(-1)
    found = divergence.per_token(student, teacher, tokens, chosen, FULL)
    close(found.detach(), expected.detach(), atol=1e-5)
    close(gradient(found, student), gradient(expected, student), atol=1e-5)


# --- the traps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["student", "teacher", "overlap", "union"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_renormalised_place_learns_nothing_and_is_refused(objective, of):
    support = {"kind": "top_k", "of": of, "k": 1, "rest": "renormalised"}
    with pytest.raises(ValueError, match=r"k.*1") as caught:
        fit_divergence(OBJECTIVES[objective], support, 0.0)
    assert "\n" not in str(caught.value) and "renormalised" in str(caught.value)
    if of == "union":
        return  # two places where both differ; refused as the others are
    student, teacher, tokens = logits()
    found = divergence.per_token(student, teacher, tokens, OBJECTIVES[objective], support)
    close(found.detach(), 0, atol=1e-12)
    close(gradient(found, student), 0, atol=1e-12)


def test_a_detached_scalar_has_no_expected_gradient_and_ours_has():
    """Adding up the divergence over the top k and giving it, without a graph, to the token that was sampled weights
    the score function by a constant: E[c ∇ log p(y)] = c ∇ 1 = 0."""
    student, teacher, tokens = logits()
    support = TOP_K["student-16-renormalised"]
    exact = slopes(student, teacher, REVERSE, support)

    def trapped(tokens):
        constant = divergence.per_token(student, teacher, tokens, REVERSE, support).detach()
        return constant * student.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    def ours(tokens):
        return divergence.per_token(student, teacher, tokens, REVERSE, support)

    def check(estimate):
        close(expected_gradient(estimate, student), exact)

    assert np.abs(exact).max() > 0.05
    # It looks alive: each single token has a gradient.
    assert np.abs(gradient(trapped(tokens), student)).max() > 0.05
    close(expected_gradient(trapped, student), 0, atol=1e-12)
    check(ours)
    with pytest.raises(AssertionError):
        check(trapped)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("support", SUPPORTS | {"sampled": SAMPLED})
def test_every_other_combination_is_allowed(objective, support):
    if "-1-renormalised" not in support:
        fit_divergence(OBJECTIVES[objective], (SUPPORTS | {"sampled": SAMPLED})[support], 0.0)


def test_a_sampled_token_must_be_the_students_own():
    with pytest.raises(ValueError, match=r"off_policy.*0\.25|0\.25.*off_policy") as caught:
        fit_divergence(REVERSE, SAMPLED, 0.25)
    assert "\n" not in str(caught.value) and "sampled" in str(caught.value)
    fit_divergence(REVERSE, FULL, 0.25)
    fit_divergence(REVERSE, TOP_K["student-16-renormalised"], 0.25)


@pytest.mark.parametrize(("beta", "instead"), [(0, "forward_kl"), (0.0, "forward_kl"), (1, "reverse_kl")])
def test_the_ends_of_jsd_have_their_own_names(beta, instead):
    with pytest.raises(ValueError, match=instead) as caught:
        fit_divergence({"kind": "jsd", "beta": beta}, FULL, 0.0)
    assert "\n" not in str(caught.value) and "beta" in str(caught.value)
