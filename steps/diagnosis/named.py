"""What the questions of a data set are about: their names, in any script.

Where a script has capitals and the data set uses them, a name is capitalised words. Elsewhere (Chinese, Hindi, a data
set in lower case) it is what stands in the frames that many questions share: words, or characters where no spaces
divide words, that belong to no pair which many prompts hold. Many is more than √n of n prompts: a name by which rows
are told apart is in fewer, the form of a question in more.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise

from steps.core.text import UNSPACED
from steps.data.rows import numbers, words
from steps.diagnosis.library import sentences, whole

# A name in more than this share of the prompts is the form of the question, not what it is about.
COMMONPLACE = 0.9

_TOKEN = re.compile(r"\w+|[^\w\s]")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^“”]+)”|(?<!\w)'([^']+)'(?!\w)")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_NUMBER = re.compile(r"[\W\d]+")


def capitalised(prompt: str) -> list[str]:
    """Capitalised words that do not begin a sentence, neighbours joined: "Mary Ann Lee" is one name."""
    found: list[list[str]] = []
    for sentence in sentences(prompt):
        tokens = _TOKEN.findall(sentence)
        capital = [i > 0 and token[0].isupper() and len(token) > 1 for i, token in enumerate(tokens)]
        for i, token in enumerate(tokens):
            if capital[i] and capital[i - 1]:
                found[-1].append(token)
            elif capital[i]:
                found.append([token])
    return [" ".join(name) for name in found]


class Names:
    """The names that the prompts of a data set hold.

    Attributes:
        frequency: name → in how many prompts it is.
        ignored: names that most prompts hold.
    """

    def __init__(self, prompts: Sequence[str]):
        cased = [prompt for prompt in prompts if any(map(_has_case, prompt))]
        self._lower = sum(any(map(str.isupper, prompt)) for prompt in cased) * 2 < len(cased)
        framed = [prompt for prompt in prompts if not self._by_capitals(prompt)]
        held = Counter(pair for prompt in framed for pair in set(_pairs(prompt)))
        self._frames = {pair for pair, count in held.items() if count**2 > len(framed)}
        self.frequency = Counter(name for prompt in prompts for name in set(self.of(prompt)))
        self.ignored = {name for name, count in self.frequency.items() if count > COMMONPLACE * len(prompts)}

    def _by_capitals(self, prompt: str) -> bool:
        return not self._lower and any(map(_has_case, prompt))

    def of(self, prompt: str) -> list[str]:
        """Its names, in their order."""
        return capitalised(prompt) if self._by_capitals(prompt) else self._outside(prompt)

    def _outside(self, prompt: str) -> list[str]:
        """The runs of words that are in no frame; numbers, and letters that are to be spelled, are no names."""
        tokens, pairs = words(prompt), _pairs(prompt)
        framed = [pairs[i] in self._frames or pairs[i + 1] in self._frames for i in range(len(tokens))]
        outside = [not inside and _may_name(token) for token, inside in zip(tokens, framed, strict=True)]
        found = []
        for inside, run in groupby(zip(outside, tokens, strict=True), key=lambda pair: pair[0]):
            if inside:
                found += _joined([token for _, token in run], prompt.lower())
        return found

    def about(self, prompt: str) -> tuple:
        """What a question is about: its names, its numbers with their operators and its quotations, each in order."""
        quoted = ("".join(groups).casefold() for groups in _QUOTED.findall(prompt))
        about = tuple(name for name in self.of(prompt) if name not in self.ignored)
        return about, tuple(numbers(words(prompt))), tuple(quoted)

    def entity(self, prompt: str) -> str:
        """The rarest name of a prompt, "" when it has none."""
        known = (name for name in self.of(prompt) if name not in self.ignored)
        return min(known, key=self.frequency.__getitem__, default="")


def _has_case(letter: str) -> bool:
    return letter.lower() != letter.upper()


def _pairs(prompt: str) -> list[tuple[str, str]]:
    """Neighbouring words, with an end on either side: word i is in the pairs i and i + 1."""
    return list(pairwise(["", *words(prompt), ""]))


def _may_name(token: str) -> bool:
    return bool(_UNSPACED.match(token)) or (len(token) > 1 and not _NUMBER.fullmatch(token))


def _joined(tokens: list[str], prompt: str) -> list[str]:
    """Neighbouring words as one name where they stand so in the prompt, else each for itself."""
    name = ("" if _UNSPACED.match(tokens[0]) else " ").join(tokens)
    return [name] if name in prompt else tokens


def with_name(prompt: str, about: Sequence[str], stand_in: str) -> str:
    """The prompt with one name in the place of every name it holds."""
    for name in sorted(set(about), key=len, reverse=True):
        prompt = whole(name).sub(lambda _: stand_in, prompt)
    return prompt
