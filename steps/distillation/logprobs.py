"""A teacher's distribution over the next token at every trained place of some rows, its likeliest k entries on disk.

Forward-KL distillation on given texts asks the teacher the same thing in every epoch; here it is asked once, and is
not in memory when the student trains. A place is one that predicts a token of the last assistant turn, the turn's end
token included: those that `steps.recipes.sft` trains on. What the k leave out is kept as one number, so that a
student can be compared on k + 1 events without a bias (a top k that is renormalised teaches too peaked a distribution:
Anshumann et al. 2025, arXiv:2503.16870).

Out, `tokens` being the places of all rows in the order of the rows, as NumPy files:

- ids.npy [tokens, k], uint16 where the vocabulary has at most 65,536 entries, else uint32;
- logps.npy [tokens, k] float16, natural logarithms normalised over all tokens, descending;
- tail.npy [tokens] float16, logarithm of the mass outside the k, at least -20;
- lengths.npy [rows] uint32, places of each row of the input; 0 for a row that is left out, which skipped.jsonl names.

At most 6k + 4 bytes a token, all files together, from some hundred tokens on (a file's header has 128 bytes).

Run as: python -m steps.distillation.logprobs --settings '{"top_k": 32, "max_length": 256, "thinking": "kept", …}'
    --input results/fable/generate/exercises/grpo/train.jsonl --teacher results/fable/reinforcement/grpo
    --out results/fable/logprobs/exercises/grpo
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.core.files import fresh_folder, read_jsonl, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.engines.transformers import Engine
from steps.models import checkpoints, head
from steps.training import supervised

if TYPE_CHECKING:
    import torch
from steps.distillation.teacher_cache import FILES, FLOOR, LOWEST, last_turn

# --- places --------------------------------------------------------------------------------------


def encode_rows(path: Path, tokenizer: Any, settings: dict) -> tuple[list[dict | None], list[dict]]:
    """Every row of a file as `steps.recipes.sft` encodes it, with "begin" and "end" of its last turn; None where
    left out.

    Raises:
        ValueError: no row is left, or two have one id.
    """
    settings = settings | {"completion_only_loss": True}
    kept, skipped = supervised.encode_rows(path, tokenizer, settings, last_only=True, step="logprobs")
    by_id = {row["id"]: row for row in kept}
    names = [row["id"] for row in read_jsonl(path)]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{path}: {times} rows have the id {name}, so that none of them can be found; give each its own"
        )
    for row in kept:
        row["begin"], row["end"] = last_turn(list(row["labels"]))
    return [by_id.get(name) for name in names], skipped


# --- asking --------------------------------------------------------------------------------------


def likeliest(logits: torch.Tensor, k: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k likeliest tokens of each place and the mass of the others.

    Args:
        logits: [places, vocabulary or more] float32; what is beyond is no token's, and counts for nothing.

    Returns:
        ids: [places, k].
        logps: [places, k], descending.
        tail: [places], the logarithm of the mass outside, -inf where there is none. Summed over the others' logits:
            1 minus the k would be noise below 1e-7.
    """
    import torch

    logits = logits[:, :vocabulary]
    total = logits.logsumexp(-1, keepdim=True)
    top, ids = logits.topk(k, dim=-1)
    rest = logits.scatter(-1, ids, -torch.inf)
    return ids, top - total, rest.logsumexp(-1) - total.squeeze(-1)


