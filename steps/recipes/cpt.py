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
import time
from pathlib import Path
from types import SimpleNamespace

from steps.core.code import code_paths
from steps.core.files import fresh_folder
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
from steps.training.micro_batch import MicroBatches
from steps.training.plan import Plan
from steps.training.spread import gather
from steps.training.supervised import build_trainer, count


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, Cpt)
    inputs = [*checkpoints.check(args.parent), args.data]
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    new_ids = tokens.add(tokenizer, settings["adapter"])
    documents = encode_corpus(tokenizer, read_documents(args.data))
    rows = [piece for document in documents for piece in pieces(document, settings["max_length"])]
    plan = Plan(
        batches=curriculum.plan_batches(rows, settings),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
    )

    import torch

    model = kernels.use(checkpoints.load_model(args.parent, dtype=torch.float32), settings)
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
        dtype=checkpoints.stored_dtype(args.parent),
        step="cpt",
        settings=settings,
        inputs=inputs,
        counts={
            "train": count(rows, []) | {"documents": len(documents)},
            "steps": plan.steps,
            "parameters": parameters,
        },
        log=log,
        started=started,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="rows of documents, or documents.jsonl of a mixture")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
