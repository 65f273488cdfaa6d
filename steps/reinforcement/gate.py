"""Score known answers before a model is trained by a reward, and choose the rows to train on.

A reward that cannot tell a right answer from a wrong one, or that no answer reaches, costs a training run and says
nothing. So, before any training:

- rows: those that the chat template takes, whose prompt leaves room for a response, and that every reward and the
  method can judge; with `pass_rate`, of these those whose pass rate (of the difficulty step) lies strictly between
  `above` and `below`: the others give no signal. What does not train goes to left_out.jsonl, each with its reason.
- known answers of `rows` of them, drawn by seed. Good: the template `good`, filled with the row's reference
  {response} and {answer}. Bad: the same with a digit of the answer changed, and with another row's answer; for a row
  without an answer its rejected response or, where it has none, another row's response. Malformed: nothing, the good
  one cut in half before the answer, the answer without its marker (`####`, \\boxed, the template's own text), noise.
  Exploiting, for rows with an answer: a wrong one eight times, the right one among wrong ones, the prompt, a thought
  with the right one and nothing behind it.
- the checks, each a line of gate.csv: good above bad, above malformed and above exploiting (`separates`; without its
  marker an answer may count as much as with it, to a reward that reads leniently); for the self-distilled methods, that
  `success` holds for good and not for bad ones; shares of good ones (`unparsed`) and of the start policy's samples
  (`unparsed_samples`) in which no answer is found; responses on which a reward raised (`max_failures`); groups of the
  start policy's samples whose total reward varies (`spread`). Samples are those of all rows that can be judged: of
  those that `pass_rate` keeps, all groups vary by construction.

A check that fails stops the run with the table and two examples each; one that no configured reward can fail is left
out. Totals are what training learns from: with `aggregation: normalize_then_sum` each reward counts over its own
deviation among the known answers of a row, or the samples of one. What another row's answer is worth is taken for
nothing: two rows whose answers are equal but for their form ("1/2", "0.5") can cost a row of the share.

In: train.jsonl and samples.jsonl of the difficulty step, the start policy. Out: prompts.jsonl, left_out.jsonl,
gate.csv, cases.jsonl (every known answer with what each reward gives it).

Run as: python -m steps.reinforcement.gate --settings '{"rows": 50, "good": "{response}", "rewards": {"answer": {…}},
    …}'
    --data results/fable/difficulty/exercises/sft/train.jsonl
    --samples results/fable/difficulty/exercises/sft/samples.jsonl --start results/fable/foundation/sft
    --out results/fable/gate/grpo
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from steps.core.files import csv_text, fresh_folder, read_jsonl, write_jsonl, write_text
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.data.rows import Ledger, RowProblem, prompt_of, read_rows
from steps.engines import rollouts
from steps.judges.rows import judges_of
from steps.models import checkpoints, teachers
from steps.models.chat import Chat
from steps.reinforcement.gate_checks import Check, Judged, all_checks, judge, stop
from steps.reinforcement.known_answers import FIELD, Case, known_answers
from steps.reinforcement.methods import method_of
from steps.reinforcement.rewards import Rewards, custom_files
from steps.settings import rewards as reward_settings
from steps.settings.reinforcement import AGGREGATIONS

# Conversations judged at once by a model: its size matters for the kinds `self` and `preference` only.
BATCH = 64
PROMPTS = "prompts.jsonl"


# --- rows ----------------------------------------------------------------------------------------


def left_out(row: dict, pass_rate: dict | None) -> RowProblem | None:
    """Why a row is not trained on; None when it is. A row without a pass rate is not known to be out of bounds."""
    rate = row["pass_rate"]
    if pass_rate is None or rate is None or pass_rate["above"] < rate < pass_rate["below"]:
        return None
    if rate <= pass_rate["above"]:
        reason, hint = "seldom_solved", "lower rl.pass_rate.above, or start from a policy that solves it sometimes"
    else:
        reason, hint = "often_solved", "raise rl.pass_rate.below, or add harder rows"
    reason = {0: "never_solved", 1: "always_solved"}.get(rate, reason)
    return RowProblem(reason, "pass_rate", hint, f"pass rate {rate:.4g}")


def distribution(rows: list[dict]) -> str:
    """How many rows have which pass rate: "0: 80 rows, 0.25: 3, without: 2"."""
    counts = Counter(row["pass_rate"] for row in rows)
    rates = sorted(rate for rate in counts if rate is not None)
    parts = [f"{rate:.3g}: {counts[rate]}" for rate in rates] + ([f"without: {counts[None]}"] if counts[None] else [])
    return ", ".join(parts)


def choose(rows: list[dict], pass_rate: dict | None, data: Path) -> list[dict]:
    """The rows that train.

    Raises:
        ValueError: none does; with the distribution of pass rates.
    """
    kept = [row for row in rows if left_out(row, pass_rate) is None]
    if not kept:
        bounds = f" has a pass rate strictly between {pass_rate['above']} and {pass_rate['below']}" if pass_rate else ""
        raise ValueError(
            f"{data}: none of {len(rows)} rows{bounds} (rows by pass rate: {distribution(rows)}); widen rl.pass_rate,"
            " raise difficulty.samples, or take rows that the start policy solves sometimes"
        )
    return kept


# --- the step ------------------------------------------------------------------------------------


def check_gate(settings: dict) -> None:
    """What the schema cannot say."""
    reward_settings.fit(settings["rewards"])
    if not FIELD.search(settings["good"]):
        raise ValueError(f"gate.good: {settings['good']!r} has neither {{response}} nor {{answer}}; add one")
    if settings["success"]["reward"] not in settings["rewards"]:
        raise ValueError(
            f"rl.success.reward: {settings['success']['reward']!r} is no reward of the recipe;"
            f" choose one of {', '.join(settings['rewards'])}"
        )


def unfit(rows: list[dict], rewards: Rewards, start: Path, tokenizer: Any, settings: dict) -> dict[str, RowProblem]:
    """Id -> why a row cannot be asked or judged, of those that cannot."""
    chat, method, found = Chat(tokenizer), method_of(settings), {}
    context = teachers.context(start)
    progress = Progress("gate: rows", len(rows), "rows")
    for done, row in enumerate(rows, 1):
        if refused := rollouts.refusal(row, chat, context, settings["max_new_tokens"]):
            found[row["id"]] = RowProblem(refused.reason, refused.column, refused.hint, str(refused.detail))
        elif problem := rewards.problem(row) or method.problem(row):
            found[row["id"]] = problem
        progress.update(done)
    return found


def read_samples(path: Path, rows: list[dict]) -> dict[str, dict]:
    """The start policy's samples of the rows, by id.

    Raises:
        ValueError: a row with an answer has none, so they are not of these rows.
    """
    samples = {record["id"]: record for record in read_jsonl(path)}
    for row in rows:
        if row["answer"] is not None and row["id"] not in samples:
            raise ValueError(f"{path}: no samples of {row['id']}; delete {path.parent} and run again")
    return {row["id"]: samples[row["id"]] for row in rows if row["id"] in samples}


def judge_all(
    rewards: Rewards,
    cases: list[Case],
    fitting: list[dict],
    samples: dict[str, dict],
    count: Callable,
    aggregation: str = AGGREGATIONS[0],
) -> tuple[Judged, int]:
    """The cases and the start policy's samples, judged; and how many samples a row has (0 where none has any)."""
    sampled = [samples[row["id"]] for row in fitting if row["id"] in samples]
    size = len(sampled[0]["responses"]) if sampled else 0
    known = [case.response for case in cases]
    rows = [case.row for case in cases] + [row for row in fitting if row["id"] in samples for _ in range(size)]
    labels = [f"{case.kind}, {case.form}" for case in cases] + [f"sample {j}" for _ in sampled for j in range(size)]
    responses = known + [text for record in sampled for text in record["responses"]]
    tokens = count(known) + [n for record in sampled for n in record["tokens"]]
    assert len(rows) == len(labels) == len(responses) == len(tokens)
    groups = [len([*own]) for _, own in groupby(cases, key=lambda case: case.row["id"])] + [size] * len(sampled)
    return judge(rewards, rows, labels, responses, tokens, groups, aggregation), size


