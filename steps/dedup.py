"""Quarantine contradictions, exact duplicates and near duplicates.

Takes `rows.jsonl` of an earlier data step; writes `rows.jsonl` (kept, unchanged, in order) and `quarantine.jsonl`.
Decided in this order, each among what the decision before left:

1. contradiction: two rows ask the same question (`rows.core` of the whole prompt, numbers and operators included)
   and give different answers. Every member goes: nothing here can tell which one is right. The answer is `answer`,
   or, where that is null, a final turn of at most `short_answer_words` words. Longer free text never contradicts:
   an open question has many good answers. A reworded question is another question: one word can change it.
2. exact_duplicate: the same turns after NFKC, lower case and collapsed white space. The first one stays.
3. near_duplicate: Jaccard similarity of word shingles of the whole conversation of at least `threshold`, the same
   answer (or, without one, final turns that are as similar), and with `numbers_must_match` the same numbers in
   the prompt in the same order. The earlier one stays: a row goes only for a row that stays.

Candidates of 3 come from MinHash (datasketch) by locality-sensitive hashing in sorted NumPy arrays: 8 bytes per row
and band instead of a Python dictionary; each candidate is then verified by its exact Jaccard similarity.

Run as: python -m steps.dedup --settings '{"num_perm": 128, …}' --input results/mine/data/problems/filter/rows.jsonl \
    --out results/mine/data/problems/dedup
"""

import argparse
import time
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson
import xxhash

from steps.common import Progress, fresh_folder, run, step_parser, write_manifest
from steps.rows import Ledger, RowProblem, core, hash64, normalized, numbers, prompt_of, read_rows, response_of, words
from steps.verify import canonical

# A pair at the threshold is missed with at most this probability.
MAX_MISS = 0.01
BLOCK_ROWS = 1024


@dataclass(slots=True)
class Keys:
    """64-bit keys of every row, in file order; `offset` is where its line starts."""

    offset: np.ndarray  # int64 [rows + 1]
    text: np.ndarray  # uint64 [rows]: equal for exact duplicates
    question: np.ndarray  # uint64 [rows]: equal for the same question
    answer: np.ndarray  # uint64 [rows]: equal for equal answers; 0 where there is none to compare
    numbers: np.ndarray  # uint64 [rows]: equal for the same numbers in the prompt


# --- keys ----------------------------------------------------------------------------------------


def answer_key(row: dict, short_answer_words: int) -> int:
    """64 bits, equal for answers that `verify.equal` calls equal; 0 when a row has none that can be compared."""
    answer = row["answer"]
    if answer is None:
        answer = " ".join(response_of(row).split())
        # A word of the limit is taken to have fewer than 40 characters: most responses need no splitting.
        if len(answer) > 40 * short_answer_words or len(words(answer)) > short_answer_words:
            return 0
    found = canonical(answer)
    # Python's hash of a number, unlike that of a text, is the same in every process, and 5 and 5.0 share it.
    return hash64(["text", found] if isinstance(found, str) else ["number", str(hash(found))]) or 1


def read_keys(path: Path, short_answer_words: int) -> Keys:
    columns = [array("Q") for _ in range(4)]
    offsets, at = array("q", [0]), 0
    progress = Progress("dedup: reading", path.stat().st_size, "bytes")
    with open(path, "rb") as file:
        for line in file:
            row = orjson.loads(line)
            prompt = prompt_of(row)
            tokens = words(prompt)
            columns[0].append(
                hash64([part for turn in row["messages"] for part in (turn["role"], normalized(turn["content"]))])
            )
            # A question without words, such as one in emoji, is its text.
            columns[1].append(hash64(core(tokens) or [prompt]))
            columns[2].append(answer_key(row, short_answer_words))
            columns[3].append(hash64(numbers(tokens)))
            at += len(line)
            offsets.append(at)
            if len(offsets) % 1000 == 0:
                progress.update(at)
    return Keys(*(np.asarray(column) for column in (offsets, *columns)))


def groups(key: np.ndarray) -> Iterator[np.ndarray]:
    """Index arrays, ascending, of the rows that share a key with another row."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(key) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(key)])
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


# --- decisions -----------------------------------------------------------------------------------


def contradictions(keys: Keys) -> dict[int, int]:
    """Row → a row that asks the same and answers differently."""
    found = {}
    for members in groups(keys.question):
        members = members[keys.answer[members] != 0]
        answers = keys.answer[members]
        if len(members) and (answers != answers[0]).any():
            other = int(members[answers != answers[0]][0])
            for row, answer in zip(members.tolist(), answers, strict=True):
                found[row] = other if answer == answers[0] else int(members[0])
    return found


def exact_duplicates(keys: Keys, left: np.ndarray) -> dict[int, int]:
    """Row → the first row with the same text, among the rows that are left."""
    return {row: int(left[members[0]]) for members in groups(keys.text[left]) for row in left[members[1:]].tolist()}


def bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Number and length of the bands: the longest that miss a pair at the threshold in at most 1 % of cases."""
    for size in range(num_perm, 0, -1):
        count = num_perm // size
        if (1 - threshold**size) ** count <= MAX_MISS:
            return count, size
    raise ValueError(f"dedup.num_perm {num_perm} is too small for dedup.threshold {threshold}; raise one of the two")


def shingles(text: str, size: int) -> set[int]:
    """32-bit hashes of the runs of `size` words; a shorter text is one run, and one without words is its own word."""
    tokens = words(text) or [text]
    runs = zip(*(tokens[i:] for i in range(size)), strict=False) if len(tokens) > size else [tokens]
    return {xxhash.xxh32_intdigest("\x1f".join(run).encode()) for run in runs}


