"""Which rows say the same in other words: their vectors are alike, and their numbers, names and answers equal.

A row's vectors are those of what is asked and of the response, by `steps.models.embedding`. Texts of one kind have much
in common, all the more for a language model's states: the mean over all rows is taken off, so that what is compared is
a row's own. The similarity of two rows is the product of both cosines.

A vector knows little of what single words mean, so that of two rows that are alike none goes unless their roles, tools,
numbers and answers are equal (`prints.Prints.rest`), both negate as often, and the names of the one stand in the other.
Texts of which more than `MOST_WORDS` of the words are the same are no paraphrases: as for near duplicates, a word that
stands there in the place of another one makes another row.

Rows are compared within groups of equal roles, tools, numbers and answers; in a large group not all pairs are. About
√rows centres are drawn from its rows and moved to the middle of what is nearest to them, twice; a row is compared with
those whose nearest centre is one of its `PROBES` nearest, at most `MOST_COMPARED` for each centre. That is at most
rows · PROBES · MOST_COMPARED comparisons, and rows^1.5 where rows are spread evenly; a pair is missed whose two rows
have none of these centres in common (Jégou et al. 2011, IVF, https://doi.org/10.1109/TPAMI.2010.57). Below `FEW` rows
all pairs are.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from math import isqrt, sqrt

import numpy as np

from steps.data.difference import operators, telling
from steps.data.identity import tokens

PROBES = 4
# Of a centre, so that rows which are all alike are not all compared.
MOST_COMPARED = 4096
FEW = 2000
# Of the rows before it, the most alike that a row may go for.
CANDIDATES = 16
# Of the words of two texts, those that both have: of twins that differ in a word or two 0.8, of paraphrases 0.4.
MOST_WORDS = 0.6
# Similarities at once: 64 MiB.
_AT_ONCE = 1 << 24
_NAME = re.compile(r"(?<=[\w,;] )[A-ZÄÖÜÀ-ÞА-ЯΑ-Ω]\w+")


def centred(vectors: np.ndarray) -> np.ndarray:
    """Vectors without their mean, of length 1; a text that is nothing but the mean has a direction of its own.

    Args:
        vectors: float [rows, width]; rows of zeros are no text, and stay zero.

    Returns:
        float32 [rows, width + 1].
    """
    found = np.zeros((len(vectors), vectors.shape[1] + 1), np.float32)
    there = vectors.any(1)
    own = vectors[there] - vectors[there].mean(0, dtype=np.float64)
    size = np.sqrt((own.astype(np.float64) ** 2).sum(1))
    # Of the length before: what is left of equal texts is rounding.
    plain = size <= 1e-4 * np.sqrt((vectors[there].astype(np.float64) ** 2).sum(1))
    own = np.where(plain[:, None], 0, own / np.where(plain, 1, size)[:, None])
    found[there] = np.c_[own, plain]
    return found


class Vectors:
    """The vectors of rows side by side, of length 1 together, so that a dot product is the mean of the cosines."""

    def __init__(self, asked: np.ndarray, said: np.ndarray):
        """
        Args:
            asked, said: of each row, [rows, width]; zeros where it has none.
        """
        self.asked, self.said = centred(asked), centred(said)
        self.parts = self.asked.any(1).astype(int) + self.said.any(1)
        self.both = np.c_[self.asked, self.said] / np.sqrt(np.maximum(self.parts, 1))[:, None]

    def similarity(self, a: int, b: int) -> float:
        """The product of the cosines of what both have; 0 of rows that have other parts."""
        found = 1.0
        for part in (self.asked, self.said):
            if part[a].any() != part[b].any():
                return 0.0
            if part[a].any():
                found *= max(0.0, float(part[a] @ part[b]))
        return found


def alike(vectors: np.ndarray, least: float, seed: int = 0) -> Iterator[tuple[int, list[int]]]:
    """(row, earlier rows, most alike first) of rows with a dot product of at least `least`.

    Args:
        vectors: float32 [rows, width], of length 1.
    """
    count = len(vectors)
    best: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    for queries, members in _blocks(vectors, seed):
        step = max(1, _AT_ONCE // max(1, len(members)))
        for start in range(0, len(queries), step):
            own = queries[start : start + step]
            products = vectors[own] @ vectors[members].T
            for i, j in zip(*np.nonzero(products >= least), strict=True):
                a, b = sorted((int(own[i]), int(members[j])))
                if a < b:
                    best[b].append((-float(products[i, j]), a))
            for row in own.tolist():
                if len(best[row]) > 4 * CANDIDATES:
                    best[row] = _first(best[row])
    for row, found in enumerate(best):
        if found:
            yield row, [other for _, other in _first(found)]


def _first(found: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The most alike, each once: rounding differs by a pair's block."""
    once: dict[int, float] = {}
    for product, other in found:
        once[other] = min(product, once.get(other, 0.0))
    return sorted((product, other) for other, product in once.items())[:CANDIDATES]


