"""The signs in a log of reinforcement learning that a run broke down."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from steps.settings.reinforcement import WINDOW
from steps.stats.intervals import quantile

ENTROPY_LEFT, LENGTH_FACTOR, REWARD_LEFT, SHARE = 0.1, 2.0, 0.7, 0.9


def is_mixed(settings: dict) -> bool:
    """Whether every step of a recipe asks rows of all difficulties."""
    return settings["curriculum"] != "easy_to_hard"


def collapses(log: list[dict], looks: int = 1, mixed: bool = True) -> dict[str, str]:
    """A sentence for each sign that a run broke down: of its entropy, length, correct, no_signal or truncated.

    Args:
        log: of the run so far.
        looks: how many times in all it is asked for a verdict, each of which may be wrong by chance.
        mixed: its steps ask rows of all difficulties. Where they go from easy to hard, responses grow and fewer are
            correct although nothing broke down, so that neither is a sign.
    """
    # Steps that learn from rollouts of an earlier one have no samples of their own.
    log = [row for row in log if "length" in row]
    signs: dict[str, str] = {}
    if len(log) < 2 * WINDOW:
        return signs
    # Where every response is masked no token has an entropy, and where the reward says nothing none is correct.
    if moved := shift([row["entropy"] for row in log if "entropy" in row], looks):
        before, after = moved
        if after < ENTROPY_LEFT * before:
            signs["entropy"] = (
                f"entropy fell from {before:.3g} to {after:.3g} nats per token: the policy hardly explores any more"
            )
    if mixed and (moved := shift([row["length"] for row in log], looks)):
        before, after = moved
        if after > LENGTH_FACTOR * before or LENGTH_FACTOR * after < before:
            signs["length"] = f"the mean response went from {before:.0f} to {after:.0f} tokens"
    if mixed and (fallen := fall([row["correct"] for row in log if "correct" in row], looks)):
        best, last = (100 * share for share in fallen)
        signs["correct"] = f"the share of correct samples fell from {best:.0f} to {last:.0f} %"
    last = log[-window_of(log) :]
    if (share := fmean(row["no_signal"] for row in last)) >= SHARE:
        signs["no_signal"] = f"{100 * share:.0f} % of the groups give no signal at the end: all their rewards are equal"
    if (share := fmean(row["truncated"] for row in last)) >= SHARE:
        signs["truncated"] = f"{100 * share:.0f} % of the responses are cut at max_new_tokens at the end"
    return signs


def window_of(values: Sequence) -> int:
    """Batches of rollouts that are compared at either end: a tenth."""
    return max(WINDOW, len(values) // 10)


def by_chance(values: Sequence[float], window: int, comparisons: int) -> float:
    """How far apart two means of a curve over a window are at most by chance, at 95 % over all comparisons together
    (Bonferroni).

    How much a value varies by chance is said by the differences of neighbours, whatever the curve does besides (von
    Neumann et al. 1941, doi:10.1214/aoms/1177731746).
    """
    count = len(values)
    variance = sum((after - before) ** 2 for before, after in pairwise(values)) / (2 * (count - 1))
    # Of a variance so estimated (its own variance is (3n - 4) / (n - 1)^2 times its square).
    freedom = 2 * (count - 1) ** 2 / (3 * count - 4)
    return quantile(freedom, comparisons) * (2 * variance / window) ** 0.5


def shift(values: Sequence[float], looks: int) -> tuple[float, float] | None:
    """The first and the last window of a curve of positive numbers, where chance alone would seldom take them so far
    apart: as logarithms, for what varies does so by a factor. Below a hundredth of the first, all is alike."""
    window = window_of(values)
    if len(values) < 2 * window:
        return None
    before, after = fmean(values[:window]), fmean(values[-window:])
    if before <= 0:
        return None
    logs = [math.log(max(value / before, 0.01)) for value in values]
    far = abs(fmean(logs[-window:]) - fmean(logs[:window]))
    return (before, after) if far > by_chance(logs, window, looks) else None


def fall(values: Sequence[float], looks: int) -> tuple[float, float] | None:
    """The best window of a curve and its last, where so much is not left and chance alone would seldom take it; the
    best is of many windows."""
    window = window_of(values)
    if len(values) < 2 * window:
        return None
    windows = [fmean(values[i : i + window]) for i in range(len(values) - window + 1)]
    best, last = max(windows), windows[-1]
    enough = last < REWARD_LEFT * best and best - last > by_chance(values, window, len(windows) * looks)
    return (best, last) if enough else None
