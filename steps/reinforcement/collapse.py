"""The signs in a log of reinforcement learning that a run broke down."""

import math
from itertools import pairwise

from steps.stats.intervals import quantile

# A tenth of the steps, at both ends, is compared.
ENTROPY_LEFT, LENGTH_FACTOR, REWARD_LEFT, SHARE = 0.1, 2.0, 0.7, 0.9


def collapses(log: list[dict]) -> list[str]:
    """One sentence for each sign that a run broke down."""

    def mean(rows: list[dict], column: str) -> float:
        return sum(row[column] for row in rows) / len(rows) if rows else math.nan

    # Steps that learn from rollouts of an earlier one have no samples of their own.
    log = [row for row in log if "length" in row]
    window = max(1, len(log) // 10)
    first, last = log[:window], log[-window:]
    signs = []
    # Where every response is masked no token has one.
    before, after = (mean([row for row in rows if "entropy" in row], "entropy") for rows in (first, last))
    if after < ENTROPY_LEFT * before:
        signs.append(
            f"entropy fell from {before:.3g} to {after:.3g} nats per token: the policy hardly explores any more"
        )
    before, after = mean(first, "length"), mean(last, "length")
    if after > LENGTH_FACTOR * before or LENGTH_FACTOR * after < before:
        signs.append(f"the mean response went from {before:.0f} to {after:.0f} tokens")
    if fallen := fall([row["correct"] for row in log if "correct" in row]):
        signs.append("the share of correct samples fell from {:.0f} to {:.0f} %".format(*(100 * x for x in fallen)))
    if (share := mean(last, "no_signal")) >= SHARE:
        signs.append(f"{100 * share:.0f} % of the groups give no signal at the end: all their rewards are equal")
    if (share := mean(last, "truncated")) >= SHARE:
        signs.append(f"{100 * share:.0f} % of the responses are cut at max_new_tokens at the end")
    return signs


def fall(values: list[float]) -> tuple[float, float] | None:
    """The best window of a curve and its last, where so much is not left and chance alone would seldom take it.

    How much a value varies by chance is said by the differences of neighbours, whatever the curve does besides (von
    Neumann et al. 1941, doi:10.1214/aoms/1177731746); the best is of many windows (Bonferroni).
    """
    count, window = len(values), max(1, len(values) // 10)
    if count < 2:
        return None
    windows = [sum(values[i : i + window]) / window for i in range(count - window + 1)]
    variance = sum((after - before) ** 2 for before, after in pairwise(values)) / (2 * (count - 1))
    # Of a variance so estimated (its own variance is (3n - 4) / (n - 1)^2 times its square).
    freedom = 2 * (count - 1) ** 2 / (3 * count - 4)
    chance = quantile(freedom, len(windows)) * (2 * variance / window) ** 0.5
    best, last = max(windows), windows[-1]
    return (best, last) if last < REWARD_LEFT * best and best - last > chance else None
