"""Supervised trainings: rows as tokens of which the assistant's are trained, their layout, the trainer."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.files import read_jsonl
from steps.models.chat import Chat
from steps.models.unfit import Unfit
from steps.settings.base import THINKING
from steps.training import packing
from steps.training.curriculum import DIFFICULTY
from steps.training.plan import Plan
from steps.training.stored import Store
from steps.training.texts import Text, skip, texts, texts_of

# Rows of which the tokenizer is given all texts at once.
CHUNK = 1000

# Of a row, what the order of the batches goes by.
KEPT = ("id", "file", "conflict_group", *DIFFICULTY)


def encode(chat: Chat, row: dict, completion_only: bool, last_only: bool = False) -> list[dict]:
    """A row as the {"input_ids", "labels"} of its `texts`: labels repeat the ids, -100 where nothing is trained.

    With `completion_only` the trained tokens are those of the assistant's turns, their end marks included; without it
    all of the last text, and of others what stands in no other.

    Raises:
        Unfit: as `texts`.
    """
    return _labelled(row, texts(chat, row, last_only), completion_only)


def _labelled(row: dict, made: list[Text], completion_only: bool) -> list[dict]:
    if not completion_only and any(not turn.get("train", True) for turn in row["messages"]):
        hint = "without completion_only_loss all is trained; take train: false from the row, or set it true"
        raise Unfit("untrained", "messages", None, hint)
    encoded = []
    for text in made:
        labels = [packing.IGNORED] * len(text.ids)
        for begin, end in text.parts:
            labels[begin:end] = text.ids[begin:end]
        encoded.append({"input_ids": text.ids, "labels": labels})
    if not completion_only:
        encoded[-1]["labels"] = encoded[-1]["input_ids"]
    return encoded


def encode_rows(
    path: Path, tokenizer: Any, settings: dict, last_only: bool = False, step: str = "sft"
) -> tuple[list[dict], list[dict]]:
    """Every row of a file, encoded or skipped with the reason.

    Encoded rows keep their "id", "file" and what else of `KEPT` they have. A row of more than one text comes
    as often, each with its "part" from 0. Their tokens and labels are `stored.Tokens`.

    Args:
        last_only: only the last turn is trained.
        step: that records what is skipped.

    Raises:
        ValueError: no row is left.
    """
    chat = Chat(tokenizer, settings.get("thinking", THINKING[0]))
    chat.check()
    store, kept, skipped = Store(), [], []
    rows = read_jsonl(path)
    while chunk := list(islice(rows, CHUNK)):
        for row, made in zip(chunk, texts_of(chat, chunk, last_only, settings["max_length"]), strict=True):
            try:
                if isinstance(made, Unfit):
                    raise made
                encoded = _labelled(row, made, settings["completion_only_loss"])
            except Unfit as unfit:
                skipped.append(skip(row, unfit, step))
                continue
            own = {key: row[key] for key in KEPT if key in row}
            for part, text in enumerate(encoded):
                tokens = {key: store.put(values) for key, values in text.items()}
                kept.append(own | ({"part": part} if len(encoded) > 1 else {}) | tokens)
    if not kept:
        reasons = sorted({record["reason"] for record in skipped}) or ["the file is empty"]
        raise ValueError(f"{path}: no row is left ({', '.join(reasons)}); see max_length and the data")
    return kept, skipped


def count(kept: list[dict], skipped: list[dict]) -> dict:
    reasons = [record["reason"] for record in skipped]
    rows = sum(not row.get("part") for row in kept)
    return {
        "in": rows + len(skipped),
        "kept": rows,
        "texts": len(kept),
        "quarantined": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "tokens": sum(len(row["input_ids"]) for row in kept),
        "trained_tokens": sum(int((np.asarray(row["labels"])[1:] != packing.IGNORED).sum()) for row in kept),
    }


def layout_of(settings: dict) -> str:
    """How a training lays out its rows: as `layouts.settled` found it right for the model, or packed by positions."""
    return settings.get("layout", packing.PACKED) if settings["packing"] else packing.ALONE


def plan_bins(rows: list[dict], settings: dict) -> list[list[int]]:
    """Which rows of a batch share a bin: packed, all, or each in one of its own."""
    kind = layout_of(settings)
    if kind == packing.PACKED:
        return packing.pack([len(row["input_ids"]) for row in rows], settings["max_length"])
    return [[*range(len(rows))]] if kind == packing.FLATTENED else [[i] for i in range(len(rows))]


def lay_out(rows: list[dict], bins: list[list[int]], settings: dict, pad_token_id: int) -> dict:
    """The rows of one batch as tensors, by the bins of `plan_bins`."""
    batch = packing.collate(rows, bins, pad_token_id)
    return batch | (packing.row_keywords(rows, bins) if layout_of(settings) == packing.FLATTENED else {})


def layout(rows: list[dict], settings: dict, pad_token_id: int) -> dict:
    """The rows of one batch as tensors."""
    return lay_out(rows, plan_bins(rows, settings), settings, pad_token_id)


def build_trainer(
    model: Any,
    tokenizer: Any,
    rows: list[dict],
    settings: dict,
    plan: Plan,
    work: Path,
    lay: Callable[[list[dict], dict, int], dict] = layout,
    loss: Callable[[Any, dict, Any], Any] | None = None,
) -> Any:
    """A resumable SFTTrainer whose dataset is the plan: an item is the index of a part of a batch, looked up when due.

    Args:
        lay: makes the inputs of such a part.
        loss: of (model, inputs, trained tokens of the step), in place of the cross-entropy of the labels; its sum over
            the parts of a step is what is learned.
    """
    from steps.training.sft_trainer import SupervisedTrainer

    return SupervisedTrainer(model, tokenizer, rows, settings, plan, work, lay, loss)
