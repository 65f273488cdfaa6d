"""Continue the pre-training of a checkpoint on documents, through the same trainer as fine-tuning.

Reads documents, rows of one turn of role document or what the mixture made ("text"), encoded as a pre-training corpus
is: each is closed by the end-of-text token and all of it is trained on, chat marks inside it included. One of more than
`max_length` tokens is trained on in pieces of that length. Without any document there is nothing to learn, and the
checkpoint has the weights of its parent. A killed run resumes from its work folder and ends with the bytes of an
undisturbed one.

Run as: python -m steps.recipes.cpt --settings '{"learning_rate": 0.0003, …}' --parent data/fable/base
    --data documents.jsonl --work work/fable/cpt --out results/fable/incomplete_learning/knowledge
"""

import argparse
import shutil
import sys
import time
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

from steps.core.code import code_paths
from steps.core.curriculum import epoch_rows, weigh
from steps.core.files import fresh_folder, read_jsonl
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.models import checkpoints
from steps.models.adapters import tokens
from steps.models.adapters.attach import attach, weight_counts
from steps.settings.cpt import Cpt
from steps.settings.training import material
from steps.training import boards, curriculum, kernels
from steps.training import run as training
from steps.training.arguments import check_settings
from steps.training.documents import encode_corpus, pieces, read_documents
from steps.training.finish import save_checkpoint
from steps.training.layouts import add_check, check_given, settled
from steps.training.micro_batch import MicroBatches
from steps.training.plan import Plan
from steps.training.spread import gather
from steps.training.stored import Store
from steps.training.supervised import build_trainer, count


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, Cpt)
    inputs = [*checkpoints.check(args.parent), args.data, *check_given(args)]
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    new_ids = tokens.add(tokenizer, settings["adapter"])
    weighted = bool(settings.get("source_weights"))
    # Documents of a mixture have no file, and no weight.
    files = (sys.intern(row["file"]) for row in read_jsonl(args.data)) if weighted else repeat(None)
    store, rows, documents = Store(), [], 0
    for document, file in zip(encode_corpus(tokenizer, read_documents(args.data)), files, strict=weighted):
        documents += 1
        (source,) = weigh([{"file": file}], settings) if weighted else ({},)
        for part, piece in enumerate(pieces(document, settings["max_length"])):
            # All of it is trained on: its labels are its tokens.
            tokens_ = dict.fromkeys(("input_ids", "labels"), store.put(piece["input_ids"]))
            rows.append(source | ({"part": part} if part else {}) | tokens_)
    plan = Plan(
        batches=curriculum.plan_batches(rows, settings),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
        epoch_rows=epoch_rows(rows),
    )

    import torch

    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    settings, laid = settled(settings, model, check_given(args))
    model = kernels.use(model, settings)
    model = attach(model, settings["adapter"], settings["seed"], plan.steps, new_ids)
    parameters = weight_counts(model)
    if rows:
        trainer = build_trainer(model, tokenizer, rows, settings, plan, work)
        boards.add(trainer, args, settings)
        log = training.train(trainer, plan, "cpt", valid_batches=[])
    else:
        trainer, log = SimpleNamespace(model=model, micro_batches=MicroBatches(work, settings["batch_size"])), []
        print(f"cpt: {args.data} has no document: the weights stay those of {args.parent}", flush=True)
    if not gather(trainer):
        return

    out = fresh_folder(args.out)
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        step="cpt",
        settings=args.settings,
        inputs=inputs,
        counts={
            "train": count(rows, []) | {"documents": documents},
            "steps": plan.steps,
            "parameters": parameters,
        }
        | curriculum.counts(rows, plan.batches, settings)
        | laid,
        log=log,
        started=started,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="rows of documents, or documents.jsonl of a mixture")
    add_check(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
