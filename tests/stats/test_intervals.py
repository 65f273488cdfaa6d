"""Intervals by hand and against SciPy."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from steps.stats import intervals


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (29, 30), (1, 2)])
def test_intervals_are_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert intervals.wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-8)


def test_edges_of_resamples():
    drawn = np.random.default_rng(0).permutation(2000).astype(float)
    assert intervals.percentile(drawn) == pytest.approx((49.975, 1949.025))
    assert intervals.order_statistics(drawn) == (50.0, 1949.0)
    drawn[drawn > 1940] = np.inf
    assert intervals.order_statistics(drawn) == (50.0, np.inf)


def test_the_normal_quantile():
    assert pytest.approx(ndtri(1 - intervals.TAIL), abs=5e-7) == intervals.Z


def test_wilsons_bounds_are_where_the_share_lies_z_errors_away():
    # Of a share that is no number of items, as a mean over seeds is.
    for bound in intervals.wilson(0.35, 7):
        assert abs(0.35 - bound) == pytest.approx(intervals.Z * np.sqrt(bound * (1 - bound) / 7))
    # Rounding leaves neither end.
    for n in range(1, 200):
        assert intervals.wilson(0.0, n)[0] >= 0 and intervals.wilson(1.0, n)[1] <= 1


def test_half_widths_of_a_mean_of_estimates_add_in_quadrature():
    assert intervals.combine([0.4], [(0.1, 0.5)]) == pytest.approx((0.1, 0.5))
    found = intervals.combine([0.4, 0.6], [(0.1, 0.5), (0.2, 0.9)])
    assert found == pytest.approx((0.5 - np.hypot(0.3, 0.4) / 2, 0.5 + np.hypot(0.1, 0.3) / 2))
    with pytest.raises(ValueError, match="longer"):
        intervals.combine([0.4], [(0.1, 0.5), (0.2, 0.9)])


def test_seeds_widen_each_side_by_their_own_error():
    assert intervals.widen(0.5, (0.4, 0.7), [0.3]) == (0.4, 0.7)
    # s of 0.4 and 0.6 is √0.02, so that s / √2 is 0.1; of three, s of 1, 2 and 3 is 1.
    found = intervals.widen(0.5, (0.4, 0.7), [0.4, 0.6])
    assert found == pytest.approx((0.5 - np.hypot(0.1, 0.1 * intervals.Z), 0.5 + np.hypot(0.2, 0.1 * intervals.Z)))
    low, high = intervals.widen(2.0, (2.0, 2.0), [1.0, 2.0, 3.0])
    assert (2.0 - low, high - 2.0) == pytest.approx((intervals.Z / np.sqrt(3),) * 2)