def band_hashes(texts: Iterator[str], rows: int, salt: np.ndarray, settings: dict) -> np.ndarray:
    """uint64 [bands, rows]: equal in a band for rows that may be near duplicates; `salt` [rows] must be equal too."""
    from datasketch import MinHash

    count, size = bands(settings["threshold"], settings["num_perm"])
    weights = np.random.default_rng(1).integers(1, 2**63, size, np.uint64) * np.uint64(2) + np.uint64(1)
    result = np.empty((count, rows), np.uint64)
    signatures = np.empty((BLOCK_ROWS, count * size), np.uint64)
    minhash = MinHash(count * size, hashfunc=int)
    progress = Progress("dedup: MinHash", rows, "rows")
    for row, text in enumerate(texts):
        minhash.clear()
        minhash.update_batch(shingles(text, settings["shingle_words"]))
        signatures[row % BLOCK_ROWS] = minhash.hashvalues
        if row % BLOCK_ROWS == BLOCK_ROWS - 1 or row == rows - 1:
            first = row - row % BLOCK_ROWS
            block = signatures[: row - first + 1].reshape(-1, count, size)
            result[:, first : row + 1] = (block * weights).sum(axis=2).T ^ salt[first : row + 1]
            progress.update(row + 1)
    return result


def number_groups(band: np.ndarray) -> None:
    """Replace the hashes of a band, in place, by group numbers from 1 on; 0 for a row whose hash no other row has."""
    order = np.argsort(band, kind="stable")
    ordered = band[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]]
    sizes = np.diff(np.r_[np.flatnonzero(starts), len(band)])
    band[order] = np.cumsum(starts, dtype=np.uint64) * np.repeat(sizes > 1, sizes)


def near_duplicates(path: Path, keys: Keys, left: np.ndarray, settings: dict) -> dict[int, tuple[int, float]]:
    """Row → the earlier row that stays and is near, and their similarity, among the rows that are left."""
    threshold, size = settings["threshold"], settings["shingle_words"]
    salt = keys.answer[left]
    if settings["numbers_must_match"]:
        salt = salt ^ (keys.numbers[left] * np.uint64(0x9E3779B97F4A7C15))
    with open(path, "rb") as file:

        def row_at(index: int) -> dict:
            file.seek(keys.offset[left[index]])
            return orjson.loads(file.readline())

        @lru_cache(1 << 13)
        def shingled(index: int) -> tuple[set[int], set[int]]:
            row = row_at(index)
            return shingles(conversation(row), size), shingles(response_of(row), size)

        def similarity(a: int, b: int) -> float:
            (text_a, response_a), (text_b, response_b) = shingled(a), shingled(b)
            found = jaccard(text_a, text_b)
            free_text = not keys.answer[left[a]]
            return min(found, jaccard(response_a, response_b)) if free_text and found >= threshold else found

        group = band_hashes((conversation(row_at(i)) for i in range(len(left))), len(left), salt, settings)
        for band in group:
            number_groups(band)
        near: dict[int, tuple[int, float]] = {}
        stay: defaultdict[int, list[int]] = defaultdict(list)
        candidates = np.flatnonzero(group.any(axis=0)).tolist()
        progress = Progress("dedup: comparing", len(candidates), "rows")
        for done, b in enumerate(candidates, 1):
            mine = [number * len(group) + band for band, number in enumerate(group[:, b].tolist()) if number]
            for a in sorted({a for key in mine for a in stay[key] if salt[a] == salt[b]}):
                if (found := similarity(a, b)) >= threshold:
                    near[int(left[b])] = (int(left[a]), found)
                    break
            else:
                for key in mine:
                    stay[key].append(b)
            progress.update(done)
    return near


def conversation(row: dict) -> str:
    return "\n".join([turn["content"] for turn in row["messages"]])


def jaccard(a: set[int], b: set[int]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


# --- step ----------------------------------------------------------------------------------------


def decide(path: Path, settings: dict) -> dict[int, tuple[str, int, float | None]]:
    """Row index → reason, the row it repeats or contradicts, similarity (None where texts are equal)."""
    keys = read_keys(path, settings["short_answer_words"])
    left = np.arange(len(keys.text))
    decided = {row: ("contradiction", other, None) for row, other in contradictions(keys).items()}
    left = left[~np.isin(left, list(decided))]
    duplicates = exact_duplicates(keys, left)
    left = left[~np.isin(left, list(duplicates))]
    decided |= {row: ("exact_duplicate", other, None) for row, other in duplicates.items()}
    near = near_duplicates(path, keys, left, settings)
    return decided | {row: ("near_duplicate", other, similarity) for row, (other, similarity) in near.items()}


HINTS = {
    "contradiction": "find out which answer is right and remove the other row",
    "exact_duplicate": "nothing to do: the first of the copies stays",
    "near_duplicate": "nothing to do: an earlier row like it stays; raise dedup.threshold to keep more variants",
}


def main(args: argparse.Namespace) -> None:
    started = time.time()
    bands(args.settings["threshold"], args.settings["num_perm"])
    out = fresh_folder(args.out)
    decided = decide(args.input, args.settings)
    others = {other for _, other, _ in decided.values()}
    names = {i: row["id"] for i, row in enumerate(read_rows(args.input)) if i in others}
    ledger = Ledger(out, "dedup")
    for i, row in enumerate(read_rows(args.input)):
        ledger.enter(row["file"])
        if i not in decided:
            ledger.keep(row)
            continue
        reason, other, similarity = decided[i]
        detail = names[other] if similarity is None else f"{names[other]}, similarity {similarity:.2f}"
        ledger.quarantine(row, RowProblem(reason, "messages", HINTS[reason], detail), prompt_of(row))
    write_manifest(
        out, step="dedup", settings=args.settings, inputs=[args.input], counts=ledger.close(), started=started
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    run(main, parser)