def ask(
    model: Any, rows: list[dict], k: int, vocabulary: int, batch_size: int, pad_id: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """The teacher at every place of encoded rows, in batches sorted by length, right-padded.

    Returns:
        An iterator over (index of the row, ids [n, k], logps [n, k], tail [n]).
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = [list(rows[i]["input_ids"]) for i in batch]
        width = max(map(len, ids))
        tokens = torch.tensor([own + [pad_id] * (width - len(own)) for own in ids], device=model.device)
        mask = torch.tensor([[1] * len(own) + [0] * (width - len(own)) for own in ids], device=model.device)
        # The place before a token predicts it. No logits of the prompts' places: they are as wide as the vocabulary.
        first = min(rows[i]["begin"] for i in batch) - 1
        with torch.inference_mode():
            logits = head.read(
                model, input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=width - first
            )
            for b, i in enumerate(batch):
                places = slice(rows[i]["begin"] - 1 - first, rows[i]["end"] - 1 - first)
                top = head.per_place(partial(likeliest, k=k, vocabulary=vocabulary), [logits[b, places].float()])
                yield i, *(part.cpu().numpy() for part in top)


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    k = settings["top_k"]
    teacher_files = checkpoints.check(args.teacher)
    tokenizer = checkpoints.load_tokenizer(args.teacher)
    rows, skipped = encode_rows(args.input, tokenizer, settings)
    kept = [row for row in rows if row is not None]

    engine = Engine.load(args.teacher, settings["batch_size"])
    vocabulary = min(engine.model.get_output_embeddings().weight.shape[0], checkpoints.token_count(tokenizer))
    if not 1 <= k <= vocabulary:
        raise ValueError(f"logprobs.top_k: {k} of a vocabulary of {vocabulary:,}; set 1 to {vocabulary:,}, such as 32")
    longest = max(kept, key=lambda row: len(row["input_ids"]))
    if len(longest["input_ids"]) > engine.max_length:
        raise ValueError(
            f"{args.input}, row {longest['id']}: {len(longest['input_ids'])} tokens do not fit the teacher's context of"
            f" {engine.max_length}; lower logprobs.max_length to that"
        )

    lengths = np.array([row["end"] - row["begin"] if row is not None else 0 for row in rows], dtype=np.uint32)
    ends = lengths.cumsum(dtype=np.int64)
    tokens = int(ends[-1])
    begins = [int(end - length) for end, length, row in zip(ends, lengths, rows, strict=True) if row is not None]
    out = fresh_folder(args.out)
    shapes = {"ids": (np.uint16 if vocabulary <= 2**16 else np.uint32, (tokens, k))}
    shapes |= {"logps": (np.float16, (tokens, k)), "tail": (np.float16, (tokens,))}
    files = {
        name: np.lib.format.open_memmap(out / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (dtype, shape) in shapes.items()
    }
    progress, read, outside = Progress("logprobs", tokens, "tokens"), 0, 0.0
    for i, ids, logps, tail in ask(engine.model, kept, k, vocabulary, settings["batch_size"], engine.pad_id):
        part = slice(begins[i], begins[i] + len(ids))
        outside += float(np.exp(tail.astype(np.float64)).sum())
        files["ids"][part], files["logps"][part] = ids, logps.clip(min=LOWEST)
        files["tail"][part] = tail.clip(min=FLOOR)
        read += len(ids)
        progress.update(read)
    assert read == tokens
    for file in files.values():
        file.flush()
    np.save(out / "lengths.npy", lengths)
    if skipped:
        write_jsonl(out / "skipped.jsonl", skipped)
    reasons = [record["reason"] for record in skipped]
    counts: dict[str, Any] = {"in": len(rows), "kept": len(kept)}
    counts["quarantined"] = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert counts["in"] == counts["kept"] + len(skipped)
    size = sum((out / f"{name}.npy").stat().st_size for name in FILES)
    counts |= {"tokens": tokens, "bytes": size, "bytes_per_token": round(size / tokens, 3)}
    counts |= {"mean_tail": outside / tokens, "vocabulary": vocabulary}
    write_manifest(
        out,
        step="logprobs",
        settings=settings,
        inputs=[args.input, *teacher_files],
        counts=counts,
        started=started,
        tokens=sum(len(row["input_ids"]) for row in kept),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="train.jsonl of the generate step")
    parser.add_argument("--teacher", type=Path, required=True, help="the checkpoint that is asked")
    run(main, parser)
