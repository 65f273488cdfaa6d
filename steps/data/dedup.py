"""Quarantine contradictions, exact duplicates and near duplicates.

Takes `rows.jsonl` of an earlier data step; writes `rows.jsonl` (kept, unchanged, in order) and `quarantine.jsonl`.
Decided in this order, each among what the decision before left:

1. contradiction: two rows ask the same question and give different answers. Every member goes: nothing here can tell
   which one is right. Questions are the same where every sign of all turns before the answer is (`identity`), openings
   that ask nothing aside. The answer is `answer`, or, where that is null, a final turn of at most `short_answer_words`
   words. Longer free text never contradicts: an open question has many good answers. A reworded question is another
   question: one word can change it.
2. exact_duplicate: the same turns but for white space and case where it says nothing. The first one stays.
3. near_duplicate: see `near`; with `numbers_must_match` the questions have the same numbers in the same order. The
   earlier one stays: a row goes only for a row that stays.
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
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.pool import in_order
from steps.core.progress import Progress
from steps.core.step import add_cores, cores_of, run, step_parser
from steps.data.identity import Key, asked, groups, hash64, key_of, resolved, tokens
from steps.data.near import Join, Rows, near_rows
from steps.data.rows import (
    CHUNK_BYTES,
    Chunk,
    Ledger,
    RowProblem,
    chunks,
    numbers,
    prompt_of,
    read_rows,
    response_of,
    rows_of,
    turn_text,
)
from steps.data.semantic import Vectors, semantic_rows
from steps.data.shingles import Hasher, Owners, distinct
from steps.judges.canonical import canonical
from steps.judges.reading import short_answer
from steps.models import checkpoints

# Rows whose texts are embedded at once, in batches of about one length.
EMBEDDED_AT_ONCE = 2048
# Of answers whose form is remembered.
SHORT_CHARS = 100


class Prints(NamedTuple):
    """64-bit keys of a row, equal for what is the same. `*_case` are 0 where a text leaves case out: see `identity`."""

    turns: int  # the turns before the response
    turns_case: int
    question: int  # the same without the openings that ask nothing
    question_case: int
    twin: int  # the same, with `numbers_must_match` or without its numbers
    twin_case: int
    response: int
    response_case: int
    answer: int  # 0 where there is none to compare
    rest: int  # all else that near duplicates have alike: roles, tools, numbers in order, …
    shows: bool  # whether the response is more than an answer
    near: bool  # whether near duplicates of it are looked for
    contradicts: bool  # whether contradictions to it are


@dataclass(slots=True)
class Keys:
    """Of every row, in file order; `offset` is where its line starts."""

    offset: np.ndarray  # int64 [rows + 1]
    text: np.ndarray  # uint64 [rows], as those that follow: equal where all of the row is the same
    question: np.ndarray  # where it asks the same
    twin: np.ndarray  # where it asks the same and answers the same
    answer: np.ndarray  # where the answer is equal; 0 where there is none to compare
    rest: np.ndarray
    shows: np.ndarray  # bool [rows], as those that follow; see `Prints`
    near: np.ndarray
    contradicts: np.ndarray


# --- one row -------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """What there is to compare of a turn."""

    key: Key
    question: Key  # without its opening
    twin: Key  # the same, with numbers or without them
    numbers: list[str]
    tokens: list[str]  # of the question


def taken_apart(row: dict) -> tuple[list[str], str]:
    """The texts of the turns that ask, and the response; "" of a row that has none."""
    texts = [turn_text(turn) for turn in row["messages"]]
    return (texts, "") if row["messages"][-1]["role"] == "user" else (texts[:-1], texts[-1])


def answer_key(row: dict, response: str, short_answer_words: int) -> int:
    """64 bits, equal for answers that `answers.equal` calls equal: the row's own, else its response; 0 without one."""
    answer = row["answer"]
    if answer is None:
        answer = short_answer(response, short_answer_words)
    if answer is None:
        return 0
    return hash64([canonical(answer) if len(answer) > SHORT_CHARS else _short_form(answer)]) or 1


