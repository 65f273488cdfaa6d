"""What the logs of trainings say of a candidate: columns, their ends, tokens."""

from statistics import fmean

from steps.report.candidates import Candidate, Checkpoint
from steps.settings.stages import TRAINED


def logged(candidate: Candidate, column: str) -> list[tuple[list[float], list[float]]]:
    """(steps, values) of a column of the training log, seed by seed; those of which it has none are left out."""
    of_seeds = []
    for member in candidate.members:
        rows = [row for row in member.log if column in row]
        if rows:
            of_seeds.append(([row["step"] for row in rows], [row[column] for row in rows]))
    return of_seeds


# The part of a run, at either end, that a table compares.
END = 0.1


def ends(candidate: Candidate, column: str) -> tuple[list[float], list[float]]:
    """Means of a column over the first and over the last tenth of the steps, seed by seed."""
    pairs = [ends_of(values) for _, values in logged(candidate, column)]
    return [first for first, _ in pairs], [last for _, last in pairs]


def ends_of(values: list[float]) -> tuple[float, float]:
    """The same of one run."""
    window = max(1, round(END * len(values)))
    return fmean(values[:window]), fmean(values[-window:])


def spent(candidate: Candidate, column: str = "tokens") -> int | None:
    """Tokens of a candidate's own training, a mean over seeds: of the sequences, or those `generated`."""
    totals = [values[-1] for _, values in logged(candidate, column)]
    return round(fmean(totals)) if totals else None


def tokens_from_start(candidate: Candidate, candidates: dict[str, Candidate]) -> int | None:
    """Tokens trained from the model at the start to a candidate, over all ancestors, as a mean over the seeds trained.

    A merge or a point of a path trains on nothing of its own.
    """
    by_node = {m.node: m for a in candidates.values() for m in a.members}
    totals = []
    for member in candidate.members:
        chain = [member.node]
        for name in chain:
            chain += [parent for parent in by_node[name].parents if parent not in chain]
        trained = [by_node[name] for name in chain if by_node[name].stage != "model"]
        of_each = [_tokens_of(m) for m in trained if m.stage in TRAINED]
        if None not in of_each:
            totals.append(sum(of_each))
    return round(sum(totals) / len(totals)) if totals else None


def _tokens_of(member: Checkpoint) -> int | None:
    counted = [row["tokens"] for row in member.log if "tokens" in row]
    return int(counted[-1]) if counted else None
