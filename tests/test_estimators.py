"""Estimators against enumeration of every subset, every tie break, and simulation."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import binomtest

from steps import estimators


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_mean_over_every_subset(n):
    correct = np.array(list(product([False, True], repeat=n)))
    for k in range(1, n + 1):
        expected = [np.mean([any(row[list(chosen)]) for chosen in combinations(range(n), k)]) for row in correct]
        np.testing.assert_allclose(estimators.pass_at_k(correct, k), expected, atol=1e-12)


def test_pass_at_k_does_not_overflow():
    correct = np.zeros((1, 4000), dtype=bool)
    correct[0, :7] = True
    survive = Fraction(1)
    for i in range(1000):
        survive *= Fraction(4000 - 7 - i, 4000 - i)
    assert estimators.pass_at_k(correct, 1000)[0] == pytest.approx(float(1 - survive), rel=1e-12)


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
    assert estimators.majority(answers, [answer == "7" for answer in answers]) == pytest.approx(expected)


def test_majority_is_the_chance_of_a_random_tie_break():
    rng = np.random.default_rng(0)
    for answers in product("abc", repeat=4):
        correct = [answer == "a" for answer in answers]
        wins = 0
        for _ in range(400):
            noise = {answer: rng.random() for answer in set(answers)}
            wins += max(set(answers), key=lambda a, noise=noise: (answers.count(a), noise[a])) == "a"
        assert estimators.majority(answers, correct) == pytest.approx(wins / 400, abs=0.12)


def test_majority_at_k_is_the_mean_over_every_subset():
    # "a" and "d" are both right; None does not vote.
    pools = [*product("abc", repeat=5), *product(("a", "b", None), repeat=5)]
    pools += [tuple(np.random.default_rng(i).choice(["a", "b", "c", "d", "e", None], size=8)) for i in range(60)]
    for answers in pools:
        correct = [answer in ("a", "d") for answer in answers]
        ks = range(1, len(answers) + 1)
        subsets = {k: list(combinations(range(len(answers)), k)) for k in ks}
        expected = [
            np.mean([estimators.majority([answers[i] for i in c], [correct[i] for i in c]) for c in subsets[k]])
            for k in ks
        ]
        np.testing.assert_allclose(estimators.majority_at_k(answers, correct, ks), expected, atol=1e-12)


def test_majority_at_k_of_64_samples_agrees_with_random_subsets():
    rng = np.random.default_rng(0)
    answers = ["a"] * 20 + ["b"] * 18 + ["c"] * 9 + [f"once {i}" for i in range(12)] + [None] * 5
    correct = [answer == "a" for answer in answers]
    ks = [1, 2, 4, 8, 16, 32, 64]
    found = estimators.majority_at_k(answers, correct, ks)
    assert found[0] == pytest.approx(20 / 64) and found[-1] == 1.0
    for k, value in zip(ks, found, strict=True):
        chosen = [rng.choice(64, size=k, replace=False) for _ in range(1500)]
        drawn = [estimators.majority([answers[i] for i in c], [correct[i] for i in c]) for c in chosen]
        assert value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(1500) + 1e-12)


def test_majority_at_k_of_answers_that_are_all_right_wrong_or_absent():
    assert estimators.majority_at_k([None] * 1000, [False] * 1000, [1, 1000]) == [0.0, 0.0]
    assert estimators.majority_at_k(["a"] * 1000, [True] * 1000, [1, 500]) == [1.0, 1.0]
    assert estimators.majority_at_k(["a"] * 4, [False] * 4, [1, 4]) == [0.0, 0.0]


def test_mean_has_lm_evals_standard_error():
    from lm_eval.api.metrics import mean_stderr

    values = np.random.default_rng(0).random(31)
    found = estimators.mean(values)
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["stderr"] == pytest.approx(mean_stderr(values.tolist()))


def test_samples_of_one_item_are_not_independent():
    # 10 items, each all right or all wrong in 8 samples: the error is that of 10 draws, not of 80.
    correct = np.repeat(np.array([[True], [False]] * 5), 8, axis=1)
    clustered = estimators.mean(correct.mean(axis=1))["stderr"]
    assert clustered == pytest.approx(np.sqrt(0.25 / 9))


def test_bootstrap_of_a_mean_agrees_with_theory_and_repeats():
    values = (np.random.default_rng(1).random(400) < 0.7).astype(float)
    found = estimators.bootstrap_mean(values, resamples=4000, seed=3)
    assert found == estimators.bootstrap_mean(values, resamples=4000, seed=3)
    assert found != estimators.bootstrap_mean(values, resamples=4000, seed=4)
    assert found["stderr"] == pytest.approx(values.std() / 20, rel=0.05)
    low, high = found["interval"]
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.008)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.008)


def test_bootstrap_interval_covers_the_truth():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        low, high = estimators.bootstrap_mean((rng.random(150) < 0.6).astype(float), 400, trial)["interval"]
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_perplexity_and_its_error_against_simulation():
    rng = np.random.default_rng(0)

    def draw():
        tokens = rng.integers(5, 60, size=120)
        # Longer rows are easier here, so that a mean over rows would be another number.
        return (1.5 - 0.01 * tokens + 0.3 * rng.standard_normal(120)) * tokens, tokens

    nll, tokens = draw()
    found = estimators.perplexity(nll, tokens)
    assert found["value"] == pytest.approx(np.exp(nll.sum() / tokens.sum()))
    assert (found["tokens"], found["n"]) == (tokens.sum(), 120)
    repeats = [estimators.perplexity(*draw()) for _ in range(2000)]
    values, errors = [p["value"] for p in repeats], [p["stderr"] for p in repeats]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.06)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (29, 30), (1, 2)])
def test_intervals_are_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert estimators.wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_pass_fraction_is_a_share_and_not_any_of_n():
    correct = np.array([[True, False, False, False, False], [False] * 5, [True] * 5])
    assert estimators.pass_fraction(correct).tolist() == pytest.approx([0.2, 0.0, 1.0])
    assert estimators.pass_fraction([True, False, True]) == pytest.approx(2 / 3)


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
    assert estimators.best_of_n(correct, confidence) == expected


def test_best_of_n_of_many_items():
    correct = np.array([[True, False], [True, False]])
    assert estimators.best_of_n(correct, np.array([[-1.0, -2.0], [-2.0, -1.0]])).tolist() == [True, False]


def test_js_divergence_by_hand():
    # Equal, disjoint. Then p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4):
    # KL(p|m) = 1/2 ln 2/3 + 1/2 ln 2 = 1/2 ln 4/3 and KL(q|m) = ln 4/3, so half of their sum is 3/4 ln 4/3.
    p = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.5, 0.5, 0]])
    q = np.array([[0.2, 0.3, 0.5], [0, 0.4, 0.6], [1, 0, 0]])
    assert estimators.js_divergence(p, q).tolist() == pytest.approx([0.0, np.log(2), 0.75 * np.log(4 / 3)], abs=1e-12)
    # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2.
    expected = 0.75 * np.log(1.5) - 0.25 * np.log(2)
    assert estimators.js_divergence([0.75, 0.25], [0.25, 0.75]) == pytest.approx(expected)


def test_js_divergence_is_symmetric_bounded_and_scipys():
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(5, 0.1), size=(2, 200))
    found = estimators.js_divergence(p, q)
    np.testing.assert_allclose(found, jensenshannon(p, q, axis=-1) ** 2, atol=1e-12)
    np.testing.assert_allclose(found, estimators.js_divergence(q, p), atol=1e-12)
    assert ((found >= 0) & (found <= np.log(2))).all()
    assert estimators.js_divergence(p, p).max() == 0.0
