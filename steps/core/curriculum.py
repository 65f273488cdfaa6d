"""The order of rows by difficulty and weight, for every training: pure functions of both and a random generator."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from random import Random


def weigh(rows: Sequence[dict], settings: dict, place: int = 0) -> Sequence[dict]:
    """Give each row the weight that its source has; rows of others have none, which is 1.

    Args:
        settings: may have "source_weights", of each file of rows the weights of those rows, by their "file".
        place: which of these files.
    """
    for weights in settings.get("source_weights", [])[place : place + 1]:
        for row in rows:
            if row["file"] in weights:
                row["weight"] = weights[row["file"]]
    return rows


def weight_of(row: dict) -> float:
    """How often a row is dealt in an epoch, on average."""
    return row.get("weight", 1.0)


def epoch_rows(rows: Sequence[dict]) -> float:
    """The rows that an epoch deals: all, each as often as its weight says."""
    return sum(map(weight_of, rows))


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


def apportioned(shares: Sequence[float], ends: Sequence[int]) -> list[list[int]]:
    """Of each epoch how many slots each share has; at its end what a share has had is within a slot of its part of all.

    By largest remainders of what is still due: a share of less than a slot has its slot in some epoch.

    Args:
        shares: with a positive sum.
        ends: the slots up to the end of each epoch, ascending.
    """
    total, had, found = sum(shares), [0] * len(shares), []
    for begin, end in zip([0, *ends], ends, strict=False):
        due = [share / total * end - count for share, count in zip(shares, had, strict=True)]
        # Sums of shares are off by as much as floats are.
        counts = [max(0, math.floor(one + 1e-9)) for one in due]
        order = sorted(range(len(shares)), key=lambda i: (counts[i] - due[i], i))
        left = end - begin - sum(counts)
        for i in order[:left] if left >= 0 else [i for i in order[::-1] if counts[i]][:-left]:
            counts[i] += 1 if left > 0 else -1
        had = [one + count for one, count in zip(had, counts, strict=True)]
        found.append(counts)
    return found


def mixed(
    groups: Mapping[str, Sequence[int]], shares: Sequence[float], epoch: float, wanted: int, seed: int | str
) -> list[int]:
    """`wanted` row indices in epochs, each a shuffle of what falls to the groups of rows. A group deals its rows in
    passes, whatever its share.

    Args:
        groups: name → row indices.
        shares: of each group, in their order.
        epoch: rows of an epoch.
    """
    ends = [min(wanted, round(epoch * (i + 1))) for i in range(math.ceil(wanted / epoch))] if wanted else []
    ends = [*ends[:-1], wanted] if ends else []
    parts = apportioned(shares, ends)
    queues = [
        iter(passes(rows, sum(part[i] for part in parts), Random(f"{seed}:{name}")))
        for i, (name, rows) in enumerate(groups.items())
    ]
    order: list[int] = []
    for number, part in enumerate(parts):
        drawn = [next(queue) for queue, count in zip(queues, part, strict=True) for _ in range(count)]
        Random(f"{seed}:{number}").shuffle(drawn)
        order += drawn
    return order


def by_weight(rows: Sequence[dict], wanted: int, seed: int | str) -> list[int]:
    """`wanted` row indices in epochs of `epoch_rows`, in each of which a row is dealt as often as its weight says, on
    average: those of one weight in passes, so that none of them is dealt twice more than another."""
    groups: defaultdict[float, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[weight_of(row)].append(i)
    named = {f"weight {weight!r}": members for weight, members in sorted(groups.items())}
    shares = [weight * len(members) for weight, members in sorted(groups.items())]
    return mixed(named, shares, sum(shares), wanted, seed)


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
    return [row for group, count in zip(groups, counts, strict=True) for row in _dealt(group, weights, count, random)]


def _dealt(group: Sequence[int], weights: Sequence[float], count: int, random: Random) -> list[int]:
    """So many of the rows: those of one weight in passes."""
    if not count:
        return []
    members: defaultdict[float, list[int]] = defaultdict(list)
    for row in group:
        members[weights[row]].append(row)
    sizes = slots([weight * len(rows) for weight, rows in members.items()], count)
    parts = [passes(rows, size, random) for rows, size in zip(members.values(), sizes, strict=True)]
    if len(parts) == 1:
        return parts[0]
    order = [row for part in parts for row in part]
    random.shuffle(order)
    return order
