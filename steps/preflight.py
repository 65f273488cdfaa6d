"""Whether a training will fit, before its data is made and its queue is paid for: an estimate, then two real steps.

Needs the models that a recipe descends and learns from (not their trained descendants, which are of the same shape),
its settings and how it is launched. The estimate is `steps.memory`'s, by term, against the memory that is there; where
it does not fit, the step ends with what would. Then the stage's own trainer takes two optimizer steps on made-up rows
of full length, two because the optimizer's state is there from the second on, in a process of its own that may have no
more memory than the training could: where that runs out, it goes down the ladder of `steps.training`, and the verdict
is `smaller` instead of `fits`. Rewards are made up, and vLLM is not started: the engine of transformers samples.

Out: preflight.json (estimate by term, measured peak and their ratio, what is there, seconds of a step, disk, verdict),
row.txt (a line of the table that the target `preflight` shows).

Run as: python -m steps.preflight --settings '{"stage": "sft", "headroom": 0.1, "prompt_tokens": 256, "recipe": {…}}'
    --kind single --processes 1 --model data/fable/base --work work/fable/preflight/sft
    --out results/fable/preflight/sft
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import (
    adapters,
    checkpoints,
    distill,
    distiller,
    grpo,
    memory,
    opd,
    processes,
    reward,
    rewards,
    rl,
    sft,
    teachers,
    training,
)
from steps.common import as_argument, fresh_folder, read_json, run, step_parser, write_json, write_manifest, write_text
from steps.memory import FP32, GIB

# The first step makes the optimizer's state, the second has all at once.
STEPS = 2
# Forward passes of a step that are tried: from the second on there are gradients of an earlier one.
PASSES = 2
# Tokens of a teacher's stored distributions in the tried steps of objective forward_kl: `logprobs.top_k` by default.
STORED = 32
# A file that the state of a run is written to, while the one before is still there.
STATES = 2
USER_ERROR, ERROR = 2, "temper: error: "
# By SIGKILL, as Python and as a shell say it.
KILLED = (-9, 137)


# --- what is there -------------------------------------------------------------------------------


def machine_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """Bytes that a process may take on this machine, and who says so: what is free, or the limit of a container or a
    job."""
    free = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    found = [(int(free["MemAvailable"].split()[0]) * 1024, "free on this machine")]
    if limit := os.environ.get("SLURM_MEM_PER_NODE"):
        found.append((int(limit) * 2**20, "in this SLURM job"))
    elif limit := os.environ.get("SLURM_MEM_PER_CPU"):
        found.append((int(limit) * 2**20 * int(os.environ["SLURM_CPUS_ON_NODE"]), "in this SLURM job"))
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top) and (left := _left(folder, *names)) is not None:
                found.append((left, "left in this container"))
    return min(found)


def _left(folder: Path, limit: str, used: str, cached: str) -> int | None:
    """Bytes that a cgroup may still take; its cache of files makes room by itself."""
    if not (folder / limit).is_file() or (text := (folder / limit).read_text().strip()) == "max":
        return None
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(text) - int((folder / used).read_text()) + int(stat.get(cached, 0))


def available(count: int) -> tuple[str, int, str, int]:
    """Device, bytes that each of `count` processes may take on it, who says so, and bytes of a whole GPU, or of the
    machine's memory."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return "cuda", free, f"free of {total / GIB:.1f} GiB on {torch.cuda.get_device_name()}", total
    free, where = machine_memory()
    where += f", for each of {count} processes" if count > 1 else ""
    return "cpu", free // count, where, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- what would fit ------------------------------------------------------------------------------


