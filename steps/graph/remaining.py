"""How long a run still takes, from how long its jobs took before.

A job takes about as long as it did the last time, by its benchmark; one that never ran, as others of its rule took: in
this run, or else before. What no job of its rule tells is not guessed.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from steps.graph.outcomes import clock, counted


class Remaining:
    """What is known of the jobs of a run.

    Attributes:
        rules: job → its rule, of those still to end.
    """

    def __init__(self, jobs: Iterable[tuple[int, str, str | None]]):
        """
        Args:
            jobs: number, rule and benchmark of each; one without a benchmark is a target and takes no time.
        """
        of_jobs = [(job, rule, file) for job, rule, file in jobs if file]
        self.rules = {job: rule for job, rule, _ in of_jobs}
        self.before = {job: seconds for job, _, file in of_jobs if (seconds := seconds_of(Path(file))) is not None}
        self.rule_before: dict[str, list[float]] = {}
        for job, seconds in self.before.items():
            self.rule_before.setdefault(self.rules[job], []).append(seconds)
        self.rule_now: dict[str, list[float]] = {}
        self.worked = 0.0

    def finish(self, job: int, seconds: float) -> None:
        if rule := self.rules.pop(job, None):
            self.rule_now.setdefault(rule, []).append(seconds)
            self.worked += seconds

    def expected(self, job: int) -> float | None:
        """The seconds that a job takes from its start, or None."""
        rule = self.rules[job]
        if job in self.before:
            return self.before[job]
        known = self.rule_now.get(rule) or self.rule_before.get(rule)
        return median(known) if known else None

    def left(self, running: Mapping[int, float], elapsed: float) -> tuple[float, int]:
        """The seconds that jobs of known length still take, and how many jobs are of unknown length.

        As many of them run at once as have until now; and none takes less than its own time.

        Args:
            running: job → seconds since it began.
            elapsed: seconds since the run began.
        """
        expected = {job: self.expected(job) for job in self.rules}
        known = [max(0.0, all_of_it - running.get(job, 0.0)) for job, all_of_it in expected.items() if all_of_it]
        unknown = sum(all_of_it is None for all_of_it in expected.values())
        at_once = max(1.0, (self.worked + sum(running.values())) / elapsed if elapsed > 0 else len(running))
        return max(sum(known) / at_once, *known, 0.0) if known else 0.0, unknown

    def text(self, running: Mapping[int, float], elapsed: float) -> str:
        """ "about 12:30 left", with how many jobs that leaves out; nothing where no length is known."""
        seconds, unknown = self.left(running, elapsed)
        if seconds < 1:
            return ""
        jobs = counted(unknown, "job")
        return f"about {clock(seconds)} left" + (f", and {jobs} of unknown length" if unknown else "")


def of(workflow: Any) -> Remaining:
    """Of the jobs that Snakemake is about to run, before the first begins."""
    dag = workflow.dag
    return Remaining(
        (dag.jobid(job), job.rule.name, str(job.benchmark) if job.benchmark else None) for job in dag.needrun_jobs()
    )


def seconds_of(benchmark: Path) -> float | None:
    """What Snakemake wrote of a job's last run; None where it wrote nothing that can be read."""
    try:
        names, values = (line.split("\t") for line in benchmark.read_text(encoding="utf-8").splitlines()[:2])
        return float(dict(zip(names, values, strict=False))["s"])
    except (OSError, ValueError, KeyError):
        return None
