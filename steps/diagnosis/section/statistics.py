"""Rates of unlearned rows and their differences, with intervals: rows are the unit of chance, seeds widen. NumPy.

A checkpoint's counts are pooled over its seeds; rows that hold the same counts are one kind to the bootstrap.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np

from steps.diagnosis.causes import CAUSES
from steps.diagnosis.section.facts import (
    ALL,
    ATTRIBUTED,
    LEARNABLE,
    LEARNED,
    NEITHER,
    TRUE,
    Study,
    StudyCandidate,
)
from steps.report.tables import Estimate
from steps.stats import bootstrap, intervals
from steps.stats.agreement import fleiss_kappa, jaccard

Mask = Callable[[str], np.ndarray]


def share_of(hits: list[int], n: list[int]) -> Estimate | None:
    """A share pooled over seeds: Wilson for the rows of one seed, widened by the spread of the seeds."""
    pairs = [(h, m) for h, m in zip(hits, n, strict=True) if m]
    if not pairs:
        return None
    value = sum(h for h, _ in pairs) / sum(m for _, m in pairs)
    rows = round(sum(m for _, m in pairs) / len(pairs))
    seeds = tuple(h / m for h, m in pairs)
    low, high = intervals.widen(value, intervals.wilson(value, rows), seeds)
    stderr = float(np.sqrt(value * (1 - value) / rows))
    return Estimate(value, max(0.0, low), min(1.0, high), stderr, rows, seeds)


def rate(study: Study, candidate: StudyCandidate, mask: Mask, alone: bool = False) -> Estimate | None:
    """Share of a group's rows that a candidate leaves unlearned; None where the group has no examined row.

    Args:
        alone: of all rows that were examined, where nothing is compared with it.
    """
    hits, n = [], []
    for node, diagnosis in candidate.pairs:
        marks = study.detected[node]
        rows = mask(diagnosis) & (marks.examined if alone else marks.compared)
        hits.append(int((marks.unlearned & rows).sum()))
        n.append(int(rows.sum()))
    return share_of(hits, n)


def estimate(counts: np.ndarray, seeds: list[np.ndarray], statistic, key: str) -> Estimate | None:
    """A statistic, at most 1, of counts summed over rows and seeds. `seeds` are the sums of each seed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(counts.sum(axis=0, keepdims=True).astype(float))[0])
        if not np.isfinite(value):
            return None
        drawn = bootstrap.of_sums(counts, statistic, bootstrap.seed_of(key))
        drawn = drawn[np.isfinite(drawn)]
        of_seeds = [float(statistic(sums[None].astype(float))[0]) for sums in seeds]
    of_seeds = tuple(v for v in of_seeds if np.isfinite(v))
    low, high = intervals.widen(value, intervals.percentile(drawn), of_seeds)
    return Estimate(value, low, min(1.0, high), float(drawn.std(ddof=1)), len(counts), of_seeds)


def contrast(
    study: Study, ours: StudyCandidate, theirs: StudyCandidate, mask: Mask, relative: bool = False
) -> Estimate | None:
    """How much lower a candidate's rate is than another's, paired by row and seed; `relative` to the other's rate.

    None where they have no row or no seed in common, or where there is nothing to lower.
    """
    diagnosis = dict(ours.pairs)
    seed = {m.node: m.seed for candidate in (ours, theirs) for m in candidate.candidate.members}
    partner = {seed[node]: node for node, _ in theirs.pairs}
    counts, seeds = 0, []
    for node, other in ((node, partner[seed[node]]) for node, _ in ours.pairs if seed[node] in partner):
        a, b = study.detected[node], study.detected[other]
        rows = a.compared & b.compared & mask(diagnosis[node])
        of_seed = np.stack([a.unlearned & rows, b.unlearned & rows, rows], axis=1).astype(int)
        seeds.append(of_seed.sum(axis=0))
        counts = counts + of_seed
    if not seeds:
        return None
    counts = counts[counts[:, 2] > 0]
    if not len(counts):
        return None

    def statistic(sums: np.ndarray) -> np.ndarray:
        a, b, n = sums.T
        return 1 - a / b if relative else (b - a) / n

    lower = estimate(counts, seeds, statistic, f"{study.name} {relative}")
    if lower is None:
        return None
    # Where few rows or none tell the two apart, resampling shows too little chance.
    a, b, n = counts.T
    low, high = intervals.paired((b - a) / n.mean())
    if relative:
        before = b.sum() / n.sum()
        low, high = low / before, high / before
    low, high = intervals.widen(lower.value, (low, high), lower.seed_values)
    return replace(lower, low=min(low, lower.low), high=min(1.0, max(high, lower.high)))


# --- against the truth ---------------------------------------------------------------------------


# Counts of a test: given rightly, given wrongly, missed.
Counts = tuple[int, int, int]


def counted(given: np.ndarray, wanted: np.ndarray) -> Counts:
    return int((given & wanted).sum()), int((given & ~wanted).sum()), int((~given & wanted).sum())


def detection_counts(study: Study, node: str) -> Counts:
    """Of the examined rows: unlearned ones against planted ones."""
    known = study.detected[node].examined & (study.truth != NEITHER)
    planted = study.truth != TRUE.index(LEARNABLE)
    return counted(study.detected[node].unlearned[known], planted[known])


