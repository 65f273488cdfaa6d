"""Time of a training step of on-policy distillation, as a ratio to that of TRL's DistillationTrainer in one run.

stock   trl.DistillationTrainer as it comes, which samples through transformers' generate: same student, teacher,
        prompts, samples per step, batch, optimizer and precision, reverse KL over the whole vocabulary. Gradient
        checkpointing is off, as ours.
full    `steps.distillation.opd_trainer` with the same loss, the diagnostics included.
top_k   the same with the 16 likeliest tokens of the student: as in params.yaml.
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
import tempfile
from pathlib import Path
from typing import Any

from benches.common import bench_parser, clock, figure, in_turn, ratios, write_result
from benches.rl import SMOKE
from steps.core.files import read_jsonl
from steps.core.step import run
from steps.core.turns import prompt_turns
from steps.distillation.opd_plan import DrawPlan, plan_draws
from steps.judges.rows import RowJudge
from steps.models import checkpoints, teachers
from steps.training import run as training
from steps.training.arguments import uses_bf16

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


def planned(rows: list[dict], settings: dict) -> DrawPlan:
    return DrawPlan(
        draws=plan_draws(settings, [rows], [[]]),
        rows=len(rows),
        prompts=settings["prompts"],
        steps=settings["steps"],
        saves=0,
    )


def ours(candidate: str, parent: Path, teacher: Path, rows: list[dict], settings: dict) -> Any:
    import torch

    from steps.distillation.opd_trainer import OnPolicyTrainer

    settings = settings | ARMS[candidate]
    plan = planned(rows, settings)
    model, tokenizer = checkpoints.load_model(parent, dtype=torch.float32), checkpoints.load_tokenizer(parent)
    judge = RowJudge()

    def solves(row: dict, text: str) -> bool | None:
        return judge.verdict(row, text, settings["short_answer_words"]).sure

    watch = clock()
    with tempfile.TemporaryDirectory() as work:
        panel = teachers.Teachers([teacher])
        trainer = OnPolicyTrainer(model, tokenizer, panel, [rows], [[]], settings, plan, Path(work), solves)
        trainer.add_callback(watch)
        training.train(trainer, plan, candidate)
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
                [{"prompt": prompt_turns(rows[draw.row]["messages"])} for draw in planned(rows, settings).draws]
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
    candidates = {"stock": lambda: stock(args.parent, args.teacher, rows, settings)}
    candidates |= {name: lambda name=name: ours(name, args.parent, args.teacher, rows, settings) for name in ARMS}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    tokens: dict[str, list[float]] = {name: [] for name in candidates}
    for index, names in in_turn(list(candidates), args.rounds):
        for name in names:
            watch = candidates[name]()
            seconds[name].append(watch.seconds / args.steps)
            tokens[name].append(watch.tokens / args.steps)
        print(f"round {index + 1}: " + "  ".join(f"{name} {seconds[name][-1]:.3f} s" for name in names), flush=True)
    figures = [
        figure(
            f"a step of {name}, of stock TRL's distillation",
            ratios(seconds[name], seconds["stock"]),
            most=BARS.get(name),
        )
        for name in ARMS
    ]
    diagnostics = ratios(seconds["top_k"], seconds["plain"])
    figures.append(figure("a step with diagnostics, of one without", diagnostics, most=BAR_OF_DIAGNOSTICS))
    detail = {key: settings[key] for key in ("prompts", "generations", "batch_size", "max_new_tokens")}
    detail |= {"steps": args.steps, "threads": args.threads, "seconds_per_step": seconds, "tokens_per_step": tokens}
    write_result(args.out, __doc__, figures, detail)


if __name__ == "__main__":
    parser = bench_parser(__doc__, "opd", SMOKE)
    parser.add_argument("--parent", type=Path, default=Path("results/fable/foundation/sft"))
    parser.add_argument("--teacher", type=Path, default=Path("results/fable/reinforcement/grpo"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/data/exercises/split/train.jsonl"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each arm in each round")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="samples in one pass; all of a step if not given")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    run(main, parser)
