"""Correlations of points drawn several times against SciPy on the points written out."""

import numpy as np
import pytest
from scipy import stats

from steps.stats import correlation


@pytest.mark.parametrize(("name", "expected"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_correlations_are_scipys_ties_included(name, expected):
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 6, 12).astype(float), draw.normal(size=12)
    times = draw.multinomial(12, np.full(12, 1 / 12), size=5).astype(float)
    found = correlation.COEFFICIENTS[name](x, y, times)
    for value, n in zip(found, times.astype(int), strict=True):
        assert value == pytest.approx(expected(np.repeat(x, n), np.repeat(y, n)).statistic)


def test_a_side_that_does_not_vary_has_no_correlation_and_one_that_hardly_does_has():
    x, one = np.array([1.0, 2.0, 4.0]), np.ones((1, 3))
    for other in (np.full(3, 0.1), np.zeros(3)):
        assert np.isnan(correlation.pearson(x, other, one)).all() and np.isnan(correlation.pearson(other, x, one)).all()
    # Drawn once and never the others.
    assert np.isnan(correlation.pearson(x, x, np.array([[3.0, 0.0, 0.0]]))).all()
    # A billionth of the value itself is no rounding.
    assert correlation.pearson(1 + 1e-9 * x, x, one) == pytest.approx(1, abs=1e-6)
    assert correlation.pearson(x, -x, one) == -1 and correlation.pearson(x, x, one) == 1


@pytest.mark.parametrize("unit", [1e-100, 1.0, 1e15])
def test_what_varies_is_told_from_rounding_in_every_unit_and_no_rounding_leaves_minus_one_to_one(unit):
    draw = np.random.default_rng(0)
    x, times = draw.normal(size=12), draw.multinomial(12, np.full(12, 1 / 12), size=1000).astype(float)
    assert np.isnan(correlation.pearson(np.full(12, unit / 3), x, times)).all()
    for sign in (1, -1):
        found = correlation.pearson(sign * unit * x, x, times)
        np.testing.assert_allclose(found, sign)
        assert (abs(found) <= 1).all()


def test_ranks_are_scipys():
    x, times = np.array([3.0, 1.0, 3.0, 2.0]), np.array([[1.0, 1, 1, 1], [2, 1, 0, 1]])
    found = correlation.ranks(x, times)
    assert found[0].tolist() == stats.rankdata(x).tolist()
    assert found[1, [0, 1, 3]].tolist() == stats.rankdata([3, 3, 1, 2])[[0, 2, 3]].tolist()
