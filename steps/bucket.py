"""Bucket training rows by difficulty: the share of a base model's samples that answer a row correctly.

Every row is kept, and gains "pass_rate" (share of correct samples) and "bucket": hard below the first edge, easy
from the second edge on, medium between. A row without a verifiable answer has pass_rate null and bucket
"unverified". Curricula and reinforcement learning choose rows by it.

Run as: python -m steps.bucket --settings '{"samples": 4, …}' --input results/fable/data/problems/split/train.jsonl
    --model data/fable/base --out results/fable/data/problems/bucket
"""

import os
import time
from pathlib import Path

from steps import checkpoints
from steps.common import Progress, fresh_folder, read_jsonl, run, step_parser, write_jsonl, write_manifest
from steps.engine import Engine
from steps.verify import equal, worked_answer

BUCKETS = ("easy", "medium", "hard", "unverified")


def bucket_of(pass_rate: float | None, edges: list[float]) -> str:
    """Name of the bucket; `edges` are the two pass rates at which medium and easy begin."""
    if pass_rate is None:
        return "unverified"
    return "hard" if pass_rate < edges[0] else "medium" if pass_rate < edges[1] else "easy"


def pass_rate(responses: list[str], answer: str) -> float:
    """Share of responses whose answer (what follows the last `####`) equals the row's."""
    answers = [worked_answer(response) for response in responses]
    return sum(given is not None and equal(given, answer) for given in answers) / len(answers)


def check_settings(settings: dict) -> None:
    low, high = settings["edges"]
    if not 0 < low <= high <= 1:
        raise ValueError(f"bucket.edges: {settings['edges']} must rise within (0, 1], such as [0.25, 0.75]")


def main(args) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    check_settings(settings)
    rows = list(read_jsonl(args.input))
    model_files = checkpoints.check(args.model)
    engine = Engine.load(args.model, settings["batch_size"])
    verifiable = [row for row in rows if row["answer"] is not None]
    responses = engine.generate(
        [row["messages"][:-1] for row in verifiable],
        n=settings["samples"],
        temperature=settings["temperature"],
        max_new_tokens=settings["max_new_tokens"],
        seed=settings["seed"],
        progress=Progress("bucket", len(verifiable) * settings["samples"], "answers"),
    )
    rates = {row["id"]: pass_rate(texts, row["answer"]) for row, texts in zip(verifiable, responses, strict=True)}
    for row in rows:
        row["pass_rate"] = rates.get(row["id"])
        row["bucket"] = bucket_of(row["pass_rate"], settings["edges"])

    out = fresh_folder(args.out)
    write_jsonl(out / "train.jsonl", rows)
    counts = {"in": len(rows), "kept": len(rows), "quarantined": {}}
    counts |= {name: sum(row["bucket"] == name for row in rows) for name in BUCKETS}
    counts["truncated_prompts"] = engine.truncated
    assert sum(counts[name] for name in BUCKETS) == counts["in"]
    write_manifest(
        out,
        step="bucket",
        settings=settings,
        inputs=[args.input, *model_files],
        counts=counts,
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="train.jsonl of the split step")
    parser.add_argument("--model", type=Path, required=True, help="the base checkpoint that is sampled")
    run(main, parser)
