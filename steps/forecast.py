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
what they continue). The table and the verdict are printed, too. With `stop`, a verdict against training ends the run.

Run as: python -m steps.forecast --settings '{"prompts": 200, "samples": 4, …}' --student results/fable/foundation/sft
    --teacher results/fable/reinforcement/grpo --data results/fable/data/exercises/split/train.jsonl
    --out results/fable/forecast/exercises/sft/grpo
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from steps import checkpoints, estimators
from steps.common import Progress, fresh_folder, run, step_parser, write_json, write_manifest, write_text
from steps.difficulty import check_answers, math_pass_rates
from steps.engine import Engine, Sample
from steps.rollouts import check_lengths
from steps.rows import read_rows
from steps.teachers import check_same_language
from steps.verify import solves

# With fewer prompts, a bootstrap interval is too narrow to rest a verdict on.
LEAST_PROMPTS = 20
# Logits held at a time, of each model: half a gigabyte.
AT_ONCE = 2**27
# Streams of random numbers, apart from the ones of the prompts themselves: [seed, stream, prefix, prompt, sample].
WHOLE, UNVERIFIED, CONTINUED = 1, 2, 3
DIAGNOSTICS = {
    "overlap": "overlap",
    "mass_student": "mass_student",
    "mass_teacher": "mass_teacher",
    "overlap_advantage": "advantage",
    "entropy_gap": "entropy_gap",
    "divergence": "divergence",
    "likeness": "likeness",
}
PREFIX_COLUMNS = ["share", "n", "student", "teacher", "gain", "low", "high"]

Estimate = dict[str, float | None]
UNKNOWN: Estimate = {"value": None, "low": None, "high": None}


class Check(NamedTuple):
    """One condition: the whole interval must be above the bar or, of a `level`, the value at it or above."""

    name: str
    found: Estimate
    bar: float
    level: bool = False

    @property
    def passed(self) -> bool | None:
        """None where it could not be measured."""
        if self.found["low"] is None:
            return None
        return self.found["value"] >= self.bar if self.level else self.found["low"] > self.bar


# --- estimates -----------------------------------------------------------------------------------


def estimate(values: np.ndarray, resamples: int, seed: int, weights: np.ndarray | None = None) -> Estimate:
    """A mean with its 95 % bootstrap interval (percentiles), items being what is resampled.

    Args:
        values: [items].
        weights: [items]; the mean is then Σ wᵢ vᵢ / Σ wᵢ, weights being resampled with their items. Equal by default.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    # From the first value on: a constant then comes out exactly, not off by the rounding of a sum.
    origin = values[0]
    shares = estimators.resample_shares(len(values), resamples, [seed])
    means = origin + shares @ (weights * (values - origin)) / (shares @ weights)
    tail = (1 - estimators.INTERVAL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    value = origin + weights @ (values - origin) / weights.sum()
    return {"value": float(value), "low": float(low), "high": float(high)}


def measured(values: np.ndarray, settings: dict) -> Estimate:
    """`estimate`, or UNKNOWN of too few prompts."""
    return estimate(values, settings["resamples"], settings["seed"]) if len(values) >= LEAST_PROMPTS else dict(UNKNOWN)


def beyond(student: np.ndarray, teacher: np.ndarray) -> Estimate:
    """Share of prompts that the teacher solves in at least half of its samples and the student in none.

    Args:
        student, teacher: [prompts] pass rates.
    """
    if len(student) < LEAST_PROMPTS:
        return dict(UNKNOWN)
    value = float(np.mean((teacher >= 0.5) & (student == 0)))
    low, high = estimators.wilson(value, len(student))
    return {"value": value, "low": low, "high": high}


# --- rows and responses --------------------------------------------------------------------------


def draw(rows: list[dict], prompts: int, seed: int) -> list[dict]:
    """At most so many rows, drawn by the seed, in the order of the file."""
    random = Random(f"forecast-{seed}")
    return [rows[i] for i in sorted(random.sample(range(len(rows)), min(prompts, len(rows))))]


def pass_rates(rows: list[dict], responses: list[list[str]], settings: dict) -> tuple[np.ndarray, dict[str, int]]:
    """[rows], the share of each row's responses that are right, and how many math-verify failed on."""
    rates, failed = np.zeros(len(rows)), {}
    math = [i for i, row in enumerate(rows) if settings["equivalence"] == "math" and by_mathematics(row)]
    if math:
        rates[math], failed = math_pass_rates([rows[i] for i in math], [responses[i] for i in math])
    for i in sorted({*range(len(rows))} - {*math}):
        rates[i] = np.mean([solves(rows[i], text, settings["short_answer_words"]) for text in responses[i]])
    return rates, failed


def by_mathematics(row: dict) -> bool:
    """Whether `equivalence: math` is of a row's concern."""
    return "check" not in row and row["answer"] is not None


