"""Whether a training will fit, before its data is made and its queue is paid for: an estimate, then two real steps.

Needs the models that a recipe descends and learns from (not their trained descendants, which are of the same shape),
its settings and how it is launched. The estimate is `steps.training.memory`'s, by term, against the memory that is
there (`steps.preflight.machine`); where it does not fit, the step ends with what would (`steps.preflight.remedies`).
Then the stage's own trainer takes two optimizer steps on made-up rows of full length (`steps.preflight.rehearse`), two
because the optimizer's state is there from the second on, in a process of its own that may have no more memory than the
training could: where that runs out, it takes smaller parts of a batch, as `steps.training.run` does, and the verdict is
`smaller` instead of `fits`. Rewards are made up, and vLLM is not started: the engine of transformers samples.

Out: preflight.json (estimate by term, measured peak and their ratio, what is there, seconds of a step, disk, verdict),
row.txt (a line of the table that the target `preflight` shows).

Run as: python -m steps.preflight.preflight --settings '{"stage": "sft", "headroom": 0.1, "prompt_tokens": 256,
    "recipe": {…}}'
    --kind single --processes 1 --model data/fable/base --work work/fable/preflight/sft
    --out results/fable/preflight/sft
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from steps.core.asked import as_argument
from steps.core.files import fresh_folder, read_json, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.step import ERROR_PREFIX, USER_ERROR, run
from steps.models import checkpoints, teachers
from steps.preflight import machine
from steps.preflight.rehearse import ATTEMPT, trained_parser
from steps.preflight.remedies import advice, remedies
from steps.settings.launches import check_launch
from steps.settings.reinforcement import EVAL_ROWS
from steps.settings.stages import STAGES
from steps.training import memory
from steps.training.arguments import check_settings, uses_bf16
from steps.training.memory import GIB

# By SIGKILL, as Python and as a shell say it.
KILLED = (-9, 137)
# Settings, launch kind and processes → bytes by term.
Estimate = Callable[[dict, str, int], dict[str, float]]


def table(name: str, result: dict) -> str:
    """A line of what the target shows, under `memory.HEAD`."""
    hours = f"{result['hours']:.1f}" if "hours" in result else "-"
    numbers = [result["estimate"]["total"] / GIB, result["measured"]["peak"] / GIB, result["usable"] / GIB]
    return "".join(
        [
            f"{name:<28}{result['stage']:<9}",
            *(f"{number:>12.2f}" for number in numbers),
            f"{result['seconds_per_step']:>12.2f}{hours:>8}  {result['verdict']}\n",
        ]
    )


def check_context(stage: str, settings: dict, prompt: int, readers: list[Path]) -> None:
    """Refuse prompts that leave no room for a response in the context of a model that reads both.

    Raises:
        ValueError: naming both lengths.
    """
    written, context = memory.written_tokens(stage, settings), min(map(teachers.context, readers))
    if written is not None and prompt + written > context:
        raise ValueError(
            f"preflight.prompt_tokens: {prompt} and the {written} tokens of a response do not fit a context of"
            f" {context}; lower one"
        )


def estimator(args: argparse.Namespace, folders: list[Path], device: str, on_device: int) -> Estimate:
    """What estimates the training's memory under other settings, another kind and number of processes.

    Args:
        folders: the model, its teachers, and its judge where it has one.
        on_device: bytes of a whole GPU, or of the machine's memory.
    """
    stage, settings = args.settings["stage"], args.settings["recipe"]
    shape, *others = map(memory.read_shape, folders)
    judge = others.pop() if args.judge else None
    half = uses_bf16(settings["precision"]) or settings["precision"] == "fp16"

    def estimate(settings: dict, kind: str, count: int) -> dict[str, float]:
        return memory.needs(
            stage, settings, shape, others, judge,
            prompt_tokens=args.settings["prompt_tokens"], kind=kind, processes=count, device=device, half=half,
            on_device=on_device,
        )  # fmt: skip

    return estimate


def check_memory(args: argparse.Namespace, estimate: Estimate, device: str, usable: int, source: str) -> dict:
    """The estimate of the training as it is, by term.

    Args:
        usable: bytes that it may take.
        source: where they are.

    Raises:
        ValueError: it does not fit; the message says what would.
    """
    stage, settings = args.settings["stage"], args.settings["recipe"]
    terms = estimate(settings, args.kind, args.processes)
    for name, size in terms.items():
        print(f"{name:<12} {size / GIB:10.3f} GiB", flush=True)
    if terms["total"] <= usable:
        return terms
    largest = sorted(terms.keys() - {"total"}, key=terms.__getitem__, reverse=True)[:3]
    fix = advice(
        settings,
        args.kind,
        remedies(settings, stage, args.kind, args.processes, device),
        lambda changed, kind, count: estimate(changed, kind, count)["total"] <= usable,
    )
    raise ValueError(
        f"{stage} of {args.model} needs about {terms['total'] / GIB:.3g} GiB"
        f" ({', '.join(f'{name} {terms[name] / GIB:.3g}' for name in largest)}), and {usable / GIB:.3g} may be used"
        f" ({source}); {fix}"
    )


def try_steps(args: argparse.Namespace, limit: int) -> dict:
    """Start `steps.preflight.rehearse` as the training will be started, and read what it measured.

    Raises:
        ValueError: it ran out of memory even with the smallest parts, or met a mistake of the user's.
    """
    out = args.work / "attempt"
    options = ["--kind", args.kind, "--processes", str(args.processes), "--model", args.model, "--work", args.work]
    options += ["--teachers", *args.teachers] if args.teachers else []
    options += ["--judge", args.judge] if args.judge else []
    options += ["--settings", as_argument(args.settings), "--out", out, "--memory", limit]
    launch = [sys.executable, "-m", "steps.training.launch", "--kind", args.kind, "--processes", args.processes]
    done = subprocess.run(map(str, [*launch, "steps.preflight.rehearse", *options]), stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode == USER_ERROR:
        said = [line for line in done.stderr.splitlines() if line.startswith(ERROR_PREFIX)]
        raise ValueError(said[-1].removeprefix(ERROR_PREFIX))
    if done.returncode in KILLED:
        raise ValueError(
            f"the tried steps were killed, as a system does that has no memory left ({limit / GIB:.1f} GiB seemed to be"
            " there); ask for more, or lower batch_size"
        )
    assert done.returncode == 0, f"the tried steps ended with {done.returncode}"
    return read_json(out / ATTEMPT)


def hours(stage: str, settings: dict, seconds: float) -> dict[str, float]:
    """How long the training takes by the seconds of a step; where its rows are not counted yet, a bound for 1,000. A
    look at held-out questions takes no longer than a step that writes as many responses."""
    if memory.written_tokens(stage, settings) is not None:
        steps = settings["steps"]
        if every := settings.get("eval_steps"):
            looks = 1 + -(-steps // every)
            asked = settings.get("eval_rows", EVAL_ROWS)
            steps += looks * asked / (settings["prompts"] * settings["generations"])
        return {"hours": steps * seconds / 3600}
    rows = settings["batch_size"] * settings["gradient_accumulation"]
    return {"hours_of_1000_rows": settings["epochs"] * 1000 / rows * seconds / 3600}


def main(args: argparse.Namespace) -> None:
    started = time.time()
    stage, settings, headroom = (args.settings[key] for key in ("stage", "recipe", "headroom"))
    check_settings(settings, STAGES[stage].settings)
    check_launch(settings, args.kind, args.processes)
    folders = [args.model, *args.teachers, *([args.judge] if args.judge else [])]
    inputs = list(dict.fromkeys(path for folder in folders for path in checkpoints.check(folder)))
    check_context(stage, settings, args.settings["prompt_tokens"], [args.model, *args.teachers])
    device, there, where, on_device = machine.available(args.processes)
    usable = int(there * (1 - headroom))
    source = f"{there / GIB:.3g} {where}, less headroom {headroom:g}"
    terms = check_memory(args, estimator(args, folders, device, on_device), device, usable, source)
    wanted = machine.disk(stage, settings, memory.read_shape(args.model))
    free = machine.check_disk(wanted, args.work, args.out)

    fresh_folder(args.work)
    # vLLM is not started: what it would take is not for the tried steps, nor in what they measure.
    vllm = terms.get("vllm", 0)
    measured = try_steps(args, int(usable - vllm))
    shutil.rmtree(args.work)
    cut = measured.get("micro_batch")
    if cut:
        print(
            f"warning: {cut['asked']} rows do not fit in a forward pass, {cut['used']} do: lower batch_size", flush=True
        )
    result = {
        "stage": stage,
        "launch": {"kind": args.kind, "processes": args.processes},
        "device": device,
        "available": there,
        "usable": usable,
        "estimate": terms,
        "measured": measured,
        # Of the training alone: the interpreter and its libraries are in neither.
        "ratio": (measured["peak"] - measured["before"]) / (terms["total"] - terms["runtime"] - vllm),
        "seconds_per_step": measured["seconds"],
        "disk": {"needed": wanted, "free": free},
        "verdict": "smaller" if cut else "fits",
        **hours(stage, settings, measured["seconds"]),
    }
    out = fresh_folder(args.out)
    write_json(out / "preflight.json", result)
    write_text(out / "row.txt", table(out.name, result))
    write_manifest(
        out,
        step="preflight",
        settings=args.settings,
        inputs=inputs,
        counts={"verdict": result["verdict"]} | ({"micro_batch": cut} if cut else {}),
        started=started,
    )


if __name__ == "__main__":
    run(main, trained_parser(__doc__))