# Rows share their labels and numbers.
_short_form = lru_cache(1 << 14)(canonical)


class Printer:
    """The keys of rows, by the settings of the step."""

    def __init__(self, settings: dict):
        self.settings = settings
        # Rows share their system prompts, which may be long.
        self.repeated = lru_cache(256)(self.turn)

    def turn(self, text: str) -> Turn:
        opened = asked(text)
        asks = tokens(opened) or [text]
        question = key_of(asks)
        key = question if len(opened) == len(text) else key_of(tokens(text))
        if self.settings["numbers_must_match"]:
            return Turn(key, question, question, numbers(asks), asks)
        twin = key_of([token for token in asks if not token[-1:].isdigit()])
        return Turn(key, question, twin, [], asks)

    def row(self, row: dict) -> tuple[Prints, list[list[str]]]:
        """The keys of a row, and the tokens of its turns, those of the system left out: whole sources share them."""
        texts, response = taken_apart(row)
        roles = [turn["role"] for turn in row["messages"]]
        turns = [
            self.repeated(text) if role == "system" else self.turn(text)
            for role, text in zip(roles, texts, strict=False)
        ]
        says = tokens(response) or [response]
        most = self.settings["short_answer_words"]
        # A document answers no question, and neither does the call of a tool. Of several good responses one is
        # preferred to another, and a constraint has many that keep it.
        said = response_of(row) if texts and response and not row.keys() & {"check", "rejected"} else ""
        answer = answer_key(row, said, most)
        rest = [roles, [turn.numbers for turn in turns], answer]
        rest += [sorted({*numbers(says)})] if self.settings["numbers_must_match"] else []
        rest += [turn.get(key) for turn in row["messages"] if len(turn) > 2 for key in ("tool_calls", "train")]
        rest += [row.get(key) for key in ("tools", "check", "rejected")]
        source = self.settings.get("sources", {}).get(row["file"], {})
        found = Prints(
            *key_of_all([turn.key for turn in turns]),
            *key_of_all([turn.question for turn in turns], row.get("tools")),
            *key_of_all([turn.twin for turn in turns]),
            *key_of(says),
            answer,
            hash64([orjson.dumps(rest).decode()]),
            bool(response) and short_answer(response, most) is None,
            source.get("near_duplicates", True),
            source.get("contradictions", True),
        )
        return found, [*(turn.tokens for role, turn in zip(roles, turns, strict=False) if role != "system"), says]


def key_of_all(turns: list[Key], tools: list[dict] | None = None) -> Key:
    """The key of several turns and the tools they are given; case may be left out of the last turn alone."""
    if len(turns) == 1 and not tools:
        return turns[0]
    before = [str(key.case >> 1 or key.any_case) for key in turns[:-1]]
    before += [orjson.dumps(tools).decode()] if tools else []
    any_case, case = turns[-1] if turns else (0, 0)
    found = hash64([*before, str(case & ~1)])
    return Key(hash64([*before, str(any_case)]), (found & ~1 | case & 1) if case else 0)


# --- all rows ------------------------------------------------------------------------------------


class Printed(NamedTuple):
    """What is read of a part of the rows."""

    values: bytes  # uint64 [rows, fields of Prints]
    lengths: list[int]  # of their lines, in bytes
    shingles: np.ndarray  # see `Owners.add`
    sizes: np.ndarray


