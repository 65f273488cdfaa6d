"""SFT throughput in useful tokens (padding not counted) per second, against two yardsticks in one run.

bare    a PyTorch loop over the same model with the same packed batches, laid out before the clock starts:
        forward, cross-entropy, backward, clipping, fused AdamW, and nothing else.
padded  TRL's SFTTrainer with its own data preparation, shuffling and padding collator, the same rows per batch.
        Precision and gradient checkpointing are set as ours (on a CPU, TRL's defaults of both would slow it further).

Rounds are pairwise: ours, bare and padded follow each other in every round on the same rows, in changing
order, so that a slow minute of the machine meets all three. The ratio of each round is one observation. On a CPU, time
is that of this process, on a GPU that of the clock; the first step of each does not count.

Run as: python -m benches.sft_throughput --parent data/fable/base
    --data results/fable/data/problems/bucket/train.jsonl --out reports/bench/sft_throughput.json
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path

from benches.common import bench_parser, clock, figure, in_turn, now, ratios, write_result
from steps.core.files import read_jsonl
from steps.core.step import run
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.training import packing
from steps.training import run as training
from steps.training.arguments import trainer_arguments, uses_bf16
from steps.training.plan import Plan
from steps.training.supervised import build_trainer, encode, layout

SETTINGS = {
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "gradient_accumulation": 1,
    "packing": True,
    "completion_only_loss": True,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "auto",
    "optimizer": "adamw",
    "gradient_checkpointing": False,
    "adapter": {"kind": "full"},
    "seed": 0,
}


def ours(parent: Path, tokenizer, rows: list[dict], plan: Plan, settings: dict) -> float:
    import torch

    model = checkpoints.load_model(parent, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as work:
        trainer = build_trainer(model, tokenizer, rows, settings, plan, Path(work))
        watch = clock()
        trainer.add_callback(watch)
        training.train(trainer, plan, "ours", valid_batches=[])
    return watch.seconds


def bare(parent: Path, tokenizer, rows: list[dict], plan: Plan, settings: dict) -> float:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = checkpoints.load_model(parent, dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    batches = [layout([rows[i] for i in batch], settings, tokenizer.pad_token_id) for batch in plan.batches]
    for step, batch in enumerate(batches):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(settings["precision"])):
            logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=packing.IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            began = now()
    return now() - began


def padded(parent: Path, tokenizer, messages: list[list[dict]], plan: Plan, settings: dict) -> float:
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    own = {"train_sampling_strategy", "remove_unused_columns", "per_device_train_batch_size", "logging_steps"}
    with tempfile.TemporaryDirectory() as work:
        arguments = trainer_arguments(settings, plan, Path(work), cuts=1)
        trainer = SFTTrainer(
            model=checkpoints.load_model(parent, dtype=torch.float32),
            args=SFTConfig(
                **{key: value for key, value in arguments.items() if key not in own},
                per_device_train_batch_size=settings["batch_size"],
                max_length=settings["max_length"],
                assistant_only_loss=True,
            ),
            train_dataset=Dataset.from_dict({"messages": messages}),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        watch = clock()
        trainer.add_callback(watch)
        trainer.train()
    return watch.seconds


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(args.threads)
    settings = SETTINGS | {"batch_size": args.batch_size, "max_length": args.max_length}
    tokenizer = checkpoints.load_tokenizer(args.parent)
    chat = Chat(tokenizer)
    chosen, rows = [], []
    for row in islice(read_jsonl(args.data), args.batch_size * args.steps):
        (encoded,) = encode(chat, row, completion_only=True)
        if len(encoded["input_ids"]) <= args.max_length:
            chosen.append(row["messages"])
            rows.append(encoded)
    plan = Plan(
        batches=packing.plan_batches(len(rows), args.batch_size, 1, seed=0),
        accumulation=1,
        lengths=[len(row["input_ids"]) for row in rows],
        saves=0,
    )
    tokens = sum(plan.lengths) * (plan.steps - 1) / plan.steps  # of the timed steps
    candidates = {
        "ours": lambda: ours(args.parent, tokenizer, rows, plan, settings),
        "bare": lambda: bare(args.parent, tokenizer, rows, plan, settings),
        "padded": lambda: padded(args.parent, tokenizer, chosen, plan, settings),
    }
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for index, names in in_turn(list(candidates), args.rounds):
        for name in names:
            rates[name].append(tokens / candidates[name]())
        print(
            f"round {index + 1}: " + "  ".join(f"{name} {rates[name][-1]:,.0f} tokens/s" for name in names), flush=True
        )
    figures = [
        figure("tokens a second of ours, of a bare loop's", ratios(rates["ours"], rates["bare"]), least=0.9),
        figure("tokens a second of ours, of a padded TRL trainer's", ratios(rates["ours"], rates["padded"]), least=1.3),
    ]
    batch = {"rows": len(rows), "tokens": sum(plan.lengths), "batch_size": args.batch_size, "steps": plan.steps}
    detail = batch | {"max_length": args.max_length, "threads": args.threads, "tokens_per_second": rates}
    write_result(args.out, __doc__, figures, detail)


if __name__ == "__main__":
    parser = bench_parser(__doc__, "sft_throughput", {"rounds": 1, "steps": 2, "batch_size": 4})
    parser.add_argument("--parent", type=Path, default=Path("data/fable/base"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/data/problems/bucket/train.jsonl"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=25, help="steps of each arm in each round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    run(main, parser)
