"""The bootstrap against theory and simulation."""

import statistics

import numpy as np
import pytest

from steps.stats import bootstrap


def test_bootstrap_of_a_mean_agrees_with_theory_and_repeats():
    values = (np.random.default_rng(1).random(400) < 0.7).astype(float)
    found = bootstrap.mean(values, resamples=4000, seed=3)
    assert found == bootstrap.mean(values, resamples=4000, seed=3)
    assert found != bootstrap.mean(values, resamples=4000, seed=4)
    assert found["stderr"] == pytest.approx(values.std() / 20, rel=0.05)
    low, high = found["interval"]
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.008)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.008)


def test_the_error_and_interval_are_those_of_the_resampled_means():
    values, rng = np.array([0.0, 1.0, 1.0, 5.0, 2.0]), np.random.default_rng(7)
    drawn = [statistics.fmean(values[i] for i in rng.integers(5, size=5)) for _ in range(200)]
    found = bootstrap.mean(values, resamples=200, seed=7)
    assert found["value"] == 1.8
    assert found["stderr"] == pytest.approx(statistics.stdev(drawn), rel=1e-12)
    assert found["interval"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist())


def test_bootstrap_interval_covers_the_truth():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        low, high = bootstrap.mean((rng.random(150) < 0.6).astype(float), 400, trial)["interval"]
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_resamples_are_drawn_once_for_all_who_ask():
    shares = bootstrap.shares(7, bootstrap.seed_of("a task"))
    assert shares.shape == (2000, 7)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares == bootstrap.shares(7, bootstrap.seed_of("a task"))).all()
    assert (shares != bootstrap.shares(7, bootstrap.seed_of("another task"))).any()


def test_drawing_kinds_of_items_is_drawing_items():
    # 30 items of value 1 and 10 of value 0, as two kinds and one by one.
    by_kind = bootstrap.counts(np.array([10, 30]), [1], 20_000)
    assert (by_kind.sum(axis=1) == 40).all()
    one_by_one = bootstrap.shares(40, [2], 20_000)[:, 10:].sum(axis=1)
    assert by_kind[:, 1].mean() / 40 == pytest.approx(one_by_one.mean(), abs=0.003)
    assert by_kind[:, 1].std() / 40 == pytest.approx(one_by_one.std(), rel=0.03)
