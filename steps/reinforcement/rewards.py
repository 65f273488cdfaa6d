"""All rewards of a run: named, weighted, each computed and logged alone.

What each kind is, is in `reward_kinds`. A reward that raises, takes too long or too much memory, ends its process, or
returns no finite number, scores this one sample 0 and says why; the others keep theirs.
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from steps.core.bounded import files_of
from steps.data.rows import RowProblem
from steps.reinforcement.reward_kinds import KINDS, Judges, Scored
from steps.settings.rewards import fit


def custom_files(settings: dict[str, dict]) -> list[Path]:
    """Files of the user's that rewards come from, helpers beside them included: inputs of the step that uses them."""
    files = (files_of(Path(one["file"])) for one in settings.values() if one["kind"] == "custom")
    return sorted(set().union(*files))


def runs(rows: Sequence[dict]) -> list[int]:
    """How many times in a row each row stands there."""
    return [len([*same]) for _, same in groupby(rows, key=id)]


class Rewards:
    """The rewards of a run. A context manager, because of the processes that judge.

    Args:
        settings: name -> {"kind", "weight", …}.
        believes, reward_model: see `reward_kinds.Judges`.

    Attributes:
        names: of the rewards, in the order of the settings.
        weights: theirs.

    Raises:
        ValueError: the settings contradict themselves, a custom function or the reward model is not what it must be.
    """

    def __init__(
        self,
        settings: dict[str, dict],
        *,
        believes: Callable[..., list[np.ndarray]] | None = None,
        reward_model: Path | None = None,
    ):
        fit(settings)
        self.names = [*settings]
        self.weights = [float(one["weight"]) for one in settings.values()]
        judges = Judges(believes, reward_model)
        self.of_name = {name: KINDS[one["kind"]](name, one, judges) for name, one in settings.items()}

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, *error) -> None:
        for reward in self.of_name.values():
            reward.close()

    def problem(self, row: dict) -> RowProblem | None:
        """Why some reward cannot judge the responses to a row; None where all can."""
        return next(filter(None, (reward.problem(row) for reward in self.of_name.values())), None)

    def check_row(self, row: dict) -> None:
        """Whether every reward can judge this row.

        Raises:
            ValueError: one cannot; the message names file, line, row and column.
        """
        if problem := self.problem(row):
            place = f"{row['file']}, line {row['line']}, row {row['row']}, column {problem.column}"
            raise ValueError(f"{place}: {problem.detail}; {problem.hint}")

    def score(
        self,
        name: str,
        rows: list[dict],
        responses: list[str],
        tokens: list[int],
        groups: Sequence[int] | None = None,
    ) -> list[Scored]:
        """One reward of a batch of samples, unweighted.

        Args:
            rows: [samples], the row of each.
            tokens: [samples], how many tokens each response has.
            groups: how many samples in a row are of one prompt; None: as many as have one row.

        Returns:
            [samples].
        """
        scored = self.of_name[name].score(rows, responses, tokens, runs(rows) if groups is None else groups)
        assert len(scored) == len(responses)
        return scored

    def totals(self, values: dict[str, list[float]]) -> list[float]:
        """Weighted sums over the rewards, one per sample; `values` is name -> [samples]."""
        columns = [values[name] for name in self.names]
        return [
            math.fsum(weight * value for weight, value in zip(self.weights, sample, strict=True))
            for sample in zip(*columns, strict=True)
        ]
