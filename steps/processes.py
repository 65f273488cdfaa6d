"""The processes of one training: which of them this is, and what they tell each other.

`steps.launch` starts them; every one runs the whole step, and the first alone writes. Without it there is one.
Values travel as tensors of JSON: nothing is pickled.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

# A launcher names a file here; what a process writes to it asks for all of them to be started again.
AGAIN = "TEMPER_AGAIN"
# Exit code of a process that asks for that: BSD's EX_TEMPFAIL.
TEMPORARY_FAILURE = 75
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


def check_apart(settings: dict) -> None:
    """Raise a ValueError for what needs every weight, its gradient and its moments whole in each process."""
    adapter = settings.get("adapter", {"kind": "full"})["kind"]
    unfit = {
        # bitsandbytes and Adafactor know no parts of a matrix; ZeRO's are vectors, which Adafactor treats otherwise.
        f"optimizer: {settings['optimizer']}": settings["optimizer"] != "adamw",
        f"adapter.kind: {adapter}": adapter in ("adalora", "qlora"),
        "progressive": bool(settings.get("progressive")),
        # DeepSpeed scales its loss itself, which a state does not hold.
        "precision: fp16": settings["precision"] == "fp16",
    }
    for name in (name for name, is_unfit in unfit.items() if is_unfit):
        raise ValueError(f"{name}: does not go with launch kinds fsdp, zero2 and zero3; change it, or write kind: ddp")


def check(settings: dict, stage: str, among: int) -> None:
    """Raise a ValueError for a training whose steps cannot be divided among so many processes."""
    if settings["batch_size"] < among:
        raise ValueError(
            f"batch_size: {settings['batch_size']} rows of a forward pass cannot be divided among {among} processes;"
            " raise it, or launch fewer"
        )
    if among > 1 and settings.get("loss_type") == "bnpo":
        raise ValueError(
            "loss_type: bnpo is a mean over the tokens of each pass, which several processes divide; write dapo, or"
            " launch one"
        )
    for key in ("prompts", "batch_size") if stage in ("rl", "opd") else ():
        if settings[key] % among:
            raise ValueError(
                f"{key}: {settings[key]} cannot be divided evenly among {among} processes; write a multiple, or launch"
                " another number"
            )


def check_shared(settings: dict, stage: str, kind: str, among: int) -> None:
    """Raise a ValueError for a training that so many processes cannot share in that way, a kind of `launch`."""
    check(settings, stage, among)
    if kind not in ("single", "ddp"):
        check_apart(settings)


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


def _device() -> Any:
    """Where the processes' backend wants its tensors."""
    import torch
    import torch.distributed as dist

    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
