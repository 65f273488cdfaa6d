"""Evidence on every row that fine-tuning did not learn: all that a judge needs to say why.

Decides nothing. One record per unlearned row, from five sources: what the base answers and how sure it is, what base
and tuned model believe of the row's options, which other rows are near and which of them ask the same, what a
library says, and how the row and its domain fared over training.

Two prompts ask the same when they name the same (names, numbers and quotations, in their order) and
when, with one name put into both, the base is in the same state of mind before it answers. The name put in is one
that many rows hold: the state in which a name leaves the base that it never read tells little about the question.

Run as: python -m steps.diagnosis.evidence --settings '{"samples": 10, …}' --detected detected.parquet
    --trajectory trajectory.parquet --base data/fable/base --data train.jsonl --library articles.jsonl --out …
"""

import argparse
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.turns import asked_turns
from steps.data.rows import core, prompt_of, read_rows, response_of, words
from steps.diagnosis.library import TOKEN, Library
from steps.diagnosis.named import Names, with_name
from steps.diagnosis.options import option_responses
from steps.engines.interface import Sample
from steps.engines.load import load_engine
from steps.judges.canonical import canonical
from steps.judges.judge import Verdict
from steps.judges.reading import count_words, normalize
from steps.judges.rows import MARK_OF, RowJudge
from steps.models import checkpoints
from steps.stats import agreement, sampling

# Names that are put into two prompts to compare them, and rows compared at a time.
STAND_INS = 4
CHUNK = 256

TEXT = ("id", "file", "domain", "prompt", "response", "answer", "kind", "judge", "base_answer", "entity", "rival",
        "rival_answer")  # fmt: skip
NUMBERS = ("pass_n", "severity", "base_pass", "base_agreement", "base_confidence", "base_wrong_confidence",
           "base_probability", "js", "rival_similarity", "base_rival_probability", "last_correct_epoch", "domain_peak",
           "domain_final", "domain_drop", "loss", "first_loss", "lowest_loss", "loss_slope", "weakest",
           "rarity")  # fmt: skip
# As detection left them.
KEPT = ("id", "file", "prompt", "response", "answer", "kind", "judge", "pass_n", "severity", "best_of_n", "options")
FLAGS = ("best_of_n", "base_best_of_5", "ever_correct")
COUNTS = ("support", "rival_support", "length")
LISTS = {"options": "string", "base_options": "float64", "tuned_options": "float64", "neighbours": "string",
         "similarity": "float64", "agrees": "bool", "same_question": "string", "trajectory": "bool"}  # fmt: skip


def schema() -> Any:
    import pyarrow as pa

    kinds = {"string": pa.string(), "float64": pa.float64(), "bool": pa.bool_()}
    fields = [(name, pa.string()) for name in TEXT] + [(name, pa.float64()) for name in NUMBERS]
    fields += [(name, pa.bool_()) for name in FLAGS] + [(name, pa.int32()) for name in COUNTS]
    return pa.schema(fields + [(name, pa.list_(kinds[kind])) for name, kind in LISTS.items()])


class Row(NamedTuple):
    """What evidence needs of a training row."""

    id: str
    messages: list[dict]
    prompt: str
    answer: str
    response: str
    worked: bool


def read(path: Path) -> list[Row]:
    """Training rows; of a row without a worked answer the response is the answer."""
    found = []
    for row in read_rows(path):
        response = response_of(row)
        worked = row["answer"] is not None
        answer = row["answer"] if worked else normalize(response)
        found.append(Row(row["id"], asked_turns(row), prompt_of(row), answer, response, worked))
    return found


# --- the base -------------------------------------------------------------------------------------


