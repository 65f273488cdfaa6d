"""Reinforcement learning with verifiable rewards: GRPO and its self-distilled kin, through TRL's GRPOTrainer.

Every step samples a group of responses to each of some prompts from the policy, scores them by the rewards, and moves
the policy towards the better ones of each group. `method` says with which signal: GRPO gives every token of a response
its advantage within the group; SDPO, SRPO, RLSD and RLRT let the same model score the tokens again, knowing a correct
response or the answer. Each has a module in steps/reinforcement/methods; they meet TRL's trainer in
steps/reinforcement/rl_trainer.py.

Sampling is the engine's, seeded by (seed, batch of rollouts, prompt, sample). A killed run resumes from its work folder
and ends with the bytes of an undisturbed one.

With `eval_steps` it asks held-out questions under way, and may keep the weights that answer most, or end early
(`steps/reinforcement/validation.py`).

In: a checkpoint, the prompts that the gate let through. Out: a checkpoint, training_log.csv, rollouts.jsonl (some
groups of every step), failures.jsonl (samples that a reward could not score), disagreements.jsonl (some that count as
correct and are wrong by a stricter judge).

Run as: python -m steps.reinforcement.rl --settings '{"method": "grpo", …}' --parent results/fable/foundation/sft
    --data results/fable/gate/grpo/prompts.jsonl --work work/fable/grpo --logs logs/fable/reinforcement/grpo
    --out results/fable/reinforcement/grpo
"""

import argparse
import shutil
import time
from functools import partial
from math import ceil
from pathlib import Path

from steps.core.code import code_paths
from steps.core.curriculum import weigh
from steps.core.files import fresh_folder, read_jsonl
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.engines import rollouts
from steps.engines import vllm_rollouts as vllm_sampler
from steps.models import checkpoints
from steps.models.adapters.attach import attach, weight_counts
from steps.reinforcement import rewards
from steps.reinforcement.rl_outcome import counts_of, write_samples
from steps.reinforcement.rl_plan import log_columns, plan_rollouts
from steps.settings.reinforcement import Rl
from steps.settings.training import material
from steps.training import boards, kernels
from steps.training import run as training
from steps.training.arguments import check_settings
from steps.training.finish import save_checkpoint
from steps.training.layouts import add_check, check_given, pad
from steps.training.spread import gather


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, Rl)
    vllm_sampler.check(settings)
    if bool(args.valid) != bool(settings.get("eval_steps")):
        raise ValueError("eval_steps: asks held-out questions of a file; give both eval_steps and --valid, or neither")
    inputs = [
        *checkpoints.check(args.parent),
        args.data,
        *([args.valid] if args.valid else []),
        *check_given(args),
        *rewards.custom_files(settings["rewards"]),
    ]
    if args.reward_model:
        inputs += checkpoints.check(args.reward_model)
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    rows = weigh(list(read_jsonl(args.data)), settings)
    plan = plan_rollouts(rows, settings)

    import torch

    from steps.reinforcement.rl_trainer import PolicyTrainer
    from steps.reinforcement.validation import HeldOut

    tokenizer = checkpoints.load_tokenizer(args.parent)
    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    # In float32 on a CPU, which not every implementation of attention takes.
    pad(model, check_given(args))
    model = kernels.use(model, settings)
    model = attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = weight_counts(model)

    scorer = partial(rewards.Rewards, settings["rewards"], reward_model=args.reward_model)
    held_out = None
    if args.valid:
        held_out = HeldOut(read_jsonl(args.valid), args.valid, tokenizer, model.config, settings["max_new_tokens"])
    trainer = PolicyTrainer(model, tokenizer, rows, settings, plan, work, scorer, held_out)
    rollouts.check_lengths(rows, trainer.engine, settings["max_new_tokens"])
    boards.add(trainer, args, settings)
    with trainer.rewards, trainer.strict:
        progress = Progress("prompts", len(rows), "rows")
        for done, row in enumerate(rows, 1):
            trainer.rewards.check_row(row)
            progress.update(done)
        asking = trainer.validation
        log = training.train(
            trainer,
            plan,
            "rl",
            watchers=[trainer.teacher] if trainer.teacher else [],
            progressive=asking and asking.best,
            measure=asking and asking.measure,
        )
    if not gather(trainer):
        return

    out, batches = fresh_folder(args.out), ceil(len(log) / settings["iterations"])
    failed = write_samples(out, work, plan, batches, settings["keep_groups"])
    counts = counts_of(trainer, rows, log, batches, failed)
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        step="rl",
        settings=settings,
        inputs=inputs,
        counts=counts | {"parameters": parameters},
        log=log,
        columns=log_columns(plan.names, log),
        started=started,
        speed=rollouts.speeds(trainer.state.log_history),
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="prompts.jsonl of the gate")
    parser.add_argument("--valid", type=Path, help="valid.jsonl of the data set's split, where held-out rows are asked")
    parser.add_argument("--reward-model", type=Path, help="checkpoint of a reward recipe, for the kind preference")
    add_check(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
