"""Where a training is watched while it runs: TensorBoard, and what `tracker` names."""

import argparse
import os
from pathlib import Path
from typing import Any

from steps.core import processes


def add(trainer: Any, args: argparse.Namespace, settings: dict) -> None:
    """Have a trainer tell the boards what it logs.

    Args:
        args: of the step; its `logs` is TensorBoard's folder, and its `out` names project and run of a tracker.
    """
    folder = getattr(args, "logs", None)
    if not processes.first():
        return
    if folder:
        trainer.add_callback(board(folder))
    tracker = settings.get("tracker", "none")
    if tracker == "none":
        return
    from transformers.integrations import TrackioCallback, WandbCallback

    told, out = trainer.args, Path(args.out)
    told.run_name, told.project = out.name, out.absolute().parts[-3]
    # Nothing leaves the machine unless its environment says so: WANDB_MODE=online, or a space of Trackio's.
    told.trackio_space_id, told.trackio_static_space_id = os.environ.get("TRACKIO_SPACE_ID"), False
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_PROJECT", told.project)
    os.environ.setdefault("WANDB_DIR", str(folder or told.output_dir))
    trainer.add_callback({"wandb": WandbCallback, "trackio": TrackioCallback}[tracker]())


def board(folder: Path) -> Any:
    """A callback that writes every logged number to TensorBoard; a resumed run takes back what it repeats."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers import TrainerCallback

    class Board(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.writer = SummaryWriter(str(folder), purge_step=state.global_step and state.global_step + 1)

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name, value in logs.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(name, value, state.global_step)
            self.writer.flush()

        def on_train_end(self, args, state, control, **kwargs):
            self.writer.close()

    return Board()