def _blocks(vectors: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows that are compared, rows that they are compared with)."""
    if len(vectors) <= FEW:
        yield np.arange(len(vectors)), np.arange(len(vectors))
        return
    centres = vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), isqrt(len(vectors)), replace=False))]
    for _ in range(2):
        nearest = _nearest(vectors, centres, 1)[:, 0]
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        size = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(size > 0, sums / np.maximum(size, 1e-12), centres)
    probes = _nearest(vectors, centres, PROBES)
    order = np.argsort(probes[:, 0], kind="stable")
    ends = np.cumsum(np.bincount(probes[:, 0], minlength=len(centres)))
    asking = np.argsort(probes, axis=None, kind="stable") // PROBES
    asking_ends = np.cumsum(np.bincount(probes.ravel(), minlength=len(centres)))
    for begin, end, first, last in zip([0, *ends], ends, [0, *asking_ends], asking_ends, strict=False):
        if end > begin:
            yield asking[first:last], order[begin:end][:MOST_COMPARED]


def _nearest(vectors: np.ndarray, centres: np.ndarray, most: int) -> np.ndarray:
    """The centres with the largest dot product, nearest first: int [rows, most]."""
    found = np.empty((len(vectors), most), np.int64)
    step = max(1, _AT_ONCE // len(centres))
    for start in range(0, len(vectors), step):
        products = vectors[start : start + step] @ centres.T
        found[start : start + step] = np.argsort(-products, axis=1, kind="stable")[:, :most]
    return found


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


def only_adds(one: str, other: str) -> bool:
    """Whether the longer of two texts has the words of the shorter in their order, and what it adds negates nothing and
    works on nothing."""
    if operators(one) != operators(other):
        return False
    shorter, longer = sorted((telling(tokens(text)) for text in (one, other)), key=len)
    rest = iter(longer)
    return all(word in rest for word in shorter) and _negated(shorter) == _negated(longer)


def _negated(words: list[str]) -> int:
    """How often a text of these words negates."""
    return sum(word in NEGATIONS for word in words)


def _signs(text: str) -> tuple[int, set[str], set[str]]:
    """How often a text negates, its names and its words, in small letters."""
    words = tokens(text.lower())
    return _negated(words), {name.lower() for name in _NAME.findall(text)}, {*words}


def agree(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two rows of these texts negate as often, speak of the same names, and replace no word in a text that is
    otherwise much the same."""
    negated, names, words = _signs("\n".join(one))
    theirs_negated, their_names, their_words = _signs("\n".join(other))
    if negated != theirs_negated or not names <= their_words or not their_names <= words:
        return False
    return all(_words_apart(*pair) or only_adds(*pair) for pair in zip(one, other, strict=True))


def _words_apart(one: str, other: str) -> bool:
    ours, theirs = ({*tokens(text.lower())} for text in (one, other))
    return len(ours & theirs) <= MOST_WORDS * len(ours | theirs)


def semantic_rows(
    vectors: Vectors, threshold: float, salt: np.ndarray, texts_at: Callable[[int], list[str]]
) -> dict[int, tuple[int, float]]:
    """Row → the earlier row that stays and says the same, and their similarity.

    Args:
        salt: [rows], equal for rows that may say the same.
        texts_at: the texts of a row.
    """
    gone: dict[int, tuple[int, float]] = {}
    for rows in _groups(salt):
        # A product of two numbers up to 1 is at most the square of their mean.
        for place, places in alike(vectors.both[rows], sqrt(threshold) - 1e-4):
            row = int(rows[place])
            for other in rows[places].tolist():
                if other in gone:
                    continue
                found = vectors.similarity(row, other)
                if found >= threshold and agree(texts_at(row), texts_at(other)):
                    gone[row] = (other, found)
                    break
    return dict(sorted(gone.items()))


def _groups(salt: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of equal salt, in their order, where there are several.

    Of 7,028 rows of a few kinds most had more than `CANDIDATES` others more alike than their paraphrase, with other
    numbers: compared with all rows 15 % of the paraphrases were found, within these groups 72 %.
    """
    order = np.argsort(salt, kind="stable")
    ends = np.flatnonzero(np.diff(salt[order])) + 1
    yield from (rows for rows in np.split(order, ends) if len(rows) > 1)
