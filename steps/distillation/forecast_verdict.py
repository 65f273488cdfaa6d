"""Estimates with their intervals, the checks on them, and the verdict in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steps.stats import bootstrap, intervals

# With fewer prompts, a bootstrap interval is too narrow to rest a verdict on.
LEAST_PROMPTS = 20

Estimate = dict[str, float | None]  # value, low, high
UNKNOWN: Estimate = {"value": None, "low": None, "high": None}


class Check(NamedTuple):
    """One condition: the whole interval must be above the bar or, of a `level`, the value at it or above."""

    name: str
    result: Estimate
    bar: float
    level: bool = False

    @property
    def passed(self) -> bool | None:
        """None where it could not be measured."""
        if self.result["low"] is None:
            return None
        return self.result["value"] >= self.bar if self.level else self.result["low"] > self.bar


def estimate(values: np.ndarray, resamples: int, seed: int, weights: np.ndarray | None = None) -> Estimate:
    """A mean with its 95 % bootstrap interval (percentiles), items being what is resampled.

    Args:
        values: [items].
        weights: [items]; the mean is then Σ wᵢ vᵢ / Σ wᵢ, weights being resampled with their items. Equal by default.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    # From the first value on: a constant then comes out exactly, not off by the rounding of a sum.
    origin = values[0]
    shares = bootstrap.shares(len(values), [seed], resamples)
    means = origin + shares @ (weights * (values - origin)) / (shares @ weights)
    low, high = intervals.percentile(means)
    value = origin + weights @ (values - origin) / weights.sum()
    return {"value": float(value), "low": low, "high": high}


def measured(values: np.ndarray, settings: dict) -> Estimate:
    """`estimate`, or UNKNOWN of too few prompts."""
    return estimate(values, settings["resamples"], settings["seed"]) if len(values) >= LEAST_PROMPTS else dict(UNKNOWN)


def beyond(student: np.ndarray, teacher: np.ndarray) -> Estimate:
    """Share of prompts that the teacher solves in at least half of its samples and the student in none.

    Args:
        student, teacher: [prompts] pass rates.
    """
    if len(student) < LEAST_PROMPTS:
        return dict(UNKNOWN)
    value = float(np.mean((teacher >= 0.5) & (student == 0)))
    low, high = intervals.wilson(value, len(student))
    return {"value": value, "low": low, "high": high}


def judge(checks: list[Check]) -> bool:
    """Whether every check that could be measured passed, of at least one."""
    passed = [check.passed for check in checks if check.passed is not None]
    return bool(passed) and all(passed)


def shown(result: Estimate) -> str:
    """A value and its interval."""
    return f"{result['value']:.3f} ({result['low']:.3f} to {result['high']:.3f})"


def reasons(checks: list[Check], numbers: dict, settings: dict) -> list[str]:
    """One sentence per check, in their order, and one where too few rows could be verified.

    Args:
        numbers: forecast.json so far.
    """
    capability, alike, continuation = checks
    sentences = []
    if capability.passed is None:
        sentences.append(
            f"New capability is not measured: {numbers['verified']} of {numbers['prompts']} prompts can be verified,"
            f" and {LEAST_PROMPTS} are needed."
        )
    else:
        word = "more often" if numbers["gain"]["value"] > 0 else "no more often"
        sentences.append(
            f"The teacher is right {word}: {numbers['teacher_pass']['value']:.3f} against"
            f" {numbers['student_pass']['value']:.3f}, a gain of {shown(numbers['gain'])}, whose interval"
            f" {'lies' if capability.passed else 'does not lie'} above {capability.bar:g}."
        )
    sentences.append(
        f"Of the probability on the {settings['top_k']} likeliest tokens of each, {shown(alike.result)} lies on shared"
        f" ones, {'at least' if alike.passed else 'less than'} {alike.bar:g} (they share"
        f" {shown(numbers['overlap'])} of these tokens)."
    )
    if continuation.passed is None:
        sentences.append(
            "Whether the teacher can go on from the student's responses is not measured: fewer than"
            f" {LEAST_PROMPTS} of them can be verified and are long enough to be continued."
        )
    else:
        sentences.append(
            f"Going on from the student's responses, the teacher gains {shown(continuation.result)}, whose interval"
            f" {'lies' if continuation.passed else 'does not lie'} above {continuation.bar:g}."
        )
    if capability.passed is None and continuation.passed is None:
        sentences.append("The verdict rests on overlap alone.")
    return sentences


def verdict(helps: bool, data: str, student: str, teacher: str, why: list[str]) -> str:
    """What the step says in the end."""
    word = "is expected to help" if helps else "is not expected to help"
    return f"Distilling {student} from {teacher} on the prompts of {data} {word}: {' '.join(why)}"


def aligned(checks: list[Check]) -> str:
    """The table as text."""
    lines = [("check", "value", "low", "high", "bar", "verdict")]
    for check in checks:
        cells = ["–" if check.result[end] is None else f"{check.result[end]:.4g}" for end in ("value", "low", "high")]
        word = {None: "not measured", True: "passed", False: "failed"}[check.passed]
        lines.append((check.name, *cells, f"{check.bar:.4g}", word))
    width = [max(len(line[i]) for line in lines) for i in range(6)]
    return "\n".join(
        "  ".join([line[0].ljust(width[0]), *(line[i].rjust(width[i]) for i in range(1, 6))]) for line in lines
    )