def remedies(settings: dict, stage: str, kind: str, count: int, device: str) -> list[tuple[dict, str, int]]:
    """What to try instead, the least costly first, each beside those before it: settings, kind and number of processes.

    Fewer rows in a forward pass (and samples written at once) in more passes, gradient checkpointing, an optimizer of 8
    bits, an adapter, and on GPUs more processes that share out what they can. What a launch refuses is left out.
    """
    found, now = [], dict(settings)

    def add(**changed: Any) -> None:
        if goes(now | changed, stage, kind, count):
            now.update(changed)
            found.append((dict(now), kind, count))

    smaller = [{}]
    while (rows := (now | smaller[-1])["batch_size"]) % 2 == 0:
        last = now | smaller[-1]
        changed = {"batch_size": rows // 2}
        if "gradient_accumulation" in now:
            changed["gradient_accumulation"] = 2 * last["gradient_accumulation"]
        if last.get("sample_batch", 0) > rows // 2:
            changed["sample_batch"] = last["sample_batch"] // 2
        smaller.append(changed)
    for changed in smaller[1:]:
        add(**changed)
    if not now["gradient_checkpointing"]:
        add(gradient_checkpointing=True)
    if now["optimizer"] == "adamw":
        add(optimizer="adamw_8bit")
    if now.get("adapter", {}).get("kind") == "full":
        add(adapter={"kind": "lora", "r": 16, "alpha": 32})
    sharing = "zero2" if stage in memory.ON_POLICY else "fsdp"
    if kind in ("single", "ddp") and device == "cuda":
        # Of the optimizers the one that can be taken apart.
        now |= {key: settings[key] for key in smaller[-1]} | {"optimizer": "adamw"}
        for many in (2, 4, 8):
            divided = [changed for changed in smaller if goes(now | changed, stage, sharing, many)]
            if many > count and divided:
                found.append((now | divided[-1], sharing, many))
    return found


def goes(settings: dict, stage: str, kind: str, count: int) -> bool:
    """Whether so many processes can share a training in that way."""
    try:
        processes.check_shared(settings, stage, kind, count)
    except ValueError:
        return False
    return True


def advice(settings: dict, kind: str, found: list[tuple[dict, str, int]], fits: Callable[..., bool]) -> str:
    """What to do: the first remedy that makes it fit, as it is written.

    Args:
        fits: of (settings, kind, processes), whether the estimate does.
    """
    for changed, new_kind, count in found:
        if fits(changed, new_kind, count):
            words = [f"{key}: {yaml(value)}" for key, value in changed.items() if value != settings[key]]
            words += [f"launch: {{kind: {new_kind}, processes: {count}}}"] if new_kind != kind else []
            return f"set {', '.join(words)}"
    return "nothing in the settings would make it fit: take a smaller model or ask for more memory"


def yaml(value: Any) -> str:
    """A setting as params.yaml has it."""
    return json.dumps(value).replace('"', "")


# --- disk ----------------------------------------------------------------------------------------


def disk(stage: str, settings: dict, shape: memory.Shape) -> dict[str, float]:
    """Bytes that a training writes: the states that it resumes from (trained weights in fp32, optimizer, a
    self-teacher), of which two are there while one is written, and the checkpoint. `progressive` puts aside three
    epochs' weights."""
    adapter = settings.get("adapter", {"kind": "full"})
    count = memory.trained(shape, adapter)
    state = count * FP32 * (1 + memory.copies(stage, settings))
    state += memory.optimizer(shape, adapter, settings["optimizer"])
    epochs = 3 * count * FP32 if settings.get("progressive") else 0
    return {
        "states": STATES * state + epochs,
        "checkpoint": count * FP32 if adapter["kind"] != "full" else shape.stored,
    }


def check_disk(needed: dict[str, float], work: Path, out: Path) -> dict[str, float]:
    """Free bytes where both are written.

    Raises:
        ValueError: they are too few.
    """
    free, places = {}, {"states": work, "checkpoint": out}
    for name, folder in places.items():
        while not folder.exists():
            folder = folder.parent
        places[name] = folder
        free[name] = shutil.disk_usage(folder).free
    shared = os.stat(places["states"]).st_dev == os.stat(places["checkpoint"]).st_dev
    for name, folder in places.items():
        want = sum(needed.values()) if shared else needed[name]
        if want > free[name]:
            raise ValueError(
                f"disk: states and checkpoint need {want / GIB:.1f} GiB, {folder.resolve()} has"
                f" {free[name] / GIB:.1f} GiB free; make room, or put work/ and results/ on a larger disk"
            )
    return free


# --- the steps that are tried --------------------------------------------------------------------


class Clock:
    """When each step was done."""

    def __init__(self):
        self.times = [time.monotonic()]

    def after(self, step: int) -> None:
        self.times.append(time.monotonic())


class Stored:
    """A teacher's distributions at made-up rows, as `logprobs.Cached` has them."""

    def __getitem__(self, tokens: int) -> tuple[Any, Any, Any]:
        import numpy as np

        ids = np.tile(np.arange(STORED), (tokens, 1))
        share = -np.log(STORED + 1.0)
        return ids, np.full(ids.shape, share, np.float32), np.full(tokens, share, np.float32)


class Coin:
    """Rewards 1 and 0 by turns: every group then has an advantage, and half of the samples are right."""

    def score(self, name: str, rows: list[dict], responses: list[str], tokens: list[int]) -> list[rewards.Scored]:
        return [rewards.Scored(float(i % 2)) for i in range(len(rows))]


def full_rows(settings: dict, shape: memory.Shape) -> list[dict]:
    """As many rows of the greatest length as a forward pass has, every token trained."""
    import torch

    drawn = torch.randint(shape.vocabulary, (settings["batch_size"], settings["max_length"]))
    return [{"input_ids": ids, "labels": ids} for ids in drawn.tolist()]


def prompts_of(tokenizer: Any, tokens: int, count: int) -> list[dict]:
    """Rows whose prompts have so many tokens, every second one a few less, for batches of prompts are padded."""

    def row(words: int) -> dict:
        messages = [{"role": "user", "content": " ".join(["12"] * words)}, {"role": "assistant", "content": "#### 1"}]
        return {"messages": messages, "answer": "1", "id": "made", "file": "made.jsonl", "line": 1, "row": 0}

    def length(words: int) -> int:
        text = tokenizer.apply_chat_template(row(words)["messages"][:1], tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text)["input_ids"])

    if length(1) > tokens:
        raise ValueError(
            f"preflight.prompt_tokens: {tokens} is less than the {length(1)} tokens of a prompt of one word; raise it"
        )
    low, high = 1, tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(middle) <= tokens else (low, middle - 1)
    return [row(max(1, low - i % 2)) for i in range(count)]


