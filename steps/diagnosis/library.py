"""A library of documents: the nearest to a query by TF-IDF, and how many state that an entity has a value.

It stands for what a search engine is to people: evidence asks whom it supports, the mixture what it says about a gap.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import orjson

from steps.data.rows import UNSPACED

_SENTENCE_END = re.compile(r"(?<=[.!?।])\s+|(?<=[。！？])|\n+")
# Words, and single characters of the scripts that write none between spaces.
TOKEN = rf"[{UNSPACED}]|[^\W{UNSPACED}]+"
_WORD = re.compile(TOKEN)


class Library:
    """Documents of JSON Lines files of {"text"}, in the order of the files; none, when there is no file.

    Attributes:
        texts: the documents.
    """

    def __init__(self, paths: Sequence[Path]):
        """
        Raises:
            ValueError: a file is missing or empty, or a line is not a document.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.texts = [text for path in paths for text in _read(Path(path))]
        self._vectorizer = TfidfVectorizer(token_pattern=TOKEN, sublinear_tf=True)
        self._vectors = self._vectorizer.fit_transform(self.texts) if self.texts else None
        self._sentences = [(i, sentence) for i, text in enumerate(self.texts) for sentence in sentences(text)]
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        for place, (_, sentence) in enumerate(self._sentences):
            for word in set(_WORD.findall(sentence.lower())):
                self._places[word].append(place)

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The k nearest documents as (index in `texts`, cosine similarity), nearest first; those that share no word
        with the query are left out."""
        if not self.texts:
            return []
        similarity = (self._vectors @ self._vectorizer.transform([query]).T).toarray().ravel()
        nearest = (-similarity).argsort(kind="stable")[:k]
        return [(int(i), float(similarity[i])) for i in nearest if similarity[i] > 0]

    def mentioning(self, entity: str, value: str) -> int:
        """Documents with a sentence that holds both as whole words; the entity's capitals count where it has any, the
        value's do not."""
        # The sentences with the entity's rarest word are few; what is left to search is short.
        lists = [self._places.get(word, []) for word in _WORD.findall(entity.lower())]
        if not lists or not value.strip():
            return 0
        both = naming(entity), whole(value, re.IGNORECASE)
        found = (self._sentences[place] for place in min(lists, key=len))
        return len({i for i, sentence in found if all(pattern.search(sentence) for pattern in both)})


def sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def whole(text: str, flags: int = 0) -> re.Pattern:
    """Matches the text where no letter or digit touches it."""
    return re.compile(rf"(?<![^\W{UNSPACED}]){re.escape(text.strip())}(?![^\W{UNSPACED}])", flags)


def naming(entity: str) -> re.Pattern:
    """Matches the texts that name an entity: with its capitals, where it has any."""
    return whole(entity, 0 if entity != entity.lower() else re.IGNORECASE)


def _read(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: a library is a JSON Lines file of documents; correct the path")
    texts = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            texts.append(orjson.loads(line)["text"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f'{path}, line {number}: not a document; a line is {{"text": …}}') from None
    if not any(_WORD.search(text) for text in texts):
        raise ValueError(f"{path} has no document with a word in it; add documents, or leave the file out")
    return texts
