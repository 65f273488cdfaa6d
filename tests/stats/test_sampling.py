"""pass@k and majorities against enumeration of every subset and every tie break."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from steps.stats import sampling


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_mean_over_every_subset(n):
    correct = np.array(list(product([False, True], repeat=n)))
    for k in range(1, n + 1):
        expected = [np.mean([any(row[list(chosen)]) for chosen in combinations(range(n), k)]) for row in correct]
        np.testing.assert_allclose(sampling.pass_at_k(correct, k), expected, atol=1e-12)


def test_pass_at_k_does_not_overflow():
    correct = np.zeros((1, 4000), dtype=bool)
    correct[0, :7] = True
    survive = Fraction(1)
    for i in range(1000):
        survive *= Fraction(4000 - 7 - i, 4000 - i)
    assert sampling.pass_at_k(correct, 1000)[0] == pytest.approx(float(1 - survive), rel=1e-12)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["7", "7", "8"], 1.0),
        (["8", "8", "7"], 0.0),
        (["7", "8"], 0.5),
        (["7", "8", "9"], 1 / 3),
        (["7", None, None, None], 1.0),
        (["7", "7", "8", "8", "9"], 0.5),
        ([None, None], 0.0),
    ],
)
def test_majority_by_hand(answers, expected):
    assert sampling.majority(answers, [answer == "7" for answer in answers]) == pytest.approx(expected)


def test_majority_is_the_chance_of_a_random_tie_break():
    rng = np.random.default_rng(0)
    for answers in product("abc", repeat=4):
        correct = [answer == "a" for answer in answers]
        wins = 0
        for _ in range(400):
            noise = {answer: rng.random() for answer in set(answers)}
            wins += max(set(answers), key=lambda a, noise=noise: (answers.count(a), noise[a])) == "a"
        assert sampling.majority(answers, correct) == pytest.approx(wins / 400, abs=0.12)


def test_majority_at_k_is_the_mean_over_every_subset():
    # "a" and "d" are both right; None does not vote.
    pools = [*product("abc", repeat=5), *product(("a", "b", None), repeat=5)]
    pools += [tuple(np.random.default_rng(i).choice(["a", "b", "c", "d", "e", None], size=8)) for i in range(60)]
    for answers in pools:
        correct = [answer in ("a", "d") for answer in answers]
        ks = range(1, len(answers) + 1)
        subsets = {k: list(combinations(range(len(answers)), k)) for k in ks}
        expected = [
            np.mean([sampling.majority([answers[i] for i in c], [correct[i] for i in c]) for c in subsets[k]])
            for k in ks
        ]
        np.testing.assert_allclose(sampling.majority_at_k(answers, correct, ks), expected, atol=1e-12)


def test_majority_at_k_of_64_samples_agrees_with_random_subsets():
    rng = np.random.default_rng(0)
    answers = ["a"] * 20 + ["b"] * 18 + ["c"] * 9 + [f"once {i}" for i in range(12)] + [None] * 5
    correct = [answer == "a" for answer in answers]
    ks = [1, 2, 4, 8, 16, 32, 64]
    found = sampling.majority_at_k(answers, correct, ks)
    assert found[0] == pytest.approx(20 / 64) and found[-1] == 1.0
    for k, value in zip(ks, found, strict=True):
        chosen = [rng.choice(64, size=k, replace=False) for _ in range(1500)]
        drawn = [sampling.majority([answers[i] for i in c], [correct[i] for i in c]) for c in chosen]
        assert value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(1500) + 1e-12)


def test_majority_at_k_of_answers_that_are_all_right_wrong_or_absent():
    assert sampling.majority_at_k([None] * 1000, [False] * 1000, [1, 1000]) == [0.0, 0.0]
    assert sampling.majority_at_k(["a"] * 1000, [True] * 1000, [1, 500]) == [1.0, 1.0]
    assert sampling.majority_at_k(["a"] * 4, [False] * 4, [1, 4]) == [0.0, 0.0]


def test_pass_fraction_is_a_share_and_not_any_of_n():
    correct = np.array([[True, False, False, False, False], [False] * 5, [True] * 5])
    assert sampling.pass_fraction(correct).tolist() == pytest.approx([0.2, 0.0, 1.0])
    assert sampling.pass_fraction([True, False, True]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("correct", "confidence", "expected"),
    [
        ([False, True, False], [-0.5, -0.1, -0.9], True),
        ([True, False, True], [-0.5, -0.1, -0.9], False),
        ([True, False], [-0.3, -0.3], True),
        ([False, True], [-0.3, -0.3], False),
        ([True], [-9.0], True),
    ],
)
def test_best_of_n_by_hand(correct, confidence, expected):
    assert sampling.best_of_n(correct, confidence) == expected


def test_best_of_n_of_many_items():
    correct = np.array([[True, False], [True, False]])
    assert sampling.best_of_n(correct, np.array([[-1.0, -2.0], [-2.0, -1.0]])).tolist() == [True, False]


def test_no_more_is_chosen_than_there_is_and_no_less_than_one():
    for k in (0, 3):
        with pytest.raises(AssertionError):
            sampling.pass_at_k(np.zeros((1, 2), dtype=bool), k)
        with pytest.raises(AssertionError):
            sampling.majority_at_k(["a", "b"], [True, False], [k, 1])
    with pytest.raises(AssertionError):
        sampling.majority_at_k(["a"] * 1001, [True] * 1001, [1])
