"""Time of a training step of on-policy distillation, as a ratio to that of TRL's DistillationTrainer in one run.

stock   trl.DistillationTrainer as it comes, which samples through transformers' generate: same student, teacher,
        prompts, samples per step, batch, optimizer and precision, reverse KL over the whole vocabulary. Gradient
        checkpointing is off, as ours.
full    `steps.distiller` with the same loss, the diagnostics included.
top_k   the same with the 16 likeliest tokens of the student: the default of params.yaml.
plain   the default without its diagnostics: what they cost is the ratio of top_k to this.

Each prompt is given to the stock trainer as often as ours samples it. Rounds are pairwise: in every round each arm
takes the same steps, in changing order, so that a slow minute of the machine meets all. The ratio of each round is one
observation. Steps are of sampling, scoring and learning; the first of each arm, which allocates the optimizer's state,
is not counted. The learning rate is too small to change what is sampled, so that all arms write responses of the same
lengths. On a CPU, what is counted is the CPU time of this process, so that others on the machine matter less; on a GPU,
wall-clock time.

Run as: python -m benches.opd --parent results/fable/foundation/sft --teacher results/fable/reinforcement/grpo
    --data results/fable/data/exercises/split/train.jsonl --out reports/bench/opd.json
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benches.rl import clock
from steps import checkpoints, distiller, opd, teachers, training, verify
from steps.common import read_jsonl, run, write_json

FULL = {"kind": "full"}
TOP_K = {"kind": "top_k", "of": "student", "k": 16, "rest": "renormalised"}
DIAGNOSTICS = {"top_k": 16, "width": 8}
ARMS = {
    "full": {"support": FULL, "diagnostics": DIAGNOSTICS},
    "top_k": {"support": TOP_K, "diagnostics": DIAGNOSTICS},
    "plain": {"support": TOP_K, "diagnostics": None},
}
BARS = {"full": 1.15, "top_k": 1.15}
# What the diagnostics may add to a step, as a ratio of top_k to plain.
BAR_OF_DIAGNOSTICS = 1.05
SETTINGS = {
    "divergence": {"kind": "reverse_kl"},
    "horizon": None,
    "off_policy": 0.0,
    "pass_rate": None,
    "curriculum": "shuffle",
    "resident": None,
    "temperature": 1.0,
    "short_answer_words": 5,
    "learning_rate": 1e-9,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "gradient_checkpointing": False,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "auto",
    "optimizer": "adamw",
    "sampler": {"kind": "transformers"},
    "keep_samples": 4,
    "sources": [{"data": "bench", "share": 1.0, "teachers": [0]}],
    "weights": [1.0],
    "seed": 0,
}


def planned(rows: list[dict], settings: dict) -> opd.Plan:
    return opd.Plan(
        draws=opd.plan_draws(settings, [rows], [[]]),
        rows=len(rows),
        prompts=settings["prompts"],
        steps=settings["steps"],
        saves=0,
    )


def ours(arm: str, parent: Path, teacher: Path, rows: list[dict], settings: dict) -> Any:
    import torch

    settings = settings | ARMS[arm]
    plan = planned(rows, settings)
    model, tokenizer = checkpoints.load_model(parent, dtype=torch.float32), checkpoints.load_tokenizer(parent)
    solves = partial(verify.solves, short_answer_words=settings["short_answer_words"])
    watch = clock()
    with tempfile.TemporaryDirectory() as work:
        trainer = distiller.build_trainer(
            model, tokenizer, teachers.Teachers([teacher]), [rows], [[]], settings, plan, Path(work), solves
        )
        trainer.add_callback(watch)
        training.train(trainer, plan, arm)
    return watch


def stock(parent: Path, teacher: Path, rows: list[dict], settings: dict) -> Any:
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DistillationConfig, DistillationTrainer

    samples = settings["prompts"] * settings["generations"]
    watch = clock()
    with tempfile.TemporaryDirectory() as work:
        trainer = DistillationTrainer(
            model=checkpoints.load_model(parent, dtype=torch.float32),
            teacher_model=teachers.Teachers([teacher]).model(0),
            args=DistillationConfig(
                output_dir=work,
                max_steps=settings["steps"],
                per_device_train_batch_size=settings["batch_size"],
                gradient_accumulation_steps=samples // settings["batch_size"],
                max_completion_length=settings["max_new_tokens"],
                temperature=settings["temperature"],
                beta=1.0,
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
                [{"prompt": rows[draw.row]["messages"][:-1]} for draw in planned(rows, settings).draws]
            ),
            processing_class=checkpoints.load_tokenizer(parent),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    return watch


def spread(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


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
    arms = {"stock": lambda: stock(args.parent, args.teacher, rows, settings)}
    arms |= {name: lambda name=name: ours(name, args.parent, args.teacher, rows, settings) for name in ARMS}
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

    def ratios(of: str, to: str) -> dict[str, float]:
        return spread([one / by for one, by in zip(seconds[of], seconds[to], strict=True)])

    result = {}
    print(f"{'arm':6} {'s/step':>7} {'tokens':>7} {'of stock':>9} {'range':>14} {'bar':>5}")
    for name in arms:
        found = {"seconds": statistics.median(seconds[name]), "tokens": statistics.mean(tokens[name])}
        found |= {"of_stock": ratios(name, "stock"), "bar": BARS.get(name)}
        result[name] = found
        of = found["of_stock"]
        print(
            f"{name:6} {found['seconds']:7.3f} {found['tokens']:7.0f} {of['median']:9.2f}"
            f" {of['min']:6.2f} – {of['max']:5.2f} {found['bar'] or '':>5}"
        )
    diagnostics = ratios("top_k", "plain") | {"bar": BAR_OF_DIAGNOSTICS}
    low, high = diagnostics["min"], diagnostics["max"]
    print(f"diagnostics, top_k of plain: {diagnostics['median']:.2f} ({low:.2f} – {high:.2f})")
    setup = {key: settings[key] for key in ("prompts", "generations", "batch_size", "max_new_tokens")}
    setup |= {"rounds": args.rounds, "steps": args.steps, "threads": args.threads}
    setup["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    write_json(args.out, setup | {"seconds_per_step": seconds, "arms": result, "diagnostics": diagnostics})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path, default=Path("results/fable/foundation/sft"))
    parser.add_argument("--teacher", type=Path, default=Path("results/fable/reinforcement/grpo"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/data/exercises/split/train.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("reports/bench/opd.json"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each arm in each round")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="samples in one pass; all of a step if not given")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    run(main, parser)
