"""Reinforcement learning with verifiable rewards: GRPO and its self-distilled kin, through TRL's GRPOTrainer.

Every step samples a group of responses to each of some prompts from the policy, scores them by the rewards, and moves
the policy towards the better ones of each group. `method` says with which signal: GRPO gives every token of a response
its advantage within the group; SDPO, SRPO, RLSD and RLRT let the same model score the tokens again, knowing a correct
response or the answer (`steps/sdpo.py` and so on have the formulas; in `steps/grpo.py` they meet the trainer).

Sampling is the engine's, seeded by (seed, batch of rollouts, prompt, sample). A killed run resumes from its work folder
and ends with the bytes of an undisturbed one.

In: a checkpoint, the prompts that the gate let through. Out: a checkpoint, training_log.csv, rollouts.jsonl (some
groups of every step), failures.jsonl (samples that a reward could not score).

Run as: python -m steps.rl --settings '{"method": "grpo", …}' --parent results/fable/foundation/sft
    --data results/fable/gate/grpo/prompts.jsonl --work work/fable/grpo --logs logs/fable/reinforcement/grpo
    --out results/fable/reinforcement/grpo
"""

import argparse
import math
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steps import (
    adapters,
    checkpoints,
    engine,
    groups,
    grpo,
    processes,
    rewards,
    rlrt,
    rlsd,
    rollouts,
    sdpo,
    self_teacher,
    srpo,
    training,
    vllm_engine,
    vllm_sampler,
    zero,
)
from steps.common import Progress, fingerprint, fresh_folder, read_jsonl, run, step_parser, write_jsonl

MODULES = (
    training,
    adapters,
    checkpoints,
    engine,
    grpo,
    groups,
    processes,
    rewards,
    rlrt,
    rlsd,
    rollouts,
    sdpo,
    self_teacher,
    srpo,
    vllm_engine,
    vllm_sampler,
    zero,
)
SOURCES = [Path(module.__file__) for module in MODULES] + [Path(__file__)]
# What a column of the log is called by TRL's trainer, and by ours below.
LOGGED = {
    "reward": "reward",
    "correct": "correct",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "entropy": "entropy",
    "kl": "kl",
    "clipped": "clip_ratio/region_mean",
    "no_signal": "no_signal",
    "distilled": "distilled",
    "sampler_gap": "sampler_gap",
}
SUMMED = ("generated", "failures", "timeouts")


def log_columns(names: Sequence[str]) -> list[str]:
    shared = [name for name in LOGGED if name != "reward"]
    first = ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "generated"]
    return [*first, "reward", *(f"reward_{name}" for name in names), *shared, "failures", "timeouts"]


