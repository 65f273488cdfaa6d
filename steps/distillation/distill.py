"""Off-policy distillation: train a checkpoint on what a teacher wrote, through the same trainer as fine-tuning.

Reads rows whose last turn is a teacher's response (`steps.distillation.generate`); that turn alone is trained on.
With `objective`

- tokens: the cross-entropy of the teacher's tokens (sequence-level distillation, Kim & Rush 2016,
  https://arxiv.org/abs/1606.07947, section 3.2);
- forward_kl: at each of them the divergence KL(teacher || student) of the whole next-token distribution (word-level
  distillation, ibid. section 3.1), from the teacher's k most probable tokens that `steps.distillation.logprobs`
  stored. No teacher is loaded.

Rows that cannot be trained on whole are not cut: they go to `skipped.jsonl`, counted in the manifest. A killed run
resumes from its work folder and ends with the bytes of an undisturbed one.

Run as: python -m steps.distillation.distill --settings '{"objective": "forward_kl", …}' --parent data/fable/base
    --data results/fable/generate/exercises/grpo/train.jsonl --logprobs results/fable/logprobs/exercises/grpo
    --work work/fable/cold --out results/fable/distillation/cold
"""

import argparse
import shutil
import time
from functools import partial
from pathlib import Path

from steps.core.code import code_paths
from steps.core.curriculum import epoch_rows, weigh
from steps.core.files import fresh_folder, write_jsonl
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.distillation.distill_objective import encode_rows, layout, loss, open_caches
from steps.distillation.teacher_cache import check
from steps.models import checkpoints
from steps.models.adapters.attach import attach, weight_counts
from steps.settings.distill import OBJECTIVES, Distill
from steps.settings.training import material
from steps.training import arguments, boards, curriculum, kernels
from steps.training import run as training
from steps.training.finish import save_checkpoint
from steps.training.layouts import add_check, check_given, settled
from steps.training.plan import Plan
from steps.training.spread import gather
from steps.training.supervised import build_trainer, count


def check_settings(settings: dict, data: list[Path], caches: list[Path]) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: naming the setting or the argument, and the fix.
    """
    objective = settings["objective"]
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: {objective} is none of {', '.join(OBJECTIVES)}")
    if objective == "tokens" and caches:
        raise ValueError("logprobs: have no effect with objective tokens; leave them out, or write forward_kl")
    if objective == "forward_kl" and len(caches) != len(data):
        raise ValueError(
            f"logprobs: forward_kl needs one folder for each data file; there are {len(caches)} for {len(data)}"
        )


# --- the step ------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    arguments.check_settings(settings, Distill)
    check_settings(settings, args.data, args.logprobs)
    cache_files = [path for folder in args.logprobs for path in check(folder)]
    inputs = [*checkpoints.check(args.parent), *args.data, *cache_files, *check_given(args)]
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    import torch

    tokenizer = checkpoints.load_tokenizer(args.parent)
    model = kernels.use(checkpoints.load_model(args.parent, dtype=torch.float32), settings)
    by_kl = settings["objective"] == "forward_kl"
    caches, vocabulary = [None] * len(args.data), checkpoints.token_count(tokenizer)
    if by_kl:
        caches = open_caches(args.data, args.logprobs, vocabulary)
    rows, skipped = [], []
    for place, (path, cached) in enumerate(zip(args.data, caches, strict=True)):
        kept, left_out = encode_rows(path, tokenizer, settings, cached)
        rows += weigh(kept, settings, place)
        skipped += left_out
    plan = Plan(
        batches=curriculum.plan_batches(rows, settings),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
        epoch_rows=epoch_rows(rows),
    )
    settings, laid = settled(settings, model, check_given(args))
    model = attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = weight_counts(model)
    objective = {"lay": layout, "loss": partial(loss, vocabulary=vocabulary)} if by_kl else {}
    trainer = build_trainer(model, tokenizer, rows, settings, plan, work, **objective)
    boards.add(trainer, args, settings)
    log = training.train(trainer, plan, "distill")
    if not gather(trainer):
        return

    out = fresh_folder(args.out)
    if skipped:
        write_jsonl(out / "skipped.jsonl", skipped)
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        step="distill",
        settings=args.settings,
        inputs=inputs,
        counts={"train": count(rows, skipped), "steps": plan.steps, "parameters": parameters}
        | curriculum.counts(rows, plan.batches, settings)
        | laid,
        log=log,
        started=started,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="train.jsonl of generate")
    parser.add_argument(
        "--logprobs", type=Path, nargs="*", default=[], help="folder of logprobs for each, with forward_kl"
    )
    add_check(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
