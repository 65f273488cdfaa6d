"""Pass rates: the share of a model's samples that answer a row correctly, and the difficulty that follows."""

import os
import time
from collections import Counter
from collections.abc import Iterator

from steps.core.files import fresh_folder, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import Progress, say
from steps.core.turns import asked_turns
from steps.engines import rollouts
from steps.engines.interface import Coder
from steps.engines.load import load_engine
from steps.judges.judge import Verdict
from steps.judges.rows import RowJudge, by_answer, judges_of
from steps.models import checkpoints

BUCKETS = ("easy", "medium", "hard", "unverified")
# Characters of a response that stand beside its verdict, for the answer is at its end; of its answer, and of the gold.
SHOWN = 300


def bucket_of(pass_rate: float | None, edges: list[float]) -> str:
    """Name of the bucket; `edges` are the two pass rates at which medium and easy begin."""
    if pass_rate is None:
        return "unverified"
    return "hard" if pass_rate < edges[0] else "medium" if pass_rate < edges[1] else "easy"


def pass_rates(rows: list[dict], responses: list[list[str]]) -> tuple[list[float], list[list[Verdict]]]:
    """The share of each row's responses that its judge takes for right, and the verdicts.

    Args:
        responses: [rows][samples].
    """
    with RowJudge() as judge:
        verdicts = judge.verdicts([*map(by_answer, rows)], responses, what="compare")
    return [sum(verdict.right for verdict in own) / len(own) for own in verdicts], verdicts


def told(rows: list[dict], responses: list[list[str]], verdicts: list[list[Verdict]]) -> Iterator[dict]:
    """The rows of verdicts.jsonl: of each sample what was read, how it was judged and why, and how it ends.

    Args:
        responses: [rows][samples].
        verdicts: [rows][samples].
    """
    for row, texts, own in zip(rows, responses, verdicts, strict=True):
        for number, (text, verdict) in enumerate(zip(texts, own, strict=True)):
            judged = {"outcome": verdict.outcome, "why": verdict.why, "end": text[-SHOWN:]}
            # Tests and programs may be long.
            compared = {"gold": row["answer"][:SHOWN], "read": str(verdict.read)[:SHOWN]}
            yield {"id": row["id"], "sample": number} | compared | judged


def examined(rows: list[dict], engine: Coder, max_new_tokens: int) -> tuple[list[dict], list[dict]]:
    """The rows with an answer that can be asked and judged, and what is wrong with each other row with an answer."""
    kept, without = [], []
    with RowJudge() as judge:
        for row in (row for row in rows if row["answer"] is not None):
            if unjudgeable := judge.refusal(row):
                hint = "correct the answer or remove the row"
                without.append(rollouts.excluded(row, "unjudgeable", "answer", hint, unjudgeable))
            elif unfit := rollouts.refusal(row, engine.chat, engine.max_length, max_new_tokens):
                without.append(rollouts.excluded(row, unfit.reason, unfit.column, unfit.hint, str(unfit.detail)))
            else:
                kept.append(row)
    return kept, without


def measure(args, step: str, rows: list[dict], keep_samples: bool) -> None:
    """Sample a model on every row with an answer, and write the rows with their pass rates.

    A row has none where no response could be right by its answer, the chat template refuses it, or its prompt leaves no
    room for a response: excluded.jsonl says why of each.

    Args:
        rows: as read from `args.input`.
        keep_samples: write samples.jsonl, too: id, responses and tokens of each row with an answer.
    """
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    model_files = checkpoints.check(args.model)
    engine = load_engine(args.model, settings["batch_size"], settings["engine"])
    verifiable, excluded = examined(rows, engine, settings["max_new_tokens"])
    if excluded:
        first = f"{excluded[0]['file']} row {excluded[0]['row']}: {excluded[0]['detail']}"
        say(step, f"{len(excluded):,} of {len(rows):,} rows are not asked; excluded.jsonl has why ({first})")
    samples = engine.sample(
        [asked_turns(row) for row in verifiable],
        n=settings["samples"],
        temperature=settings["temperature"],
        max_new_tokens=settings["max_new_tokens"],
        seed=settings["seed"],
        progress=Progress(step, len(verifiable) * settings["samples"], "answers"),
    )
    responses = [[sample.text for sample in own] for own in samples]
    shares, verdicts = pass_rates(verifiable, responses)
    by_id = {row["id"]: share for row, share in zip(verifiable, shares, strict=True)}
    for row in rows:
        row["pass_rate"] = by_id.get(row["id"])
        row["bucket"] = bucket_of(row["pass_rate"], settings["edges"])

    out = fresh_folder(args.out)
    write_jsonl(out / "train.jsonl", rows)
    write_jsonl(out / "excluded.jsonl", excluded)
    write_jsonl(out / "verdicts.jsonl", told(verifiable, responses, verdicts))
    if keep_samples:
        found = zip(verifiable, responses, samples, strict=True)
        write_jsonl(
            out / "samples.jsonl",
            ({"id": row["id"], "responses": texts, "tokens": [s.tokens for s in own]} for row, texts, own in found),
        )
    counts = {"in": len(rows), "kept": len(rows), "quarantined": {}}
    counts |= {name: sum(row["bucket"] == name for row in rows) for name in BUCKETS}
    outcomes = Counter(verdict.outcome for own in verdicts for verdict in own)
    counts["judges"] = judges_of(map(by_answer, verifiable))
    counts |= {"truncated_prompts": engine.truncated, "verdicts": dict(sorted(outcomes.items()))}
    # They are among the unverified.
    counts["excluded"] = rollouts.reasons(excluded)
    assert sum(counts[name] for name in BUCKETS) == counts["in"]
    write_manifest(
        out,
        step=step,
        settings=settings,
        inputs=[args.input, *model_files],
        counts=counts,
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup(),
    )
