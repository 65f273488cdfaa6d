"""What the gate asks of a reward: known answers and the start policy's samples, judged, and a bar for each check."""

from collections.abc import Callable
from itertools import accumulate
from math import nan
from typing import NamedTuple

import numpy as np

from steps.core.progress import Progress
from steps.data.rows import escaped
from steps.reinforcement.known_answers import Case
from steps.reinforcement.methods import method_of
from steps.reinforcement.methods.interface import SelfTaught
from steps.reinforcement.reward_kinds import Scored
from steps.reinforcement.rewards import Rewards
from steps.settings.reinforcement import AGGREGATIONS

# Responses between two lines of progress; a row's own stay together.
CHUNK = 512
# Below it two totals are one: a sum of floats depends on the order of its terms.
TIE = 1e-9
# What TRL adds to a deviation that it divides by.
EPSILON = 1e-4
EXAMPLES = 2


class Judged(NamedTuple):
    """Responses with what the rewards give them; every list is [responses], known answers before samples."""

    rows: list[dict]
    labels: list[str]
    responses: list[str]
    scored: dict[str, list[Scored]]
    totals: list[float]

    def says(self, i: int) -> bool:
        """Whether some reward says something of a response."""
        return any(each[i].note != "silent" for each in self.scored.values())

    def show(self, i: int) -> str:
        """One response with what each reward gives it, on one line."""
        parts = []
        for name, each in self.scored.items():
            why = each[i].error or each[i].note
            parts.append(f"{name} {each[i].value:.4g}" + (f" ({escaped(why)})" if why else ""))
        line = f"{self.rows[i]['id']}  {self.labels[i]}  total {self.totals[i]:.4g}: {', '.join(parts)}"
        return f'{line}  "{escaped(self.responses[i])}"'


class Check(NamedTuple):
    """One line of the table; `examples` are shown, and `look` said, where it fails."""

    name: str
    n: int
    value: float
    bar: float
    least: bool
    look: str
    examples: list[str]

    @property
    def ok(self) -> bool:
        return self.value >= self.bar if self.least else self.value <= self.bar


def judge(
    rewards: Rewards,
    rows: list[dict],
    labels: list[str],
    responses: list[str],
    tokens: list[int],
    groups: list[int],
    aggregation: str = AGGREGATIONS[0],
) -> Judged:
    """Every reward on every response; all lists but `groups` are [responses].

    Args:
        groups: how many responses in a row are compared with each other, as those of a prompt are in training.
        aggregation: what their totals are; see `totals_of`.
    """
    progress = Progress("gate: rewards", len(responses), "responses")
    scored: dict[str, list[Scored]] = {name: [] for name in rewards.names}
    begin = end = 0
    own: list[int] = []
    for size in groups:
        end += size
        own.append(size)
        if end - begin < CHUNK and end < len(rows):
            continue
        part = slice(begin, end)
        for name in rewards.names:
            scored[name] += rewards.score(name, rows[part], responses[part], tokens[part], own)
        begin, own = end, []
        progress.update(end)
    totals = totals_of(rewards, scored, groups, aggregation)
    assert all(len(each) == len(totals) == len(responses) for each in scored.values())
    return Judged(rows, labels, responses, scored, totals)


def totals_of(rewards: Rewards, scored: dict[str, list[Scored]], groups: list[int], aggregation: str) -> list[float]:
    """What each response is worth: the weighted sum of its rewards or, with `normalize_then_sum`, of what each is over
    its own deviation in the group (GDPO, arXiv:2601.05242): a small reward then counts as much as a large one."""
    if aggregation == AGGREGATIONS[0]:
        return rewards.totals({name: [one.value for one in each] for name, each in scored.items()})
    values = np.array(
        [[nan if one.note == "silent" else one.value for one in scored[name]] for name in rewards.names]
    ).T
    found = np.zeros(len(values))
    for end, size in zip(accumulate(groups), groups, strict=True):
        group = values[end - size : end]
        for k in np.flatnonzero((~np.isnan(group)).sum(0) > 1):
            column = group[:, k]
            parts = (column - np.nanmean(column)) / (np.nanstd(column, ddof=1) + EPSILON)
            found[end - size : end] += rewards.weights[k] * np.nan_to_num(parts)
    # What cancels does so up to rounding.
    return np.round(found, 6).tolist()


def at_least(name: str, hits: list[bool], bar: float, look: str, examples: list[str]) -> Check:
    return Check(f"{name}, share, at least", len(hits), sum(hits) / len(hits), bar, True, look, examples)


def at_most(name: str, hits: list[bool], bar: float, look: str, examples: list[str]) -> Check:
    return Check(f"{name}, share, at most", len(hits), sum(hits) / len(hits), bar, False, look, examples)


def failure_check(judged: Judged, most: float) -> Check:
    """Responses on which a reward raised or returned no finite number."""
    raised = {i: name for name, each in judged.scored.items() for i, one in enumerate(each) if one.error is not None}
    examples = [judged.show(i) for i in sorted(raised)[:EXAMPLES]]
    look = f"rewards.{raised[min(raised)]}, which raised on {examples[0]}" if raised else ""
    hits = [i in raised for i in range(len(judged.totals))]
    return at_most("responses on which a reward raised", hits, most, look, examples)


def unparsed_check(name: str, judged: Judged, among: list[int], readers: list[str], most: float, look: str) -> Check:
    """Responses in which one of the rewards `readers` finds no answer."""
    hits = [any(judged.scored[reader][i].note == "unparsed" for reader in readers) for i in among]
    examples = [judged.show(i) for i, hit in zip(among, hits, strict=True) if hit][:EXAMPLES]
    return at_most(f"{name} without a readable answer", hits, most, look, examples)