def attribution_counts(study: Study, node: str) -> dict[str, Counts]:
    """For each cause, of the rows that are unlearned and planted: rows given it against rows planted for it."""
    rows = study.detected[node].unlearned & (study.truth != NEITHER) & (study.truth != TRUE.index(LEARNABLE))
    given, truth = study.cause[node][rows], study.truth[rows]
    return {cause: counted(given == index, truth == index) for index, cause in enumerate(CAUSES)}


def precision_of(seeds: list[Counts]) -> Estimate | None:
    return share_of([hits for hits, _, _ in seeds], [hits + wrong for hits, wrong, _ in seeds])


def recall_of(seeds: list[Counts]) -> Estimate | None:
    return share_of([hits for hits, _, _ in seeds], [hits + missed for hits, _, missed in seeds])


def f1_of(seeds: list[Counts]) -> Estimate | None:
    """F1 = 2J / (1 + J), where J, hits of all rows that were found or wanted, is a share: its interval carries over."""
    overlap = share_of([hits for hits, _, _ in seeds], [sum(counts) for counts in seeds])
    if overlap is None:
        return None
    value, low, high, *seed_values = (
        2 * j / (1 + j) for j in (overlap.value, overlap.low, overlap.high, *overlap.seed_values)
    )
    return Estimate(value, low, high, overlap.stderr * 2 / (1 + overlap.value) ** 2, overlap.n, tuple(seed_values))


def macro_f1_of(seeds: list[dict[str, Counts]]) -> Estimate | None:
    """Mean F1 over the causes that have rows; their intervals combined as those of independent estimates."""

    def mean(counts: dict[str, Counts]) -> float | None:
        each = [f1_of([c]).value for c in counts.values() if c[0] + c[2]]
        return float(np.mean(each)) if each else None

    there = [cause for cause in CAUSES if any(counts[cause][0] + counts[cause][2] for counts in seeds)]
    if not there:
        return None
    each = [f1_of([counts[cause] for counts in seeds]) for cause in there]
    values = [one.value for one in each]
    of_seeds = tuple(value for counts in seeds if (value := mean(counts)) is not None)
    value, stderr = float(np.mean(values)), float(np.sqrt(sum(one.stderr**2 for one in each))) / len(each)
    # The intervals of the causes hold their own seeds; that of the mean takes the wider of the two ways to add them.
    within = intervals.combine(values, [(one.low, one.high) for one in each])
    across = intervals.widen(value, (value - intervals.Z * stderr, value + intervals.Z * stderr), of_seeds)
    low, high = min(within[0], across[0]), min(1.0, max(within[1], across[1]))
    rows = round(float(np.mean([sum(c[0] + c[2] for c in counts.values()) for counts in seeds])))
    return Estimate(value, max(0.0, low), high, stderr, rows, of_seeds)


# --- over seeds ----------------------------------------------------------------------------------


def kappa_estimate(marks: np.ndarray) -> Estimate | None:
    """Fleiss' kappa with its interval over rows."""
    value = fleiss_kappa(marks)
    if value is None:
        return None
    raters = marks.shape[1]
    yes = marks.sum(axis=1)
    counts = np.stack([np.ones_like(yes), yes, yes * (yes - 1) + (raters - yes) * (raters - yes - 1)], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        n, given, pairs = sums.T
        share = given / (n * raters)
        chance = share**2 + (1 - share) ** 2
        return (pairs / (n * raters * (raters - 1)) - chance) / (1 - chance)

    return estimate(counts, [], statistic, "kappa")


def stability(study: Study) -> dict | None:
    """How far the seeds of the diagnosed candidate agree; None with one seed.

    Returns:
        {"times": rows by the number of seeds in which they are unlearned, "jaccard": [((node, node), value)],
        "kappa": Estimate, "n": rows examined in every seed, "same_cause": share of the rows unlearned in every seed
        that have one cause in all of them}.
    """
    names = study.diagnosed
    if len(names) < 2:
        return None
    rows = np.logical_and.reduce([study.detected[name].examined for name in names])
    marks = np.stack([study.detected[name].unlearned[rows] for name in names], axis=1)
    causes = np.stack([study.cause[name][rows] for name in names], axis=1)[marks.all(axis=1)]
    same = (causes == causes[:, :1]).all(axis=1)
    return {
        "times": np.bincount(marks.sum(axis=1), minlength=len(names) + 1).tolist(),
        "jaccard": [
            ((names[i], names[j]), jaccard(marks[:, i], marks[:, j])) for i, j in combinations(range(len(names)), 2)
        ],
        "kappa": kappa_estimate(marks),
        "n": int(rows.sum()),
        "same_cause": share_of([int(same.sum())], [len(same)]),
    }


def groups(study: Study, by_truth: bool) -> list[str]:
    """The groups of rows with anything in them for the diagnosed candidate, in order."""
    names = [*TRUE, ALL] if by_truth else [*ATTRIBUTED, LEARNED, ALL]
    return [name for name in names if rate(study, study.plain, study.group(name, by_truth))]