def read_keys(path: Path, printer: Printer, hasher: Hasher, cores: int = 1) -> tuple[Keys, Owners]:
    """The keys of all rows, and how many distinct ones have each shingle."""
    size, width = path.stat().st_size, len(Prints._fields)
    values, lengths, owners, seen = array("Q"), array("q", [0]), Owners(size), set[int]()
    progress, done = Progress("dedup: reading", size, "bytes"), 0

    def printed(chunk: Chunk) -> Printed:
        own, texts, rows = array("Q"), list[list[str]](), array("q")
        lengths = [len(line) + 1 for line in chunk.data.removesuffix(b"\n").split(b"\n")]
        for i, row in enumerate(rows_of(path, chunk)):
            found, turns = printer.row(row)
            own.extend(found)
            texts += turns
            rows.extend([i] * len(turns))
        runs, text = hasher.runs(texts)
        return Printed(own.tobytes(), lengths, *distinct(runs, np.asarray(rows)[text], len(lengths)))

    for part in in_order(printed, chunks(path), cores):
        values.frombytes(part.values)
        lengths.extend(part.lengths)
        table = np.frombuffer(part.values, np.uint64).reshape(-1, width)
        # With their case: a row that differs from another in that alone is one more that has its words.
        told = ("turns", "turns_case", "response", "response_case")
        own = mixed(*(table[:, Prints._fields.index(name)] for name in told)).tolist()
        # `add` of a set says nothing: of a row that is there already, its size stays.
        new = np.array([both not in seen and seen.add(both) is None for both in own])
        owners.add(part.shingles[np.repeat(new, part.sizes)], part.sizes[new])
        done += sum(part.lengths)
        progress.update(done)
    table = Prints(*np.frombuffer(values, np.uint64).reshape(-1, len(Prints._fields)).T)
    response = resolved(table.response, table.response_case)
    turns, question = resolved(table.turns, table.turns_case), resolved(table.question, table.question_case)
    given = np.where((table.shows == 0) & (table.answer > 0), table.answer, response)
    keys = Keys(
        offset=np.cumsum(np.asarray(lengths)),
        text=mixed(turns, response, table.rest),
        question=question,
        twin=mixed(resolved(table.twin, table.twin_case), given, table.rest),
        answer=table.answer,
        rest=table.rest,
        shows=table.shows > 0,
        near=table.near > 0,
        contradicts=table.contradicts > 0,
    )
    return keys, owners


def mixed(*keys: np.ndarray) -> np.ndarray:
    """One key of several."""
    found = np.zeros_like(keys[0])
    for key in keys:
        found = found * np.uint64(0x9E3779B97F4A7C15) + (key ^ (found >> np.uint64(31)))
    return found


# --- decisions -----------------------------------------------------------------------------------


def contradictions(keys: Keys) -> dict[int, int]:
    """Row → a row that asks the same and answers differently."""
    found = {}
    able = np.flatnonzero((keys.answer > 0) & keys.contradicts)
    for members in groups(keys.question[able]):
        members = able[members]
        answers = keys.answer[members]
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
    left = left[keys.near[left]]
    near = {row: (other, 1.0) for row, other in repeats(keys.twin, left).items()}
    left = left[keys.shows[left] & ~np.isin(left, list(near))]
    with open(path, "rb") as file:

        def parts_at(index: int) -> list[str]:
            begin, end = keys.offset[index : index + 2].tolist()
            # It moves no position, which processes share.
            question, response = taken_apart(orjson.loads(os.pread(file.fileno(), end - begin, begin)))
            return [*map(asked, question), response]

        def first_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            of, firsts = join.first_of([parts_at(row)[-1] for row in rows.tolist()])
            return rows[of], firsts

        join = Join(settings["threshold"], hasher, owners)
        progress, done = Progress("dedup: joining", len(left), "rows"), 0
        sizes = keys.offset[left + 1] - keys.offset[left]
        together = np.flatnonzero(np.diff(np.cumsum(sizes) // CHUNK_BYTES)) + 1
        for rows, firsts in in_order(first_of, np.split(left, together) if len(left) else [], cores):
            join.add(rows, firsts)
            done += len(np.unique(rows))
            progress.update(done)
        return near | near_rows(join, Rows(parts_at, hasher, owners, settings["numbers_must_match"]), keys.rest)


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
