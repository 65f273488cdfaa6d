"""The processes of one training: which of them this is, and what they tell each other.

`steps.training.launch` starts them; every one runs the whole step, and the first alone writes. Without it there is one.
Values travel as tensors of JSON: nothing is pickled.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A launcher names a file here; what a process writes to it asks for all of them to be started again.
AGAIN = "TEMPER_AGAIN"
# Exit code of a process that asks for that: BSD's EX_TEMPFAIL.
TEMPORARY_FAILURE = 75
# Seconds within which two SIGINTs are one Ctrl-C: a launcher may send on what the terminal has sent to all.
ONE_PRESS = 1.0
# Of Linux's prctl: the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1


def rank() -> int:
    """Which process this is, from 0."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Whether this is the one that writes files and shows progress."""
    return rank() == 0


def follow_launcher() -> None:
    """End when the launcher does, of `kill -9` too: a second launch must not meet the processes of the first."""
    if count() > 1:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def apart() -> bool:
    """Whether the model, or what trains it, is spread over them: so says the launcher of FSDP and DeepSpeed."""
    return "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))


def shared(value: Any) -> Any:
    """What the first process has, in all of them: a value that JSON can say.

    Every process must call it. Decisions that rest on a computed number go through it, for two devices may round it
    differently and then wait for each other for ever.
    """
    if count() == 1:
        return value
    import torch
    import torch.distributed as dist

    device = _device()
    text = json.dumps(value).encode() if first() else b""
    size = torch.tensor([len(text)], device=device)
    dist.broadcast(size, 0)
    data = torch.frombuffer(bytearray(text or bytes(int(size))), dtype=torch.uint8).to(device)
    dist.broadcast(data, 0)
    return json.loads(bytes(data.cpu().tolist()))


def gathered(tensor: Any) -> Any:
    """The tensors of all processes, one after the other along the first dimension, in each of them.

    Their lengths may differ. Every process must call it.
    """
    if count() == 1:
        return tensor
    import torch
    import torch.distributed as dist

    device = _device()
    lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(count())]
    dist.all_gather(lengths, torch.tensor([len(tensor)], device=device))
    longest = max(int(length) for length in lengths)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]), device=device)
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in range(count())]
    dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)]).to(tensor.device)


def total(value: float) -> float:
    """The sum over the processes. Every process must call it."""
    if count() == 1:
        return value
    import torch

    return gathered(torch.tensor([value], dtype=torch.float64)).sum().item()


def before(count_here: int) -> int:
    """How many the processes before this one have, of what each has so many of. Every process must call it."""
    if count() == 1:
        return 0
    import torch

    return int(gathered(torch.tensor([count_here]))[: rank()].sum())


def kept(tensor: Any) -> Any:
    """A tensor in main memory, where the first process will write it; nothing of it in the others."""
    return tensor.cpu() if first() else tensor.new_empty(0)


def wait() -> None:
    """Go on when all have come here."""
    if count() > 1:
        import torch.distributed as dist

        dist.barrier()


def start_again() -> None:
    """Run this step again from its start, in all processes; does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    if count() == 1:
        os.execv(sys.executable, sys.orig_argv)
    import psutil

    Path(os.environ[AGAIN]).write_text("again", encoding="utf-8")
    # They wait for this one in a communication, out of which a signal that they may note does not take them.
    for other in psutil.Process(os.getppid()).children():
        if other.pid != os.getpid():
            other.kill()
    os._exit(TEMPORARY_FAILURE)


def interrupts(first: Callable[[], object]) -> Callable[[int, Any], None]:
    """A handler of SIGINT: the first Ctrl-C calls `first` and says so, the second ends this process at once.

    At once is without a traceback, and without the work of the exit handlers: what is on the disk stays as it is.
    """
    pressed: list[float] = []

    def handler(number: int, frame: Any) -> None:
        now = time.monotonic()
        if pressed and now - pressed[0] > ONE_PRESS:
            # Not print: the signal may have come in the middle of one.
            os.write(1, b"interrupted again: ended at once; start again to go on from the last saved state\n")
            os._exit(128 + number)
        if not pressed:
            pressed.append(now)
            os.write(1, b"interrupted: the state is saved after the step at hand; Ctrl-C again ends at once\n")
            first()

    return handler


def _device() -> Any:
    """Where the processes' backend wants its tensors."""
    import torch
    import torch.distributed as dist

    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
