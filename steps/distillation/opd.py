"""On-policy distillation: the student writes, its teachers score every token, and the student moves towards them.

Every step samples responses from the student, reads them by the teacher, and minimises a divergence of the two
next-token distributions along them (`steps/distillation/divergence.py`), as a mean over all tokens of the step. Where
GRPO learns one number from a response, this learns a distribution from each of its tokens. A share of the responses may
be the teachers' own, as in GKD (arXiv:2306.13649). Several data sets may each have a teacher (routing by domain), and
several teachers may be mixed in logit space.

Sampling is the engine's, seeded by (seed, step, prompt, sample). A killed run resumes from its work folder and ends
with the bytes of an undisturbed one.

In: a student, its teachers, prompts; with `off_policy`, generations of `steps/distillation/generate.py`. Out: a
checkpoint, training_log.csv and positions.csv (the diagnostics of `steps/distillation/overlap.py` by step, and by place
in the response), rollouts.jsonl (some samples of every step), excluded.jsonl (rows that cannot be asked, for the chat
template refuses them or they leave no room for a response).

Run as: python -m steps.distillation.opd --settings '{"steps": 40, …}' --parent results/fable/foundation/sft
    --teachers results/fable/reinforcement/grpo --data results/fable/data/exercises/split/train.jsonl
    --work work/fable/opd --logs logs/fable/distillation/opd --out results/fable/distillation/opd
"""

import argparse
import shutil
import time
from itertools import chain
from pathlib import Path

from steps.core.code import code_paths
from steps.core.curriculum import weigh
from steps.core.files import fresh_folder, read_jsonl, write_jsonl, write_text
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.distillation.opd_plan import LOG_COLUMNS, POSITION_COLUMNS, DrawPlan, plan_draws
from steps.engines import rollouts
from steps.engines import vllm_rollouts as vllm_sampler
from steps.judges.rows import RowJudge, judges_of
from steps.models import checkpoints, teachers
from steps.models.adapters.attach import attach, weight_counts
from steps.models.chat import Chat
from steps.settings.opd import Opd
from steps.settings.training import material
from steps.training import arguments, boards, kernels
from steps.training import run as training
from steps.training.finish import save_checkpoint
from steps.training.layouts import add_check, check_given, pad
from steps.training.plan import log_csv
from steps.training.spread import gather

# --- the plan ------------------------------------------------------------------------------------


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


def read_prompts(data: list[Path], settings: dict) -> tuple[list[list[dict]], dict[str, int]]:
    """The rows of each source to ask, and by data set how many `pass_rate` leaves out."""
    names = [source["data"] for source in settings["sources"]]
    every = [weigh(list(read_jsonl(path)), settings, place) for place, path in enumerate(data)]
    prompts = [within(rows, settings["pass_rate"], name) for rows, name in zip(every, names, strict=True)]
    return prompts, {name: len(a) - len(b) for name, a, b in zip(names, every, prompts, strict=True)}


def read_responses(files: list[Path], settings: dict) -> list[list[dict]]:
    """The rows that each source's teacher wrote; empty lists without `off_policy`.

    Raises:
        ValueError: a source has no file of them, or a file no row.
    """
    names = [source["data"] for source in settings["sources"]]
    if settings["off_policy"] and len(files) != len(names):
        raise ValueError(
            f"off_policy: {settings['off_policy']:g} needs --responses, one file of generations for each of the"
            f" {len(names)} data sets, not {len(files)}"
        )
    responses = [weigh(list(read_jsonl(path)), settings, place) for place, path in enumerate(files)]
    responses = responses or [[] for _ in names]
    for name, path, rows in zip(names, files, responses, strict=False):
        if not rows:
            raise ValueError(f"{path}: no response to data {name} is left to learn from; see its quarantine.jsonl")
    return responses


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    arguments.check_settings(settings, Opd)
    vllm_sampler.check(settings)
    folders = [args.parent, *args.teachers]
    inputs = [path for folder in folders for path in checkpoints.check(folder)]
    inputs = list(dict.fromkeys([*inputs, *args.data, *args.responses, *check_given(args)]))
    for folder in args.teachers:
        teachers.check_same_language(args.parent, folder)
    work = work_folder(args.work, args.out, material(settings), [*inputs, *code_paths(__spec__.name)])

    every, left_out = read_prompts(args.data, settings)
    tokenizer = checkpoints.load_tokenizer(args.parent)
    room = Chat(tokenizer), "opd", min(map(teachers.context, folders)), settings["max_new_tokens"]
    prompts, unasked = zip(*(rollouts.askable(rows, *room) for rows in every), strict=True)
    stored = [rollouts.askable(rows, *room) for rows in read_responses(args.responses, settings)]
    responses = [rows for rows, _ in stored]
    without = list(chain(*unasked, *(rows for _, rows in stored)))
    plan = DrawPlan(
        draws=plan_draws(settings, prompts, responses),
        rows=sum(map(len, prompts)),
        prompts=settings["prompts"],
        steps=settings["steps"],
        saves=settings["saves"],
    )

    import torch

    from steps.distillation.opd_trainer import OnPolicyTrainer

    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    # In float32 on a CPU, which not every implementation of attention takes.
    pad(model, check_given(args))
    model = kernels.use(model, settings)
    model = attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = weight_counts(model)
    panel = teachers.Teachers(args.teachers, settings["resident"])
    judge = RowJudge()

    def solves(row: dict, text: str) -> bool | None:
        return judge.verdict(row, text, settings["short_answer_words"]).sure

    trainer = OnPolicyTrainer(model, tokenizer, panel, prompts, responses, settings, plan, work, solves)
    for rows in [*prompts, *responses]:
        rollouts.check_lengths(rows, trainer.engine, settings["max_new_tokens"])
    boards.add(trainer, args, settings)
    with judge:
        log = training.train(trainer, plan, "opd")
    if not gather(trainer):
        return

    out = fresh_folder(args.out)
    if without:
        write_jsonl(out / "excluded.jsonl", without)
    write_jsonl(out / "rollouts.jsonl", rollouts.gathered(work / "rollouts", plan.steps))
    positions = rollouts.gathered(work / "positions", plan.steps)
    write_text(out / "positions.csv", log_csv(positions, POSITION_COLUMNS))
    counts = {
        "prompts": {name: len(rows) for name, rows in zip(left_out, prompts, strict=True)},
        "judges": judges_of(chain(*prompts), settings["short_answer_words"]),
        "left_out": left_out,
        **({"excluded": rollouts.reasons(without)} if without else {}),
        "steps": len(log),
        "samples": len(plan.draws),
        "off_policy_samples": sum(draw.stored for draw in plan.draws),
        "tokens": log[-1]["tokens"],
        "generated_tokens": log[-1]["generated"],
        "scored_tokens": log[-1]["scored"],
        "parameters": parameters,
        "teachers": {folder.name: panel.size(i) for i, folder in enumerate(args.teachers)},
    }
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
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
    add_check(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    parser.add_argument("--logs", type=Path, help="folder for TensorBoard")
    run(main, parser)