def tried_plan(plan: type, settings: dict, lengths: list[int]) -> Any:
    """STEPS steps of the same full batch."""
    passes = min(settings["gradient_accumulation"], PASSES)
    batch = list(range(len(lengths)))
    return plan(batches=[batch] * passes * STEPS, accumulation=passes, lengths=lengths, saves=1)


def fine_tuning(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of the stages sft, cpt and distill."""
    tokenizer, model = load(args.model, settings)
    rows = full_rows(settings, shape)
    plan = tried_plan(training.Plan, settings, [settings["max_length"]] * len(rows))
    settings = settings | {"gradient_accumulation": plan.accumulation}
    extra = {}
    if settings.get("objective") == "forward_kl":
        rows = [row | {"cached": (Stored(), settings["max_length"] - 1)} for row in rows]
        extra = {"lay": distill.layout, "loss": distill.loss}
    return sft.build_trainer(model, tokenizer, rows, settings, plan, args.work, **extra), plan


def preferences(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of stage reward."""
    tokenizer = checkpoints.load_tokenizer(args.model)
    model = reward.build_model(args.model, tokenizer.pad_token_id, settings["seed"])
    ids = [row["input_ids"] for row in full_rows(settings, shape)]
    pairs = [{"id": "made", "chosen_ids": one, "rejected_ids": one[::-1]} for one in ids]
    plan = tried_plan(reward.Plan, settings, [2 * settings["max_length"]] * len(pairs))
    settings = settings | {"gradient_accumulation": plan.accumulation}
    return reward.build_trainer(model, tokenizer, pairs, settings, plan, args.work), plan


def reinforced(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of stage rl."""
    tokenizer, model = load(args.model, settings)
    settings = settings | {"steps": STEPS * settings["iterations"], "sampler": {"kind": "transformers"}}
    rows = prompts_of(tokenizer, args.settings["prompt_tokens"], settings["prompts"])
    plan = rl.Plan(
        order=[*range(len(rows))] * STEPS,
        prompts=settings["prompts"],
        rows=len(rows),
        steps=settings["steps"],
        iterations=settings["iterations"],
        saves=1,
        names=[*settings["rewards"]],
    )
    trainer = grpo.build_trainer(model, tokenizer, rows, settings, plan, args.work, lambda given: Coin())
    if args.judge:
        trainer.judge = teachers.Teachers([args.judge]).model(0)  # held, as the reward model is
    return trainer, plan


def distilled(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of stage opd."""
    tokenizer, model = load(args.model, settings)
    horizon = settings["horizon"] and {"tokens": settings["horizon"]["tokens"]}
    settings = settings | {"steps": STEPS, "horizon": horizon, "curriculum": "shuffle"}
    settings |= {"sampler": {"kind": "transformers"}}
    panel = teachers.Teachers(args.teachers, settings["resident"])
    rows = [prompts_of(tokenizer, args.settings["prompt_tokens"], settings["prompts"]) for _ in settings["sources"]]
    written = {"role": "assistant", "content": " ".join(["12"] * settings["max_new_tokens"])}
    stored = [[row | {"messages": [*row["messages"][:-1], written]} for row in own] for own in rows]
    draws = opd.plan_draws(settings, rows, stored if settings["off_policy"] else [[] for _ in rows])
    plan = opd.Plan(draws=draws, rows=sum(map(len, rows)), prompts=settings["prompts"], steps=STEPS, saves=1)
    trainer = distiller.build_trainer(
        model, tokenizer, panel, rows, stored, settings, plan, args.work, lambda row, text: None
    )
    return trainer, plan


STAGES = {
    "sft": fine_tuning,
    "cpt": fine_tuning,
    "distill": fine_tuning,
    "reward": preferences,
    "rl": reinforced,
    "opd": distilled,
}


def load(folder: Path, settings: dict) -> tuple[Any, Any]:
    """Tokenizer and model with its adapter, as a stage starts with them."""
    import torch

    model = checkpoints.load_model(folder, dtype=torch.float32)
    # adalora's shares are of the whole training, whose steps are not known yet.
    steps = 100 * settings["adapter"].get("every", 1)
    return checkpoints.load_tokenizer(folder), adapters.attach(model, settings["adapter"], settings["seed"], steps)


def attempt(args: argparse.Namespace) -> None:
    """Take the steps with no more memory than there is, and write what they took, in the process started for it."""
    import torch

    stage, settings = args.settings["stage"], args.settings["recipe"]
    training.check_settings(settings, stage)
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.memory / total))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (args.memory, resource.RLIM_INFINITY))
    import trl.trainer.sft_trainer  # noqa: F401  what a training loads, before it loads its model

    before = held()
    trainer, plan = STAGES[stage](args, settings, memory.read_shape(args.model))
    if stage in memory.ON_POLICY:
        # Every response is then as long as it may be.
        trainer.engine.stop_ids = []
    clock = Clock()
    training.train(trainer, plan, "preflight", watchers=[clock])
    peak = processes.gathered(torch.tensor([held(most=True)], dtype=torch.float64)).max().item()
    if not processes.first():
        return
    passes = settings.get("gradient_accumulation", 1)
    last = plan.steps // STEPS  # optimizer steps on the last batch of samples
    seconds = (clock.times[-1] - clock.times[-1 - last]) / last * passes / min(passes, PASSES)
    found = {"peak": peak, "before": before, "seconds": seconds, "rows": settings["batch_size"]}
    write_json(args.out / "attempt.json", found | trainer.ladder.counts())


