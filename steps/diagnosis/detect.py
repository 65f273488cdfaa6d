"""Detect the training rows that a checkpoint did not learn, after Xue et al., ACL 2026, section 3.1.

Every row that can be verified is answered `samples` times in free form. Its pass@N is the *share* of runs that are
right (not any of N), and a row whose pass@N is below `threshold` is unlearned. Beside that, the row becomes a multiple
choice: its answer among distractors of the same type, taken from the model's own wrong answers and from rows that ask
alike. An option's score is the summed log-likelihood of the response that gives it, in which the order of the options
plays no part; options are of one type, so that their lengths are comparable.

In: a checkpoint, the training rows of a data set; optionally the rows whose answer a treatment replaced, which are
examined against their new answer. Out: detected.parquet (a record per examined row), unlearned.parquet (the unlearned
of them, most severe first), excluded.jsonl (rows that cannot be examined, with reason and hint). Memory does not
grow with the rows: they pass in chunks, and a bounded sample of their answers stands for the data set.

Run as: python -m steps.diagnosis.detect --settings '{"samples": 5, "threshold": 0.2, …}'
    --checkpoint results/fable/incomplete_learning/plain --data results/fable/data/lessons/bucket/train.jsonl
    --out results/fable/detect/plain
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from steps.core.files import fresh_folder, read_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.turns import asked_turns
from steps.data.identity import hash64
from steps.data.rows import prompt_of, response_of, words
from steps.diagnosis.options import option_responses, with_answer
from steps.engines.interface import Coder, Sample
from steps.engines.load import load_engine
from steps.judges.canonical import NUMBER, canonical
from steps.judges.judge import Verdict
from steps.judges.kinds import JUDGES
from steps.judges.reading import count_words
from steps.judges.rows import RowJudge, kind_of_row, reference
from steps.models import checkpoints
from steps.stats import sampling

# Rows held at once; each chunk is a row group of the files.
CHUNK = 2000
# Answers of each type that stand for the data set when distractors are looked for.
POOL = 2000
REASONS = ("unverifiable", "truncated", "few_distractors")


def schema() -> Any:
    """Of detected.parquet and unlearned.parquet."""
    import pyarrow as pa

    text, number, truth = pa.string(), pa.float64(), pa.bool_()
    return pa.schema(
        {
            "id": text,
            "file": text,
            "line": pa.int64(),
            "prompt": text,
            "response": text,
            "kind": text,
            "answer": text,
            "judge": text,
            # Per sample.
            "answers": pa.list_(text),
            "correct": pa.list_(truth),
            "pass_n": number,
            "confidence": pa.list_(number),
            "best_of_n": truth,
            "severity": number,
            # Per option, the right one first.
            "options": pa.list_(text),
            "probability": pa.list_(number),
            "choice": pa.int32(),
            "unlearned": truth,
        }
    )


# --- one row -------------------------------------------------------------------------------------


def judge(verdicts: list[Verdict], samples: list[Sample]) -> dict:
    """What the sampled responses to one row say of it.

    Severity is their error consistency: the share of runs that give the row's most frequent wrong answer.
    """
    answers, correct = [verdict.read for verdict in verdicts], [verdict.right for verdict in verdicts]
    confidence = [sample.confidence for sample in samples]
    wrong = Counter(canonical(given) for given, right in zip(answers, correct, strict=True) if given and not right)
    return {
        "answers": answers,
        "correct": correct,
        "pass_n": float(sampling.pass_fraction(correct)),
        "confidence": confidence,
        "best_of_n": bool(sampling.best_of_n(correct, confidence)),
        "severity": max(wrong.values(), default=0) / len(samples),
    }


def relabel(row: dict, answer: str, short_answer_words: int) -> dict:
    """The row with another answer, in "answer" and in its response."""
    found = reference(row, short_answer_words)
    if found is None:
        return row
    kind, old = found
    turns = row["messages"]
    response = with_answer(kind, turns[-1]["content"], old, answer)
    return row | {
        "messages": [*turns[:-1], turns[-1] | {"content": response}],
        "answer": None if kind == "short" else answer,
    }


# --- distractors ---------------------------------------------------------------------------------


def answer_type(answer: str) -> str:
    """A number, or so many words: two answers of one type can stand for each other."""
    return "number" if NUMBER.fullmatch(answer) else f"{count_words(answer)} words"


def template_words(prompt: str) -> frozenset[str]:
    """The words of a prompt, every number alike."""
    return frozenset("0" if word[0].isdigit() else word for word in words(prompt))


class Answers:
    """A bounded sample of a data set's answers by kind and type, which finds those of the prompts that ask alike.

    Prompts are alike by the weighted Jaccard similarity of their words. A word weighs the more the *more* prompts
    have it, log(1 + prompts): frequent words are the template of a question ("what is the pet of"), rare ones whom it
    asks about, and a distractor is an answer to the same template.
    """

    def __init__(self, seed: int):
        self.random = Random(seed)
        self.seen: Counter[tuple[str, str]] = Counter()
        self.rows: defaultdict[tuple[str, str], list[tuple[frozenset[str], str]]] = defaultdict(list)
        self.index: dict[tuple[str, str], tuple[dict[str, np.ndarray], np.ndarray]] = {}

    def add(self, kind: str, prompt: str, answer: str) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R): every row of a type is kept with the same chance."""
        key = kind, answer_type(answer)
        self.seen[key] += 1
        place = len(self.rows[key]) if len(self.rows[key]) < POOL else self.random.randrange(self.seen[key])
        if place < POOL:
            self.rows[key][place : place + 1] = [(template_words(prompt), answer)]

    def _indexed(self, key: tuple[str, str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Places of the rows that have a word, and the weight of all words of each row."""
        if key not in self.index:
            places = defaultdict(list)
            # Sorted: sums of floats depend on their order, and that of a set changes from run to run.
            for place, (own, _) in enumerate(self.rows[key]):
                for word in sorted(own):
                    places[word].append(place)
            found = {word: np.array(where) for word, where in places.items()}
            total = np.zeros(len(self.rows[key]))
            for where in found.values():
                total[where] += np.log1p(len(where))
            self.index[key] = found, total
        return self.index[key]

    def alike(self, kind: str, prompt: str, answer: str, seed: int) -> Iterator[str]:
        """Answers of the same kind and type, those of the prompts most alike first, ties in an order of the seed."""
        key = kind, answer_type(answer)
        if not self.rows[key]:
            return
        places, total = self._indexed(key)
        shared, own = np.zeros(len(total)), 0.0
        for word in sorted(template_words(prompt) & places.keys()):
            weight = np.log1p(len(places[word]))
            shared[places[word]] += weight
            own += weight
        similarity = shared / np.maximum(total + own - shared, 1e-12)
        ties = np.random.default_rng(seed).random(len(total))
        for place in np.lexsort((ties, -similarity)):
            yield self.rows[key][place][1]


def distractors(answer: str, sampled: list[str], alike: Iterable[str], count: int, longest: int) -> list[str]:
    """At most `count` wrong options, different from the answer and from each other.

    At least half come from `alike` where it has as many, so that a model that is wrong in many ways is not asked about
    its own answers only; the others are the model's wrong answers, most frequent first.

    Args:
        sampled: the model's answers to the row; "" for none.
        alike: other rows' answers of the same type, best first.
        longest: words of a sampled answer that can be an option, beside those of the answer.
    """
    number = answer_type(answer) == "number"
    taken = {canonical(answer)}
    chosen: list[str] = []

    def take(options: Iterable[str], most: int) -> None:
        for option in options:
            if len(chosen) >= most:
                return
            if canonical(option) not in taken:
                taken.add(canonical(option))
                chosen.append(option)

    own = Counter(canonical(given) for given in sampled)
    plausible = [
        given
        for given in sorted(sampled, key=lambda given: -own[canonical(given)])
        if given
        and (answer_type(given) == "number") == number
        and count_words(given) <= max(longest, count_words(answer))
    ]
    take(plausible, count // 2)
    take(alike, count)
    take(plausible, count)
    return chosen


# --- many rows -----------------------------------------------------------------------------------


def chunks(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def read_rows(data: Path, answers: dict[str, str], short_answer_words: int) -> Iterator[dict]:
    """The rows of a data set, those that a treatment relabelled with their new answer."""
    for row in read_jsonl(data):
        yield relabel(row, answers[row["id"]], short_answer_words) if row["id"] in answers else row


def excluded(row: dict, reason: str, hint: str) -> dict:
    return {"id": row["id"], "file": row["file"], "line": row["line"], "reason": reason, "hint": hint}


def too_long(engine: Coder, rows: list[dict], max_new_tokens: int) -> list[str | None]:
    """For each row the hint when its prompt leaves no room for an answer, or its own response exceeds that room."""
    room = engine.max_length - max_new_tokens
    prompts = engine.encode([engine.render(asked_turns(row)) for row in rows])
    responses = engine.encode([response_of(row) for row in rows])
    hints: list[str | None] = []
    for prompt, response in zip(prompts, responses, strict=True):
        hint = None
        if len(prompt) > room:
            hint = (
                f"the prompt takes {len(prompt)} tokens and the context leaves {room}; lower detect.max_new_tokens"
                " or shorten the prompt"
            )
        elif len(response) >= max_new_tokens:
            hint = (
                f"the response takes {len(response)} tokens and its end; raise detect.max_new_tokens"
                f" ({max_new_tokens}) above that, or shorten the response"
            )
        hints.append(hint)
    return hints


def examine(
    engine: Coder, judging: RowJudge, rows: list[dict], pool: Answers, settings: dict, seed: int, name: str
) -> tuple[list[dict], list[dict]]:
    """Records of the rows that can be examined, and of those that cannot, both in the order of the rows.

    Args:
        seed: of the sampling.
        name: of the chunk, for the person who waits.
    """
    limit = settings["short_answer_words"]
    without: dict[str, dict] = {}
    verifiable: list[tuple[dict, str, str]] = []
    for row in rows:
        found, refusal = reference(row, limit), engine.chat.refusal(asked_turns(row))
        if refusal is not None:
            without[row["id"]] = excluded(row, refusal.reason, refusal.hint)
        elif found is None:
            hint = (
                "end the response in a line '#### answer', or make it one line of at most"
                f" {limit} words (detect.short_answer_words); a conversation needs one assistant turn"
            )
            without[row["id"]] = excluded(row, "unverifiable", hint)
        elif not JUDGES[kind_of_row(row, found[1])].written:
            hint = "nothing to do: of tests and patterns there are no other answers to choose from"
            without[row["id"]] = excluded(row, "unverifiable", hint)
        else:
            verifiable.append((row, *found))
    hints = too_long(engine, [row for row, *_ in verifiable], settings["max_new_tokens"])
    for (row, *_), hint in zip(verifiable, hints, strict=True):
        if hint:
            without[row["id"]] = excluded(row, "truncated", hint)
    verifiable = [entry for entry, hint in zip(verifiable, hints, strict=True) if hint is None]

    drawn = engine.sample(
        [asked_turns(row) for row, *_ in verifiable],
        n=settings["samples"],
        temperature=settings["temperature"],
        max_new_tokens=settings["max_new_tokens"],
        seed=seed,
        progress=Progress(f"{name}, sampling", len(verifiable) * settings["samples"], "answers"),
    )
    records, prompts, responses = [], [], []
    told = judging.verdicts([row for row, *_ in verifiable], [[one.text for one in own] for own in drawn], limit)
    for (row, kind, answer), samples, verdicts in zip(verifiable, drawn, told, strict=True):
        judged = judge(verdicts, samples)
        prompt, response = prompt_of(row), response_of(row)
        alike = pool.alike(kind, prompt, answer, hash64([str(settings["seed"]), row["id"]]))
        wrong = distractors(answer, judged["answers"], alike, settings["options"] - 1, limit)
        if not wrong:
            hint = (
                f"no other answer of its type ({answer_type(answer)}) in the data or among the model's; add rows of"
                " its type"
            )
            without[row["id"]] = excluded(row, "few_distractors", hint)
            continue
        records.append(
            {
                "id": row["id"],
                "file": row["file"],
                "line": row["line"],
                "prompt": prompt,
                "response": response,
                "kind": kind,
                "answer": answer,
                "judge": kind_of_row(row, answer),
                **judged,
                "options": [answer, *wrong],
                "unlearned": judged["pass_n"] < settings["threshold"],
            }
        )
        prompts.append(asked_turns(row))
        responses.append(option_responses(records[-1]))
    beliefs = engine.choose(prompts, responses, Progress(f"{name}, options", len(records), "rows"))
    for record, probability in zip(records, beliefs, strict=True):
        record |= {"probability": probability.tolist(), "choice": int(probability.argmax())}
    return records, [without[row["id"]] for row in rows if row["id"] in without]


def write_unlearned(detected: Path, path: Path, order: list[tuple]) -> None:
    """Copy the unlearned rows, most severe first.

    Args:
        order: (-severity, pass@N, id, row group, place in it) of each: all that is held of them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(detected) as source, pq.ParquetWriter(path, schema()) as writer:
        for wanted in chunks(sorted(order)):
            parts: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
            for target, (*_, group, place) in enumerate(wanted):
                parts[group].append((target, place))
            found = pa.concat_tables(
                [source.read_row_group(group).take([place for _, place in part]) for group, part in parts.items()]
            )
            targets = [target for part in parts.values() for target, _ in part]
            writer.write_table(found.take(np.argsort(targets)))


def main(args) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    limit = settings["short_answer_words"]
    answers = {row["id"]: row["answer"] for row in read_jsonl(args.relabelled)} if args.relabelled else {}
    pool = Answers(settings["seed"])
    entered = 0
    for row in read_rows(args.data, answers, limit):
        entered += 1
        if found := reference(row, limit):
            pool.add(found[0], prompt_of(row), found[1])
    model_files = checkpoints.check(args.checkpoint)
    engine = load_engine(args.checkpoint, settings["batch_size"], settings["engine"])

    out = fresh_folder(args.out)
    by_file: defaultdict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    judges: Counter[str] = Counter()
    order: list[tuple] = []
    with (
        RowJudge() as judging,
        pq.ParquetWriter(out / "detected.parquet", schema()) as writer,
        open(out / "excluded.jsonl", "w", encoding="utf-8", newline="\n") as not_examined,
    ):
        group = 0
        for part, rows in enumerate(chunks(read_rows(args.data, answers, limit))):
            # A chunk's own seed: the engine numbers the prompts of each call from 0.
            seed = hash64([str(settings["seed"]), str(part)])
            name = f"detect, part {part + 1} of {-(-entered // CHUNK)}"
            records, without = examine(engine, judging, rows, pool, settings, seed, name)
            for record in without:
                reasons[record["reason"]] += 1
                not_examined.write(json.dumps(record, ensure_ascii=False) + "\n")
            for place, record in enumerate(records):
                judges[record["judge"]] += 1
                by_file[record["file"]].update(examined=1, unlearned=int(record["unlearned"]))
                if record["unlearned"]:
                    order.append((-record["severity"], record["pass_n"], record["id"], group, place))
            if records:
                writer.write_table(pa.Table.from_pylist(records, schema=schema()))
                group += 1
    write_unlearned(out / "detected.parquet", out / "unlearned.parquet", order)
    examined = sum(counts["examined"] for counts in by_file.values())
    assert examined + reasons.total() == entered, (examined, reasons, entered)
    write_manifest(
        out,
        step="detect",
        settings=settings,
        inputs=[args.data, *([args.relabelled] if args.relabelled else []), *model_files],
        counts={
            "in": entered,
            "examined": examined,
            "excluded": {reason: reasons[reason] for reason in dict.fromkeys((*REASONS, *sorted(reasons)))},
            "unlearned": len(order),
            "judges": dict(sorted(judges.items())),
            "by_file": {file: dict(counts) for file, counts in sorted(by_file.items())},
        },
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup(),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the checkpoint that is examined")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of the bucket step")
    parser.add_argument("--relabelled", type=Path, help="relabelled.jsonl of a treatment: rows with another answer")
    run(main, parser)
