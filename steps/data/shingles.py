"""Runs of words as numbers, and how many rows have each: text that many rows share is nobody's own."""

from collections.abc import Sequence

import numpy as np
import xxhash

# Above it, text is shared. Copies of one row with small changes are seldom more; the rows of a template soon are.
MOST_OWNERS = 32
# Tokens whose hashes are remembered; a language has fewer, random strings have not.
MOST_TOKENS = 1 << 20
# Of one byte. A million rows of 50 shingles fill a third of them; a shingle then shares its slot with one in three.
MOST_SLOTS = 1 << 27
# Counted together: with what was counted before they fit into a byte.
ROWS_AT_ONCE = 200
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Hasher:
    """Shingles of token lists as 64-bit hashes, equal in every process."""

    def __init__(self, size: int):
        self.size, self.known = size, _Tokens()
        # Odd, so that no bit of a token is lost.
        self.weights = np.random.default_rng(1).integers(1, 2**63, size, np.uint64) * np.uint64(2) + np.uint64(1)

    def shingles(self, tokens: list[str]) -> np.ndarray:
        """uint64 [distinct runs], ascending: of `size` tokens in small letters, or of all where there are fewer."""
        return np.unique(self.runs([tokens])[0])

    def runs(self, texts: Sequence[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        """The runs of several texts, uint64 [runs], and the number of the text that each is of."""
        if len(self.known) > MOST_TOKENS:
            self.known.clear()
        known, flat, lengths = self.known, list[int](), []
        for tokens in texts:
            flat += map(known.__getitem__, tokens)
            lengths.append(max(len(tokens), self.size))
            flat += [0] * (self.size - len(tokens))
        ids, of = np.fromiter(flat, np.uint64, len(flat)), np.repeat(np.arange(len(texts)), lengths)
        count = max(0, len(ids) - self.size + 1)
        hashed = np.zeros(count, np.uint64)
        for place, weight in enumerate(self.weights):
            hashed += ids[place : place + count] * weight
        whole = of[:count] == of[self.size - 1 :]
        return (hashed * _ODD ^ (hashed >> np.uint64(29)))[whole], of[:count][whole]


def distinct(runs: np.ndarray, row: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct runs of rows, one row after the other, and how many each has, [rows].

    Args:
        runs: of all rows, [runs].
        row: of each run its row's number, [runs], ascending.
    """
    _, first = np.unique(runs ^ (row.astype(np.uint64) * _ODD), return_index=True)
    first.sort()
    return runs[first], np.bincount(row[first], minlength=rows)


class _Tokens(dict):
    def __missing__(self, token: str) -> int:
        self[token] = found = xxhash.xxh3_64_intdigest(token.lower().encode())
        return found


class Owners:
    """How many rows have a shingle, counted in one byte of a table: never too few, rarely too many."""

    def __init__(self, characters: int):
        """
        Args:
            characters: of all texts, about; a table four times as large as their words needs no more.
        """
        slots = 1 << min(max(characters, 1 << 16).bit_length(), MOST_SLOTS.bit_length() - 1)
        self.counts, self.shift = np.zeros(slots, np.uint8), np.uint64(64 - (slots.bit_length() - 1))

    def add(self, shingles: np.ndarray, sizes: np.ndarray) -> None:
        """Count the shingles of rows.

        Args:
            shingles: of all rows, one after the other, those of each distinct: see `distinct`.
            sizes: how many each row has, [rows].
        """
        ends = np.cumsum(sizes)
        for first in range(0, len(sizes), ROWS_AT_ONCE):
            begin = ends[first - 1] if first else 0
            places = self._places(shingles[begin : ends[min(first + ROWS_AT_ONCE, len(sizes)) - 1]])
            np.add.at(self.counts, places, 1)
            self.counts[places] = np.minimum(self.counts[places], MOST_OWNERS + 1)

    def count(self, shingles: np.ndarray) -> np.ndarray:
        """uint8 [shingles]: rows that have each, at most one more than `MOST_OWNERS`."""
        return self.counts[self._places(shingles)]

    def _places(self, shingles: np.ndarray) -> np.ndarray:
        return (shingles * _ODD) >> self.shift
