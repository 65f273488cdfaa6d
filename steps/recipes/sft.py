"""Supervised fine-tuning of a checkpoint on conversations, through TRL's SFTTrainer.

Reads rows with "messages", writes them by the tokenizer's chat template, and trains on what the assistant says
(`completion_only_loss`) or on everything: what is trained begins with what will be asked (`steps.models.chat`). Rows
of a batch are packed; a row never sees another. Rows that cannot be trained on whole are not cut: they go to
`skipped.jsonl`, counted in the manifest. A killed run resumes from its work folder and ends with the bytes of an
undisturbed one.

On demand it watches each row over the training (`trajectory.parquet`), deals the coming batches again by what the
model can do (`dealing.jsonl`), and ends when the validation loss rises or keeps the weights with the lowest.

Run as: python -m steps.recipes.sft --settings '{"learning_rate": 0.001, …}' --parent data/fable/base
    --data train.jsonl --valid valid.jsonl --work work/fable/sft --out results/fable/foundation/sft
"""

import argparse
import shutil
import time
from pathlib import Path

from steps.core.code import code_paths
from steps.core.curriculum import epoch_rows, weigh
from steps.core.files import fresh_folder, write_jsonl
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.models import checkpoints
from steps.models.adapters import tokens
from steps.models.adapters.attach import attach, weight_counts
from steps.settings.sft import Sft
from steps.settings.training import material
from steps.training import boards, curriculum, dealing, kernels, packing
from steps.training import run as training
from steps.training.arguments import check_settings
from steps.training.finish import save_checkpoint
from steps.training.layouts import add_check, check_given, settled
from steps.training.plan import Plan
from steps.training.spread import gather
from steps.training.state import BEST, EPOCHS
from steps.training.supervised import build_trainer, count, encode_rows, layout
from steps.training.watchers import Best, Progressive, Score, Trajectory
from steps.training.watchers import score as score_rows


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, Sft)
    inputs = [*checkpoints.check(args.parent), args.data, args.valid, *check_given(args)]
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    new_ids = tokens.add(tokenizer, settings["adapter"])
    rows, skipped = encode_rows(args.data, tokenizer, settings)
    valid_rows, valid_skipped = encode_rows(args.valid, tokenizer, settings)
    if settings["buckets"] and not any("conflict_group" in row for row in rows):
        raise ValueError(
            f"buckets: no row of {args.data} has a conflict_group; the recipe needs treats: [data_conflict]"
        )
    domains = [row["file"] for row in rows] if settings["order"] == "sources" else None
    weigh(rows, settings)
    plan = Plan(
        batches=curriculum.plan_batches(rows, settings),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
        epoch_rows=epoch_rows(rows),
        valid_every=settings.get("eval_steps"),
    )

    import torch

    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    settings, laid = settled(settings, model, check_given(args))
    model = kernels.use(model, settings)
    model = attach(model, settings["adapter"], settings["seed"], plan.steps, new_ids)
    parameters = weight_counts(model)
    trainer = build_trainer(model, tokenizer, rows, settings, plan, work)
    size = max(1, settings["batch_size"] // trainer.micro_batches.parts)
    valid_batches = [
        layout(valid_rows[start : start + size], settings, tokenizer.pad_token_id)
        for start in range(0, len(valid_rows), size)
    ]

    def score(scored: list[dict]) -> list[Score]:
        return score_rows(trainer, scored, size, tokenizer.pad_token_id)

    dealer = trajectory = progressive = None
    if settings["buckets"] or settings["resample"]:
        dealer = dealing.Dealer(
            plan.batches, plan.accumulation, settings, rows, valid_rows, lambda some: [s.correct for s in score(some)]
        )
    if settings["trajectory"]:
        step_rows = size * settings["gradient_accumulation"]
        ends = packing.domain_ends(curriculum.epochs_of(rows, settings), domains, step_rows) if domains else []
        trajectory = Trajectory(settings["trajectory"], ends, plan, rows, work / "trajectory", lambda: score(rows))
    if settings["progressive"]:
        delta = settings["progressive"]["delta"]
        progressive = Progressive(plan, int(settings["epochs"]), delta, work / EPOCHS)
    elif (best := settings.get("keep_best")) is not None:
        progressive = Best(plan, best.get("patience"), best.get("min_delta", 0.0), work / BEST)
    trainer.dealer = dealer
    boards.add(trainer, args, settings)
    watchers = [watcher for watcher in (dealer, trajectory) if watcher]
    log = training.train(trainer, plan, "sft", valid_batches, watchers, progressive)
    kept_steps = progressive.kept_step if progressive else len(log)
    if trajectory:
        trajectory.close(kept_steps)
    if not gather(trainer):
        return

    out = fresh_folder(args.out)
    if skipped or valid_skipped:
        write_jsonl(out / "skipped.jsonl", [*skipped, *valid_skipped])
    counts = {"train": count(rows, skipped), "valid": count(valid_rows, valid_skipped), "steps": len(log)}
    counts |= {"parameters": parameters} | laid
    counts |= curriculum.counts(rows, plan.batches, settings)
    if settings["progressive"]:
        counts["epochs"] = {"planned": len(progressive.ends), "kept": progressive.kept}
    if progressive:
        counts["kept_steps"] = kept_steps
    if trajectory:
        trajectory.write(out / "trajectory.parquet", kept_steps)
    if dealer:
        write_jsonl(out / "dealing.jsonl", dealer.log)
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        step="sft",
        settings=args.settings,
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
    add_check(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
