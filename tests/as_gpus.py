"""Training steps in processes without a GPU, as if each had one: the strategies that spread a model over GPUs.

accelerate leaves FSDP and DeepSpeed out on CPUs. Told that these are GPUs that talk through gloo, it sets both up, and
their own code is unchanged. DeepSpeed would also compile an operation for CPUs on the spot; here it does without.

Run as: python -m steps.training.launch --kind fsdp --processes 2 tests.as_gpus runs.json
"""

import importlib
import os
import signal
import sys
from pathlib import Path

# Where there are GPUs, too: read by torch when it is first asked for one.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import accelerate.state
import torch
from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from steps.core import processes
from steps.core.files import read_json
from steps.training import run as training
from steps.training.plan import Plan
from tests.stages import STAGES, arguments


def pretend() -> None:
    """Let accelerate take this process for one with a GPU."""
    state = accelerate.state.PartialState
    start = state.__init__
    state.__init__ = lambda self, cpu=False, **named: start(self, **named)
    state._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
    state.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def run(stage: str, given: dict, stop: int | None) -> None:
    """A stage to its end, or to the step after which it is told to end."""
    # transformers would load the next model in the parts that the ZeRO stage 3 of the last one had.
    unset_hf_deepspeed_config()
    main = importlib.import_module(STAGES[stage]).main
    if stop is None:
        main(arguments(given))
        return
    may_stop = Plan.may_stop

    def told(self, step):
        if step == stop and processes.first():
            os.kill(os.getpid(), signal.SIGTERM)
        return may_stop(self, step)

    Plan.may_stop = told
    try:
        main(arguments(given))
    except SystemExit as ended:
        assert ended.code == training.TERMINATED
    finally:
        Plan.may_stop = may_stop


if __name__ == "__main__":
    pretend()
    for each in read_json(Path(sys.argv[1])):
        run(each["stage"], each, each.get("stop"))
        processes.wait()