def compare(
    name: str, cases: list[Case], judged: Judged, kind: str, fails: Callable[[int, int], bool], least: float, look: str
) -> list[Check]:
    """Rows whose good answer stands the comparison with all of theirs of a kind; nothing where no row has one.

    Args:
        fails: whether the good answer (the index of it) fails against the other.
    """
    groups: dict[str, list[int]] = {}
    for i, case in enumerate(cases):
        if case.kind in ("good", kind):
            groups.setdefault(case.row["id"], []).append(i)
    # A row's good answer is its first case.
    failing = [(good, next((i for i in others if fails(good, i)), None)) for good, *others in groups.values() if others]
    shown = [pair for pair in failing if pair[1] is not None][:EXAMPLES]
    examples = [judged.show(i) for pair in shown for i in pair]
    return [at_least(name, [other is None for _, other in failing], least, look, examples)] if failing else []


def order_checks(cases: list[Case], judged: Judged, settings: dict) -> list[Check]:
    """Do the known-good answers score above the others and, where the method asks, do they alone count as correct?"""
    least, totals = settings["separates"], judged.totals

    def not_above(good: int, other: int) -> bool:
        lead = totals[good] - totals[other]
        return lead < -TIE if cases[other].form == "unmarked" else lead <= TIE

    look = (
        "what the rewards return, the signs of their weights, and gate.good: is a right answer to be written like that?"
    )
    checks = compare("known-good above known-bad", cases, judged, "bad", not_above, least, look)
    checks += compare("known-good above malformed", cases, judged, "malformed", not_above, least, look)
    look = "what the rewards pay for: a policy will find it, and write that"
    checks += compare("known-good above exploiting", cases, judged, "exploiting", not_above, least, look)
    if isinstance(method_of(settings), SelfTaught):
        # GRPO only logs what counts as correct; the self-taught methods route their signal by it.
        values, correct = judged.scored[settings["success"]["reward"]], settings["success"]["least"]
        checks += compare(
            "known-good correct, known-bad not",
            cases,
            judged,
            "bad",
            lambda good, other: values[good].value < correct or values[other].value >= correct,
            least,
            "rl.success: its reward, and the value from which an answer counts as correct",
        )
    return checks


def spread_check(judged: Judged, first: int, size: int, least: float) -> Check:
    """Groups of `size` consecutive samples, from index `first` on, whose total reward varies over those of which a
    reward says something."""
    groups = [range(i, i + size) for i in range(first, len(judged.totals), size)]
    said = [[judged.totals[i] for i in group if judged.says(i)] for group in groups]
    varies = [bool(own) and max(own) - min(own) > TIE for own in said]
    flat = [group for group, hit in zip(groups, varies, strict=True) if not hit][:EXAMPLES]
    return at_least(
        "groups of the start policy whose reward varies",
        varies,
        least,
        "what the rewards give the start policy's samples: a group whose samples score alike teaches nothing; choose"
        " rows of middling difficulty (rl.pass_rate), or rewards of more than one value",
        [judged.show(i) for group in flat for i in group[:2]],
    )


def all_checks(cases: list[Case], judged: Judged, size: int, settings: dict) -> list[Check]:
    """Every check that applies, those that explain others first.

    Args:
        judged: the cases, then the start policy's samples, in groups of `size`.
    """
    checks = [failure_check(judged, settings["max_failures"])]
    readers = [name for name, reward in settings["rewards"].items() if reward["kind"] == "answer"]
    if readers and cases:
        good = [i for i, case in enumerate(cases) if case.kind == "good"]
        look = "gate.good: known-good answers are not written as the reward reads them"
        checks.append(unparsed_check("known-good answers", judged, good, readers, settings["unparsed"], look))
    checks += order_checks(cases, judged, settings)
    sampled = list(range(len(cases), len(judged.totals)))
    if sampled and readers:
        look = (
            "the start policy's samples: it writes no answer as the reward reads it, or reaches"
            " difficulty.max_new_tokens before; teach it the form first (stage sft)"
        )
        bar = settings["unparsed_samples"]
        checks.append(unparsed_check("samples of the start policy", judged, sampled, readers, bar, look))
    if sampled:
        checks.append(spread_check(judged, len(cases), size, settings["spread"]))
    return checks


def aligned(checks: list[Check]) -> str:
    """The table as text."""
    lines = [("check", "n", "value", "bar", "verdict")]
    lines += [(c.name, f"{c.n}", f"{c.value:.4g}", f"{c.bar:.4g}", "ok" if c.ok else "stopped") for c in checks]
    width = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join([line[0].ljust(width[0]), *(line[i].rjust(width[i]) for i in range(1, 5))]) for line in lines
    )


def stop(checks: list[Check]) -> None:
    """Print the table; raise when a check failed.

    Raises:
        ValueError: which checks failed, and what to look at.
    """
    print(aligned(checks), flush=True)
    failed = [check for check in checks if not check.ok]
    if not failed:
        return
    for check in failed:
        print(f"\n{check.name} {check.bar:.4g}, found {check.value:.4g}:")
        print("\n".join(f"  {line}" for line in check.examples), flush=True)
    values = "; ".join(f"{check.name} {check.bar:.4g}, found {check.value:.4g}" for check in failed)
    raise ValueError(f"the reward gate stopped the run: {values}. Look at {failed[0].look}")
