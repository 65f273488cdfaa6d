"""What of a row is compared with others: 64-bit keys, equal for what is the same."""

import re
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from steps.core.pool import in_order
from steps.core.progress import Progress
from steps.data.difference import ASKS, TELLS, bare, ending, telling
from steps.data.identity import Key, asked, groups, hash64, key_of, resolved, tokens
from steps.data.rows import Chunk, chunks, numbers, response_of, rows_of, turn_text
from steps.data.shingles import Hasher, Owners, distinct
from steps.judges.canonical import canonical
from steps.judges.reading import short_answer

# Of answers whose form is remembered.
SHORT_CHARS = 100
_DIGIT = re.compile("[0-9]")


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
    answer_too: int  # as whom it may be read too: 1.250 is 1250 where decimals have a comma
    rest: int  # all else that near duplicates have alike: roles, tools, numbers in order, …
    # The telling words of the last question, its first half, its second half, all in any order; those of the response.
    first: int
    second: int
    bag: int
    told: int
    asks: int  # how the last question ends, and the response: see `difference.ending`
    says: int
    is_document: bool
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
    answer_too: np.ndarray  # see `Prints`
    rest: np.ndarray
    common: np.ndarray  # uint64 [rows, 4], of which near duplicates have one in common; 0 is none
    is_document: np.ndarray  # bool [rows], as those that follow; see `Prints`
    shows: np.ndarray
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
    tells: list[str]  # the words of it that tell
    ends: int  # see `difference.ending`


def taken_apart(row: dict) -> tuple[list[str], str]:
    """The texts of the turns that ask, and the response; "" of a row that has none."""
    texts = [turn_text(turn) for turn in row["messages"]]
    return (texts, "") if row["messages"][-1]["role"] == "user" else (texts[:-1], texts[-1])


def numbers_of(text: str, words: list[str]) -> list[str]:
    """The numbers of a text; most have none, which its characters tell sooner than its words."""
    return [] if text.isascii() and _DIGIT.search(text) is None else numbers(words)


def answer_keys(answer: str | None) -> tuple[int, int]:
    """64 bits, alike for answers that `canonical.equal` calls equal; and those as which it may be read too; else 0."""
    if answer is None:
        return 0, 0
    if len(answer) > SHORT_CHARS:
        return hash64([canonical(answer)]) or 1, 0
    form = _short_form(answer)
    too = _POINTED.sub(r"\1\2", answer)
    return hash64([form]) or 1, 0 if too == answer else hash64([_short_form(too)]) or 1


_POINTED = re.compile(r"(?<![\d.,])([1-9]\d{0,2})\.(\d{3})(?![.,]?\d)")
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
        with_numbers = self.settings["numbers_must_match"]
        said = bare(opened)
        tells = telling(asks if said == opened else tokens(said), with_numbers)
        ends = ending(text, said)
        if with_numbers:
            return Turn(key, question, question, numbers_of(opened, asks), asks, tells, ends)
        twin = key_of([token for token in asks if not token[-1:].isdigit()])
        return Turn(key, question, twin, [], asks, tells, ends)

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
        short = short_answer(response, most)
        given = row["answer"]
        if given is None:
            given = short if said == response else short_answer(said, most)
        answer, answer_too = answer_keys(given)
        # Their order is that of the words, which halves of a question may change.
        rest = [roles, [sorted(turn.numbers) for turn in turns], answer]
        rest += [sorted({*numbers_of(response, says)})] if self.settings["numbers_must_match"] else []
        rest += [turn.get(key) for turn in row["messages"] if len(turn) > 2 for key in ("tool_calls", "train")]
        rest += [row.get(key) for key in ("tools", "check", "rejected")]
        source = self.settings.get("sources", {}).get(row["file"], {})
        tells, is_document = turns[-1].tells if turns else [], not texts
        half, shows = len(tells) // 2, bool(response) and short is None
        told = telling(says, self.settings["numbers_must_match"]) if shows and not is_document else []
        found = Prints(
            *key_of_all([turn.key for turn in turns]),
            *key_of_all([turn.question for turn in turns], row.get("tools")),
            *key_of_all([turn.twin for turn in turns]),
            *key_of(says),
            answer,
            answer_too,
            hash64([orjson.dumps(rest).decode()]),
            *(hash64(words) if words else 0 for words in (tells[:half], tells[half:], sorted(tells), told)),
            turns[-1].ends if turns else 0,
            ending(response, response),
            is_document,
            shows,
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
    """The keys of all rows, and how many distinct ones have each shingle of a document or word of a conversation."""
    size, width, words = path.stat().st_size, len(Prints._fields), Hasher(1)
    values, lengths, owners, seen = array("Q"), array("q", [0]), Owners(size), set[int]()
    progress, done = Progress("dedup: reading", size, "bytes"), 0

    def printed(chunk: Chunk) -> Printed:
        own = array("Q")
        texts: dict[bool, list[list[str]]] = {True: [], False: []}
        rows = {True: array("q"), False: array("q")}
        lengths = [len(line) + 1 for line in chunk.data.removesuffix(b"\n").split(b"\n")]
        for i, row in enumerate(rows_of(path, chunk)):
            found, turns = printer.row(row)
            own.extend(found)
            texts[found.is_document] += turns
            rows[found.is_document].extend([i] * len(turns))
        runs, of = zip(*(by.runs(texts[kind]) for kind, by in ((True, hasher), (False, words))), strict=True)
        row = np.concatenate([np.asarray(rows[kind])[text] for kind, text in zip((True, False), of, strict=True)])
        order = np.argsort(row, kind="stable")
        return Printed(own.tobytes(), lengths, *distinct(np.concatenate(runs)[order], row[order], len(lengths)))

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
    seen.clear()
    return keys_of(values, lengths), owners


def keys_of(values: array, lengths: array) -> Keys:
    """The keys of rows.

    Args:
        values: the `Prints` of one row after the other.
        lengths: 0, and those of their lines in bytes.
    """
    table = Prints(*np.frombuffer(values, np.uint64).reshape(-1, len(Prints._fields)).T)
    response = apart(resolved(table.response, table.response_case), table.says)
    turns, question, twin = (
        apart(resolved(*keys), table.asks)
        for keys in (
            (table.turns, table.turns_case),
            (table.question, table.question_case),
            (table.twin, table.twin_case),
        )
    )
    given = np.where((table.shows == 0) & (table.answer > 0), table.answer, response)
    common = np.stack([table.first, table.second, table.bag, table.told], 1)
    return Keys(
        offset=np.cumsum(np.asarray(lengths)),
        text=mixed(turns, response, table.rest),
        question=question,
        twin=mixed(twin, given, table.rest),
        answer=table.answer.copy(),
        answer_too=table.answer_too.copy(),
        rest=table.rest.copy(),
        common=np.where(common > 0, mixed(common, table.rest[:, None]), 0),
        is_document=table.is_document > 0,
        shows=table.shows > 0,
        near=table.near > 0,
        contradicts=table.contradicts > 0,
    )


def apart(key: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """uint64 [texts]: as `key`, but that of a question is not that of the same words as a statement.

    Args:
        ends: see `difference.ending`.
    """
    found = key.copy()
    for members in groups(key):
        asks = ends[members] == ASKS
        if asks.any() and (ends[members] == TELLS).any():
            found[members[asks]] += np.uint64(1)
    return found


def mixed(*keys: np.ndarray) -> np.ndarray:
    """One key of several."""
    found = np.zeros(1, np.uint64)
    for key in keys:
        found = found * np.uint64(0x9E3779B97F4A7C15) + (key ^ (found >> np.uint64(31)))
    return found
