"""Which point of a path is kept: a rule on the scores of both axes."""

import math
from collections.abc import Iterable

# Scores that differ by less are equal: they are means of 0 and 1.
EQUAL = 1e-9


def axis_score(tasks: dict[str, dict], axis: str) -> dict:
    """The mean over an axis's tasks, with the standard error of a mean of independent ones."""
    rows = [row for row in tasks.values() if row["axis"] == axis]
    errors = [row["stderr"] for row in rows]
    known = None not in errors
    return {
        "value": sum(row["value"] for row in rows) / len(rows),
        "stderr": math.sqrt(sum(error**2 for error in errors)) / len(rows) if known else None,
        "n": sum(row["n"] for row in rows),
    }


def choose(points: list[dict], rule: dict) -> tuple[int, str]:
    """The index of the point that a rule keeps, and the rule in words. Of equal points it is the smallest alpha.

    budget: the best target score among the points whose general score is at most `loss` below that of the start. The
    start is one of them. knee: the point farthest above the chord between both ends, general loss to the right and
    target score upwards (Satopaa et al. 2011, Kneedle). Where the end does not have both a better target and a worse
    general score than the start, or no point lies above the chord, it is the largest sum of both scores.
    """
    target = [scored["target"]["value"] for scored in points]
    general = [scored["general"]["value"] for scored in points]
    loss = [general[0] - value for value in general]
    if rule["kind"] == "budget":
        words = (
            f"the best target score among the points whose general score is at most {rule['loss']:g} below the start's"
        )
        kept = [index for index in range(len(points)) if loss[index] <= rule["loss"] + EQUAL]
        best = best_of(kept, target)
        if kept == [0]:
            words += "; that is the start alone"
        elif best == 0:
            words += "; none of them is better than the start"
        return best, words

    words = "the point farthest above the line from the start to the end, in target score against general loss"
    everyone = range(len(points))
    gain, cost = target[-1] - target[0], loss[-1]
    if gain > EQUAL and cost > EQUAL:
        # Distances from the chord. Scaling both axes to [0, 1], as Kneedle does, multiplies all of them by one number.
        height = [(cost * (target[i] - target[0]) - gain * loss[i]) / math.hypot(cost, gain) for i in everyone]
        best = best_of(everyone, height)
        if height[best] > EQUAL:
            return best, words
        why = "no point lies above it"
    else:
        why = "the end does not win target score for general score"
    return best_of(everyone, [t + g for t, g in zip(target, general, strict=True)]), (
        f"{words}; {why}, so it is the largest sum of target and general score"
    )


def best_of(indices: Iterable[int], values: list[float]) -> int:
    """The first of those whose value is the largest."""
    indices = list(indices)
    largest = max(values[index] for index in indices)
    return next(index for index in indices if values[index] >= largest - EQUAL)
