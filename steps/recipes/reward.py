"""Train a reward model on preference pairs, through TRL's RewardTrainer.

Reads rows with "messages", whose last turn is the chosen response, and "rejected", the other response to the same
prompt. Both are rendered with the tokenizer's chat template; the model, a sequence classifier with one label, gives
either a scalar r at its last token, and the loss is −log σ(r_chosen − r_rejected): the likelihood of Bradley and Terry
(1952, doi:10.2307/2334029), as equation 1 of Ouyang et al. (2022, arXiv:2203.02155) with one pair per prompt. Of a pair
that says by how much the chosen one is better ("margin"), it is −log σ(r_chosen − r_rejected − margin), as equation 2
of Llama 2 (2023, arXiv:2307.09288). All weights are trained, or an adapter, which is merged in at the end; the head is
trained in either case and starts from the seed. Pairs of which a response is too long are not cut: they go to
`skipped.jsonl`, counted in the manifest. `reward.json` says how often the model ranks held-out pairs as they are, and
by how much. A killed run resumes from its work folder and ends with the bytes of an undisturbed one.

Run as: python -m steps.recipes.reward --settings '{"learning_rate": 0.0001, …}' --parent results/fable/study/sft
    --data train.jsonl --valid valid.jsonl --work work/fable/reward --out results/fable/study/reward
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.code import code_paths
from steps.core.curriculum import epoch_rows, weigh
from steps.core.files import fresh_folder, write_json, write_jsonl
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.models import checkpoints
from steps.models.adapters.attach import weight_counts
from steps.models.context import check_length, context
from steps.recipes.preferences import (
    LOG_COLUMNS,
    PairPlan,
    adapted,
    build_model,
    build_trainer,
    count,
    encode_pairs,
    merge,
    tokens_of,
)
from steps.settings.reward import Reward
from steps.settings.training import material
from steps.stats import means
from steps.training import boards, curriculum, kernels
from steps.training import run as training
from steps.training.arguments import check_settings
from steps.training.finish import save_checkpoint
from steps.training.spread import gather


def margins(trainer: Any, pairs: list[dict], batch_size: int) -> np.ndarray:
    """r_chosen − r_rejected of every pair, [pairs], in evaluation mode."""
    import torch
    from trl.trainer.reward_trainer import DataCollatorForPreference

    collate = DataCollatorForPreference(pad_token_id=trainer.processing_class.pad_token_id)
    order = sorted(range(len(pairs)), key=lambda i: tokens_of(pairs[i]))
    differences = np.empty(len(pairs))
    progress = Progress("reward: held-out pairs", len(pairs), "pairs")
    trainer.model.eval()
    for start in range(0, len(pairs), batch_size):
        members = order[start : start + batch_size]
        inputs = trainer._prepare_inputs(collate([pairs[i] for i in members]))
        inputs.pop("margin", None)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            chosen, rejected = trainer.model(**inputs, use_cache=False).logits[:, 0].double().chunk(2)
        differences[members] = (chosen - rejected).cpu().numpy()
        progress.update(start + len(members))
    return differences


def judged(differences: np.ndarray) -> dict:
    """reward.json: the share of pairs whose chosen response scores higher, a tie being none, and the mean margin."""
    n = len(differences)
    return {
        "accuracy": means.mean((differences > 0).astype(float)) | {"n": n},
        "margin": means.mean(differences) | {"n": n},
    }


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, Reward)
    inputs = [*checkpoints.check(args.parent), args.data, args.valid]
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pairs, skipped = encode_pairs(args.data, tokenizer, settings["max_length"])
    valid_pairs, valid_skipped = encode_pairs(args.valid, tokenizer, settings["max_length"])
    weigh(pairs, settings)
    plan = PairPlan(
        batches=curriculum.plan_batches(pairs, settings),
        accumulation=settings["gradient_accumulation"],
        lengths=[tokens_of(pair) for pair in pairs],
        saves=settings["saves"],
        epoch_rows=epoch_rows(pairs),
    )
    model = kernels.use(build_model(args.parent, tokenizer.pad_token_id, settings["seed"]), settings)
    check_length(settings["max_length"], context(model.config), "max_length")
    model = adapted(model, settings, plan.steps)
    parameters = weight_counts(model)
    trainer = build_trainer(model, tokenizer, pairs, settings, plan, work)
    boards.add(trainer, args, settings)
    log = training.train(trainer, plan, "reward")
    merge(trainer)
    held_out = judged(margins(trainer, valid_pairs, max(1, settings["batch_size"] // trainer.micro_batches.parts)))
    if not gather(trainer):
        return

    out = fresh_folder(args.out)
    if skipped or valid_skipped:
        write_jsonl(out / "skipped.jsonl", [*skipped, *valid_skipped])
    write_json(out / "reward.json", held_out)
    counts = {"train": count(pairs, skipped), "valid": count(valid_pairs, valid_skipped), "steps": len(log)}
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        step="reward",
        settings=settings,
        inputs=inputs,
        counts=counts | {"parameters": parameters} | curriculum.counts(pairs, plan.batches, settings),
        log=log,
        started=started,
        columns=LOG_COLUMNS,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl, of the format preference")
    parser.add_argument("--valid", type=Path, required=True, help="valid.jsonl, the held-out pairs")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