def texts(found: list[list[Sample]]) -> list[list[str]]:
    return [[sample.text for sample in own] for own in found]


class Pair:
    """A student and a teacher that are asked the same, with the same random numbers."""

    def __init__(self, student: Engine, teacher: Engine, settings: dict):
        self.student, self.teacher, self.settings = student, teacher, settings

    def sample(
        self, engine: Engine, what: str, prompts: list, n: int, limits: int | list[int], stream: tuple[int, int]
    ) -> list[list[Sample]]:
        """[prompts][n]; `stream` keeps the random numbers of different questions apart."""
        who = "student" if engine is self.student else "teacher"
        return engine.sample(
            prompts,
            n=n,
            temperature=self.settings["temperature"],
            max_new_tokens=limits,
            seed=(self.settings["seed"], *stream),
            progress=Progress(f"forecast: {who}, {what}", len(prompts) * n, "responses"),
        )

    def whole(self, engine: Engine, rows: list[dict]) -> list[list[Sample]]:
        """[rows][samples] responses."""
        prompts, limit = [row["messages"][:-1] for row in rows], self.settings["max_new_tokens"]
        return self.sample(engine, "responses", prompts, self.settings["samples"], limit, (WHOLE, 0))

    def once(self, rows: list[dict]) -> list[Sample]:
        """One response of the student to every row."""
        prompts, limit = [row["messages"][:-1] for row in rows], self.settings["max_new_tokens"]
        found = self.sample(self.student, "rows without a check", prompts, 1, limit, (UNVERIFIED, 0))
        return [one for (one,) in found]

    def continued(self, engine: Engine, prompts: list[list[int]], begun: list[tuple[int, ...]], k: int) -> list[str]:
        """[prompts] whole responses: what was begun, token by token as it was written, and what the model adds.

        What was begun counts among the tokens that a response may have.

        Args:
            prompts, begun: token ids.
            k: number of the prefix, for its random numbers.
        """
        asked = [(*prompt, *tokens) for prompt, tokens in zip(prompts, begun, strict=True)]
        limits = [self.settings["max_new_tokens"] - len(tokens) for tokens in begun]
        found = self.sample(
            engine, f"from {self.settings['prefixes'][k]:.0%} of a response", asked, 1, limits, (CONTINUED, k)
        )
        ids = [(*tokens, *one.ids) for tokens, (one,) in zip(begun, found, strict=True)]
        # The tokenizer raises on an empty list: no response may be long enough to be continued.
        return (
            engine.tokenizer.batch_decode([unended(row, engine.stop_ids) for row in ids], skip_special_tokens=True)
            if ids
            else []
        )


def unended(ids: Sequence[int], stop_ids: list[int]) -> list[int]:
    """Tokens without the end token."""
    return [*(ids[:-1] if ids[-1] in stop_ids else ids)]


def prefix(ids: Sequence[int], share: float) -> tuple[int, ...]:
    """The beginning of a response that holds this share of its tokens, rounded down: never all of them."""
    return tuple(ids[: int(share * len(ids))])


# --- what is measured ----------------------------------------------------------------------------


def continuations(
    pair: Pair, rows: list[dict], responses: list[Sample]
) -> tuple[list[dict], np.ndarray, dict[str, int]]:
    """The continuation test: both models go on from beginnings of the student's responses.

    Args:
        responses: of the student, one per row.

    Returns:
        A row of prefixes.csv per share; [prompts], the gain of each prompt that has a prefix, mean over its prefixes;
        how many comparisons math-verify failed on.
    """
    settings = pair.settings
    ids = pair.student.prompt_ids([row["messages"][:-1] for row in rows])
    table, gains, failed = [], np.full((len(settings["prefixes"]), len(rows)), np.nan), {}
    for k, share in enumerate(settings["prefixes"]):
        begun = [prefix(response.ids, share) for response in responses]
        kept = [i for i, tokens in enumerate(begun) if tokens]
        rates = []
        for engine in (pair.student, pair.teacher):
            found = pair.continued(engine, [ids[i] for i in kept], [begun[i] for i in kept], k)
            rate, missed = pass_rates([rows[i] for i in kept], [[text] for text in found], settings)
            failed = added(failed, missed)
            rates.append(rate)
        gains[k, kept] = rates[1] - rates[0]
        line = {"share": share, "n": len(kept)}
        for name, values in (("student", rates[0]), ("teacher", rates[1]), ("gain", gains[k, kept])):
            line[name] = float(values.mean()) if kept else None
        interval = measured(gains[k, kept], settings)
        table.append(line | {"low": interval["low"], "high": interval["high"]})
    some = ~np.isnan(gains).all(axis=0)
    return table, np.nanmean(gains[:, some], axis=0), failed


def added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


