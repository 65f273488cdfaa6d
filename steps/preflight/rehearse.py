"""Two real steps of a training, on made-up rows of full length, with no more memory than there is.

`steps.preflight.preflight` starts it through the launcher, as the training will be started. Out: attempt.json (memory
at the start and at most, seconds of a step).

Run as: python -m steps.training.launch --kind single --processes 1 steps.preflight.rehearse --memory 4000000000
    --settings '{"stage": "sft", …}' --model data/fable/base --work work/fable/preflight/sft --out …
"""

import argparse
import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from steps.core import processes
from steps.core.files import write_json
from steps.core.step import run, step_parser
from steps.distillation.distill_objective import layout, loss
from steps.distillation.opd_plan import DrawPlan, plan_draws
from steps.models import checkpoints, teachers
from steps.models.adapters import tokens
from steps.models.adapters.attach import attach
from steps.preflight.machine import held
from steps.recipes.preferences import PairPlan, build_model, build_trainer
from steps.reinforcement.reward_kinds import Scored
from steps.reinforcement.rl_plan import RolloutPlan
from steps.settings import stages
from steps.settings.reinforcement import EVAL_ROWS
from steps.training import kernels, layouts, memory, supervised
from steps.training import run as training
from steps.training.arguments import check_settings
from steps.training.plan import Plan

ATTEMPT = "attempt.json"
# The first step makes the optimizer's state, the second has all at once.
STEPS = 2
# Forward passes of a step that are tried: from the second on there are gradients of an earlier one.
PASSES = 2
# Tokens of a teacher's stored distributions in the tried steps of objective forward_kl: `logprobs.top_k` by default.
STORED = 32


class Clock:
    """When each step was done."""

    def __init__(self):
        self.times = [time.monotonic()]

    def after(self, step: int) -> None:
        self.times.append(time.monotonic())


class Stored:
    """A teacher's distributions at made-up rows, as `teacher_cache.Cached` has them."""

    def __getitem__(self, tokens: int) -> tuple[Any, Any, Any]:
        import numpy as np

        ids = np.tile(np.arange(STORED), (tokens, 1))
        share = -np.log(STORED + 1.0)
        return ids, np.full(ids.shape, share, np.float32), np.full(tokens, share, np.float32)


class Coin:
    """Rewards 1 and 0 by turns: every group then has an advantage, and half of the samples are right."""

    def problem(self, row: dict) -> None:
        """It judges every row."""

    def score(
        self, name: str, rows: list[dict], responses: list[str], tokens: list[int], groups: Sequence[int]
    ) -> list[Scored]:
        return [Scored(float(i % 2)) for i in range(len(rows))]


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
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

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
    tokenizer, model, settings = load(args.model, settings)
    rows = full_rows(settings, shape)
    plan = tried_plan(Plan, settings, [settings["max_length"]] * len(rows))
    settings = settings | {"gradient_accumulation": plan.accumulation}
    extra = {}
    if settings.get("objective") == "forward_kl":
        rows = [row | {"cached": (Stored(), settings["max_length"] - 1)} for row in rows]
        extra = {"lay": layout, "loss": partial(loss, vocabulary=checkpoints.token_count(tokenizer))}
    return supervised.build_trainer(model, tokenizer, rows, settings, plan, args.work, **extra), plan


