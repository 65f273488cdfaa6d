"""Supervised fine-tuning of a checkpoint on conversations, through TRL's SFTTrainer.

Reads rows with "messages", renders them with the tokenizer's chat template, and trains on what the assistant
says (`completion_only_loss`) or on everything. Rows of a batch are packed; a row never sees another. Rows
that cannot be trained on whole are not cut: they go to `skipped.jsonl`, counted in the manifest. A killed
run resumes from its work folder and ends with the bytes of an undisturbed one.

On demand it watches each row over the training (`trajectory.parquet`), deals the coming batches again by what the
model can do (`dealing.jsonl`), and ends when the validation loss rises.

Run as: python -m steps.sft --settings '{"learning_rate": 0.001, …}' --parent data/fable/base
    --data train.jsonl --valid valid.jsonl --work work/fable/sft --out results/fable/foundation/sft
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import adapters, checkpoints, dealing, packing, processes, training, zero
from steps.common import fingerprint, fresh_folder, read_jsonl, run, step_parser, write_jsonl

MODULES = (training, adapters, dealing, packing, processes, checkpoints, zero)
SOURCES = [Path(module.__file__) for module in MODULES] + [Path(__file__)]


def training_template(tokenizer: Any) -> str:
    """The chat template by which `encode` finds what the assistant wrote, by its {% generation %} marks.

    A tokenizer whose template has none gets TRL's marked version of the same template, where TRL has one. Without one
    (Llama 3.2) its own will do, if it writes a conversation so far alike whatever follows.

    Raises:
        ValueError: there is no template, or neither will do.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template is None:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja")
    if has_generation_markers(tokenizer.chat_template):
        return tokenizer.chat_template
    try:
        return get_training_chat_template(tokenizer)
    except ValueError as error:
        asked, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        try:
            turns(tokenizer, [asked, said, asked, said])
        except ValueError:
            raise ValueError(
                f"{tokenizer.name_or_path}: its chat template does not mark what the assistant writes; put"
                " {% generation %} and {% endgeneration %} around it in chat_template.jinja"
            ) from error
        return tokenizer.chat_template


