"""What two models do when they are asked the same: pass rates, continuations, likeness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steps.core.progress import Progress
from steps.core.turns import asked_turns
from steps.distillation.forecast_verdict import measured
from steps.engines.interface import Sample
from steps.engines.transformers import Engine
from steps.judges.rows import RowJudge, unverifiable
from steps.models import checkpoints, head

# Logits held at a time, of each model: half a gigabyte.
AT_ONCE = 2**27
# Streams of random numbers, apart from the ones of the prompts themselves: [seed, stream, prefix, prompt, sample].
WHOLE, UNVERIFIED, CONTINUED = 1, 2, 3
# A name in forecast.json → the diagnostic of `overlap.measure`.
DIAGNOSTICS = {
    "overlap": "overlap",
    "mass_student": "mass_student",
    "mass_teacher": "mass_teacher",
    "overlap_advantage": "advantage",
    "entropy_gap": "entropy_gap",
    "divergence": "divergence",
    "likeness": "likeness",
}


def pass_rates(rows: list[dict], responses: list[list[str]], settings: dict) -> tuple[np.ndarray, dict[str, int]]:
    """[rows], the share of each row's responses that are right, and how many nobody can tell."""
    with RowJudge() as judge:
        verdicts = judge.verdicts(rows, responses, settings["short_answer_words"])
    return np.array([np.mean([verdict.right for verdict in own]) for own in verdicts]), {
        "unverifiable": unverifiable(verdicts)
    }


def texts(samples: list[list[Sample]]) -> list[list[str]]:
    """What each of them says."""
    return [[sample.text for sample in own] for own in samples]


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
        prompts, limit = [asked_turns(row) for row in rows], self.settings["max_new_tokens"]
        return self.sample(engine, "responses", prompts, self.settings["samples"], limit, (WHOLE, 0))

    def once(self, rows: list[dict]) -> list[Sample]:
        """One response of the student to every row."""
        prompts, limit = [asked_turns(row) for row in rows], self.settings["max_new_tokens"]
        samples = self.sample(self.student, "rows without a check", prompts, 1, limit, (UNVERIFIED, 0))
        return [one for (one,) in samples]

    def continued(self, engine: Engine, prompts: list[list[int]], begun: list[tuple[int, ...]], k: int) -> list[str]:
        """[prompts] whole responses: what was begun, token by token as it was written, and what the model adds.

        What was begun counts among the tokens that a response may have.

        Args:
            prompts, begun: token ids.
            k: number of the prefix, for its random numbers.
        """
        asked = [(*prompt, *tokens) for prompt, tokens in zip(prompts, begun, strict=True)]
        limits = [self.settings["max_new_tokens"] - len(tokens) for tokens in begun]
        samples = self.sample(
            engine, f"from {self.settings['prefixes'][k]:.0%} of a response", asked, 1, limits, (CONTINUED, k)
        )
        ids = [(*tokens, *one.ids) for tokens, (one,) in zip(begun, samples, strict=True)]
        whole = [unended(row, engine.stop_ids) for row in ids]
        return [*map(engine.chat.reopened, engine.chat.texts(whole))]


def unended(ids: Sequence[int], stop_ids: list[int]) -> list[int]:
    """Tokens without the end token."""
    return [*(ids[:-1] if ids[-1] in stop_ids else ids)]


def prefix(ids: Sequence[int], share: float) -> tuple[int, ...]:
    """The beginning of a response that holds this share of its tokens, rounded down: never all of them."""
    return tuple(ids[: int(share * len(ids))])


def continuations(
    pair: Pair, rows: list[dict], responses: list[Sample]
) -> tuple[list[dict], np.ndarray, dict[str, int]]:
    """The continuation test: both models go on from beginnings of the student's responses.

    Args:
        responses: of the student, one per row.

    Returns:
        A row of prefixes.csv per share; [prompts], the gain of each prompt that has a prefix, mean over its prefixes;
        how many responses nobody can tell.
    """
    settings = pair.settings
    ids = pair.student.prompt_ids([asked_turns(row) for row in rows])
    table, gains, failed = [], np.full((len(settings["prefixes"]), len(rows)), np.nan), {}
    for k, share in enumerate(settings["prefixes"]):
        begun = [prefix(response.ids, share) for response in responses]
        kept = [i for i, tokens in enumerate(begun) if tokens]
        rates = []
        for engine in (pair.student, pair.teacher):
            said = pair.continued(engine, [ids[i] for i in kept], [begun[i] for i in kept], k)
            rate, missed = pass_rates([rows[i] for i in kept], [[text] for text in said], settings)
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
    """Counts by name, summed."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


def diagnose(pair: Pair, rows: list[dict], responses: list[Sample]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`overlap.measure` at every token of the student's responses.

    Args:
        responses: one per row.

    Returns:
        DIAGNOSTICS' names → [rows], the mean over a response's tokens; [rows], how many they are.
    """
    import torch

    from steps.distillation import overlap

    device, temperature = pair.student.model.device, pair.settings["temperature"]
    prompts = pair.student.prompt_ids([asked_turns(row) for row in rows])
    lengths = np.array([len(response.ids) for response in responses])
    means = {name: np.zeros(len(rows)) for name in DIAGNOSTICS}
    sizes = [engine.model.config.get_text_config().vocab_size for engine in (pair.student, pair.teacher)]
    # Longest first, as the engine does. The last token is predicted, and predicts nothing.
    inputs = [prompt + [*response.ids[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    progress = Progress("forecast: overlap", len(rows), "responses")
    wide, begin = head.is_wide(pair.student.model), 0
    vocabulary = checkpoints.token_count(pair.student.tokenizer)

    def compared(student: Any, teacher: Any) -> tuple[Any, ...]:
        # Vocabularies may be padded beyond, each its own way; no token is there.
        student, teacher = student[..., :vocabulary], teacher[..., :vocabulary].to(device)
        found = overlap.measure(student, teacher, pair.settings["top_k"])
        return tuple(found[measure] for measure in DIAGNOSTICS.values())

    while begin < len(order):
        longest = int(lengths[order[begin]])
        size = max(1, pair.settings["batch_size"] // 4)
        size = size if wide else max(1, min(size, AT_ONCE // (longest * max(sizes))))
        batch = order[begin : begin + size]
        logits = [
            last_logits(engine, [inputs[i] for i in batch], longest, wide) / temperature
            for engine in (pair.student, pair.teacher)
        ]
        with torch.inference_mode():
            measures = dict(zip(DIAGNOSTICS.values(), head.per_place(compared, logits), strict=True))
        written = torch.tensor(lengths[batch], device=device)
        inside = torch.arange(longest, device=device) >= longest - written[:, None]
        for name, measure in DIAGNOSTICS.items():
            total = measures[measure].double().masked_fill(~inside, 0.0).sum(-1)
            means[name][batch] = total.cpu().numpy() / lengths[batch]
        begin += len(batch)
        progress.update(begin)
    return means, lengths


def last_logits(engine: Engine, ids: list[list[int]], places: int, wide: bool) -> Any:
    """Logits of the last places of token sequences, padded on the left: [rows, places, vocabulary] in float32; of a
    wide vocabulary the `head.Places` that stand for them.

    Where a sequence is shorter than `places`, its first ones mean nothing.
    """
    import torch

    device, width = engine.model.device, max(max(map(len, ids)), places)
    tokens = torch.tensor([[engine.pad_id] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    with torch.inference_mode():
        logits = head.read(
            engine.model,
            wide,
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=places,
        )
    return logits.float()
