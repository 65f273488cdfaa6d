"""Rows by difficulty: once from easy to hard, none twice more often than another of the same weight."""

from random import Random

import pytest

from steps.core import curriculum


def test_stages_go_from_easy_to_hard_and_end_with_what_is_unknown():
    assert curriculum.stages([0.5, None, 1.0, 0.0, 0.5]) == [[2], [0, 4], [3], [1]]
    assert curriculum.stages([]) == []


@pytest.mark.parametrize("wanted", [0, 1, 7, 100])
def test_slots_are_within_one_of_their_share_and_add_up(wanted):
    weights = [0.2, 0.0, 0.5, 0.3]
    found = curriculum.slots(weights, wanted)
    assert sum(found) == wanted and found[1] == 0
    assert all(abs(count - weight * wanted) <= 1 for count, weight in zip(found, weights, strict=True))


def test_passes_are_shuffled_anew():
    order = curriculum.passes(range(6), 15, Random(0))
    assert sorted(order[:6]) == sorted(order[6:12]) == list(range(6)) and order[:6] != order[6:12]
    assert len(order) == 15 and len(set(order[12:])) == 3


@pytest.mark.parametrize("wanted", [10, 15, 31])
def test_easy_to_hard_goes_once_over_the_rows(wanted):
    rates = [(i % 4) / 4 for i in range(9)] + [None]
    order = curriculum.easy_to_hard(rates, [1.0] * 10, wanted, Random(0))
    shown = [(rates[row] is None, -(rates[row] or 0)) for row in order]
    assert len(order) == wanted and shown == sorted(shown)
    times = [order.count(row) for row in range(10)]
    assert max(times) - min(times) <= 1
