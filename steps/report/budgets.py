"""What a training cost, by the measures in which two sides of a comparison must be alike."""

from collections.abc import Callable, Iterable, Mapping

from steps.report.candidates import Candidate
from steps.report.logs import logged, spent

# Equal is at most so many times as much.
TOLERANCE = 1.05


def _steps(candidate: Candidate) -> int | None:
    steps = [of_seed[-1] for of_seed, _ in logged(candidate, "loss")]
    return round(sum(steps) / len(steps)) if steps else None


# Of a candidate's own training, means over seeds; None where it has none or its log does not say.
BUDGETS: dict[str, Callable[[Candidate], int | None]] = {
    "tokens seen": spent,
    "tokens written": lambda candidate: spent(candidate, "generated"),
    "steps": _steps,
    # Learning rates that were tried in this run for the one that is compared.
    "rates tried": lambda candidate: candidate.rates,
}


def unequal(arms: Iterable[Candidate], budgets: Iterable[str]) -> list[dict]:
    """The budgets in which arms differ by more than `TOLERANCE`: {"budget", "arms": (name, value) each, "least"}.

    An arm that trained nothing of its own, such as a start or a merge, is not held to them.
    """
    known = [(name, _known(arms, name)) for name in budgets]
    return [
        {"budget": name, "arms": of, "least": None}
        for name, of in known
        if of and max(value for _, value in of) > TOLERANCE * min(value for _, value in of)
    ]


def too_small(arms: Iterable[Candidate], least: Mapping[str, float]) -> list[dict]:
    """The same of the budgets of which an arm has less than the least."""
    known = [(name, bar, _known(arms, name)) for name, bar in least.items()]
    return [
        {"budget": name, "arms": of, "least": bar} for name, bar, of in known if any(value < bar for _, value in of)
    ]


def _known(arms: Iterable[Candidate], budget: str) -> list[tuple[str, int]]:
    values = {arm.name: BUDGETS[budget](arm) for arm in arms}
    return [(name, value) for name, value in values.items() if value is not None]
