"""Time of a training step of each method of reinforcement learning, as a ratio to that of TRL's GRPOTrainer in one run.

stock   trl.GRPOTrainer as it comes, which samples through transformers' generate: same model, prompts, rewards, group
        size, batch, optimizer and precision. Gradient checkpointing is off, as ours.
others  `steps.grpo` with each method at the defaults of params.yaml; the divergence from the start is measured at every
        fifth step, as there.

Rounds are pairwise: in every round each arm takes the same steps, in changing order, so that a slow minute of the
machine meets all. The ratio of each round is one observation. Steps are of sampling, rewards, scoring and learning; the
first of each arm, which allocates the optimizer's state, is not counted. The learning rate is too small to change what
is sampled, so that all arms write responses of the same lengths. On a CPU, what is counted is the CPU time of this
process, so that others on the machine matter less; on a GPU, wall-clock time.

Run as: python -m benches.rl --parent results/fable/foundation/sft
    --data results/fable/gate/grpo/prompts.jsonl --out reports/bench/rl.json
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from steps import checkpoints, grpo, rewards, rl, rollouts, training, verify
from steps.common import read_jsonl, run, write_json

ANSWER = {"kind": "answer", "weight": 1.0, "equivalence": "numeric"}
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


def clock() -> Any:
    """A trainer callback whose `seconds` and `tokens` are from the end of the first step to the end of training."""
    import torch
    from transformers import TrainerCallback

    def now() -> float:
        if not torch.cuda.is_available():
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                self.began, self.seen = now(), state.num_input_tokens_seen

        def on_train_end(self, args, state, control, **kwargs):
            self.seconds, self.tokens = now() - self.began, state.num_input_tokens_seen - self.seen

    return Clock()


def ours(method: str, parent: Path, rows: list[dict], settings: dict) -> Any:
    import torch

    settings = settings | {"method": method, method: KIN[method]}
    if method == "grpo":
        del settings["grpo"]
    plan = rl.Plan(
        order=rollouts.plan_prompts(rows, settings["steps"] * settings["prompts"], "shuffle", settings["seed"]),
        prompts=settings["prompts"],
        rows=len(rows),
        steps=settings["steps"],
        iterations=1,
        saves=0,
        names=["answer"],
    )
    model, tokenizer = checkpoints.load_model(parent, dtype=torch.float32), checkpoints.load_tokenizer(parent)
    watch = clock()
    with tempfile.TemporaryDirectory() as work:
        trainer = grpo.build_trainer(
            model,
            tokenizer,
            rows,
            settings,
            plan,
            Path(work),
            lambda given: rewards.Rewards(settings["rewards"], **given),
        )
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
        found = [verify.worked_answer(completion[0]["content"]) for completion in completions]
        return [float(f is not None and verify.equal(f, a)) for f, a in zip(found, answer, strict=True)]

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
                bf16=training.uses_bf16(settings["precision"]),
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
                [{"prompt": rows[i]["messages"][:-1], "answer": rows[i]["answer"]} for i in order]
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
    arms = {"stock": lambda: stock(args.parent, rows, settings)}
    arms |= {name: lambda name=name: ours(name, args.parent, rows, settings) for name in KIN}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    tokens: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(args.rounds):
        names = list(arms)
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            watch = arms[name]()
            seconds[name].append(watch.seconds / args.steps)
            tokens[name].append(watch.tokens / args.steps)
        found = "  ".join(f"{name} {seconds[name][-1]:.3f} s" for name in names)
        print(f"round {index + 1}: {found}", flush=True)

    result = {}
    print(f"{'arm':6} {'s/step':>7} {'tokens':>7} {'of stock':>9} {'range':>14} {'of grpo':>8} {'bar':>5}")
    for name in arms:
        found = {"seconds": statistics.median(seconds[name]), "tokens": statistics.mean(tokens[name])}
        for yardstick in ("stock", "grpo"):
            ratios = [one / by for one, by in zip(seconds[name], seconds[yardstick], strict=True)]
            found[f"of_{yardstick}"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        found["bar"] = BARS.get(name)
        result[name] = found
        of = found["of_stock"]
        print(
            f"{name:6} {found['seconds']:7.3f} {found['tokens']:7.0f} {of['median']:9.2f}"
            f" {of['min']:6.2f} – {of['max']:5.2f} {found['of_grpo']['median']:8.2f} {found['bar'] or '':>5}"
        )
    setup = {key: settings[key] for key in ("prompts", "generations", "batch_size", "max_new_tokens")}
    setup |= {"rounds": args.rounds, "steps": args.steps, "threads": args.threads}
    setup["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    write_json(args.out, setup | {"seconds_per_step": seconds, "arms": result})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path, default=Path("results/fable/foundation/sft"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/gate/grpo/prompts.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("reports/bench/rl.json"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each arm in each round")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--batch-size", type=int, help="samples in one pass; all of a step if not given")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    run(main, parser)
