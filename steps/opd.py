"""On-policy distillation: the student writes, its teachers score every token, and the student moves towards them.

Every step samples responses from the student, reads them by the teacher, and minimises a divergence of the two
next-token distributions along them (`steps/divergence.py`), as a mean over all tokens of the step. Where GRPO learns
one number from a response, this learns a distribution from each of its tokens. A share of the responses may be the
teachers' own, as in GKD (arXiv:2306.13649). Several data sets may each have a teacher (routing by domain), and several
teachers may be mixed in logit space.

Sampling is the engine's, seeded by (seed, step, prompt, sample). A killed run resumes from its work folder and ends
with the bytes of an undisturbed one.

In: a student, its teachers, prompts; with `off_policy`, generations of `steps/generate.py`. Out: a checkpoint,
training_log.csv and positions.csv (the diagnostics of `steps/overlap.py` by step, and by place in the response),
rollouts.jsonl (some samples of every step).

Run as: python -m steps.opd --settings '{"steps": 40, …}' --parent results/fable/foundation/sft
    --teachers results/fable/reinforcement/grpo --data results/fable/data/exercises/split/train.jsonl
    --work work/fable/opd --logs logs/fable/distillation/opd --out results/fable/distillation/opd
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steps import (
    adapters,
    checkpoints,
    distiller,
    divergence,
    engine,
    overlap,
    processes,
    rollouts,
    self_teacher,
    teachers,
    training,
    verify,
    vllm_engine,
    vllm_sampler,
    zero,
)
from steps.common import fingerprint, fresh_folder, read_jsonl, run, step_parser, write_jsonl

MODULES = (
    adapters, checkpoints, divergence, distiller, engine, overlap, processes, rollouts, self_teacher, teachers,
    training, verify, vllm_engine, vllm_sampler, zero,
)  # fmt: skip
SOURCES = [Path(module.__file__) for module in MODULES] + [Path(__file__)]
# What a column of the log is called by TRL's trainer, and by ours.
LOGGED = {
    "correct": "correct",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "sampler_gap": "sampler_gap",
}
MEASURED = {
    "reward": "reward", "entropy": "student_entropy", "teacher_entropy": "teacher_entropy",
    "entropy_gap": "entropy_gap", "overlap": "overlap", "mass_student": "mass_student",
    "mass_teacher": "mass_teacher", "overlap_advantage": "advantage",
}  # fmt: skip
SUMMED = ("generated", "scored")
LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", *SUMMED, *LOGGED, *MEASURED)
POSITION_COLUMNS = ("step", "begin", "end", "tokens", *distiller.BY_POSITION.values())


# --- the plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """One sample to learn from.

    Attributes:
        source: which of the settings' sources.
        row: of that source's prompts or, where `stored`, of its teacher's responses.
        stored: the response is the teacher's, and nothing is sampled.
    """

    source: int
    row: int
    stored: bool = False


@dataclass(frozen=True)
class Plan:
    """Which samples each step learns from, known before the first.

    Attributes:
        draws: of all steps; those that the student writes to one prompt follow each other.
        rows: prompts that there are.
        prompts: of a step.
        steps: of the optimizer.
        saves: how often, at equal distances, the state is put aside; the end is not counted.
    """

    draws: list[Draw]
    rows: int
    prompts: int
    steps: int
    saves: int
    shown = "overlap"

    @property
    def save_steps(self) -> set[int]:
        return {self.steps * i // (self.saves + 1) for i in range(1, self.saves + 1)} - {0}

    def may_stop(self, step: int) -> bool:
        """Whether a resumed run could go on from after this step."""
        return True

    def log(self, history: list[dict], done: int) -> list[dict]:
        """One {column: value} for each step done, from what the trainer logged."""
        merged: list[dict] = [{} for _ in range(done + 1)]
        for entry in history:
            merged[entry["step"]] |= entry
        rows, sums = [], dict.fromkeys(SUMMED, 0)
        for step, entry in enumerate(merged[1:], start=1):
            for name in SUMMED:
                sums[name] += round(entry[name])
            row = {"step": step, "epoch": self.prompts * step / self.rows, "tokens": round(entry["num_tokens"]), **sums}
            row |= {key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry}
            names = LOGGED | MEASURED
            rows.append(row | {column: entry[key] for column, key in names.items() if entry.get(key) is not None})
        return rows


def deal(shares: Sequence[float], count: int) -> list[int]:
    """`count` choices among so many shares, each at every moment as near to its share as whole numbers are.

    Args:
        shares: with a sum of 1.
    """
    given, order = [0] * len(shares), []
    for turn in range(1, count + 1):
        behind = max(range(len(shares)), key=lambda i: (round(shares[i] * turn - given[i], 9), -i))
        given[behind] += 1
        order.append(behind)
    return order


def plan_draws(settings: dict, prompts: Sequence[list[dict]], responses: Sequence[list[dict]]) -> list[Draw]:
    """The samples of the whole run, step by step.

    Args:
        prompts: rows of each source.
        responses: rows that each source's teacher wrote; empty lists without `off_policy`.
    """
    wanted = settings["steps"] * settings["prompts"]
    of_source = deal([source["share"] for source in settings["sources"]], wanted)
    queues = []
    for i in range(len(prompts)):
        stored = deal([1 - settings["off_policy"], settings["off_policy"]], of_source.count(i))
        size, seed = settings["generations"], settings["seed"] if i == 0 else f"{settings['seed']}-{i}"
        own = rollouts.plan_prompts(prompts[i], stored.count(0), settings["curriculum"], seed)
        theirs = rollouts.plan_prompts(responses[i], stored.count(1) * size, "shuffle", seed) if responses[i] else []
        queues.append((iter(stored), iter(own), iter(theirs)))
    draws = []
    for i in of_source:
        stored, own, theirs = queues[i]
        if next(stored):
            draws += [Draw(i, next(theirs), stored=True) for _ in range(settings["generations"])]
        else:
            draws += [Draw(i, next(own))] * settings["generations"]
    return draws


def check_settings(settings: dict) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    divergence.check(settings["divergence"], settings["support"], settings["off_policy"])
    samples = settings["prompts"] * settings["generations"]
    if samples % settings["batch_size"]:
        raise ValueError(
            f"batch_size: {settings['batch_size']} does not divide the {samples} samples of a step"
            f" (prompts {settings['prompts']} x generations {settings['generations']})"
        )
    horizon = settings["horizon"]
    if horizon and horizon["tokens"] > settings["max_new_tokens"]:
        raise ValueError(
            f"horizon.tokens: {horizon['tokens']} is beyond max_new_tokens {settings['max_new_tokens']}; lower it"
        )
    if horizon and ("from" in horizon) != ("until" in horizon):
        raise ValueError("horizon: from and until go together: the supervised tokens grow from the one by that step")
    if horizon and horizon.get("from", 1) > horizon["tokens"]:
        raise ValueError(f"horizon.from: {horizon['from']} is beyond horizon.tokens {horizon['tokens']}; lower it")
    if settings["off_policy"] and any(len(source["teachers"]) > 1 for source in settings["sources"]):
        raise ValueError("off_policy: a mixture of teachers writes no responses; route them by data set, or write 0.0")
    rate = settings["pass_rate"]
    if rate and rate["above"] >= rate["below"]:
        raise ValueError(f"pass_rate: no row lies above {rate['above']:g} and below {rate['below']:g}; correct them")


def within(rows: list[dict], pass_rate: dict | None, name: str) -> list[dict]:
    """The rows whose pass rate lies strictly between; all where it is null.

    Raises:
        ValueError: none is left.
    """
    if pass_rate:
        low, high = pass_rate["above"], pass_rate["below"]
        rows = [row for row in rows if row["pass_rate"] is not None and low < row["pass_rate"] < high]
    if not rows:
        raise ValueError(f"data {name}: no prompt is left; see pass_rate and what the data steps took out")
    return rows


# --- the step ------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    training.check_settings(settings, "opd")
    check_settings(settings)
    vllm_sampler.check(settings)
    folders = [args.parent, *args.teachers]
    inputs = [path for folder in folders for path in checkpoints.check(folder)]
    inputs = list(dict.fromkeys([*inputs, *args.data, *args.responses]))
    for folder in args.teachers:
        teachers.check_same_language(args.parent, folder)
    work = args.work / fingerprint(settings, [*inputs, *SOURCES])

    names = [source["data"] for source in settings["sources"]]
    every = [list(read_jsonl(path)) for path in args.data]
    prompts = [within(rows, settings["pass_rate"], name) for rows, name in zip(every, names, strict=True)]
    if settings["off_policy"] and len(args.responses) != len(names):
        raise ValueError(
            f"off_policy: {settings['off_policy']:g} needs --responses, one file of generations for each of the"
            f" {len(names)} data sets, not {len(args.responses)}"
        )
    responses = [list(read_jsonl(path)) for path in args.responses] or [[] for _ in names]
    for name, path, rows in zip(names, args.responses, responses, strict=False):
        if not rows:
            raise ValueError(f"{path}: no response to data {name} is left to learn from; see its quarantine.jsonl")
    plan = Plan(
        draws=plan_draws(settings, prompts, responses),
        rows=sum(map(len, prompts)),
        prompts=settings["prompts"],
        steps=settings["steps"],
        saves=settings["saves"],
    )

    import torch

    tokenizer = checkpoints.load_tokenizer(args.parent)
    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    model = adapters.attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = adapters.trained(model)
    panel = teachers.Teachers(args.teachers, settings["resident"])
    solves = partial(verify.solves, short_answer_words=settings["short_answer_words"])
    trainer = distiller.build_trainer(model, tokenizer, panel, prompts, responses, settings, plan, work, solves)
    for rows in [*prompts, *responses]:
        rollouts.check_lengths(rows, trainer.engine, settings["max_new_tokens"])
    if args.logs and processes.first():
        trainer.add_callback(rollouts.board(args.logs))
    log = training.train(trainer, plan, "opd")
    if not training.gather(trainer):
        return

    out = fresh_folder(args.out)
    write_jsonl(out / "rollouts.jsonl", rollouts.gathered(work / "rollouts", plan.steps))
    positions = rollouts.gathered(work / "positions", plan.steps)
    (out / "positions.csv").write_text(training.log_csv(positions, POSITION_COLUMNS), encoding="utf-8")
    counts = {
        "prompts": {name: len(rows) for name, rows in zip(names, prompts, strict=True)},
        "left_out": {name: len(a) - len(b) for name, a, b in zip(names, every, prompts, strict=True)},
        "steps": len(log),
        "samples": len(plan.draws),
        "off_policy_samples": sum(draw.stored for draw in plan.draws),
        "tokens": log[-1]["tokens"],
        "generated_tokens": log[-1]["generated"],
        "scored_tokens": log[-1]["scored"],
        "parameters": parameters,
        "teachers": {
            folder.name: sum(p.numel() for p in panel.model(i).parameters()) for i, folder in enumerate(args.teachers)
        },
    }
    training.save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        dtype=checkpoints.stored_dtype(args.parent),
        step="opd",
        settings=settings,
        inputs=inputs,
        counts=counts,
        log=log,
        columns=LOG_COLUMNS,
        started=started,
        speed=rollouts.speeds(trainer.state.log_history),
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder of the student")
    parser.add_argument("--teachers", type=Path, nargs="+", required=True, help="checkpoint folders of the teachers")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="rows with the prompts of each data set")
    parser.add_argument("--responses", type=Path, nargs="+", default=[], help="generations of each data set's teacher")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder for TensorBoard")
    run(main, parser)
