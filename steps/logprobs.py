"""A teacher's distribution over the next token at every trained place of some rows, its likeliest k entries on disk.

Forward-KL distillation on given texts asks the teacher the same thing in every epoch; here it is asked once, and is
not in memory when the student trains. A place is one that predicts a token of the last assistant turn, the turn's end
token included: those that `steps.sft` trains on. What the k leave out is kept as one number, so that a student can be
compared on k + 1 events without a bias (a top k that is renormalised teaches too peaked a distribution: Anshumann et
al. 2025, arXiv:2503.16870).

Out, `tokens` being the places of all rows in the order of the rows, as NumPy files:

- ids.npy [tokens, k], uint16 where the vocabulary has at most 65,536 entries, else uint32;
- logps.npy [tokens, k] float16, natural logarithms normalised over the whole vocabulary, descending;
- tail.npy [tokens] float16, logarithm of the mass outside the k, at least -20;
- lengths.npy [rows] uint32, places of each row of the input; 0 for a row that is left out, which skipped.jsonl names.

At most 6k + 4 bytes a token, all files together, from some hundred tokens on (a file's header has 128 bytes).

Run as: python -m steps.logprobs --settings '{"top_k": 32, "max_length": 256, "batch_size": 32}'
    --input results/fable/generate/exercises/grpo/train.jsonl --teacher results/fable/reinforcement/grpo
    --out results/fable/logprobs/exercises/grpo
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steps import checkpoints, sft
from steps.common import (
    MANIFEST,
    Progress,
    fresh_folder,
    read_jsonl,
    run,
    step_parser,
    verify_manifest,
    write_jsonl,
    write_manifest,
)
from steps.engine import Engine
from steps.packing import IGNORED

if TYPE_CHECKING:
    import torch

FILES = ("ids", "logps", "tail", "lengths")
# Log of the smallest mass outside the k that is told from none: 2e-9, which weighs nothing in a loss.
FLOOR = -20.0
# float16 ends at -65,504. A token that a teacher rules out (-inf) stays a number: 0 times -inf would be none.
LOWEST = -1e4


# --- reading -------------------------------------------------------------------------------------


class Cached:
    """The files of this step, memory-mapped: a row is read when it is asked for.

    Attributes:
        k: entries per place.
        rows: of the file that they were made from, left out ones among them.
        lengths: [rows] places of each row.

    Raises:
        ValueError: a file is missing, damaged, or does not fit the others; the message names it. Bytes that changed
            in place are found by `check`.
    """

    def __init__(self, folder: Path):
        ids, logps, tail, lengths = (_mapped(folder / f"{name}.npy", folder) for name in FILES)
        tokens = int(lengths.sum(dtype=np.int64)) if lengths.ndim == 1 else -1
        fits = {
            "ids": ids.ndim == 2 and len(ids) == tokens and ids.dtype in (np.uint16, np.uint32),
            "logps": logps.shape == ids.shape and logps.dtype == np.float16,
            "tail": tail.shape == ids.shape[:1] and tail.dtype == np.float16,
        }
        for name, fit in fits.items():
            if not fit:
                found = {"ids": ids, "logps": logps, "tail": tail}[name]
                raise ValueError(
                    f"{folder / name}.npy is damaged: {found.dtype} {found.shape} does not fit the {tokens} tokens of"
                    f" {folder / 'lengths.npy'}; delete {folder} and run again"
                )
        self.ids, self.logps, self.tail = ids, logps, tail
        self.k, self.rows = ids.shape[1], len(lengths)
        self.lengths = np.array(lengths, dtype=np.int64)
        self.ends = self.lengths.cumsum()

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the teacher thinks at the n places of a row.

        Returns:
            ids: [n, k] int64.
            logps: [n, k] float32, natural logarithms.
            tail: [n] float32, logarithm of the mass outside the k. With it each place sums to 1, which the halves
                of float32 alone do not give.
        """
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        part = slice(int(self.ends[row] - self.lengths[row]), int(self.ends[row]))
        logps, tail = self.logps[part].astype(np.float64), self.tail[part].astype(np.float64)
        total = np.log(np.exp(logps).sum(-1) + np.exp(tail))
        normal, rest = logps - total[:, None], tail - total
        return self.ids[part].astype(np.int64), normal.astype(np.float32), rest.astype(np.float32)

    def __len__(self) -> int:
        return self.rows


def _mapped(path: Path, folder: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} holds no teacher's log-probabilities; run steps.logprobs first")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} is damaged ({error}; {size} bytes); delete {folder} and run again") from None