def turns(tokenizer: Any, messages: list[dict]) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as text, and of each assistant turn the [begin, end) of what follows its opened prompt.

    Raises:
        ValueError: the template writes the conversation so far otherwise once more follows.
    """
    text, spans = tokenizer.apply_chat_template(messages, tokenize=False), []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(messages[:i], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(messages[: i + 1], tokenize=False)
            if not (whole.startswith(prompt) and text.startswith(whole)):
                raise ValueError(f"{tokenizer.name_or_path}: its chat template changes earlier turns when more follow")
            spans.append((len(prompt), len(whole)))
    return text, spans


def encode(messages: list[dict], tokenizer: Any, template: str, completion_only: bool) -> dict:
    """One conversation as {"input_ids", "labels"}: labels repeat the ids, -100 where nothing is trained.

    With `completion_only` the trained tokens are those of every assistant turn, its end mark included.
    """
    from trl.chat_template_utils import has_generation_markers

    if completion_only and not has_generation_markers(template):
        text, spans = turns(tokenizer, messages)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        mask = [any(begin <= at < end for begin, end in spans) for at, _ in encoded["offset_mapping"]]
    else:
        encoded = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=completion_only,
        )
        mask = encoded["assistant_masks"] if completion_only else [1] * len(encoded["input_ids"])
    ids = encoded["input_ids"]
    return {"input_ids": ids, "labels": [i if m else packing.IGNORED for i, m in zip(ids, mask, strict=True)]}


def encode_rows(path: Path, tokenizer: Any, settings: dict) -> tuple[list[dict], list[dict]]:
    """Every row of a file, encoded or skipped with the reason.

    Encoded rows keep their "id", "file" and, where they have one, "conflict_group".

    Raises:
        ValueError: no row is left.
    """
    template, controls = training_template(tokenizer), checkpoints.control_tokens(tokenizer)
    kept, skipped = [], []
    for row in read_jsonl(path):
        text = "\n".join(message["content"] for message in row["messages"])
        if control := controls.search(text):
            hint = "the tokenizer reads this text as a control token; remove it from the row"
            skipped.append(skip(row, "control_token", control[0], hint, text))
            continue
        encoded = encode(row["messages"], tokenizer, template, settings["completion_only_loss"])
        if len(encoded["input_ids"]) > settings["max_length"]:
            hint = f"longer than max_length {settings['max_length']} tokens; raise it or shorten the row"
            skipped.append(skip(row, "too_long", len(encoded["input_ids"]), hint, text))
            continue
        kept.append({key: row[key] for key in ("id", "file", "conflict_group") if key in row} | encoded)
    if not kept:
        reasons = sorted({record["reason"] for record in skipped}) or ["the file is empty"]
        raise ValueError(f"{path}: no row is left ({', '.join(reasons)}); see max_length and the data")
    return kept, skipped


def skip(row: dict, reason: str, detail: Any, hint: str, text: str) -> dict:
    """A row that is not trained on, as the data steps record it."""
    place = {key: row[key] for key in ("id", "file", "line", "row")}
    excerpt = text[:200].encode("unicode_escape").decode()[:200]
    return place | {
        "column": "messages",
        "reason": reason,
        "hint": hint,
        "step": "sft",
        "detail": detail,
        "excerpt": excerpt,
    }


def count(kept: list[dict], skipped: list[dict]) -> dict:
    reasons = [record["reason"] for record in skipped]
    return {
        "in": len(kept) + len(skipped),
        "kept": len(kept),
        "quarantined": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "tokens": sum(len(row["input_ids"]) for row in kept),
        "trained_tokens": sum(label != packing.IGNORED for row in kept for label in row["labels"][1:]),
    }


def plan_bins(rows: list[dict], settings: dict) -> list[list[int]]:
    """Which rows of a batch share a bin: packed, or each in one of its own."""
    lengths = [len(row["input_ids"]) for row in rows]
    return packing.pack(lengths, settings["max_length"]) if settings["packing"] else [[i] for i in range(len(rows))]


def untrained(row: dict) -> dict:
    """A row on which nothing is trained: for a process to which a small batch has none to give."""
    return row | {"labels": [packing.IGNORED] * len(row["labels"])}


def layout(rows: list[dict], settings: dict, pad_token_id: int) -> dict:
    """The rows of one batch as tensors."""
    return packing.collate(rows, plan_bins(rows, settings), pad_token_id)


def build_trainer(
    model: Any,
    tokenizer: Any,
    rows: list[dict],
    settings: dict,
    plan: training.Plan,
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
    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Trainer(training.Resumable, SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # TRL's fused head saves the memory of the logits where Triton runs. On a CPU it scores every position
            # for its entropy and makes a step of the tiny model 17 % slower than the model's own loss.
            of_base = SFTTrainer if self.accelerator.device.type == "cuda" else transformers.Trainer
            if loss:
                # The gradients of the processes are averaged.
                value = loss(model, inputs, num_items_in_batch) * processes.count()
            else:
                value = of_base.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
            if not model.training:
                return value
            return adapters.penalised(value, self.model, self.current_gradient_accumulation_steps)

    ladder = training.Ladder(work, settings["batch_size"])

    def collate(items: list[dict]) -> dict:
        part = items[0]["part"]
        own = [rows[i] for i in plan.part(part, ladder.parts)]
        own = own or [untrained(rows[plan.batches[part // ladder.parts][0]])]
        return lay(own, settings, tokenizer.pad_token_id)

    trainer = Trainer(
        model=model,
        args=SFTConfig(
            **training.trainer_arguments(settings, plan, work, ladder.cuts),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_dict({"part": range(len(plan.batches) * ladder.parts)}),
        data_collator=collate,
        processing_class=tokenizer,
    )
    trainer.ladder = ladder
    return trainer


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    training.check_settings(settings, "sft")
    inputs = [*checkpoints.check(args.parent), args.data, args.valid]
    work = args.work / fingerprint(settings, [*inputs, *SOURCES])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    rows, skipped = encode_rows(args.data, tokenizer, settings)
    valid_rows, valid_skipped = encode_rows(args.valid, tokenizer, settings)
    if settings["buckets"] and not any("conflict_group" in row for row in rows):
        raise ValueError(
            f"buckets: no row of {args.data} has a conflict_group; the recipe needs treats: [data_conflict]"
        )
    domains = [row["file"] for row in rows] if settings["order"] == "sources" else None
    plan = training.Plan(
        batches=packing.plan_batches(len(rows), settings["batch_size"], settings["epochs"], settings["seed"], domains),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
    )

    import torch

    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    model = adapters.attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = adapters.trained(model)
    trainer = build_trainer(model, tokenizer, rows, settings, plan, work)
    size = max(1, settings["batch_size"] // trainer.ladder.parts)
    valid_batches = [
        layout(valid_rows[start : start + size], settings, tokenizer.pad_token_id)
        for start in range(0, len(valid_rows), size)
    ]

    def score(scored: list[dict]) -> list[training.Score]:
        return training.score(trainer, scored, size, tokenizer.pad_token_id)

    dealer = trajectory = progressive = None
    if settings["buckets"] or settings["resample"]:
        dealer = dealing.Dealer(
            plan.batches, plan.accumulation, settings, rows, valid_rows, lambda some: [s.correct for s in score(some)]
        )
    if settings["trajectory"]:
        step_rows = size * settings["gradient_accumulation"]
        ends = packing.domain_ends(settings["epochs"], domains, step_rows) if domains else []
        trajectory = training.Trajectory(
            settings["trajectory"], ends, plan, rows, work / "trajectory", lambda: score(rows)
        )
    if settings["progressive"]:
        delta = settings["progressive"]["delta"]
        progressive = training.Progressive(plan, int(settings["epochs"]), delta, work / "epochs")
    trainer.dealer = dealer
    watchers = [watcher for watcher in (dealer, trajectory) if watcher]
    log = training.train(trainer, plan, "sft", valid_batches, watchers, progressive)
    kept_steps = progressive.ends[progressive.kept - 1] if progressive else len(log)
    if trajectory:
        trajectory.close(kept_steps)
    if not training.gather(trainer):
        return

    out = fresh_folder(args.out)
    if skipped or valid_skipped:
        write_jsonl(out / "skipped.jsonl", [*skipped, *valid_skipped])
    counts = {"train": count(rows, skipped), "valid": count(valid_rows, valid_skipped), "steps": len(log)}
    counts["parameters"] = parameters
    if progressive:
        counts["epochs"] = {"planned": len(progressive.ends), "kept": progressive.kept}
        counts["kept_steps"] = kept_steps
    if trajectory:
        trajectory.write(out / "trajectory.parquet", kept_steps)
    if dealer:
        write_jsonl(out / "dealing.jsonl", dealer.log)
    training.save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        dtype=checkpoints.stored_dtype(args.parent),
        step="sft",
        settings=settings,
        inputs=inputs,
        counts=counts,
        log=log,
        started=started,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl")
    parser.add_argument("--valid", type=Path, required=True, help="valid.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
