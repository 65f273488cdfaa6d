"""Time of a training step of each adapter on the CPU, as a ratio to that of full in one run.

All models are in memory at once, and every round takes one step of each on the same packed batch: forward, backward,
clipping, AdamW, and what the adapter does after a step. The ratio of each round is one observation. What is counted is
the CPU time of this process, so that others on the machine matter less.

Run as: python -m benches.adapters --parent data/fable/base
    --data results/fable/data/problems/bucket/train.jsonl --out reports/bench/adapters.json
"""

import argparse
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benches.common import bench_parser, figure, ratios, write_result
from steps.core.files import read_jsonl
from steps.core.step import run
from steps.models import checkpoints
from steps.models.adapters import hooks
from steps.models.adapters.attach import attach, weight_counts
from steps.models.chat import Chat
from steps.training import packing
from steps.training.supervised import encode

# Near those of PEFT-Arena's table.
ADAPTERS = {
    "full": {"kind": "full"},
    **{kind: {"kind": kind, "r": 8, "alpha": 16} for kind in ("lora", "rslora", "dora", "pissa", "milora", "qlora")},
    "adalora": {
        "kind": "adalora", "init_r": 12, "target_r": 8, "alpha": 16, "tinit": 0.1, "tfinal": 0.3, "every": 10,
        "orthogonality": 0.5,
    },
    "vera": {"kind": "vera", "r": 256},
    "oft": {"kind": "oft", "block_size": 32},
    "boft": {"kind": "boft", "block_size": 8, "factors": 2},
    "ia3": {"kind": "ia3"},
}  # fmt: skip


class Candidate:
    """A model with its adapter and optimizer."""

    def __init__(self, parent: Path, adapter: dict, steps: int):
        import torch

        model = checkpoints.load_model(parent, torch.float32)
        self.model = attach(model, adapter, seed=0, steps=steps).train()
        self.weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4)

    def step(self, batch: dict[str, Any], number: int) -> float:
        """Seconds of CPU time."""
        import torch

        began = time.process_time()
        hooks.penalised(self.model(**batch, use_cache=False).loss, self.model, 1).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        hooks.after_step(self.model, number)
        self.optimizer.zero_grad()
        return time.process_time() - began


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(args.threads)
    tokenizer = checkpoints.load_tokenizer(args.parent)
    chat = Chat(tokenizer)
    encoded = (text for row in read_jsonl(args.data) for text in encode(chat, row, completion_only=True))
    rows = list(islice((row for row in encoded if len(row["input_ids"]) <= args.max_length), args.batch_size * 10))
    batches = []
    for start in range(0, len(rows), args.batch_size):
        members = rows[start : start + args.batch_size]
        bins = packing.pack([len(row["input_ids"]) for row in members], args.max_length)
        batches.append(packing.collate(members, bins, tokenizer.pad_token_id))

    candidates = {name: Candidate(args.parent, adapter, args.rounds) for name, adapter in ADAPTERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(args.rounds + 1):
        for name, candidate in candidates.items():
            spent = candidate.step(batches[number % len(batches)], number + 1)
            if number:  # the first allocates the optimizer's state
                seconds[name].append(spent)

    figures, trained = [], {}
    for name, candidate in candidates.items():
        trained[name] = weight_counts(candidate.model)
        figures.append(figure(f"a step of {name}, of one of full", ratios(seconds[name], seconds["full"])))
    detail = {"batch_size": args.batch_size, "threads": args.threads, "parameters": trained, "seconds": seconds}
    write_result(args.out, __doc__, figures, detail)


if __name__ == "__main__":
    parser = bench_parser(__doc__, "adapters", {"rounds": 20, "batch_size": 1, "max_length": 128})
    parser.add_argument("--parent", type=Path, default=Path("data/fable/base"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/data/problems/bucket/train.jsonl"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    run(main, parser)
