"""Which rows are near duplicates: those that differ in nothing that says something else.

Of conversations each turn has to say the same (`difference`), and the answer to be equal; a response that is only an
answer needs no more. The similarity is the share of telling words that both have, multiplied over the turns. Candidates
are rows that have one of four things in common: the telling words of the first half of the last question, those of its
second half, those of all of it in any order, or those of the response. What more than `MOST_OWNERS` rows have in common
is the text of a template, and shows nothing; so the time is linear in the rows.

Documents may differ in any word: they answer nothing. Two are near where the Jaccard similarity of their shingles
(runs of words) reaches the threshold, those left out that both have and that more than `MOST_OWNERS` rows have. The
pairs come from a join of sets by their prefixes (Chaudhuri et al. 2006, https://doi.org/10.1109/ICDE.2006.9): a set
shares at least a part t of its elements with another one only if the two have one of the first n − ⌈t n⌉ + 1 in common,
in any one order. No pair is missed.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from steps.core.progress import Progress
from steps.data.difference import Said, said, say_the_same
from steps.data.identity import tokens
from steps.data.shingles import MOST_OWNERS, Hasher, Owners

# Rows that are kept while others are compared with them, and their characters: a text may have a megabyte.
ROWS_HELD, MOST_HELD = 1 << 9, 1 << 24


class Held:
    """What is made of the rows of a file, for the last ones that were asked for."""

    def __init__(self, texts_at: Callable[[int], list[str]], made_of: Callable[[str], Any]):
        """
        Args:
            texts_at: the texts of a row by its number.
            made_of: of a text what is compared.
        """
        self.texts_at, self.made_of = texts_at, made_of
        self._made: dict[int, tuple[list, int]] = {}
        self._held = 0

    def __getitem__(self, row: int) -> list:
        if row not in self._made:
            texts = self.texts_at(row)
            size = sum(map(len, texts))
            self._held += size
            while self._made and (self._held > MOST_HELD or len(self._made) >= ROWS_HELD):
                self._held -= self._made.pop(next(iter(self._made)))[1]
            self._made[row] = [self.made_of(text) for text in texts], size
        return self._made[row][0]


class Conversations:
    """The conversations of a file by their number."""

    def __init__(
        self, texts_at: Callable[[int], list[str]], owners: Owners, answered: np.ndarray, with_numbers: bool = True
    ):
        """
        Args:
            texts_at: of a row its turns, the response last, "" where there is none.
            owners: how many rows have a word.
            answered: bool [rows], whether the response is an answer and no more.
            with_numbers: whether another number says something else.
        """
        self.answered, self.owners, self.hasher = answered, owners, Hasher(1)
        self.turns = Held(texts_at, lambda text: said(text, with_numbers))

    def known(self, word: str) -> bool:
        """Whether more than one row has a word."""
        return bool(self.owners.count(self.hasher.shingles([word]))[0] > 1)

    def similarity(self, a: int, b: int) -> float:
        """The product over their turns; 0 where they say different things."""
        found = 1.0
        *asked, responses = zip(self.turns[a], self.turns[b], strict=True)
        for one, other in asked if self.answered[a] else [responses, *asked]:
            if not say_the_same(one, other, self.known, in_halves=one is not responses[0]):
                return 0.0
            found *= share(one, other)
        return found


def share(one: Said, other: Said) -> float:
    """Of the words of two texts, those that both have (Dice)."""
    both = (Counter(one.words) & Counter(other.words)).total()
    return 2 * both / (len(one.words) + len(other.words)) if one.words or other.words else 1.0


def common(keys: np.ndarray) -> dict[int, list[int]]:
    """Row → the groups of few rows that it shares a key with.

    Args:
        keys: uint64 [rows, kinds]; 0 is none.
    """
    rows, kinds = np.nonzero(keys)
    values = keys[rows, kinds] ^ (kinds.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    few = (size[group] > 1) & (size[group] <= MOST_OWNERS)
    return _by_row(rows[few], group[few])


def _by_row(rows: np.ndarray, groups: np.ndarray) -> dict[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for row, number in zip(rows.tolist(), groups.tolist(), strict=True):
        found[row].append(number)
    return found


class Documents:
    """The documents of a file by their number, and which share much of what is their own."""

    def __init__(self, threshold: float, text_at: Callable[[int], str], hasher: Hasher, owners: Owners):
        """
        Args:
            owners: how many documents have a shingle.
        """
        self.threshold, self.hasher, self.owners, self.text_at = threshold, hasher, owners, text_at
        self.shingles = Held(lambda row: [text_at(row)], lambda text: hasher.shingles(tokens(text)))
        self.rows, self.firsts = array("q"), array("Q")

    def similarity(self, a: int, b: int) -> float:
        (one,), (other,) = self.shingles[a], self.shingles[b]
        both = np.intersect1d(one, other, assume_unique=True)
        agree = int((self.owners.count(both) <= MOST_OWNERS).sum())
        every = agree + len(one) + len(other) - 2 * len(both)
        return agree / every if every else 0.0

    def add(self, rows: np.ndarray, firsts: np.ndarray) -> None:
        """Take rows in, int64 [firsts], each as often as it has `first_of`, uint64 [firsts]."""
        self.rows.frombytes(rows.tobytes())
        self.firsts.frombytes(firsts.tobytes())

    def first_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each row the first of its own shingles, rarest first, that another may have too: the rows, int64 [firsts],
        and the shingles, uint64 [firsts]."""
        runs, of = self.hasher.runs([tokens(self.text_at(row)) for row in rows.tolist()])
        counts = self.owners.count(runs)
        order = np.lexsort((runs, counts, of))
        runs, of, counts = runs[order], of[order], counts[order]
        distinct = np.r_[True, (runs[1:] != runs[:-1]) | (of[1:] != of[:-1])] & (counts <= MOST_OWNERS)
        runs, of, counts = runs[distinct], of[distinct], counts[distinct]
        sizes = np.bincount(of, minlength=len(rows))
        place = np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of]
        first = (place <= (sizes - np.ceil(self.threshold * sizes - 1e-9))[of]) & (counts > 1)
        return rows[of[first]], runs[first]

    def common(self) -> dict[int, list[int]]:
        """Row → the groups of rows that it shares a first shingle with."""
        rows, firsts = np.asarray(self.rows), np.asarray(self.firsts)
        _, group, size = np.unique(firsts, return_inverse=True, return_counts=True)
        shared = size[group] > 1
        return _by_row(rows[shared], group[shared])


def near_rows(
    groups: dict[int, list[int]], similarity: Callable[[int, int], float], threshold: float, salt: np.ndarray
) -> dict[int, tuple[int, float]]:
    """Row → the earlier row that stays and is near, and their similarity.

    Args:
        groups: of rows, in their order, those that each shares something in; see `common`.
        salt: [rows], equal for rows that may be near.
    """
    near: dict[int, tuple[int, float]] = {}
    stay: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    progress = Progress("dedup: comparing", len(groups), "rows")
    for done, (b, mine) in enumerate(groups.items(), 1):
        keys = [(number, int(salt[b])) for number in mine]
        for a in sorted({a for key in keys for a in stay[key]}):
            if (found := similarity(a, b)) >= threshold:
                near[b] = (a, found)
                break
        else:
            for key in keys:
                stay[key].append(b)
        progress.update(done)
    return near
