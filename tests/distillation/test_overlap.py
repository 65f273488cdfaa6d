"""What student and teacher have in common, against sets and loops, cases by hand, and limits."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from steps.distillation import overlap
from tests import by_hand
from tests.distillation.test_divergence import B, T, V, logits

NAMES = {
    "overlap",
    "mass_student",
    "mass_teacher",
    "likeness",
    "advantage",
    "entropy",
    "teacher_entropy",
    "entropy_gap",
    "divergence",
}
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


def of(probabilities: list[float]) -> torch.Tensor:
    """[1, 1, V] logits; with a constant added, which changes nothing."""
    return torch.tensor(probabilities, dtype=torch.float64).log()[None, None] + 3


@pytest.mark.parametrize("k", [1, 4, 16, V])
def test_all_measures_are_those_of_sets_and_loops(k):
    student, teacher, _ = (x.detach() for x in logits())
    found = overlap.measure(student, teacher, k)
    assert set(found) == NAMES and all(value.shape == (B, T) for value in found.values())
    for b, t in np.ndindex(B, T):
        expected = by_hand.overlap_of(student[b, t].numpy(), teacher[b, t].numpy(), k)
        for name, value in expected.items():
            close(found[name][b, t], value, err_msg=name)


def test_a_case_by_hand():
    student, teacher = of([0.5, 0.2, 0.15, 0.1, 0.05]), of([0.4, 0.05, 0.3, 0.05, 0.2])
    # The two likeliest are {0, 1} and {0, 2}: one in common, on which both are sure.
    found = {name: value.item() for name, value in overlap.measure(student, teacher, 2).items()}
    close([found["overlap"], found["mass_student"], found["mass_teacher"], found["advantage"]], [0.5, 0.5, 0.4, 0.0])
    # The three likeliest are {0, 1, 2} and {0, 2, 4}: 0 and 2 in common.
    found = {name: value.item() for name, value in overlap.measure(student, teacher, 3).items()}
    close([found["overlap"], found["mass_student"], found["mass_teacher"]], [2 / 3, 0.65, 0.7])
    close(found["likeness"], 0.65 / 0.85)  # of the student's 0.85 on its own three; the teacher has 0.7 of 0.9
    p, q = [0.5 / 0.65, 0.15 / 0.65], [0.4 / 0.7, 0.3 / 0.7]
    close(found["advantage"], (p[0] * math.log(q[0] / p[0]) + p[1] * math.log(q[1] / p[1])) / 2)
    assert found["advantage"] < 0
    entropies = [-sum(x * math.log(x) for x in y) for y in ([0.5, 0.2, 0.15, 0.1, 0.05], [0.4, 0.05, 0.3, 0.05, 0.2])]
    close([found["entropy"], found["teacher_entropy"]], entropies)
    close(found["entropy_gap"], abs(entropies[0] - entropies[1]))


@pytest.mark.parametrize("k", [1, 4, V])
def test_equal_models_agree_in_everything(k):
    student, _, _ = logits()
    student = student.detach()
    found = overlap.measure(student, student.clone(), k)
    close(found["overlap"], 1)
    close(found["likeness"], 1)
    close(found["advantage"], 0)
    close(found["entropy_gap"], 0)
    close(found["mass_student"], found["mass_teacher"])
    close(found["mass_student"], student.softmax(-1).topk(k).values.sum(-1))


def test_models_with_nothing_in_common():
    student, teacher = of([0.4, 0.3, 0.1, 0.1, 0.05, 0.05]), of([0.05, 0.05, 0.1, 0.1, 0.4, 0.3])
    found = {name: value.item() for name, value in overlap.measure(student, teacher, 2).items()}
    assert [found[name] for name in ("overlap", "mass_student", "mass_teacher", "advantage")] == [0, 0, 0, 0]
    close(found["entropy_gap"], 0)  # as flat as each other, and still apart


def test_the_gap_is_of_each_token_and_not_of_the_means():
    flat, sharp = [0.25] * 4, [0.97, 0.01, 0.01, 0.01]
    student = torch.cat([of(flat), of(sharp)], dim=1)
    found = overlap.measure(student, student.flip(1), 2)
    close(found["entropy"].mean(), found["teacher_entropy"].mean())
    assert (found["entropy_gap"] > 1).all()


def test_sure_models_in_float32_stay_finite():
    student, teacher = torch.zeros(1, 2, V), torch.zeros(1, 2, V)
    student[..., 3], teacher[0, 0, 3], teacher[0, 1, 5] = 200.0, 200.0, 200.0
    found = overlap.measure(student, teacher, 1)
    assert all(torch.isfinite(value).all() for value in found.values())
    assert found["overlap"].tolist() == [[1, 0]] and found["mass_student"].tolist() == [[1, 0]]
    found = overlap.measure(student, teacher, V)
    assert all(torch.isfinite(value).all() for value in found.values())
    np.testing.assert_allclose(found["advantage"], [[0, -200 / V]], rtol=1e-4, atol=1e-4)


def test_the_log_ratio_of_a_token():
    student, teacher, tokens = (x.detach() for x in logits())
    found = overlap.measure(student, teacher, 4, tokens)
    assert set(found) == NAMES | {"log_ratio"}
    close(found["log_ratio"], by_hand.chosen(teacher, tokens) - by_hand.chosen(student, tokens))


def test_a_part_of_the_places_at_a_time_measures_the_same(monkeypatch):
    student, teacher, tokens = (x.detach() for x in logits())
    whole = overlap.measure(student, teacher, 4, tokens)
    monkeypatch.setattr(overlap, "AT_ONCE", 4 * V + 1)
    parts = overlap.measure(student, teacher, 4, tokens)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    nothing = overlap.measure(student[:0], teacher[:0], 4, tokens[:0])
    assert all(value.shape == (0, T) for value in nothing.values())


def test_measuring_leaves_no_graph():
    student, teacher, _ = logits()
    assert not any(value.requires_grad for value in overlap.measure(student, teacher, 4).values())