def base_view(verdicts: list[Verdict], samples: list[Sample]) -> dict:
    """What the base says to one prompt, from its samples.

    `base_confidence` is the probability (temperature 1) of the response by which it gives its most frequent answer.
    """
    given = [verdict.read for verdict in verdicts]
    correct = np.array([verdict.right for verdict in verdicts])
    votes = Counter(canonical(one) for one in given)
    favorite, most = votes.most_common(1)[0]
    voters = [i for i, one in enumerate(given) if canonical(one) == favorite]
    confidence = np.array([sample.confidence for sample in samples])
    return {
        "base_pass": float(sampling.pass_fraction(correct)),
        "base_best_of_5": bool(sampling.best_of_n(correct[:5], confidence[:5])),
        "base_answer": given[voters[0]],
        "base_agreement": most / len(samples),
        "base_confidence": float(np.exp(max(samples[i].logp for i in voters))),
    }


def softmax(logits: Sequence[float]) -> np.ndarray:
    exponent = np.exp(np.asarray(logits) - np.max(logits))
    return exponent / exponent.sum()


def option_view(base: np.ndarray, tuned: Sequence[float]) -> dict:
    """Base and tuned model on the options of one row, of which the first is right."""
    return {
        "base_options": base.tolist(),
        "base_probability": float(base[0]),
        "base_wrong_confidence": float(base[1:].max()),
        "js": float(agreement.js_divergence(base, np.asarray(tuned))),
    }


# --- rows that are near, rows that ask the same ---------------------------------------------------


def topic(row: Row, names: Names) -> tuple:
    """The key under which rows meet that may ask the same.

    A question about something named meets others about it. What is to be worked out, or names nothing, meets only
    itself in the same words: a base that cannot work it out yet is in one state of mind for a sum and a difference.
    """
    about = names.about(row.prompt)
    return about if about[0] and not row.worked else ((), tuple(core(words(row.prompt))))


def same_questions(rows: list[Row], unlearned: list[int], engine: Any, names: Names, least: float) -> dict:
    """For each unlearned row, the rows that ask the same as [(row, similarity)], nearest first.

    The similarity is the cosine of the base's last states before its answer, averaged over the names put in. Only
    rows that name the same are compared, so that few prompts are embedded.
    """
    key = [topic(row, names) for row in rows]
    members = defaultdict(list)
    for i, about in enumerate(key):
        members[about].append(i)
    groups = {i: [j for j in members[key[i]] if j != i] for i in unlearned if len(members[key[i]]) > 1}
    used = sorted({j for i, others in groups.items() for j in (i, *others)})
    frequency = Counter(name for about, *_ in key for name in set(about))
    stand_ins = sorted(frequency, key=lambda name: (-frequency[name], name))[:STAND_INS] or [""]

    texts = {(j, s): with_name(rows[j].prompt, key[j][0], s) for j in used for s in stand_ins}
    distinct = sorted(set(texts.values()))
    states = engine.embed([[{"role": "user", "content": text}] for text in distinct])["last"] if distinct else []
    state = {text: vector / np.linalg.norm(vector) for text, vector in zip(distinct, states, strict=True)}
    # Side by side, so that one product is the sum over the names.
    vector = {j: np.concatenate([state[texts[j, s]] for s in stand_ins]) for j in used}

    found = {}
    for i, others in groups.items():
        similarity = np.minimum(1.0, np.stack([vector[j] for j in others]) @ vector[i] / len(stand_ins)).round(6)
        near = [(j, float(value)) for j, value in zip(others, similarity, strict=True) if value >= least]
        found[i] = sorted(near, key=lambda pair: (-pair[1], pair[0]))
    return found


