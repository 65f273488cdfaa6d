"""Time of a training step of each method of reinforcement learning, as a ratio to that of TRL's GRPOTrainer in one run.

stock   trl.GRPOTrainer as it comes, which samples through transformers' generate: same model, prompts, rewards, group
        size, batch, optimizer and precision. Gradient checkpointing is off, as ours.
others  `steps.reinforcement.rl_trainer` with each method in the wording of SDPO's paper (gspo's step is grpo's); the
divergence
        from the start is measured at every fifth step, as there.

Rounds are pairwise: in every round each arm takes the same steps, in changing order, so that a slow minute of the
machine meets all. The ratio of each round is one observation. Steps are of sampling, rewards, scoring and learning; the
first of each arm, which allocates the optimizer's state, is not counted. The learning rate is too small to change what
is sampled, so that all arms write responses of the same lengths. On a CPU, what is counted is the CPU time of this
process, so that others on the machine matter less; on a GPU, wall-clock time.

Run as: python -m benches.rl --parent results/fable/foundation/sft
    --data results/fable/gate/grpo/prompts.jsonl --out reports/bench/rl.json
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benches.common import bench_parser, clock, figure, in_turn, ratios, write_result
from steps.core.files import read_jsonl
from steps.core.step import run
from steps.core.turns import prompt_turns
from steps.engines import rollouts
from steps.judges.canonical import equal
from steps.judges.reading import worked_answer
from steps.models import checkpoints
from steps.reinforcement import rewards
from steps.reinforcement.rl_plan import plan_rollouts
from steps.training import run as training
from steps.training.arguments import uses_bf16

ANSWER = {"kind": "answer", "weight": 1.0}
SETTINGS = {
    "iterations": 1,
    "curriculum": "shuffle",
    "rewards": {"answer": ANSWER},
    "success": {"reward": "answer", "least": 0.5},
    "max_failures": 0.02,
    "temperature": 1.0,
    "clip": {"low": 0.2, "high": 0.28},
    "kl": 0.0,
    "watch_kl": 5,
    "loss_type": "dapo",
    "scale_rewards": "group",
    "contexts": {
        "sibling": "{prompt}\n\nCorrect solution:\n{solution}\n\nCorrectly solve the original question.",
        "truth": "{prompt}\n\nThe correct answer is {answer}.",
    },
    "learning_rate": 1e-9,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "gradient_checkpointing": False,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "auto",
    "optimizer": "adamw",
    "sampler": {"kind": "transformers"},
    "keep_groups": 2,
    "seed": 0,
}
AVERAGE = {"kind": "ema", "rate": 0.05}
COPY = {"kind": "snapshot", "every": 10}
SDPO = {"context": "sibling", "teacher": AVERAGE, "divergence": 0.5, "top_k": 100, "ratio_clip": 2.0}
KIN = {
    "grpo": {},
    "sdpo": SDPO,
    "srpo": SDPO | {"entropy_weight": 1.0},
    "rlsd": {"context": "truth", "teacher": COPY, "mix": 0.5, "until": 50, "clip": 0.2},
    "rlrt": {"context": "sibling", "teacher": COPY, "mix": 0.5, "clip": 1.0},
}
BARS = {"grpo": 1.1} | dict.fromkeys(["sdpo", "srpo", "rlsd", "rlrt"], 1.5)


def ours(method: str, parent: Path, rows: list[dict], settings: dict) -> Any:
    import torch

    from steps.reinforcement.rl_trainer import PolicyTrainer

    settings = settings | {"method": method, method: KIN[method]}
    if method == "grpo":
        del settings["grpo"]
    plan = plan_rollouts(rows, settings | {"saves": 0})
    model, tokenizer = checkpoints.load_model(parent, dtype=torch.float32), checkpoints.load_tokenizer(parent)
    watch = clock()
    with tempfile.TemporaryDirectory() as work:
        scorer = partial(rewards.Rewards, settings["rewards"])
        trainer = PolicyTrainer(model, tokenizer, rows, settings, plan, Path(work), scorer)
        trainer.add_callback(watch)
        with trainer.rewards:
            training.train(trainer, plan, method, watchers=[trainer.teacher] if trainer.teacher else [])
    return watch


def stock(parent: Path, rows: list[dict], settings: dict) -> Any:
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    def right(completions, answer, **_):
        found = [worked_answer(completion[0]["content"]) for completion in completions]
        return [float(f is not None and equal(f, a)) for f, a in zip(found, answer, strict=True)]

    order = rollouts.plan_prompts(rows, settings["steps"] * settings["prompts"], "shuffle", settings["seed"])
    samples = settings["prompts"] * settings["generations"]
    watch = clock()
    with tempfile.TemporaryDirectory() as work:
        trainer = GRPOTrainer(
            model=checkpoints.load_model(parent, dtype=torch.float32),
            reward_funcs=[right],
            args=GRPOConfig(
                output_dir=work,
                max_steps=settings["steps"],
                per_device_train_batch_size=settings["batch_size"],
                gradient_accumulation_steps=samples // settings["batch_size"],
                num_generations=settings["generations"],
                max_completion_length=settings["max_new_tokens"],
                temperature=settings["temperature"],
                epsilon=settings["clip"]["low"],
                epsilon_high=settings["clip"]["high"],
                beta=0.0,
                learning_rate=settings["learning_rate"],
                lr_scheduler_type="constant",
                max_grad_norm=settings["max_grad_norm"],
                bf16=uses_bf16(settings["precision"]),
                activation_checkpointing=False,
                gradient_checkpointing=None,
                logging_steps=1,
                shuffle_dataset=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                seed=settings["seed"],
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": prompt_turns(rows[i]["messages"]), "answer": rows[i]["answer"]} for i in order]
            ),
            processing_class=checkpoints.load_tokenizer(parent),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    return watch


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(args.threads)
    rows = list(read_jsonl(args.data))
    settings = SETTINGS | {
        "steps": args.steps + 1,
        "prompts": args.prompts,
        "generations": args.generations,
        "batch_size": args.batch_size or args.prompts * args.generations,
        "sample_batch": 256,
        "max_new_tokens": args.max_new_tokens,
    }
    candidates = {"stock": lambda: stock(args.parent, rows, settings)}
    candidates |= {name: lambda name=name: ours(name, args.parent, rows, settings) for name in KIN}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    tokens: dict[str, list[float]] = {name: [] for name in candidates}
    for index, names in in_turn(list(candidates), args.rounds):
        for name in names:
            watch = candidates[name]()
            seconds[name].append(watch.seconds / args.steps)
            tokens[name].append(watch.tokens / args.steps)
        print(f"round {index + 1}: " + "  ".join(f"{name} {seconds[name][-1]:.3f} s" for name in names), flush=True)
    figures = [
        figure(f"a step of {name}, of stock TRL's GRPO", ratios(seconds[name], seconds["stock"]), most=BARS.get(name))
        for name in KIN
    ]
    figures += [
        figure(f"a step of {name}, of our GRPO", ratios(seconds[name], seconds["grpo"]))
        for name in KIN
        if name != "grpo"
    ]
    detail = {key: settings[key] for key in ("prompts", "generations", "batch_size", "max_new_tokens")}
    detail |= {"steps": args.steps, "threads": args.threads, "seconds_per_step": seconds, "tokens_per_step": tokens}
    write_result(args.out, __doc__, figures, detail)


SMOKE = {"rounds": 1, "steps": 1, "prompts": 2, "generations": 2, "max_new_tokens": 4}

if __name__ == "__main__":
    parser = bench_parser(__doc__, "rl", SMOKE)
    parser.add_argument("--parent", type=Path, default=Path("results/fable/foundation/sft"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/gate/grpo/prompts.jsonl"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each arm in each round")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--batch-size", type=int, help="samples in one pass; all of a step if not given")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    run(main, parser)
