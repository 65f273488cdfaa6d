"""Intervals by hand and against SciPy."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest, norm, t

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
    # Rounding leaves neither end, and no share outside.
    for n in range(1, 200):
        assert intervals.wilson(0.0, n)[0] == 0 and intervals.wilson(1.0, n)[1] == 1


def test_half_widths_of_a_mean_of_estimates_add_in_quadrature():
    assert intervals.combine([0.4], [(0.1, 0.5)]) == pytest.approx((0.1, 0.5))
    found = intervals.combine([0.4, 0.6], [(0.1, 0.5), (0.2, 0.9)])
    assert found == pytest.approx((0.5 - np.hypot(0.3, 0.4) / 2, 0.5 + np.hypot(0.1, 0.3) / 2))
    with pytest.raises(ValueError, match="longer"):
        intervals.combine([0.4], [(0.1, 0.5), (0.2, 0.9)])


def by_satterthwaite(item_half: float, spreads: list[tuple[float, int]]) -> float:
    """Half an interval, from the variance of each group of seeds and its degrees of freedom."""
    items, seeds = (item_half / norm.ppf(0.975)) ** 2, sum(spread for spread, _ in spreads)
    freedom = (items + seeds) ** 2 / sum(spread**2 / k for spread, k in spreads)
    return t(freedom).ppf(0.975) * np.sqrt(items + seeds)


def test_seeds_widen_each_side_by_their_own_error():
    assert intervals.widen(0.5, (0.4, 0.7), [0.3]) == (0.4, 0.7)
    # s² of 0.4 and 0.6 is 0.02, that of their mean 0.01; of 1, 2 and 3 it is 1.
    found = intervals.widen(0.5, (0.4, 0.7), [0.4, 0.6])
    below, above = (by_satterthwaite(side, [(0.01, 1)]) for side in (0.1, 0.2))
    assert found == pytest.approx((0.5 - below, 0.5 + above))
    low, high = intervals.widen(2.0, (2.0, 2.0), [1.0, 2.0, 3.0])
    assert (2.0 - low, high - 2.0) == pytest.approx((t(2).ppf(0.975) / np.sqrt(3),) * 2)
    half = by_satterthwaite(0.1, [(0.01, 1), (1 / 3, 2)])
    found = intervals.widen(0.5, (0.4, 0.6), [0.4, 0.6], [1.0, 2.0, 3.0], [0.7])
    assert found == pytest.approx((0.5 - half, 0.5 + half))


def test_a_share_of_one_seed_has_wilsons_interval():
    marks = np.arange(30)[:, None] < 7.0
    for values in (marks, marks * 0.0, marks * 0.0 + 1):
        assert intervals.share([values * 1.0]) == pytest.approx(intervals.wilson(values.mean(), 30))
    # Twice the same items are worth twice as many.
    assert intervals.share([marks * 1.0, marks * 1.0]) == pytest.approx(intervals.wilson(7 / 30, 60))


def test_few_items_that_differ_are_told_by_chance_as_mcnemar_has_it():
    """An exact test of the discordant items (McNemar 1947) decides as the interval does, but for 5 : 0 (p = 0.063)."""
    for gained in range(13):
        for lost in range(gained + 1):
            changes = np.zeros(300)
            changes[:gained], changes[gained : gained + lost] = 1, -1
            low, high = intervals.paired(changes)
            assert low <= changes.mean() <= high
            mirrored = intervals.paired(-changes)
            assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]))
            p = binomtest(gained, gained + lost).pvalue if gained else 1.0
            if not 0.03 < p < 0.08:
                assert (low > 0) == (p < 0.05), (gained, lost)


def test_many_that_differ_have_the_interval_of_a_mean():
    changes = np.random.default_rng(0).choice([-1, 0, 1], size=4000, p=[0.2, 0.5, 0.3])
    low, high = intervals.paired(changes)
    half = norm.ppf(0.975) * changes.std() / np.sqrt(4000)
    assert (low, high) == pytest.approx((changes.mean() - half, changes.mean() + half), abs=0.02 * half)


def test_parts_of_items_count_as_whole_ones_of_their_size():
    """Eight of sixty half gained: half of what eight whole ones are."""
    whole = np.zeros(60)
    whole[:8] = 1
    assert intervals.paired(whole / 2) == pytest.approx(tuple(edge / 2 for edge in intervals.paired(whole)))


def test_bounded_values_by_hand():
    """Ten of 100 items lack a half: as ten that lack one of size a half; what all have is of more than one size."""
    values = np.r_[np.full(10, 0.5), np.ones(90)]
    size = (90 + 10 / 4) / 95
    (lack_low, lack_high), (have_low, have_high) = intervals.wilson(0.1, 100), intervals.wilson(0.95 / size, 100)
    expected = min(1 - lack_high / 2, size * have_low), max(1 - lack_low / 2, size * have_high)
    assert intervals.bounded(values) == pytest.approx(expected)


def test_bounded_values_that_are_yes_or_no_have_wilsons_interval():
    for hits in (0, 3, 40, 50):
        values = np.arange(50) < hits
        assert intervals.bounded(values.astype(float)) == pytest.approx(intervals.wilson(hits / 50, 50))
