"""Quarantine contradictions, exact duplicates and near duplicates.

Takes `rows.jsonl` of an earlier data step; writes `rows.jsonl` (kept, unchanged, in order) and `quarantine.jsonl`.
Decided in this order, each among what the decision before left:

1. contradiction: two rows ask the same question and give different answers. Every member goes: nothing here can tell
   which one is right. Questions are the same where every sign of all turns before the answer is (`identity`), openings
   that ask nothing aside. The answer is `answer`, or, where that is null, a final turn of at most `short_answer_words`
   words. Longer free text never contradicts: an open question has many good answers. A reworded question is another
   question: one word can change it.
2. exact_duplicate: the same turns but for white space and case where it says nothing. The first one stays.
3. near_duplicate: the same question, its opening aside, and the same answer; or see `near`. With `numbers_must_match`
   the questions have the same numbers in the same order. The earlier one stays: a row goes only for a row that stays.
4. semantic_duplicate, where the settings have `semantic`: see `semantic`.

Settings may have `sources`, of a file's name what its rows are not compared for: {"near_duplicates": false},
{"contradictions": false}.

Run as: python -m steps.data.dedup --settings '{"threshold": 0.7, …}' --input
    results/mine/data/problems/filter/rows.jsonl \
    --out results/mine/data/problems/dedup
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import orjson

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.pool import in_order
from steps.core.progress import Progress
from steps.core.step import add_cores, cores_of, run, step_parser
from steps.data.identity import asked, groups
from steps.data.near import Conversations, Documents, common, near_rows
from steps.data.prints import Keys, Printer, read_keys, taken_apart
from steps.data.rows import (
    CHUNK_BYTES,
    Ledger,
    RowProblem,
    prompt_of,
    read_rows,
)
from steps.data.semantic import Vectors, semantic_rows
from steps.data.shingles import Hasher, Owners
from steps.models import checkpoints

# Rows whose texts are embedded at once, in batches of about one length.
EMBEDDED_AT_ONCE = 2048


# --- decisions -----------------------------------------------------------------------------------


def contradictions(keys: Keys) -> dict[int, int]:
    """Row → a row that asks the same and answers differently."""
    found = {}
    able = np.flatnonzero((keys.answer > 0) & keys.contradicts)
    for members in groups(keys.question[able]):
        members = able[members]
        answers, too = keys.answer[members], keys.answer_too[members]
        answers = np.where(np.isin(too, answers), too, answers)
        if (answers != answers[0]).any():
            other = int(members[answers != answers[0]][0])
            for row, answer in zip(members.tolist(), answers, strict=True):
                found[row] = other if answer == answers[0] else int(members[0])
    return found


def repeats(key: np.ndarray, left: np.ndarray) -> dict[int, int]:
    """Row → the first row with the same key, among the rows that are left."""
    return {row: int(left[members[0]]) for members in groups(key[left]) for row in left[members[1:]].tolist()}


def near_duplicates(
    path: Path, keys: Keys, left: np.ndarray, settings: dict, hasher: Hasher, owners: Owners, cores: int = 1
) -> dict[int, tuple[int, float]]:
    """Row → the earlier row that stays and is near, and their similarity, among the rows that are left."""
    left, threshold = left[keys.near[left]], settings["threshold"]
    near = {row: (other, 1.0) for row, other in repeats(keys.twin, left).items()}
    left = left[~np.isin(left, list(near))]
    with open(path, "rb") as file:

        def texts_at(index: int) -> list[str]:
            begin, end = keys.offset[index : index + 2].tolist()
            # It moves no position, which processes share.
            question, response = taken_apart(orjson.loads(os.pread(file.fileno(), end - begin, begin)))
            return [*map(asked, question), response]

        answered = ~keys.shows & (keys.answer > 0)
        conversations = Conversations(texts_at, owners, answered, settings["numbers_must_match"])
        some = left[~keys.is_document[left]]
        groups = {int(some[i]): numbers for i, numbers in common(keys.common[some]).items()}
        near |= near_rows(groups, conversations.similarity, threshold, keys.rest)

        documents = Documents(threshold, lambda row: texts_at(row)[-1], hasher, owners)
        some = left[keys.is_document[left] & keys.shows[left]]
        progress, done = Progress("dedup: joining", len(some), "rows"), 0
        sizes = keys.offset[some + 1] - keys.offset[some]
        together = np.flatnonzero(np.diff(np.cumsum(sizes) // CHUNK_BYTES)) + 1
        for rows, firsts in in_order(documents.first_of, np.split(some, together) if len(some) else [], cores):
            documents.add(rows, firsts)
            done += len(np.unique(rows))
            progress.update(done)
        return near | near_rows(documents.common(), documents.similarity, threshold, keys.rest)


def semantic_duplicates(
    path: Path, keys: Keys, left: np.ndarray, settings: dict, model: Path
) -> dict[int, tuple[int, float]]:
    """Row → the earlier row that stays and says the same in other words, and their similarity, among those left.

    Memory grows by 8 bytes a row for each unit of the model's width.
    """
    from steps.models.embedding import Embedder

    embedder = Embedder(model, settings["max_tokens"], settings["batch_size"])
    left = left[keys.near[left]]
    asked_, said = (np.zeros((len(left), embedder.width), np.float32) for _ in range(2))
    with open(path, "rb") as file:

        def texts_at(place: int) -> list[str]:
            file.seek(keys.offset[left[place]])
            row = orjson.loads(file.readline())
            questions, response = taken_apart(row)
            own = [t for t, turn in zip(questions, row["messages"], strict=False) if turn["role"] != "system"]
            return ["\n".join(map(asked, own)), response]

        progress = Progress("dedup: embedding", len(left), "rows")
        for start in range(0, len(left), EMBEDDED_AT_ONCE):
            places = range(start, min(start + EMBEDDED_AT_ONCE, len(left)))
            texts = [texts_at(place) for place in places]
            asked_[places], said[places] = (embedder.embed([pair[i] for pair in texts]) for i in range(2))
            progress.update(places.stop)
        found = semantic_rows(Vectors(asked_, said), settings["threshold"], keys.rest[left], texts_at)
    return {int(left[row]): (int(left[other]), similarity) for row, (other, similarity) in found.items()}


# --- step ----------------------------------------------------------------------------------------


def decide(
    path: Path, settings: dict, model: Path | None = None, cores: int = 1
) -> dict[int, tuple[str, int, float | None]]:
    """Row index → reason, the row it repeats or contradicts, similarity (None where texts are equal).

    Args:
        model: the folder of what makes vectors of texts, for `semantic`.
    """
    hasher = Hasher(settings["shingle_words"])
    keys, owners = read_keys(path, Printer(settings), hasher, cores)
    left = np.arange(len(keys.text))
    decided = {row: ("contradiction", other, None) for row, other in contradictions(keys).items()}
    left = left[~np.isin(left, list(decided))]
    duplicates = repeats(keys.text, left)
    left = left[~np.isin(left, list(duplicates))]
    decided |= {row: ("exact_duplicate", other, None) for row, other in duplicates.items()}
    near = near_duplicates(path, keys, left, settings, hasher, owners, cores)
    decided |= {row: ("near_duplicate", other, similarity) for row, (other, similarity) in near.items()}
    if settings.get("semantic"):
        assert model, "the settings ask for vectors, and no model is given"
        left = left[~np.isin(left, list(near))]
        same = semantic_duplicates(path, keys, left, settings["semantic"], model)
        decided |= {row: ("semantic_duplicate", other, similarity) for row, (other, similarity) in same.items()}
    return decided


HINTS = {
    "contradiction": "find out which answer is right and remove the other row",
    "exact_duplicate": "nothing to do: the first of the copies stays",
    "near_duplicate": "nothing to do: an earlier row like it stays; raise dedup.threshold to keep more variants",
    "semantic_duplicate": "nothing to do: an earlier row says the same; raise dedup.semantic.threshold to keep more",
}


def main(args: argparse.Namespace) -> None:
    started = time.time()
    out = fresh_folder(args.out)
    model = vars(args).get("model")
    files = checkpoints.check(model) if model else []
    decided = decide(args.input, args.settings, model, cores_of(args))
    others = {other for _, other, _ in decided.values()}
    with open(args.input, "rb") as file:
        names = {i: orjson.loads(line)["id"] for i, line in enumerate(file) if i in others}
    ledger = Ledger(out, "dedup")
    for i, row in enumerate(read_rows(args.input)):
        ledger.enter(row["file"])
        if i not in decided:
            ledger.keep(row)
            continue
        reason, other, similarity = decided[i]
        detail = names[other] if similarity is None else f"{names[other]}, similarity {similarity:.2f}"
        ledger.quarantine(row, RowProblem(reason, "messages", HINTS[reason], detail), prompt_of(row))
    fix = "every row contradicts another: find out which is right, or write contradictions: false beside the source"
    counts = ledger.close(args.input, fix)
    write_manifest(
        out, step="dedup", settings=args.settings, inputs=[args.input, *files], counts=counts, started=started
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    parser.add_argument("--model", type=Path, help="the checkpoint whose states `semantic` compares")
    add_cores(parser)
    run(main, parser)
