"""Start a training step in one process or in several.

One process is the step itself. Several go through `accelerate launch` with a configuration of profiles/accelerate:
ddp (every process has the whole model), fsdp, zero2, zero3 (its parts are spread over them). What the step computes
does not change with their number, beyond rounding: each forward pass's rows are divided among them.

Run as: python -m steps.training.launch --kind ddp --processes 2 steps.recipes.sft --settings … --out …
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from steps.core import processes
from steps.core.step import ERROR_PREFIX, USER_ERROR, alone, stands
from steps.settings.launches import check_kind
from steps.settings.training import LAUNCHES

CONFIGS = Path(__file__).parents[2] / "profiles" / "accelerate"


def arguments(kind: str, count: int, step: list[str], gpus: int) -> list[str]:
    """What `accelerate launch` is told.

    Args:
        step: its module and arguments.
        gpus: that this job may use.

    Raises:
        ValueError: kind and count do not fit each other, the step or the machine.
    """
    check_kind(kind, count, step[0].rpartition(".")[2])
    if kind != "ddp" and not gpus:
        # accelerate would quietly make it ddp.
        raise ValueError(f"launch: kind {kind} needs GPUs, and this job sees none; write kind: ddp")
    if kind in ("zero2", "zero3") and not importlib.util.find_spec("deepspeed"):
        raise ValueError(f"launch: kind {kind} needs DeepSpeed; pip install deepspeed==0.19.8, or write kind: fsdp")
    if 0 < gpus < count:
        raise ValueError(f"launch: processes: {count}, but this job sees {gpus} GPUs; ask for as many, or lower it")
    return ["--config_file", str(CONFIGS / f"{kind}.yaml"), "--num_processes", str(count), "--module", *step]


def count_gpus() -> int:
    """GPUs that this job may use, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return 0
    return len(listed.stdout.splitlines()) if listed.returncode == 0 else 0


def run(command: list[str]) -> int:
    """Run the processes to their end, again as long as one asks for that; returns the first failure's exit code.

    They are in sessions of their own, which a terminal's Ctrl-C does not reach: of it they are told to end as of
    SIGTERM, and of a second one this process ends, and they with it (`processes.follow_launcher`).
    """
    interrupted: list[bool] = []

    def end() -> None:
        interrupted.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, processes.interrupts(end))

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Seconds that the processes have to put their state aside when they are told to end; 30 otherwise.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        again = Path(scratch, "again")
        os.environ[processes.AGAIN] = str(again)
        while True:
            try:
                told = launch_command_parser().parse_args(command)
                # Not SIGINT: torch's own answer to it would wait for the processes each time.
                told.signals_to_handle = ",".join(
                    each.name
                    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
                    if signal.getsignal(each) != signal.SIG_IGN
                )
                launch_command(told)
                return 0
            except SignalException as error:
                return 128 + (signal.SIGINT if interrupted else error.sigval)
            except ChildFailedError as error:
                if not again.exists():
                    code = error.get_first_failure()[1].exitcode
                    return code if code > 0 else 128 - code
                again.unlink()


def main(args: argparse.Namespace) -> None:
    if args.kind == "single" and args.processes == 1:
        if count_gpus() > 1:
            # TRL refuses a process that sees several.
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        command = [sys.executable, "-m", *args.step]
        os.execv(command[0], command)
    try:
        command = arguments(args.kind, args.processes, args.step, count_gpus())
    except ValueError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    out = parser.parse_known_args(args.step[1:])[0].out
    with alone(out) if out else contextlib.nullcontext():
        if out and stands(out, args.step):
            print(f"{out} stands: asked of the same, by the same code, of the same bytes", flush=True)
            return
        code = run(command)
    sys.exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=LAUNCHES, required=True, help="how the training is spread")
    parser.add_argument("--processes", type=int, required=True, help="how many processes")
    parser.add_argument("step", nargs=argparse.REMAINDER, help="module of the step, and its arguments")
    main(parser.parse_args())
