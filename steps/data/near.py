"""Which rows are near duplicates: the same question but for its opening, or the same words and some more in each turn.

Agreement counts only in what is a row's own: a shingle (a run of words) that more than `shingles.MOST_OWNERS` rows have
is the text of a template, and shows nothing. A difference always counts. Two rows are near where

1. they ask the same, openings aside (`identity.asked`), and answer the same: an equal answer, or the same words; or
2. the similarities of their turns, multiplied, reach the threshold. That of two turns is the Jaccard similarity of
   their shingles without those that both have and many rows share. Where the one only adds text before or behind the
   other ("Think step by step."), all of its shingles count. What differs in a question must be as similar in itself:
   two questions about one passage are two questions. And of two turns one only adds words to the other: who replaces
   a word, moves one or negates ("largest" by "smallest", "Yes" by "No") says something else, however long the rest is,
   and nothing here could tell such a pair from one of synonyms. Documents may differ in any word: they answer nothing.

A response that is only an answer, or that many rows give, shows nothing by being the same: such rows are near by the
first rule alone.

The pairs of the second come from a join of sets by their prefixes (Chaudhuri et al. 2006,
https://doi.org/10.1109/ICDE.2006.9): a set shares at least a part t of its elements with another one only if the two
have one of the first n − ⌈t n⌉ + 1 in common, in any one order. No pair is missed. What is a row's own has at most
`MOST_OWNERS` rows, so that the time is linear in the rows.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from steps.core.progress import Progress
from steps.data.identity import segments, tokens
from steps.data.rows import FILLERS
from steps.data.shingles import MOST_OWNERS, Hasher, Owners

# What differs is short: runs of two words tell as much of it as longer ones of the whole.
DIFFERENCE_WORDS = 2
# Rows that are kept while others are compared with them, and their characters: a text may have a megabyte.
ROWS_HELD, MOST_HELD = 1 << 9, 1 << 24
# May be replaced by one another.
_IDLE = FILLERS | {"a", "'", '"'}
# What turns a sentence around where it is added, in the languages of the filter; "t" is of "can't". Chinese and Thai
# are characters.
NEGATIONS = frozenset("""
not no never none nothing nobody nowhere neither nor cannot without except unless only t n't hardly rarely barely
seldom false half twice double squared square squares different distinct descending desc opposite reverse reversed
nicht kein keine keinen keinem keiner keines nie niemals ohne ne n pas jamais sans aucun aucune nunca sin ningún
ninguna non mai senza nessuno nessuna não sem nenhum nenhuma niet geen nooit zonder nie nigdy bez inte aldrig utan ej
değil не нет ни без никогда ні немає δεν μην χωρίς όχι لا لم لن ليس بدون غير לא אין בלי नहीं न मत बिना 안 못 없이
不 没 沒 無 无 非 未 别 別 勿 莫 + / ^ = < > % ! ¬ ~ ≠
""".split())  # fmt: skip


class Part:
    """A turn as it is compared; `text` is without its opening."""

    def __init__(self, text: str, hasher: Hasher, owners: Owners):
        self.text, self.shingles = text, hasher.shingles(tokens(text))
        self.owners = owners

    def similarity(self, other: "Part", last: bool) -> float:
        """0 to 1, as the module says."""
        if np.array_equal(self.shingles, other.shingles):
            # Of equal sets the texts differ in order or repeats at most; of a response that alone shows nothing.
            return float(not last or (self.owners.count(self.shingles) <= MOST_OWNERS).any())
        both = np.intersect1d(self.shingles, other.shingles, assume_unique=True)
        different = len(self.shingles) + len(other.shingles) - 2 * len(both)
        added = len(both) == min(len(self.shingles), len(other.shingles)) and not last
        agree = len(both) if added else int((self.owners.count(both) <= MOST_OWNERS).sum())
        return agree / (agree + different)


def difference_similarity(one: str, other: str) -> float:
    """How alike two texts are in the clauses that only one of them has; 1 where one of them has none."""
    ours, theirs = ({tuple(part) for part in segments(text)} for text in (one, other))
    left, right = (
        {run for part in parts for run in zip(*(part[i:] for i in range(DIFFERENCE_WORDS)), strict=False)} or parts
        for parts in (ours - theirs, theirs - ours)
    )
    return len(left & right) / len(left | right) if left and right else 1.0


# Minus, times, power and derivative, beside what they work on: no bullet, hyphen, bold or "don't".
_OPERATORS = re.compile(
    r"(?<=[\d)}\]])[-*]+(?=[\w({\[\\])|(?<=\b[A-Za-z])[-*]+(?=[A-Za-z]\b|[\d({\[\\])|(?<=[{(\[=,^])-(?=[\w\\({])"
    r"|(?<=\b[A-Za-z])'(?=\()"
)


def only_adds(one: str, other: str, with_numbers: bool = True) -> bool:
    """Whether the longer of two texts has the words of the shorter in their order, and what it adds negates nothing and
    works on nothing."""
    if _OPERATORS.findall(one) != _OPERATORS.findall(other):
        return False
    shorter, longer = sorted(([*_telling(text, with_numbers)] for text in (one, other)), key=len)
    rest = iter(longer)
    return all(token in rest for token in shorter) and _negated(shorter) == _negated(longer)


def _telling(text: str, with_numbers: bool) -> Iterator[str]:
    for token in tokens(text.lower()):
        if token not in _IDLE and (with_numbers or not token[-1:].isdigit()):
            yield token


def _negated(words: list[str]) -> int:
    return sum(word in NEGATIONS for word in words)


class Rows:
    """The rows of a file by their number, read again where they are compared."""

    def __init__(self, parts_at: Callable[[int], list[str]], hasher: Hasher, owners: Owners, with_numbers: bool = True):
        """
        Args:
            parts_at: the texts of a row's turns, of which that of a document has none before it.
            with_numbers: whether another number says something else.
        """
        self.with_numbers = with_numbers
        self._read = lambda row: [Part(text, hasher, owners) for text in parts_at(row)]
        self._parts: dict[int, list[Part]] = {}
        self._held = 0

    def parts_at(self, row: int) -> list[Part]:
        """The turns of a row; of the last rows they are kept, as many as have `MOST_HELD` characters."""
        if row not in self._parts:
            made = self._read(row)
            self._held += sum(len(part.text) for part in made)
            while self._parts and (self._held > MOST_HELD or len(self._parts) >= ROWS_HELD):
                self._held -= sum(len(part.text) for part in self._parts.pop(next(iter(self._parts))))
            self._parts[row] = made
        return self._parts[row]

    def similarity(self, a: int, b: int, threshold: float) -> float:
        """The product over their turns; 0 where it is below the threshold, or what differs is not alike in itself, or
        one does not only add to the other."""
        found = 1.0
        turns = list(zip(self.parts_at(a), self.parts_at(b), strict=True))
        for place, (one, other) in enumerate(reversed(turns)):
            found *= one.similarity(other, last=place == 0)
            if found < threshold or (place and difference_similarity(one.text, other.text) < threshold):
                return 0.0
        if len(turns) > 1 and not all(only_adds(one.text, other.text, self.with_numbers) for one, other in turns):
            return 0.0
        return found


class Join:
    """The rows whose last turns share much of what is their own."""

    def __init__(self, threshold: float, hasher: Hasher, owners: Owners):
        self.threshold, self.hasher, self.owners = threshold, hasher, owners
        self.rows, self.firsts = array("q"), array("Q")

    def add(self, rows: np.ndarray, firsts: np.ndarray) -> None:
        """Take rows in, int64 [firsts], each as often as it has `first_of`, uint64 [firsts]."""
        self.rows.frombytes(rows.tobytes())
        self.firsts.frombytes(firsts.tobytes())

    def first_of(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of each last turn the first of its own shingles, rarest first, that another row may have too: the number of
        the text, int64 [firsts], and the shingle, uint64 [firsts]."""
        runs, of = self.hasher.runs([tokens(text) for text in texts])
        counts = self.owners.count(runs)
        order = np.lexsort((runs, counts, of))
        runs, of, counts = runs[order], of[order], counts[order]
        distinct = np.r_[True, (runs[1:] != runs[:-1]) | (of[1:] != of[:-1])] & (counts <= MOST_OWNERS)
        runs, of, counts = runs[distinct], of[distinct], counts[distinct]
        sizes = np.bincount(of, minlength=len(texts))
        place = np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of]
        first = (place <= (sizes - np.ceil(self.threshold * sizes - 1e-9))[of]) & (counts > 1)
        return of[first], runs[first]

    def groups(self) -> dict[int, list[int]]:
        """Row → the groups of rows that it shares a first shingle with."""
        rows, firsts = np.asarray(self.rows), np.asarray(self.firsts)
        _, group, size = np.unique(firsts, return_inverse=True, return_counts=True)
        shared = size[group] > 1
        found: defaultdict[int, list[int]] = defaultdict(list)
        for row, number in zip(rows[shared].tolist(), group[shared].tolist(), strict=True):
            found[row].append(number)
        return found


def near_rows(join: Join, rows: Rows, salt: np.ndarray) -> dict[int, tuple[int, float]]:
    """Row → the earlier row that stays and is near, and their similarity.

    Args:
        salt: [rows], equal for rows that may be near.
    """
    near: dict[int, tuple[int, float]] = {}
    stay: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    groups = join.groups()
    progress = Progress("dedup: comparing", len(groups), "rows")
    for done, (b, mine) in enumerate(groups.items(), 1):
        keys = [(number, int(salt[b])) for number in mine]
        for a in sorted({a for key in keys for a in stay[key]}):
            if (found := rows.similarity(a, b, join.threshold)) >= join.threshold:
                near[b] = (a, found)
                break
        else:
            for key in keys:
                stay[key].append(b)
        progress.update(done)
    return near
