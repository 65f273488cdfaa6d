"""The signs in a log of reinforcement learning that a run broke down."""

# A tenth of the steps, at both ends, is compared.
ENTROPY_LEFT, LENGTH_FACTOR, REWARD_LEFT, SHARE = 0.1, 2.0, 0.7, 0.9


def collapses(log: list[dict]) -> list[str]:
    """One sentence for each sign that a run broke down."""

    def mean(rows: list[dict], column: str) -> float:
        values = [row[column] for row in rows if column in row]
        return sum(values) / len(values)

    # Steps that learn from rollouts of an earlier one have no samples of their own.
    log = [row for row in log if "length" in row]
    window = max(1, len(log) // 10)
    first, last = log[:window], log[-window:]
    signs = []
    before, after = mean(first, "entropy"), mean(last, "entropy")
    if after < ENTROPY_LEFT * before:
        signs.append(
            f"entropy fell from {before:.3g} to {after:.3g} nats per token: the policy hardly explores any more"
        )
    before, after = mean(first, "length"), mean(last, "length")
    if after > LENGTH_FACTOR * before or LENGTH_FACTOR * after < before:
        signs.append(f"the mean response went from {before:.0f} to {after:.0f} tokens")
    windows = [mean(log[i : i + window], "correct") for i in range(len(log) - window + 1)]
    if windows[-1] < REWARD_LEFT * max(windows):
        signs.append(f"the share of correct samples fell from {100 * max(windows):.0f} to {100 * windows[-1]:.0f} %")
    if (share := mean(last, "no_signal")) >= SHARE:
        signs.append(f"{100 * share:.0f} % of the groups give no signal at the end: all their rewards are equal")
    if (share := mean(last, "truncated")) >= SHARE:
        signs.append(f"{100 * share:.0f} % of the responses are cut at max_new_tokens at the end")
    return signs
