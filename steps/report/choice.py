"""Which questions choose a checkpoint and which report it: never the same, or the best by chance would look better.

Of the target, `dev` chooses and all questions report; where dev was not measured, and of the general axis always, one
half of the questions chooses and the other reports. Checkpoints choose over the seeds that all have.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from steps.report.candidates import Candidate, Score, with_seeds
from steps.report.tables import Estimate
from steps.stats import intervals

# The halves of the questions.
CHOOSES, REPORTS = 0, 1


@dataclass(frozen=True)
class Parts:
    """All candidates as they choose and as they report, by name.

    Attributes:
        dev: the target is chosen on its dev questions, and reported whole.
        whole: tasks without single questions, which can neither be divided nor paired: they choose and report.
    """

    choosing: dict[str, Candidate]
    reporting: dict[str, Candidate]
    dev: bool
    whole: tuple[str, ...]


def parts(compared: Iterable[Candidate], roots: Iterable[Candidate]) -> Parts:
    """
    Args:
        compared: of which one is to be chosen.
        roots: what they are measured from.
    """
    compared = list(compared)
    every = {candidate.name: candidate for candidate in (*compared, *roots)}
    dev = all(candidate.on("dev") for candidate in every.values())
    seeds = [set(candidate.seeds) for candidate in compared if candidate.seeds]
    common = set.intersection(*seeds) if seeds else set()
    alike = {name: with_seeds(one, common) if one.seeds else one for name, one in every.items()}
    choosing = {name: _divided(one, CHOOSES, dev) for name, one in alike.items()}
    reporting = {name: _divided(one, REPORTS, dev) for name, one in every.items()}
    axes = ("general",) if dev else ("target", "general")
    divided = [score for one in every.values() for axis in axes for score in one.on(axis)]
    return Parts(choosing, reporting, dev, tuple(dict.fromkeys(score.task for score in divided if not score.items)))


def best_on_dev(candidates: Sequence[Candidate], otherwise: Callable[[Candidate], float]) -> Candidate | None:
    """The best of several on dev; by another measure where one of them was not measured on it."""
    dev = all(candidate.axis("dev") for candidate in candidates)
    return max(candidates, key=lambda one: one.axis("dev").value if dev else otherwise(one), default=None)


def reporting(compared: Sized) -> int | None:
    """The half of the questions that tells of the best of several; None (all) where there was nothing to choose."""
    return REPORTS if len(compared) > 1 else None


def _divided(candidate: Candidate, part: int, dev: bool) -> Candidate:
    """A candidate with the part of its questions that chooses, or reports."""
    scores = {}
    for task, score in candidate.scores.items():
        if score.axis == "general" or (score.axis == "target" and not dev):
            scores[task] = half(score, part)
        elif part == REPORTS or score.axis not in ("target", "dev"):
            scores[task] = score
        elif score.axis == "dev":
            scores[task] = replace(score, axis="target")
    divided = copy.copy(candidate)
    divided.scores = scores
    return divided


def half(score: Score, part: int) -> Score:
    """A task by one half of its questions, the same of every checkpoint; whole where it has no single ones."""
    items = {doc: values for doc, values in score.items.items() if half_of(score.task, doc) == part}
    if not items:
        return score
    values = np.array(list(items.values()))
    value, seeds = float(values.mean()), tuple(map(float, values.mean(axis=0)))
    stderr = float(np.sqrt(value * (1 - value) / len(items)))
    estimate = Estimate(value, *intervals.share([values]), stderr, len(items), seeds)
    return replace(score, estimate=estimate, items=items)


@cache
def half_of(task: str, doc: object) -> int:
    """Of a question: 0 or 1, by the hash of its name."""
    return hashlib.sha256(f"{task}\0{doc}".encode()).digest()[0] & 1
