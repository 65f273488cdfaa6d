"""The order of rows by difficulty, for every training: pure functions of pass rates and a random generator."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random


def stages(pass_rates: Sequence[float | None]) -> list[list[int]]:
    """Row indices by pass rate, the rows that are solved most often first; those without a pass rate last of all."""
    found: defaultdict[tuple, list[int]] = defaultdict(list)
    for row, rate in enumerate(pass_rates):
        found[rate is None, -(rate or 0.0)].append(row)
    return [found[key] for key in sorted(found)]


def slots(weights: Sequence[float], wanted: int) -> list[int]:
    """`wanted` slots in parts with these weights, each part within one slot of its share."""
    total, ends, seen = sum(weights), [0], 0.0
    for weight in weights:
        seen += weight
        ends.append(round(wanted * seen / total))
    return [end - begin for begin, end in zip(ends, ends[1:], strict=False)]


def passes(rows: Sequence[int], count: int, random: Random) -> list[int]:
    """So many of the rows, in passes over all of them, each shuffled anew: none is dealt twice more than another."""
    order: list[int] = []
    while len(order) < count:
        order += random.sample(rows, len(rows))
    return order[:count]


def easy_to_hard(
    pass_rates: Sequence[float | None], weights: Sequence[float], wanted: int, random: Random
) -> list[int]:
    """`wanted` row indices, once from the easiest to the hardest: the passes over rows that are equally hard, before
    those over harder ones.

    Args:
        weights: how often each row is dealt, relative to the others.
    """
    groups = stages(pass_rates)
    counts = slots([sum(weights[row] for row in group) for group in groups], wanted)
    return [row for group, count in zip(groups, counts, strict=True) for row in passes(group, count, random)]
