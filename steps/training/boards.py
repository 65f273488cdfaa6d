"""Where a training is watched while it runs: TensorBoard."""

import argparse
from pathlib import Path
from typing import Any

from steps.core import processes


def add(trainer: Any, args: argparse.Namespace, settings: dict) -> None:
    """Have a trainer tell the boards what it logs.

    Args:
        args: of the step; its `logs` is TensorBoard's folder.
    """
    folder = getattr(args, "logs", None)
    if folder and processes.first():
        trainer.add_callback(board(folder))


def board(folder: Path) -> Any:
    """A callback that writes every logged number to TensorBoard; a resumed run takes back what it repeats."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers import TrainerCallback

    class Board(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.writer = SummaryWriter(str(folder), purge_step=state.global_step + 1)

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name, value in logs.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(name, value, state.global_step)
            self.writer.flush()

        def on_train_end(self, args, state, control, **kwargs):
            self.writer.close()

    return Board()
