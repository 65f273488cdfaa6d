"""Continue the pre-training of a checkpoint on documents, through the same trainer as fine-tuning.

Reads documents with a "text", encoded as a pre-training corpus is: each is closed by the end-of-text token and all of
it is trained on, chat marks inside it included. Documents longer than `max_length` are not cut: they are left out and
counted. Without any document there is nothing to learn, and the checkpoint has the weights of its parent. A killed
run resumes from its work folder and ends with the bytes of an undisturbed one.

Run as: python -m steps.cpt --settings '{"learning_rate": 0.0003, …}' --parent data/fable/base
    --data documents.jsonl --work work/fable/cpt --out results/fable/incomplete_learning/knowledge
"""

import argparse
import shutil
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from steps import adapters, checkpoints, packing, sft, training
from steps.common import fingerprint, fresh_folder, read_jsonl, run, step_parser

SOURCES = [*sft.SOURCES, Path(__file__)]
# Of fable and Qwen; of Llama 3. The eos of their chats ends a turn, not a text.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")


def encode_corpus(tokenizer: Any, documents: Iterable[str]) -> list[dict]:
    """Every document as {"input_ids", "labels"}, closed by the end-of-text token; all of it is trained on.

    That token is the first of `END_OF_TEXT` that the tokenizer knows, else its eos.
    """
    known = tokenizer.get_vocab()
    end = next((known[token] for token in END_OF_TEXT if token in known), tokenizer.eos_token_id)
    documents = iter(documents)
    rows = []
    while chunk := list(islice(documents, 10_000)):
        for encoding in tokenizer.backend_tokenizer.encode_batch(chunk):
            ids = [*encoding.ids, end]
            rows.append({"input_ids": ids, "labels": ids})
    return rows


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    training.check_settings(settings, "cpt")
    inputs = [*checkpoints.check(args.parent), args.data]
    work = args.work / fingerprint(settings, [*inputs, *SOURCES])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    encoded = encode_corpus(tokenizer, (document["text"] for document in read_jsonl(args.data)))
    rows = [row for row in encoded if len(row["input_ids"]) <= settings["max_length"]]
    too_long = [{"reason": "too_long"}] * (len(encoded) - len(rows))
    if too_long and not rows:
        raise ValueError(f"{args.data}: every document is longer than max_length {settings['max_length']}; raise it")
    plan = training.Plan(
        batches=packing.plan_batches(len(rows), settings["batch_size"], settings["epochs"], settings["seed"]),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
    )

    import torch

    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    model = adapters.attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = adapters.trained(model)
    if rows:
        trainer = sft.build_trainer(model, tokenizer, rows, settings, plan, work)
        log = training.train(trainer, plan, "cpt", valid_batches=[])
    else:
        trainer, log = SimpleNamespace(model=model, ladder=training.Ladder(work, settings["batch_size"])), []
        print(f"cpt: {args.data} has no document: the weights stay those of {args.parent}", flush=True)
    if not training.gather(trainer):
        return

    out = fresh_folder(args.out)
    training.save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        dtype=checkpoints.stored_dtype(args.parent),
        step="cpt",
        settings=settings,
        inputs=inputs,
        counts={"train": sft.count(rows, too_long), "steps": plan.steps, "parameters": parameters},
        log=log,
        started=started,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="documents.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
