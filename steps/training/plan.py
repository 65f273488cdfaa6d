"""Everything about a training that is known before its first step, and its log."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steps.core.files import csv_text

LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "valid_loss")


@dataclass(frozen=True)
class Plan:
    """Everything about a run that is known before its first step.

    Attributes:
        batches: row indices of each forward pass, in order (`packing.plan_batches`).
        accumulation: forward passes per step.
        lengths: tokens of each row, for the token counts of the log.
        saves: how often, at equal distances, the state is put aside; the end is not counted.
        valid_points: how often, in the same way, the valid loss is measured. It does not follow `saves`, which changes
            no result.
        epoch_rows: rows of an epoch, where the weights of sources make them more or fewer than there are.
        valid_every: the steps between two such measurements, where they are told instead.
    """

    batches: list[list[int]]
    accumulation: int
    lengths: list[int]
    saves: int
    valid_points: int = 4
    epoch_rows: float = 0.0
    valid_every: int | None = None
    shown = "loss"  # what the progress line shows

    @property
    def per_epoch(self) -> float:
        return self.epoch_rows or len(self.lengths)

    @property
    def steps(self) -> int:
        return math.ceil(len(self.batches) / self.accumulation)

    @property
    def save_steps(self) -> set[int]:
        return self.spaced(self.saves)

    @property
    def valid_steps(self) -> set[int]:
        every = self.valid_every
        return ({*range(every, self.steps, every)} if every else self.spaced(self.valid_points)) | {self.steps}

    def spaced(self, count: int) -> set[int]:
        """So many steps at equal distances, without the last."""
        return {self.steps * i // (count + 1) for i in range(1, count + 1)} - {0}

    def may_stop(self, step: int) -> bool:
        """Whether a resumed run could go on from after this step."""
        return True

    def part(self, item: int, parts: int) -> list[int]:
        """Row indices of one process's share of a forward pass, of which each batch makes `parts`; of a small batch it
        may be empty."""
        return self.batches[item // parts][item % parts :: parts]

    def epoch(self, step: int) -> float:
        """Epochs seen after a step."""
        return sum(map(len, self.batches[: step * self.accumulation])) / self.per_epoch

    def epoch_ends(self, epochs: int) -> list[int]:
        """The step with which each of the first epochs is complete; it may hold rows of the next."""
        step_rows = len(self.batches[0]) * self.accumulation
        return [min(math.ceil(self.per_epoch * e / step_rows), self.steps) for e in range(1, epochs + 1)]

    def progress(self) -> list[tuple[float, int]]:
        """After each step 0, 1, …: epochs and tokens (padding not counted) seen."""
        seen = [(0.0, 0)]
        rows = tokens = 0
        for step in range(self.steps):
            for batch in self.batches[step * self.accumulation : (step + 1) * self.accumulation]:
                rows += len(batch)
                tokens += sum(self.lengths[i] for i in batch)
            seen.append((rows / self.per_epoch, tokens))
        return seen

    def log(self, history: list[dict], done: int) -> list[dict]:
        """One {column: value} for each step done, from what the trainer logged."""
        seen = self.progress()
        rows = [{"step": s, "epoch": seen[s][0], "tokens": seen[s][1]} for s in range(done + 1)]
        for entry in history:
            rows[entry["step"]] |= {key: entry[key] for key in entry.keys() & {*LOG_COLUMNS} - {"epoch", "tokens"}}
        return rows[1:]


def check_logged(values: dict, step: int, fp16: bool) -> None:
    """Raises ValueError for a number of a step's log that is NaN or infinite. What was not measured is not there.

    Args:
        fp16: gradients are scaled, and a step whose scale was too large says so by its grad_norm and is left out.
    """
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value) and not (fp16 and name == "grad_norm"):
            raise ValueError(f"{name} is {value} at step {step}: lower learning_rate")


def log_csv(log: list[dict], columns: Sequence[str] = LOG_COLUMNS) -> str:
    """training_log.csv: no times in it, so that a resumed run writes the same bytes as an undisturbed one."""

    def cell(value: Any) -> Any:
        return f"{value:.6g}" if isinstance(value, float) else value

    return csv_text(columns, ({column: cell(row[column]) for column in columns if column in row} for row in log))
