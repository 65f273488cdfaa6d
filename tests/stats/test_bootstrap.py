"""The bootstrap against theory and simulation."""

import numpy as np
import pytest

from steps.stats import bootstrap


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
