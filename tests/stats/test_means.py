"""Means and their errors by hand, against lm-eval and simulation."""

import numpy as np
import pytest

from steps.stats import means


def test_mean_has_lm_evals_standard_error():
    from lm_eval.api.metrics import mean_stderr

    values = np.random.default_rng(0).random(31)
    found = means.mean(values)
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["stderr"] == pytest.approx(mean_stderr(values.tolist()))


def test_samples_of_one_item_are_not_independent():
    # 10 items, each all right or all wrong in 8 samples: the error is that of 10 draws, not of 80.
    correct = np.repeat(np.array([[True], [False]] * 5), 8, axis=1)
    clustered = means.mean(correct.mean(axis=1))["stderr"]
    assert clustered == pytest.approx(np.sqrt(0.25 / 9))


def test_perplexity_and_its_error_against_simulation():
    rng = np.random.default_rng(0)

    def draw():
        tokens = rng.integers(5, 60, size=120)
        # Longer rows are easier here, so that a mean over rows would be another number.
        return (1.5 - 0.01 * tokens + 0.3 * rng.standard_normal(120)) * tokens, tokens

    nll, tokens = draw()
    found = means.perplexity(nll, tokens)
    assert found["value"] == pytest.approx(np.exp(nll.sum() / tokens.sum()))
    assert (found["tokens"], found["n"]) == (tokens.sum(), 120)
    repeats = [means.perplexity(*draw()) for _ in range(2000)]
    values, errors = [p["value"] for p in repeats], [p["stderr"] for p in repeats]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.06)


def test_perplexity_and_its_error_by_hand():
    # Rate 12/6 = 2; residuals 2 − 2, 4 − 6, 6 − 4; variance 3/2 · 8 / 36 = 1/3.
    found = means.perplexity(np.array([2.0, 4.0, 6.0]), np.array([1, 3, 2]))
    assert found == pytest.approx({"value": np.exp(2), "stderr": np.exp(2) / np.sqrt(3), "tokens": 6, "n": 3})
    # Rows of equal length: the standard error of a plain mean, s / √n.
    two = means.perplexity(np.array([1.0, 2.0]), np.array([1, 1]))
    assert two["stderr"] == pytest.approx(np.exp(1.5) * means.mean(np.array([1.0, 2.0]))["stderr"])


def test_one_item_tells_no_error():
    assert means.mean(np.array([3.0])) == {"value": 3.0, "stderr": 0.0}
    assert means.perplexity(np.array([3.0]), np.array([2]))["stderr"] == 0.0
    assert means.mean(np.array([1.0, 2.0]))["stderr"] == pytest.approx(0.5)