def held(most: bool = False) -> int:
    """Bytes that this process holds where it trains, now or at most so far: of a GPU's memory what PyTorch's allocator
    has reserved, of a CPU's what is resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() if most else torch.cuda.memory_reserved()
    return resident("VmHWM" if most else "VmRSS")


def resident(field: str) -> int:
    """Bytes of this process's own status: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


# --- the step ------------------------------------------------------------------------------------


def table(name: str, found: dict) -> str:
    """A line of what the target shows, under `memory.HEAD`."""
    hours = f"{found['hours']:.1f}" if "hours" in found else "-"
    numbers = [found["estimate"]["total"] / GIB, found["measured"]["peak"] / GIB, found["usable"] / GIB]
    return "".join(
        [
            f"{name:<28}{found['stage']:<9}",
            *(f"{number:>12.2f}" for number in numbers),
            f"{found['seconds_per_step']:>12.2f}{hours:>8}  {found['verdict']}\n",
        ]
    )


def try_steps(args: argparse.Namespace, limit: int) -> dict:
    """Start `attempt` as the training will be started, and read what it found.

    Raises:
        ValueError: it ran out of memory even with the smallest parts, or found a mistake of the user's.
    """
    out = args.work / "attempt"
    options = ["--kind", args.kind, "--processes", str(args.processes), "--model", args.model, "--work", args.work]
    options += ["--teachers", *args.teachers] if args.teachers else []
    options += ["--judge", args.judge] if args.judge else []
    options += ["--settings", as_argument(args.settings), "--out", out, "--memory", limit]
    launch = [sys.executable, "-m", "steps.launch", "--kind", args.kind, "--processes", args.processes]
    done = subprocess.run(map(str, [*launch, "steps.preflight", *options]), stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode == USER_ERROR:
        said = [line for line in done.stderr.splitlines() if line.startswith(ERROR)]
        raise ValueError(said[-1].removeprefix(ERROR))
    if done.returncode in KILLED:
        raise ValueError(
            f"the tried steps were killed, as a system does that has no memory left ({limit / GIB:.1f} GiB seemed to be"
            " there); ask for more, or lower batch_size"
        )
    assert done.returncode == 0, f"the tried steps ended with {done.returncode}"
    return read_json(out / "attempt.json")


def main(args: argparse.Namespace) -> None:
    if args.memory:
        return attempt(args)
    started = time.time()
    stage, settings, headroom = (args.settings[key] for key in ("stage", "recipe", "headroom"))
    training.check_settings(settings, stage)
    processes.check_shared(settings, stage, args.kind, args.processes)
    folders = [args.model, *args.teachers, *([args.judge] if args.judge else [])]
    inputs = list(dict.fromkeys(path for folder in folders for path in checkpoints.check(folder)))
    written, prompt = memory.written_tokens(stage, settings), args.settings["prompt_tokens"]
    context = min(map(teachers.context, [args.model, *args.teachers]))
    if written is not None and prompt + written > context:
        raise ValueError(
            f"preflight.prompt_tokens: {prompt} and the {written} tokens of a response do not fit a context of"
            f" {context}; lower one"
        )
    shape, *others = map(memory.read_shape, folders)
    judge = others.pop() if args.judge else None
    device, there, where, on_device = available(args.processes)
    half = training.uses_bf16(settings["precision"]) or settings["precision"] == "fp16"

    def estimate(settings: dict, kind: str, count: int) -> dict[str, float]:
        return memory.needs(
            stage, settings, shape, others, judge,
            prompt_tokens=prompt, kind=kind, processes=count, device=device, half=half, on_device=on_device,
        )  # fmt: skip

    usable = int(there * (1 - headroom))
    terms = estimate(settings, args.kind, args.processes)
    for name, size in terms.items():
        print(f"{name:<12} {size / GIB:10.3f} GiB", flush=True)
    if terms["total"] > usable:
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
            f" ({there / GIB:.3g} {where}, less headroom {headroom:g}); {fix}"
        )
    wanted = disk(stage, settings, shape)
    free = check_disk(wanted, args.work, args.out)

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
    found = {
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
    }
    if written is not None:
        found["hours"] = settings["steps"] * measured["seconds"] / 3600
    else:
        # Of rows as long as they may be: a bound.
        rows = settings["batch_size"] * settings["gradient_accumulation"]
        found["hours_of_1000_rows"] = settings["epochs"] * 1000 / rows * measured["seconds"] / 3600
    out = fresh_folder(args.out)
    write_json(out / "preflight.json", found)
    write_text(out / "row.txt", table(out.name, found))
    write_manifest(
        out,
        step="preflight",
        settings=args.settings,
        inputs=inputs,
        counts={"verdict": found["verdict"]} | ({"micro_batch": cut} if cut else {}),
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--kind", default="single", help="how the training will be launched")
    parser.add_argument("--processes", type=int, default=1, help="with how many processes")
    parser.add_argument("--model", type=Path, required=True, help="the model that the recipe descends from")
    parser.add_argument("--teachers", type=Path, nargs="*", default=[], help="those that its teachers descend from")
    parser.add_argument("--judge", type=Path, help="the one that its reward model descends from")
    parser.add_argument("--work", type=Path, required=True, help="folder of the tried steps, removed at the end")
    parser.add_argument("--memory", type=int, help="take the steps with so many bytes: how this step starts itself")
    run(main, parser)