def nearest(prompts: Sequence[str], wanted: list[int], k: int) -> dict[int, list[tuple[int, float]]]:
    """The k other prompts nearest to each wanted one by the cosine of their TF-IDF words, nearest first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(token_pattern=TOKEN, sublinear_tf=True, dtype=np.float32).fit_transform(prompts)
    found = {}
    for begin in range(0, len(wanted), CHUNK):
        chunk = wanted[begin : begin + CHUNK]
        similarity = (vectors[chunk] @ vectors.T).toarray()
        for line, i in zip(similarity, chunk, strict=True):
            line[i] = -1.0
            order = (-line).argsort(kind="stable")[: min(k, len(prompts) - 1)]
            found[i] = [(int(j), round(float(min(1.0, line[j])), 6)) for j in order]
    return found


def rival_of(i: int, same: list[tuple[int, float]], rows: list[Row]) -> tuple[int, float] | None:
    """The nearest row that asks the same and answers otherwise."""
    own = canonical(rows[i].answer)
    return next(((j, similarity) for j, similarity in same if canonical(rows[j].answer) != own), None)


# --- training -------------------------------------------------------------------------------------


def read_trajectory(path: Path) -> dict[str, list[dict]]:
    """The points of each row, in the order of training."""
    import pyarrow.parquet as pq

    points = defaultdict(list)
    for point in pq.read_table(path).to_pylist():
        points[point["id"]].append(point)
    return dict(points)


def domain_view(points: dict[str, list[dict]]) -> dict[str, dict]:
    """Share of each domain's rows that are right, at its best point and at the end."""
    right = defaultdict(lambda: defaultdict(list))
    for line in points.values():
        for point in line:
            right[Path(point["file"]).stem][point["step"]].append(point["correct"])
    found = {}
    for domain, by_step in right.items():
        shares = [float(np.mean(by_step[step])) for step in sorted(by_step)]
        peak, final = max(shares), shares[-1]
        drop = (peak - final) / peak if peak else 0.0
        found[domain] = {"domain_peak": peak, "domain_final": final, "domain_drop": drop}
    return found


