"""Training steps one after the other in the same processes, as `test_launch.py` starts them: one import for all.

Run as: python -m steps.training.launch --kind ddp --processes 2 tests.stages runs.json
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from steps.core import processes
from steps.core.files import read_json

STAGES = {
    "sft": "steps.recipes.sft",
    "cpt": "steps.recipes.cpt",
    "reward": "steps.recipes.reward",
    "rl": "steps.reinforcement.rl",
    "distill": "steps.distillation.distill",
    "opd": "steps.distillation.opd",
}
PATHS = ("parent", "work", "out", "valid", "logs", "reward_model")
LISTS = ("teachers", "responses", "logprobs")


def arguments(run: dict) -> argparse.Namespace:
    """The arguments of a step's main, their paths as paths."""
    given = {key: Path(value) if key in PATHS and value else value for key, value in run["arguments"].items()}
    given |= {key: [Path(path) for path in given[key]] for key in LISTS if key in given}
    data = given["data"]
    return argparse.Namespace(**given | {"data": [Path(p) for p in data] if isinstance(data, list) else Path(data)})


def fail_once(rank: int) -> None:
    """Let memory run out in one process, in its first step; not in the run that starts again."""
    import torch
    import transformers

    step = transformers.Trainer.training_step

    def failing(self, *rest, **named):
        if processes.rank() == rank and self.micro_batches.cuts == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, *rest, **named)

    transformers.Trainer.training_step = failing


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    for run in read_json(Path(sys.argv[1])):
        if (Path(run["arguments"]["out"]) / "manifest.json").is_file():
            continue  # done before all was started again
        if "fails" in run:
            fail_once(run["fails"])
        importlib.import_module(STAGES[run["stage"]]).main(arguments(run))
        processes.wait()