def case_rows(cases: list[Case], judged: Judged) -> list[dict]:
    """The rows of cases.jsonl."""
    return [
        {
            "id": case.row["id"],
            "kind": case.kind,
            "form": case.form,
            "response": case.response,
            "total": judged.totals[i],
            "rewards": {name: each[i].value for name, each in judged.scored.items()},
            "notes": {name: each[i].note for name, each in judged.scored.items() if each[i].note is not None},
            "errors": {name: each[i].error for name, each in judged.scored.items() if each[i].error is not None},
        }
        for i, case in enumerate(cases)
    ]


def write_table(path: Path, checks: list[Check]) -> None:
    rows = [
        {"check": c.name, "n": c.n, "value": round(c.value, 6), "bar": c.bar, "verdict": "ok" if c.ok else "stopped"}
        for c in checks
    ]
    write_text(path, csv_text([*rows[0]], rows))


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    check_gate(settings)
    inputs = [args.data, args.samples, *checkpoints.check(args.start), *custom_files(settings["rewards"])]
    if args.reward_model is not None:
        inputs += checkpoints.check(args.reward_model)
    tokenizer = checkpoints.load_tokenizer(args.start)

    def count(texts: list[str]) -> list[int]:
        # The end token counts, as it does in what a model writes.
        return [len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    believes = None
    if any(reward["kind"] == "self" for reward in settings["rewards"].values()):
        from steps.engines.transformers import Engine

        believes = Engine.load(args.start, BATCH).choose

    rows = list(read_rows(args.data))
    with Rewards(settings["rewards"], believes=believes, reward_model=args.reward_model) as rewards:
        problems = unfit(rows, rewards, args.start, tokenizer, settings)
        if len(problems) == len(rows):
            row, problem = rows[0], problems[rows[0]["id"]]
            raise ValueError(
                f"{args.data}: none of {len(rows)} rows can be asked and judged; the first ({row['file']} row"
                f" {row['row']}, column {problem.column}): {problem.detail}; {problem.hint}"
            )
        fitting = [row for row in rows if row["id"] not in problems]
        kept = choose(fitting, settings["pass_rate"], args.data)
        cases = known_answers(kept, settings)
        samples = read_samples(args.samples, fitting)
        aggregation = settings.get("aggregation", AGGREGATIONS[0])
        judged, size = judge_all(rewards, cases, fitting, samples, count, aggregation)
    checks = all_checks(cases, judged, size, settings)
    stop(checks)

    out = fresh_folder(args.out)
    ledger = Ledger(out, "gate", (PROMPTS,), aside="left_out.jsonl")
    for row in rows:
        ledger.enter(row["file"])
        problem = problems.get(row["id"]) or left_out(row, settings["pass_rate"])
        if problem is None:
            ledger.keep(row, PROMPTS)
        else:
            ledger.quarantine(row, problem, prompt_of(row))
    counts = ledger.close()
    assert counts["kept"] == len(kept) and counts["in"] == len(rows)
    write_jsonl(out / "cases.jsonl", case_rows(cases, judged))
    write_table(out / "gate.csv", checks)
    counts["cases"] = dict(sorted(Counter(case.kind for case in cases).items()))
    counts["judges"] = judges_of(kept)
    counts["samples"] = sum(len(record["responses"]) for record in samples.values())
    write_manifest(
        out, step="gate", settings=settings, inputs=inputs, counts=counts, seed=settings["seed"], started=started
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of the difficulty step")
    parser.add_argument("--samples", type=Path, required=True, help="its samples.jsonl")
    parser.add_argument("--start", type=Path, required=True, help="the policy that training starts from")
    parser.add_argument("--reward-model", type=Path, help="checkpoint of a reward recipe, for the kind preference")
    run(main, parser)