def row_view(points: list[dict]) -> dict:
    """How one row fared over training; `loss_slope` is per epoch, over the last half of the points."""
    if not points:  # the row was not trained on: longer than the context, say
        return {"trajectory": [], "ever_correct": False}
    half = points[len(points) // 2 :]
    slope = np.polyfit([p["epoch"] for p in half], [p["loss"] for p in half], 1)[0] if len(half) > 1 else 0.0
    correct = [point["epoch"] for point in points if point["correct"]]
    return {
        "trajectory": [point["correct"] for point in points],
        "ever_correct": bool(correct),
        "last_correct_epoch": correct[-1] if correct else None,
        "loss": points[-1]["loss"],
        "first_loss": points[0]["loss"],
        "lowest_loss": min(point["loss"] for point in points),
        "loss_slope": float(slope),
        "weakest": points[-1]["weakest"],
    }


# --- the step -------------------------------------------------------------------------------------


def judged_samples(records: list[dict], samples: list[list[Sample]]) -> list[list[Verdict]]:
    """The verdicts on the base's samples, [records][samples], each by the judge of its row."""
    with RowJudge() as judging:
        return [
            [
                judging.judges[record["judge"]].judge(
                    record["answer"], one.text, MARK_OF[record["kind"]], record["prompt"]
                )
                for one in own
            ]
            for record, own in zip(records, samples, strict=True)
        ]


def gather(detected: list[dict], rows: list[Row], points: dict, library: Library, engine: Any, settings: dict) -> list:
    """The evidence of every unlearned row, in the order of `detected`."""
    unlearned = [record for record in detected if record["unlearned"]]
    index = {row.id: i for i, row in enumerate(rows)}
    place = [index[record["id"]] for record in unlearned]
    prompts = [row.prompt for row in rows]
    names = Names(prompts)

    near = nearest(prompts, place, settings["neighbours"]) if place else {}
    same = same_questions(rows, place, engine, names, settings["same_question"])
    rivals = {i: rival_of(i, same.get(i, []), rows) for i in place}
    samples = engine.sample(
        [rows[i].messages for i in place],
        n=settings["samples"],
        temperature=settings["temperature"],
        max_new_tokens=settings["max_new_tokens"],
        seed=settings["seed"],
        progress=Progress("evidence", len(place) * settings["samples"], "answers"),
    )
    # The responses by which detection scored every row's options and, at their end, its rival's; all in one call.
    texts = [option_responses(record) + ([rows[rivals[i][0]].response] if rivals[i] else [])
             for record, i in zip(unlearned, place, strict=True)]  # fmt: skip
    nll, _ = engine.score(
        [
            [*rows[i].messages, {"role": "assistant", "content": text}]
            for i, line in zip(place, texts, strict=True)
            for text in line
        ]
    ) if place else ([], [])  # fmt: skip
    ends = np.cumsum([0, *map(len, texts)])
    logp = [-np.asarray(nll[begin:end]) for begin, end in pairwise(ends)]
    domains = domain_view(points)

    records = []
    verdicts = judged_samples(unlearned, samples)
    for record, i, said, judged, line in zip(unlearned, place, samples, verdicts, logp, strict=True):
        domain = Path(record["file"]).stem
        entity = names.entity(record["prompt"])
        rival = {"rival": "", "rival_answer": "", "rival_similarity": 0.0, "rival_support": 0}
        rival["base_rival_probability"] = 0.0
        if rivals[i]:
            other, similarity = rows[rivals[i][0]], rivals[i][1]
            rival = {
                "rival": other.id,
                "rival_answer": normalize(other.answer),
                "rival_similarity": similarity,
                "rival_support": library.mentioning(entity, normalize(other.answer)),
                "base_rival_probability": float(softmax(line[[0, -1]])[1]),
            }
        similarity = [similarity for _, similarity in near[i]]
        records.append(
            {key: record[key] for key in KEPT}
            | {"domain": domain, "entity": entity, "support": library.mentioning(entity, normalize(record["answer"]))}
            | base_view(judged, said)
            | option_view(softmax(line[: len(record["options"])]), record["probability"])
            | {"tuned_options": record["probability"]}
            | {
                "neighbours": [rows[j].id for j, _ in near[i]],
                "similarity": similarity,
                "agrees": [canonical(rows[j].answer) == canonical(rows[i].answer) for j, _ in near[i]],
                "rarity": 1.0 - float(np.mean(similarity)) if similarity else 1.0,
                "same_question": [rows[j].id for j, _ in same.get(i, [])],
            }
            | rival
            | row_view(points.get(record["id"], []))
            | domains.get(domain, {"domain_peak": 0.0, "domain_final": 0.0, "domain_drop": 0.0})
            | {"length": count_words(record["response"])}
        )
    return records


def main(args: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    base_files = checkpoints.check(args.base)
    detected = pq.read_table(args.detected).to_pylist()
    library = Library(args.library)
    engine = load_engine(args.base, settings["batch_size"], settings["engine"])
    records = gather(detected, read(args.data), read_trajectory(args.trajectory), library, engine, settings)

    out = fresh_folder(args.out)
    pq.write_table(pa.Table.from_pylist(records, schema=schema()), out / "evidence.parquet")
    counts = {
        "in": len(detected),
        "unlearned": len(records),
        "rivals": sum(bool(record["rival"]) for record in records),
        "documents": len(library.texts),
        "truncated_prompts": engine.truncated,
        "judges": dict(sorted(Counter(record["judge"] for record in detected if record["unlearned"]).items())),
    }
    write_manifest(
        out,
        step="evidence",
        settings=settings,
        inputs=[args.detected, args.trajectory, *base_files, args.data, *args.library],
        counts=counts,
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup(),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--detected", type=Path, required=True, help="detected.parquet of the tuned checkpoint")
    parser.add_argument("--trajectory", type=Path, required=True, help="trajectory.parquet of the same checkpoint")
    parser.add_argument("--base", type=Path, required=True, help="the checkpoint that it was tuned from")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl it was tuned on")
    parser.add_argument("--library", type=Path, nargs="*", default=[], help="documents, JSON Lines of {text}")
    run(main, parser)