# --- the plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Which prompts each batch of rollouts asks, known before the first step.

    Attributes:
        order: rows, `prompts` for each batch of rollouts.
        prompts: of a batch of rollouts.
        rows: that there are.
        steps: of the optimizer.
        iterations: of them on one batch of rollouts.
        saves: how often, at equal distances, the state is put aside; the end is not counted.
        names: of the rewards.
    """

    order: list[int]
    prompts: int
    rows: int
    steps: int
    iterations: int
    saves: int
    names: list[str]
    shown = "reward"

    @property
    def save_steps(self) -> set[int]:
        """At the end of a batch of rollouts, which a resumed run samples anew."""
        wanted = (self.steps * i // (self.saves + 1) for i in range(1, self.saves + 1))
        return {step - step % self.iterations for step in wanted} - {0}

    def may_stop(self, step: int) -> bool:
        """Whether a resumed run could go on from after this step."""
        return step % self.iterations == 0

    def log(self, history: list[dict], done: int) -> list[dict]:
        """One {column: value} for each step done, from what the trainer logged."""
        merged: list[dict] = [{} for _ in range(done + 1)]
        for entry in history:
            merged[entry["step"]] |= entry
        names = LOGGED | {f"reward_{name}": f"rewards/{name}/mean" for name in self.names}
        rows, sums, tokens = [], dict.fromkeys(SUMMED, 0), 0
        for step, entry in enumerate(merged[1:], start=1):
            tokens = round(entry.get("num_tokens", tokens))
            for name in SUMMED:
                sums[name] += round(entry.get(name, 0))
            asked = self.prompts * math.ceil(step / self.iterations)
            row = {"step": step, "epoch": asked / self.rows, "tokens": tokens, **sums}
            row |= {key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry}
            rows.append(row | {column: entry[key] for column, key in names.items() if entry.get(key) is not None})
        return rows


def check_settings(settings: dict) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    samples = settings["prompts"] * settings["generations"]
    if samples % settings["batch_size"]:
        raise ValueError(
            f"batch_size: {settings['batch_size']} does not divide the {samples} samples of a step"
            f" (prompts {settings['prompts']} x generations {settings['generations']})"
        )
    if settings["steps"] % settings["iterations"]:
        raise ValueError(f"steps: {settings['steps']} is no multiple of iterations {settings['iterations']}")
    if settings["success"]["reward"] not in settings["rewards"]:
        raise ValueError(
            f"success.reward: {settings['success']['reward']} is none of the rewards {', '.join(settings['rewards'])}"
        )
    if settings["method"] == "srpo" and settings["loss_type"] != "dapo":
        raise ValueError(
            f"loss_type: {settings['loss_type']} has no one count of tokens for both branches of srpo; write dapo"
        )
    kin = settings.get(settings["method"])
    if kin and kin["context"] not in settings["contexts"]:
        raise ValueError(
            f"{settings['method']}.context: {kin['context']} is none of contexts: {', '.join(settings['contexts'])}"
        )
    if kin and settings["method"] == "rlsd" and "{solution}" in settings["contexts"][kin["context"]]:
        raise ValueError(f"contexts.{kin['context']}: rlsd shows the answer and no {{solution}}; take it out")
    if settings["method"] == "srpo" and settings["iterations"] > 1 and settings["batch_size"] < samples:
        # The mean of its weights is of all samples, and the teacher may have moved since.
        raise ValueError(
            f"batch_size: srpo with iterations {settings['iterations']} needs all {samples} samples of a step in one"
            " pass; raise it, or set iterations to 1"
        )
    for name, template in settings.get("contexts", {}).items():
        try:
            template.format(prompt="", solution="", answer="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"contexts.{name}: {error} is none of {{prompt}}, {{solution}}, {{answer}}; double other braces"
            ) from error
    rewards.check_settings(settings["rewards"])


# --- what went wrong, in words -------------------------------------------------------------------

# A tenth of the steps, at both ends, is compared.
ENTROPY_LEFT, LENGTH_FACTOR, REWARD_LEFT, SHARE = 0.1, 2.0, 0.7, 0.9


def collapses(log: list[dict]) -> list[str]:
    """One sentence for each sign that a run broke down."""

    def mean(rows: list[dict], column: str) -> float:
        values = [row[column] for row in rows if column in row]
        return sum(values) / len(values)

    # Steps that learn from rollouts of an earlier one have no samples of their own.
    log = [row for row in log if "length" in row]
    window = max(1, len(log) // 10)
    first, last = log[:window], log[-window:]
    found = []
    before, after = mean(first, "entropy"), mean(last, "entropy")
    if after < ENTROPY_LEFT * before:
        found.append(
            f"entropy fell from {before:.3g} to {after:.3g} nats per token: the policy hardly explores any more"
        )
    before, after = mean(first, "length"), mean(last, "length")
    if after > LENGTH_FACTOR * before or LENGTH_FACTOR * after < before:
        found.append(f"the mean response went from {before:.0f} to {after:.0f} tokens")
    windows = [mean(log[i : i + window], "correct") for i in range(0, len(log) - window + 1)]
    if windows[-1] < REWARD_LEFT * max(windows):
        found.append(f"the share of correct samples fell from {100 * max(windows):.0f} to {100 * windows[-1]:.0f} %")
    if (share := mean(last, "no_signal")) >= SHARE:
        found.append(f"{100 * share:.0f} % of the groups give no signal at the end: all their rewards are equal")
    if (share := mean(last, "truncated")) >= SHARE:
        found.append(f"{100 * share:.0f} % of the responses are cut at max_new_tokens at the end")
    return found


# --- the step ------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    training.check_settings(settings, "rl")
    check_settings(settings)
    vllm_sampler.check(settings)
    inputs = [*checkpoints.check(args.parent), args.data, *rewards.custom_files(settings["rewards"])]
    if args.reward_model:
        inputs += checkpoints.check(args.reward_model)
    work = args.work / fingerprint(settings, [*inputs, *SOURCES])

    rows = list(read_jsonl(args.data))
    names = list(settings["rewards"])
    batches = settings["steps"] // settings["iterations"]
    plan = Plan(
        order=rollouts.plan_prompts(rows, batches * settings["prompts"], settings["curriculum"], settings["seed"]),
        prompts=settings["prompts"],
        rows=len(rows),
        steps=settings["steps"],
        iterations=settings["iterations"],
        saves=settings["saves"],
        names=names,
    )

    import torch

    tokenizer = checkpoints.load_tokenizer(args.parent)
    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    model = adapters.attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = adapters.trained(model)

    def scorer(given: dict) -> rewards.Rewards:
        return rewards.Rewards(settings["rewards"], reward_model=args.reward_model, **given)

    trainer = grpo.build_trainer(model, tokenizer, rows, settings, plan, work, scorer)
    rollouts.check_lengths(rows, trainer.engine, settings["max_new_tokens"])
    if args.logs and processes.first():
        trainer.add_callback(rollouts.board(args.logs))
    with trainer.rewards:
        progress = Progress("prompts", len(rows), "rows")
        for done, row in enumerate(rows, 1):
            trainer.rewards.check_row(row)
            progress.update(done)
        log = training.train(trainer, plan, "rl", watchers=[trainer.teacher] if trainer.teacher else [])
    if not training.gather(trainer):
        return

    out = fresh_folder(args.out)
    write_jsonl(out / "rollouts.jsonl", rollouts.gathered(work / "rollouts", batches))
    failed = rollouts.gathered(work / "failures", batches)
    if failed:
        write_jsonl(out / "failures.jsonl", failed)
    collapsed = collapses(log)
    for sentence in collapsed:
        print(f"warning: {sentence}", flush=True)
    counts = {
        "prompts": len(rows),
        "steps": len(log),
        "samples": batches * settings["prompts"] * settings["generations"],
        "tokens": log[-1]["tokens"],
        "generated_tokens": log[-1]["generated"],
        "failures": dict(Counter(failure["reward"] for failure in failed)),
        "timeouts": log[-1]["timeouts"],
        "parameters": parameters,
        "collapse": collapsed,
    }
    training.save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        dtype=checkpoints.stored_dtype(args.parent),
        step="rl",
        settings=settings,
        inputs=inputs,
        counts=counts,
        log=log,
        columns=log_columns(names),
        started=started,
        speed=rollouts.speeds(trainer.state.log_history),
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="prompts.jsonl of the gate")
    parser.add_argument("--reward-model", type=Path, help="checkpoint of a reward recipe, for the kind preference")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder of TensorBoard's logs")
    run(main, parser)
