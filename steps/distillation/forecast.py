"""Whether on-policy distillation of this student from this teacher is likely to help, said before any training.

Rethinking On-Policy Distillation (arXiv:2604.13016) finds that it helps where a teacher brings a capability that the
student lacks and thinks as the student does, and that a teacher may fail from states that a student leads it into.
Three checks on a few hundred prompts ask that:

    new capability   how much more often the teacher's responses are right than the student's
    thinks alike     of the probability that each has on its own k likeliest next tokens, the share on those that are
                     among the k likeliest of both; the lesser of the two, over the student's responses
    continuation     how much more often the teacher is right when both go on, once, from the same beginnings of one
                     response of the student to each prompt

The first and the last pass where the whole 95 % interval is above 0: more than nothing. The second passes from 0.97
on, for the paper's runs had 97 to 99 % on shared tokens throughout. Its own measure of likeness is the overlap ratio,
for which it has no bar; here that is told, not judged by. Where a model is nearly sure of its next token, its sixteenth
is noise: on fable the overlap ratio of a student and a larger teacher is 0.39, with 0.9997 of the probability shared,
and the student learns from it.

This rule was settled after outcomes were seen: a bar of one half on the ratio was given up for that pair, and then the
low end of likeness' interval for its value, as levels are what the paper reports. README.md has its score on pairs that
were forecast afterwards, apart from those it was settled on.

Both models draw from the same random numbers, prompt by prompt, so that differences are paired and a model compared
with itself differs by exactly 0.

Out: forecast.json (the verdict with every number and its interval), prefixes.csv (the continuations, by the length of
what they continue), excluded.jsonl (rows that cannot be asked). The table and the verdict are printed, too. With
`stop`, a verdict against training ends the run.

Run as: python -m steps.distillation.forecast --settings '{"prompts": 200, "samples": 4, …}' --student
    results/fable/foundation/sft
    --teacher results/fable/reinforcement/grpo --data results/fable/data/exercises/split/train.jsonl
    --out results/fable/forecast/exercises/sft/grpo
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from random import Random

import numpy as np

from steps.core.files import csv_text, fresh_folder, write_json, write_jsonl, write_text
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.data.rows import read_rows
from steps.distillation import forecast_pair
from steps.distillation.forecast_pair import Pair, added, continuations, pass_rates, texts
from steps.distillation.forecast_verdict import (
    LEAST_PROMPTS,
    Check,
    Estimate,
    aligned,
    beyond,
    estimate,
    judge,
    measured,
    reasons,
    verdict,
)
from steps.engines import rollouts
from steps.engines.transformers import Engine
from steps.judges.rows import can_be_judged, judges_of
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.models.teachers import check_same_language, context
from steps.settings.forecast import Forecast

PREFIX_COLUMNS = ["share", "n", "student", "teacher", "gain", "low", "high"]


def draw(rows: list[dict], prompts: int, seed: int) -> list[dict]:
    """At most so many rows, drawn by the seed, in the order of the file."""
    random = Random(f"forecast-{seed}")
    return [rows[i] for i in sorted(random.sample(range(len(rows)), min(prompts, len(rows))))]


def measure(pair: Pair, tested: list[dict], rest: list[dict]) -> tuple[dict, Estimate, dict[str, int]]:
    """What both models do on the prompts.

    Args:
        tested: rows whose responses can be verified.
        rest: rows of which only the likeness of both is read.

    Returns:
        Numbers of forecast.json; the gain of the continuations; how many responses nobody can tell.
    """
    settings = pair.settings
    written = [pair.whole(engine, tested) for engine in (pair.student, pair.teacher)]
    passed, failed = [], {}
    for responses in written:
        rates, missed = pass_rates(tested, texts(responses), settings)
        passed.append(rates)
        failed = added(failed, missed)
    first = [own[0] for own in written[0]]
    table, gains, missed = continuations(pair, tested, first) if tested else ([], np.zeros(0), {})
    means, tokens = forecast_pair.diagnose(pair, [*tested, *rest], [*first, *pair.once(rest)])
    numbers = {"samples": settings["samples"], "prefixes": table}
    numbers["student_pass"], numbers["teacher_pass"] = (measured(rates, settings) for rates in passed)
    numbers["gain"] = measured(passed[1] - passed[0], settings)
    numbers["beyond"] = beyond(*passed)
    for name, values in means.items():
        numbers[name] = estimate(values, settings["resamples"], settings["seed"], tokens)
    return numbers, measured(gains, settings), added(failed, missed)


def write_table(path: Path, table: list[dict]) -> None:
    """prefixes.csv: a row per share, numbers to six places."""
    rounded = ({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()} for line in table)
    write_text(path, csv_text(PREFIX_COLUMNS, rounded))


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    Forecast.fit(settings)
    inputs = [args.data, *checkpoints.check(args.student), *checkpoints.check(args.teacher)]
    check_same_language(args.student, args.teacher)
    # The teacher reads through the same template.
    chat = Chat(checkpoints.load_tokenizer(args.student))
    most = min(map(context, (args.student, args.teacher)))
    rows, without = rollouts.askable(list(read_rows(args.data)), chat, "forecast", most, settings["max_new_tokens"])
    rows = draw(rows, settings["prompts"], settings["seed"])
    if not rows:
        raise ValueError(f"{args.data}: no rows, so that nothing can be forecast; look at what its filter left")
    sure = [can_be_judged(row, settings["short_answer_words"]) for row in rows]
    verified = [row for row, is_sure in zip(rows, sure, strict=True) if is_sure]
    unverified = [row for row, is_sure in zip(rows, sure, strict=True) if not is_sure]
    tested = verified if len(verified) >= LEAST_PROMPTS else []

    engines = [Engine.load(folder, settings["batch_size"]) for folder in (args.student, args.teacher)]
    # The folder says which: results/<workload>/forecast/<data set>/<student>/<teacher>.
    data, student, teacher = args.out.parts[-3:] if len(args.out.parts) >= 3 else ("data", "student", "teacher")
    numbers, continuation, failed = measure(Pair(*engines, settings), tested, unverified if tested else rows)
    numbers |= {"data": data, "student": student, "teacher": teacher}
    numbers |= {"prompts": len(rows), "verified": len(verified), "unverified": len(unverified)}
    checks = [
        Check("new capability", numbers["gain"], settings["gain"]),
        Check("thinks alike", numbers["likeness"], settings["likeness"], level=True),
        Check("continuation", continuation, settings["continuation"]),
    ]
    numbers["helps"] = judge(checks)
    numbers["reasons"] = reasons(checks, numbers, settings)
    numbers["checks"] = [
        {"check": check.name, **check.result, "bar": check.bar, "passed": check.passed} for check in checks
    ]
    conclusion = verdict(numbers["helps"], data, student, teacher, numbers["reasons"])
    print(f"{aligned(checks)}\n\n{conclusion}", flush=True)
    if settings["stop"] and not numbers["helps"]:
        raise ValueError(
            f"the forecast stopped the run: {conclusion} Choose another teacher, or write forecast.stop: false"
        )

    out = fresh_folder(args.out)
    write_json(out / "forecast.json", numbers)
    write_table(out / "prefixes.csv", numbers["prefixes"])
    tokens = sum(engine.tokens for engine in engines)
    counts = {name: numbers[name] for name in ("prompts", "verified", "unverified")}
    counts["judges"] = judges_of(rows, settings["short_answer_words"])
    if without:
        write_jsonl(out / "excluded.jsonl", without)
        counts["excluded"] = rollouts.reasons(without)
    write_manifest(
        out,
        step="forecast",
        settings=settings,
        inputs=inputs,
        counts=counts | {"tokens": tokens} | failed,
        seed=settings["seed"],
        started=started,
        tokens=tokens,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--student", type=Path, required=True, help="the checkpoint that training starts from")
    parser.add_argument("--teacher", type=Path, required=True, help="the checkpoint that it learns from")
    parser.add_argument("--data", type=Path, required=True, help="the rows whose prompts are asked")
    run(main, parser)
