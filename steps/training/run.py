"""Run a training to the end of its plan, or resume it.

A stage plans its batches (`steps.training.packing`), builds a TRL trainer with `state.Resumable` in front of it, calls
`train` and closes with `finish.save_checkpoint`. Nothing here pickles: state is safetensors and JSON.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steps.core import processes
from steps.core.progress import Progress
from steps.training.micro_batch import out_of_memory
from steps.training.state import usable_state
from steps.training.watchers import Best, Progressive

# What tells a training to end: a time limit or a preemption, Ctrl-C, a terminal that closes.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What a process that was told to end by SIGTERM exits with, as a shell would say it.
TERMINATED = 128 + signal.SIGTERM


def train(
    trainer: Any,
    plan: Any,
    name: str,
    valid_batches: Sequence[dict] = (),
    watchers: Sequence[Any] = (),
    progressive: Progressive | Best | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
) -> list[dict]:
    """Run or resume a trainer to the end of its plan; returns the plan's log, one {column: value} per step.

    With `progressive` the run may end before its plan; the log is of all steps, the weights are of the kept one.
    Where memory runs out, the step starts again with smaller parts (`MicroBatches`). Told to end by a signal, it puts
    its state aside after the step at hand and exits; a second Ctrl-C ends it at once, and what was saved stays.

    Args:
        plan: a `Plan`, or what has its `steps`, `save_steps`, `may_stop`, `shown` and `log`.
        watchers: each is told of every step done, by `after(step)`, before the state is put aside.
        measure: what is measured at the plan's `valid_steps`, in place of the loss of `valid_batches`.
    """
    from transformers import PrinterCallback

    from steps.training.callback import StepCallback

    prepare(trainer)
    signals: list[int] = []
    progress = Progress(name, plan.steps, "step")
    callback = StepCallback(trainer, plan, progress, valid_batches, watchers, progressive, signals, measure)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    state = usable_state(Path(trainer.args.output_dir))
    # The launcher repeats the signal: it is heard until all is said.
    with noting_signals(signals):
        try:
            trainer.train(resume_from_checkpoint=state and str(state))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            trainer.micro_batches.down(error)
        done = trainer.state.global_step
        if callback.ended:
            if processes.first():
                message = f"told to end: the state after step {done} of {plan.steps} is saved; start again to go on"
                print(message, flush=True)
            # Another process may have heard it.
            sys.exit(128 + signals[0] if signals else TERMINATED)
    if progressive:
        progressive.finish(trainer, done, plan.steps)
    else:
        assert done == plan.steps, f"trained {done} of {plan.steps} planned steps"
    return plan.log(trainer.state.log_history, done)


def prepare(trainer: Any) -> None:
    """Give each process random numbers of its own, and FSDP the precision that ddp has."""
    import torch

    assert trainer.args.world_size == processes.count(), "processes that do not know of each other"
    if processes.rank():
        # Else a dropout would leave out the same places in all of them.
        torch.manual_seed(trainer.args.seed + processes.rank())
    if trainer.is_fsdp_enabled and trainer.args.bf16:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # As with ddp. accelerate would also sum the gradients in bf16, and round the loss to it.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy


@contextlib.contextmanager
def noting_signals(noted: list[int]) -> Iterator[None]:
    """Note the signals that tell a training to end instead of dying of them; of a second Ctrl-C the process ends.

    A signal that is ignored, as under nohup or behind a shell's `&`, stays so.
    """
    interrupt = processes.interrupts(lambda: noted.append(signal.SIGINT))
    heard = {number: interrupt if number == signal.SIGINT else lambda n, _: noted.append(n) for number in ENDING}
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, heard[number])
    try:
        yield
    finally:
        for number in ENDING:
            signal.signal(number, before[number])
