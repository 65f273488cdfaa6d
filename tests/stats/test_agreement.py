"""Agreement of distributions, raters and sets by hand and against SciPy."""

import numpy as np
import pytest

from steps.stats import agreement


def test_js_divergence_by_hand():
    # Equal, disjoint. Then p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4):
    # KL(p|m) = 1/2 ln 2/3 + 1/2 ln 2 = 1/2 ln 4/3 and KL(q|m) = ln 4/3, so half of their sum is 3/4 ln 4/3.
    p = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.5, 0.5, 0]])
    q = np.array([[0.2, 0.3, 0.5], [0, 0.4, 0.6], [1, 0, 0]])
    assert agreement.js_divergence(p, q).tolist() == pytest.approx([0.0, np.log(2), 0.75 * np.log(4 / 3)], abs=1e-12)
    # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2.
    expected = 0.75 * np.log(1.5) - 0.25 * np.log(2)
    assert agreement.js_divergence([0.75, 0.25], [0.25, 0.75]) == pytest.approx(expected)


def test_js_divergence_is_symmetric_bounded_and_scipys():
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(5, 0.1), size=(2, 200))
    found = agreement.js_divergence(p, q)
    np.testing.assert_allclose(found, jensenshannon(p, q, axis=-1) ** 2, atol=1e-12)
    np.testing.assert_allclose(found, agreement.js_divergence(q, p), atol=1e-12)
    assert ((found >= 0) & (found <= np.log(2))).all()
    assert agreement.js_divergence(p, p).max() == 0.0
    # Disjoint: rounding would leave a third of them above ln 2.
    p, q = np.hstack([p, 0 * p]), np.hstack([0 * q, q])
    np.testing.assert_allclose(agreement.js_divergence(p, q), np.log(2))
    assert (agreement.js_divergence(p, q) <= np.log(2)).all()


def test_js_divergence_of_nearly_equal_distributions_is_a_number():
    # Where the root that scipy's distance takes is of a rounding below 0.
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(5, 0.1), size=1000)
    q = p * (1 + 1e-9 * rng.standard_normal(p.shape))
    found = agreement.js_divergence(p, q / q.sum(axis=-1, keepdims=True))
    assert ((found >= 0) & (found < 1e-15)).all()


def test_fleiss_kappa_by_hand():
    """Four rows, three raters: P = (1 + 1/3 + 1 + 1/3)/4 = 2/3, chance 1/2, kappa (2/3 - 1/2)/(1/2) = 1/3."""
    table = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=bool)
    assert agreement.fleiss_kappa(table) == pytest.approx(1 / 3)
    assert agreement.fleiss_kappa(np.array([[1, 1], [0, 0]], dtype=bool)) == 1.0
    assert agreement.fleiss_kappa(np.array([[1, 0], [0, 1]], dtype=bool)) == -1.0
    assert agreement.fleiss_kappa(np.zeros((5, 3), dtype=bool)) is None
    # Yes is rare: P = (1/3 + 1)/2 = 2/3, chance 1/36 + 25/36 = 13/18, kappa (2/3 - 13/18)/(5/18) = -1/5.
    assert agreement.fleiss_kappa(np.array([[1, 0, 0], [0, 0, 0]], dtype=bool)) == pytest.approx(-1 / 5)
    random_marks = np.random.default_rng(0).random((20_000, 3)) < 0.3
    assert agreement.fleiss_kappa(random_marks) == pytest.approx(0, abs=0.02)


def test_jaccard_by_hand():
    a, b = np.array([1, 1, 1, 0, 0], dtype=bool), np.array([0, 1, 1, 1, 0], dtype=bool)
    assert agreement.jaccard(a, b) == 0.5
    assert agreement.jaccard(a, ~a) == 0.0
    assert agreement.jaccard(a & False, b & False) is None