def preferences(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of stage reward."""
    tokenizer = checkpoints.load_tokenizer(args.model)
    model = kernels.use(build_model(args.model, tokenizer.pad_token_id, settings["seed"]), settings)
    ids = [row["input_ids"] for row in full_rows(settings, shape)]
    pairs = [{"id": "made", "chosen_ids": one, "rejected_ids": one[::-1]} for one in ids]
    plan = tried_plan(PairPlan, settings, [2 * settings["max_length"]] * len(pairs))
    settings = settings | {"gradient_accumulation": plan.accumulation}
    return build_trainer(model, tokenizer, pairs, settings, plan, args.work), plan


def reinforced(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of stage rl."""
    from steps.reinforcement.rl_trainer import PolicyTrainer
    from steps.reinforcement.validation import HeldOut

    tokenizer, model, settings = load(args.model, settings)
    settings = settings | {"steps": STEPS * settings["iterations"], "sampler": {"kind": "transformers"}}
    settings |= {"keep_best": None}
    rows = prompts_of(tokenizer, args.settings["prompt_tokens"], settings["prompts"])
    held_out = None
    if settings.get("eval_steps"):
        most = min(settings["sample_batch"], settings.get("eval_rows", EVAL_ROWS))
        asked = prompts_of(tokenizer, args.settings["prompt_tokens"], most)
        held_out = HeldOut(asked, args.work, tokenizer, model.config, settings["max_new_tokens"])
    plan = RolloutPlan(
        order=[*range(len(rows))] * STEPS,
        prompts=settings["prompts"],
        rows=len(rows),
        steps=settings["steps"],
        iterations=settings["iterations"],
        saves=1,
        names=[*settings["rewards"]],
        # Before the first step and behind the last, so that no step's time has it.
        valid_every=settings["steps"] if held_out else None,
    )
    trainer = PolicyTrainer(model, tokenizer, rows, settings, plan, args.work, lambda **_: Coin(), held_out)
    if args.judge:
        trainer.judge = teachers.Teachers([args.judge]).model(0)  # held, as the reward model is
    return trainer, plan


def distilled(args: argparse.Namespace, settings: dict, shape: memory.Shape) -> tuple[Any, Any]:
    """Trainer and plan of stage opd."""
    from steps.distillation.opd_trainer import OnPolicyTrainer

    tokenizer, model, settings = load(args.model, settings)
    horizon = settings["horizon"] and {"tokens": settings["horizon"]["tokens"]}
    settings = settings | {"steps": STEPS, "horizon": horizon, "curriculum": "shuffle"}
    settings |= {"sampler": {"kind": "transformers"}}
    panel = teachers.Teachers(args.teachers, settings["resident"])
    rows = [prompts_of(tokenizer, args.settings["prompt_tokens"], settings["prompts"]) for _ in settings["sources"]]
    written = {"role": "assistant", "content": " ".join(["12"] * settings["max_new_tokens"])}
    stored = [[row | {"messages": [*row["messages"][:-1], written]} for row in own] for own in rows]
    draws = plan_draws(settings, rows, stored if settings["off_policy"] else [[] for _ in rows])
    plan = DrawPlan(draws=draws, rows=sum(map(len, rows)), prompts=settings["prompts"], steps=STEPS, saves=1)

    def solves(row: dict, text: str) -> None:
        """Nothing can be told of made-up rows."""

    return OnPolicyTrainer(model, tokenizer, panel, rows, stored, settings, plan, args.work, solves), plan


# How the steps of each stage that trains are taken.
REHEARSALS = {
    "sft": fine_tuning,
    "cpt": fine_tuning,
    "distill": fine_tuning,
    "reward": preferences,
    "rl": reinforced,
    "opd": distilled,
}


def load(folder: Path, settings: dict) -> tuple[Any, Any, dict]:
    """Tokenizer, model with its adapter, and settings, as a stage starts with them: how the model reads rows that
    share a batch is tried here, for its check may be still to be made."""
    import torch

    model = checkpoints.load_model(folder, dtype=torch.float32)
    if "packing" in settings:
        settings, _ = layouts.settled(settings, model, [])
    else:
        layouts.pad(model, [])
    model = kernels.use(model, settings)
    tokenizer = checkpoints.load_tokenizer(folder)
    new_ids = tokens.add(tokenizer, settings["adapter"])
    # adalora's shares are of the whole training, whose steps are not known yet.
    steps = 100 * settings["adapter"].get("every", 1)
    return tokenizer, attach(model, settings["adapter"], settings["seed"], steps, new_ids), settings


def main(args: argparse.Namespace) -> None:
    import torch

    stage, settings = args.settings["stage"], args.settings["recipe"]
    check_settings(settings, stages.STAGES[stage].settings)
    if torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.memory / total))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (args.memory, resource.RLIM_INFINITY))
    import trl.trainer.sft_trainer  # noqa: F401  what a training loads, before it loads its model

    before = held()
    # The few steps have no room for a schedule, which takes no memory.
    settings |= {"schedule": "constant", "warmup_ratio": 0.0, "warmup_steps": None}
    settings |= {"min_lr_ratio": None, "decay_ratio": None}
    trainer, plan = REHEARSALS[stage](args, settings, memory.read_shape(args.model))
    if stage in stages.ON_POLICY:
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
    measured = {"peak": peak, "before": before, "seconds": seconds, "rows": settings["batch_size"]}
    write_json(args.out / ATTEMPT, measured | trainer.micro_batches.counts())


def trained_parser(doc: str) -> argparse.ArgumentParser:
    """What the rule and its rehearsal are both told of a training."""
    parser = step_parser(doc)
    parser.add_argument("--kind", default="single", help="how the training will be launched")
    parser.add_argument("--processes", type=int, default=1, help="with how many processes")
    parser.add_argument("--model", type=Path, required=True, help="the model that the recipe descends from")
    parser.add_argument("--teachers", type=Path, nargs="*", default=[], help="those that its teachers descend from")
    parser.add_argument("--judge", type=Path, help="the one that its reward model descends from")
    parser.add_argument("--work", type=Path, required=True, help="folder of the tried steps, removed at the end")
    return parser


if __name__ == "__main__":
    parser = trained_parser(__doc__)
    parser.add_argument("--memory", type=int, required=True, help="bytes that a process may take")
    run(main, parser)