def check(folder: Path) -> list[Path]:
    """Verify every byte of a finished folder; returns the file that stands for them, its manifest.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    verify_manifest(folder)
    return [folder / MANIFEST]


# --- places --------------------------------------------------------------------------------------


def last_turn(labels: list[int]) -> tuple[int, int]:
    """Begin and end of the last run of trained tokens: the last assistant turn, as `sft.encode` marks it.

    A conversation's first token is predicted by nothing and is no part of it.
    """
    trained = [i for i, label in enumerate(labels) if i and label != IGNORED]
    if not trained:
        return 0, 0
    begin = end = trained[-1]
    while begin > 1 and labels[begin - 1] != IGNORED:
        begin -= 1
    return begin, end + 1


def encode_rows(path: Path, tokenizer: Any, max_length: int) -> tuple[list[dict | None], list[dict]]:
    """Every row of a file as `steps.sft` encodes it, with "begin" and "end" of its last turn; None where left out.

    Raises:
        ValueError: no row is left, or two have one id.
    """
    kept, skipped = sft.encode_rows(path, tokenizer, {"completion_only_loss": True, "max_length": max_length})
    by_id = {row["id"]: row for row in kept}
    names = [row["id"] for row in read_jsonl(path)]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{path}: {times} rows have the id {name}, so that none of them can be found; give each its own"
        )
    for row in kept:
        row["begin"], row["end"] = last_turn(row["labels"])
    return [by_id.get(name) for name in names], [record | {"step": "logprobs"} for record in skipped]


# --- asking --------------------------------------------------------------------------------------


def likeliest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k likeliest entries of each place and the mass of the others.

    Args:
        logits: [places, vocabulary] float32.

    Returns:
        ids: [places, k].
        logps: [places, k], descending.
        tail: [places], the logarithm of the mass outside, -inf where there is none. Summed over the others' logits:
            1 minus the k would be noise below 1e-7.
    """
    import torch

    total = logits.logsumexp(-1, keepdim=True)
    top, ids = logits.topk(k, dim=-1)
    rest = logits.scatter(-1, ids, -torch.inf)
    return ids, top - total, rest.logsumexp(-1) - total.squeeze(-1)


def ask(
    model: Any, rows: list[dict], k: int, batch_size: int, pad_id: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """The teacher at every place of encoded rows, in batches sorted by length, right-padded.

    Returns:
        An iterator over (index of the row, ids [n, k], logps [n, k], tail [n]).
    """
    import torch

    asked = [i for i, row in enumerate(rows) if row["end"] > row["begin"]]
    order = sorted(asked, key=lambda i: -len(rows[i]["input_ids"]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = [rows[i]["input_ids"] for i in batch]
        width = max(map(len, ids))
        tokens = torch.tensor([own + [pad_id] * (width - len(own)) for own in ids], device=model.device)
        mask = torch.tensor([[1] * len(own) + [0] * (width - len(own)) for own in ids], device=model.device)
        # The place before a token predicts it. No logits of the prompts' places: they are as wide as the vocabulary.
        first = min(rows[i]["begin"] for i in batch) - 1
        with torch.inference_mode():
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=width - first).logits
            for b, i in enumerate(batch):
                places = slice(rows[i]["begin"] - 1 - first, rows[i]["end"] - 1 - first)
                found = likeliest(logits[b, places].float(), k)
                yield i, *(part.cpu().numpy() for part in found)


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    k = settings["top_k"]
    teacher_files = checkpoints.check(args.teacher)
    found, skipped = encode_rows(args.input, checkpoints.load_tokenizer(args.teacher), settings["max_length"])
    kept = [row for row in found if row is not None]

    engine = Engine.load(args.teacher, settings["batch_size"])
    vocabulary = engine.model.get_output_embeddings().weight.shape[0]
    if not 1 <= k <= vocabulary:
        raise ValueError(f"logprobs.top_k: {k} of a vocabulary of {vocabulary:,}; set 1 to {vocabulary:,}, such as 32")
    longest = max(kept, key=lambda row: len(row["input_ids"]))
    if len(longest["input_ids"]) > engine.max_length:
        raise ValueError(
            f"{args.input}, row {longest['id']}: {len(longest['input_ids'])} tokens do not fit the teacher's context of"
            f" {engine.max_length}; lower logprobs.max_length to that"
        )

    lengths = np.array([row["end"] - row["begin"] if row is not None else 0 for row in found], dtype=np.uint32)
    ends = lengths.cumsum(dtype=np.int64)
    tokens = int(ends[-1])
    if not tokens:
        raise ValueError(
            f"{args.input}: no row has a token that the chat template marks as the assistant's; see its rows"
        )
    begins = [int(end - length) for end, length, row in zip(ends, lengths, found, strict=True) if row is not None]
    out = fresh_folder(args.out)
    shapes = {"ids": (np.uint16 if vocabulary <= 2**16 else np.uint32, (tokens, k))}
    shapes |= {"logps": (np.float16, (tokens, k)), "tail": (np.float16, (tokens,))}
    files = {
        name: np.lib.format.open_memmap(out / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (dtype, shape) in shapes.items()
    }
    progress, read, outside = Progress("logprobs", tokens, "tokens"), 0, 0.0
    for i, ids, logps, tail in ask(engine.model, kept, k, settings["batch_size"], engine.pad_id):
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
    counts: dict[str, Any] = {"in": len(found), "kept": len(kept)}
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