def diagnose(pair: Pair, rows: list[dict], responses: list[Sample]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`overlap.measure` at every token of the student's responses.

    Args:
        responses: one per row.

    Returns:
        DIAGNOSTICS' names → [rows], the mean over a response's tokens; [rows], how many they are.
    """
    import torch

    from steps import overlap

    device, temperature = pair.student.model.device, pair.settings["temperature"]
    prompts = pair.student.prompt_ids([row["messages"][:-1] for row in rows])
    lengths = np.array([len(response.ids) for response in responses])
    means = {name: np.zeros(len(rows)) for name in DIAGNOSTICS}
    sizes = [engine.model.config.get_text_config().vocab_size for engine in (pair.student, pair.teacher)]
    # Longest first, as the engine does. The last token is predicted, and predicts nothing.
    inputs = [prompt + [*response.ids[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    progress = Progress("forecast: overlap", len(rows), "responses")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        size = max(1, min(pair.settings["batch_size"] // 4, AT_ONCE // (longest * max(sizes))))
        batch = order[begin : begin + size]
        logits = [
            last_logits(engine, [inputs[i] for i in batch], longest)[..., : min(sizes)] / temperature
            for engine in (pair.student, pair.teacher)
        ]
        found = overlap.measure(logits[0], logits[1].to(device), pair.settings["top_k"])
        written = torch.tensor(lengths[batch], device=device)
        inside = torch.arange(longest, device=device) >= longest - written[:, None]
        for name, measure in DIAGNOSTICS.items():
            total = found[measure].double().masked_fill(~inside, 0.0).sum(-1)
            means[name][batch] = total.cpu().numpy() / lengths[batch]
        begin += len(batch)
        progress.update(begin)
    return means, lengths


def last_logits(engine: Engine, ids: list[list[int]], places: int):
    """Logits of the last places of token sequences, padded on the left: [rows, places, vocabulary] in float32.

    Where a sequence is shorter than `places`, its first ones mean nothing.
    """
    import torch

    device, width = engine.model.device, max(max(map(len, ids)), places)
    tokens = torch.tensor([[engine.pad_id] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    with torch.inference_mode():
        out = engine.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=places,
        )
    return out.logits.float()


# --- the verdict ---------------------------------------------------------------------------------


def judge(checks: list[Check]) -> bool:
    """Whether every check that could be measured passed, of at least one."""
    found = [check.passed for check in checks if check.passed is not None]
    return bool(found) and all(found)


def shown(found: Estimate) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def reasons(checks: list[Check], numbers: dict, settings: dict) -> list[str]:
    """One sentence per check, in their order, and one where too few rows could be verified.

    Args:
        numbers: forecast.json so far.
    """
    capability, alike, continuation = checks
    found = []
    if capability.passed is None:
        found.append(
            f"New capability is not measured: {numbers['verified']} of {numbers['prompts']} prompts can be verified,"
            f" and {LEAST_PROMPTS} are needed."
        )
    else:
        word = "more often" if numbers["gain"]["value"] > 0 else "no more often"
        found.append(
            f"The teacher is right {word}: {numbers['teacher_pass']['value']:.3f} against"
            f" {numbers['student_pass']['value']:.3f}, a gain of {shown(numbers['gain'])}, whose interval"
            f" {'lies' if capability.passed else 'does not lie'} above {capability.bar:g}."
        )
    found.append(
        f"Of the probability on the {settings['top_k']} likeliest tokens of each, {shown(alike.found)} lies on shared"
        f" ones, {'at least' if alike.passed else 'less than'} {alike.bar:g} (they share"
        f" {shown(numbers['overlap'])} of these tokens)."
    )
    if continuation.passed is None:
        found.append(
            "Whether the teacher can go on from the student's responses is not measured: fewer than"
            f" {LEAST_PROMPTS} of them can be verified and are long enough to be continued."
        )
    else:
        found.append(
            f"Going on from the student's responses, the teacher gains {shown(continuation.found)}, whose interval"
            f" {'lies' if continuation.passed else 'does not lie'} above {continuation.bar:g}."
        )
    if capability.passed is None and continuation.passed is None:
        found.append("The verdict rests on overlap alone.")
    return found


def verdict(helps: bool, data: str, student: str, teacher: str, why: list[str]) -> str:
    word = "is expected to help" if helps else "is not expected to help"
    return f"Distilling {student} from {teacher} on the prompts of {data} {word}: {' '.join(why)}"


def aligned(checks: list[Check]) -> str:
    """The table as text."""
    lines = [("check", "value", "low", "high", "bar", "verdict")]
    for check in checks:
        cells = ["–" if check.found[end] is None else f"{check.found[end]:.4g}" for end in ("value", "low", "high")]
        word = {None: "not measured", True: "passed", False: "failed"}[check.passed]
        lines.append((check.name, *cells, f"{check.bar:.4g}", word))
    width = [max(len(line[i]) for line in lines) for i in range(6)]
    return "\n".join(
        "  ".join([line[0].ljust(width[0]), *(line[i].rjust(width[i]) for i in range(1, 6))]) for line in lines
    )


# --- the step ------------------------------------------------------------------------------------


def check_settings(settings: dict) -> None:
    """What the schema cannot say."""
    shares = settings["prefixes"]
    if not shares or shares != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
        raise ValueError(f"forecast.prefixes: {shares} must rise between 0 and 1, such as [0.25, 0.5, 0.75]")
    if settings["temperature"] <= 0:
        raise ValueError(
            f"forecast.temperature: {settings['temperature']:g} makes all samples alike; write 1.0, or what opd has"
        )


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    check_settings(settings)
    inputs = [args.data, *checkpoints.check(args.student), *checkpoints.check(args.teacher)]
    check_same_language(args.student, args.teacher)
    rows = draw(list(read_rows(args.data)), settings["prompts"], settings["seed"])
    if not rows:
        raise ValueError(f"{args.data}: no rows, so that nothing can be forecast; look at what its filter left")
    sure = [solves(row, "", settings["short_answer_words"]) is not None for row in rows]
    verified = [row for row, is_sure in zip(rows, sure, strict=True) if is_sure]
    unverified = [row for row, is_sure in zip(rows, sure, strict=True) if not is_sure]
    tested = verified if len(verified) >= LEAST_PROMPTS else []
    if settings["equivalence"] == "math":
        check_answers([row for row in tested if by_mathematics(row)])

    engines = [Engine.load(folder, settings["batch_size"]) for folder in (args.student, args.teacher)]
    for engine in engines:
        check_lengths(rows, engine, settings["max_new_tokens"])
    pair = Pair(*engines, settings)
    rest = unverified if tested else rows
    written = [pair.whole(engine, tested) for engine in engines]
    passed, failed = [], {}
    for found in written:
        rates, missed = pass_rates(tested, texts(found), settings)
        passed.append(rates)
        failed = added(failed, missed)
    first = [own[0] for own in written[0]]
    table, gains, missed = continuations(pair, tested, first) if tested else ([], np.zeros(0), {})
    failed = added(failed, missed)
    means, tokens = diagnose(pair, [*tested, *rest], [*first, *pair.once(rest)])

    # The folder says which: results/<workload>/forecast/<data set>/<student>/<teacher>.
    data, student, teacher = args.out.parts[-3:] if len(args.out.parts) >= 3 else ("data", "student", "teacher")
    numbers = {"data": data, "student": student, "teacher": teacher}
    numbers |= {"prompts": len(rows), "verified": len(verified), "unverified": len(unverified)}
    numbers |= {"samples": settings["samples"], "prefixes": table}
    numbers["student_pass"], numbers["teacher_pass"] = (measured(rates, settings) for rates in passed)
    numbers["gain"] = measured(passed[1] - passed[0], settings)
    numbers["beyond"] = beyond(*passed)
    for name, values in means.items():
        numbers[name] = estimate(values, settings["resamples"], settings["seed"], tokens)
    checks = [
        Check("new capability", numbers["gain"], settings["gain"]),
        Check("thinks alike", numbers["likeness"], settings["likeness"], level=True),
        Check("continuation", measured(gains, settings), settings["continuation"]),
    ]
    numbers["helps"] = judge(checks)
    numbers["reasons"] = reasons(checks, numbers, settings)
    numbers["checks"] = [
        {"check": check.name, **check.found, "bar": check.bar, "passed": check.passed} for check in checks
    ]
    told = verdict(numbers["helps"], data, student, teacher, numbers["reasons"])
    print(f"{aligned(checks)}\n\n{told}", flush=True)
    if settings["stop"] and not numbers["helps"]:
        raise ValueError(f"the forecast stopped the run: {told} Choose another teacher, or write forecast.stop: false")

    out = fresh_folder(args.out)
    write_json(out / "forecast.json", numbers)
    write_table(out / "prefixes.csv", table)
    written_tokens = sum(engine.tokens for engine in engines)
    write_manifest(
        out,
        step="forecast",
        settings=settings,
        inputs=inputs,
        counts={name: numbers[name] for name in ("prompts", "verified", "unverified")}
        | {"tokens": written_tokens}
        | failed,
        seed=settings["seed"],
        started=started,
        tokens=written_tokens,
    )


def write_table(path: Path, table: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, PREFIX_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()} for line in table)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--student", type=Path, required=True, help="the checkpoint that training starts from")
    parser.add_argument("--teacher", type=Path, required=True, help="the checkpoint that it learns from")
    parser.add_argument("--data", type=Path, required=True, help="the rows whose prompts are asked")
    run(main, parser)
