"""Whether what two texts differ in says something else.

It does, unless it is an article or a word of politeness, a clause behind the question that asks nothing ("Thanks in
advance!"), a typing error, or the order of two halves of a question that a mark parts ("If it rains, what …?" and
"What …, if it rains?"). A word that is added narrows what is said ("a tall man"), one in the place of another one says
something else, and nothing here could tell synonyms.
"""

import re
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from steps.data.identity import asked, tokens

# --- words that tell -----------------------------------------------------------------------------

_ARTICLES, _QUOTES = frozenset("a an the".split()), frozenset("'\"")
_IDLE = frozenset("please kindly bitte".split()) | _ARTICLES | _QUOTES
# A clause of such words closes a text, where one of the first is among them. The last lines are Chinese and Japanese, a
# character a word.
_THANKS = frozenset("""
thanks thank thx cheers appreciate appreciated regards please step help danke dank bitte merci gracias grazie obrigado
obrigada bedankt tack dziękuję teşekkürler спасибо дякую ευχαριστώ شكرا תודה धन्यवाद 감사합니다
""".split()) | frozenset("谢謝感ありがとう")  # fmt: skip
_CLOSINGS = _THANKS | frozenset("""
you so very much a lot many is in advance for your any the answer answers time i we would will really it this that let s
us me think by carefully best kind all be great greatly good day vielen schön im voraus beaucoup por favor muchas de
antemano mille alvast заранее
""".split()) | frozenset("您你了请請多指教非常ございます")  # fmt: skip
# Behind a colon stands what something is done to.
_CLOSING = re.compile(r"(?:(?<=[.!?。！？])|\n)\s*([^.!?:\n。！？：]{1,80})[.!?\s。！？]*\Z")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s,，'’-]")
# "Could you please tell me what …" asks what, and "Can you explain …?" asks for it.
_LEADS = re.compile(
    r"\b(?:(?:can|could|would|will) you (?:(?:please|kindly) |(?=(?:explain|describe|write|give|list|show|name|provide|"
    r"summari[sz]e|translate|create|generate|suggest) ))|(?:(?:can|could|would|will) you )?(?:please )?"
    r"(?:tell me|let me know),? (?=(?:what|who|whom|whose|which|where|when|why|how|whether|if)\b))|\A(?:请问|請問)",
    re.IGNORECASE,
)
# Bold, bullets and headings.
_MARKUP = re.compile(r"(?<!\w)\*\*(?=\S)|(?<=\S)\*\*(?!\w)|^[ \t]*(?:[-*•]|##+)[ \t]+", re.MULTILINE)
# Characters of a text among which a closing stands.
_TAIL = 120


def bare(text: str) -> str:
    """A text without clauses before and behind it that ask nothing, politeness and markup."""
    text = asked(text)
    while (found := _CLOSING.search(text, max(0, len(text) - _TAIL))) and found.start():
        words = {*_WORD.findall(found[1].lower())}
        if not words <= _CLOSINGS or words.isdisjoint(_THANKS):
            break
        text = text[: found.start()]
    if _is_led(text):
        text = _LEADS.sub("", text)
    return _MARKUP.sub(" ", text) if "*" in text or "- " in text or "# " in text else text


def _is_led(text: str) -> bool:
    may = " you " in text or " me " in text or text.startswith(("请问", "請問"))
    return may and _LEADS.search(text) is not None


def telling(words: list[str], with_numbers: bool = True) -> list[str]:
    """Tokens in small letters, those left out that say nothing; an article at the end or in quotes is spoken of."""
    # One call is a third faster than one for each.
    lower = "\x1f".join(words).lower().split("\x1f")
    if not with_numbers:
        lower = [word for word in lower if not word[-1:].isdigit()]
    found = [word for word in lower if word and word not in _IDLE]
    found += [word for word in lower[-1:] if word in _ARTICLES]
    if not _QUOTES.isdisjoint(lower):
        within = zip(lower, lower[1:], lower[2:], strict=False)
        found += [word for before, word, after in within if word in _IDLE and before in _QUOTES and after in _QUOTES]
    return found


# --- signs ---------------------------------------------------------------------------------------

# Minus, times, power and derivative, beside what they work on: no bullet, hyphen, bold or "don't".
_OPERATORS = re.compile(
    r"(?<=[\d)}\]])[-*]+(?=[\w({\[\\])|(?<=\b[A-Za-z])[-*]+(?=[A-Za-z]\b|[\d({\[\\])|(?<=[{(\[=,^])-(?=[\w\\({])"
    r"|(?<=\b[A-Za-z])'(?=\()"
)


def operators(text: str) -> list[str]:
    return _OPERATORS.findall(text)


ASKS, TELLS = 1, 2
_ENDS = dict.fromkeys("?？؟", ASKS) | dict.fromkeys(".!。！।", TELLS)


def ending(text: str, said: str) -> int:
    """Whether a text ends as a question or as a statement; 0 where its writer has set no mark, and where it asks for
    something to be done ("Could you please …?").

    Args:
        said: what is `bare` of it.
    """
    found = _ENDS.get(said.rstrip(" \n\t\r\"')]}*_”’»」』")[-1:], 0)
    return 0 if found == ASKS and _is_led(text) else found


# --- typing errors -------------------------------------------------------------------------------

# Letters of a word from which it may be misspelt: many short words are a letter from another one. One letter for
# another makes more words ("women", "analyses") than errors, vowels above all.
TYPED, REPLACED = 5, 6
_VOWELS = frozenset("aeiouyäöüáéíóúàèìòùâêîôû")


def misspelt(one: str, other: str, known: Callable[[str], bool]) -> bool:
    """Whether two words are one with a typing error: within it two neighbours swapped, or a letter too few or too many
    or another one. Words that other rows have too are two words; its ends are no place of errors but of grammar.

    Args:
        known: whether other rows have a word.
    """
    if not (one.isalpha() and other.isalpha() and one[0] == other[0] and one[-1] == other[-1]):
        return False
    attested = known(one) + known(other)
    if attested == 2 or min(len(one), len(other)) < TYPED - attested or abs(len(one) - len(other)) > 1:
        return False
    at = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
    if len(one) != len(other):
        shorter, longer = sorted((one[at:], other[at:]), key=len)
        return longer[1:] == shorter
    if one[at : at + 2] == other[at : at + 2][::-1]:
        return one[at + 2 :] == other[at + 2 :]
    if one[at + 1 :] != other[at + 1 :] or len(one) < REPLACED or attested != 1:
        return False
    return not {one[at], other[at]} <= _VOWELS


# --- two texts -----------------------------------------------------------------------------------


class Said(NamedTuple):
    """A text as it is compared."""

    bare: str
    words: list[str]  # that tell
    operators: list[str]
    ends: int
    with_numbers: bool


def said(text: str, with_numbers: bool = True) -> Said:
    short = bare(text)
    words = telling(tokens(short), with_numbers)
    return Said(short, words, operators(text), ending(text, short), with_numbers)


def say_the_same(one: Said, other: Said, known: Callable[[str], bool], in_halves: bool = False) -> bool:
    """Whether two texts differ in nothing that says something.

    Args:
        known: whether rows other than these two have a word.
        in_halves: whether the halves of one may stand in the other order.
    """
    if len(one.words) != len(other.words) or one.operators != other.operators:
        return False
    if _one_by_one(one.words, other.words, known):
        return one.ends + other.ends != ASKS + TELLS
    if not in_halves or one.bare.count("?") != other.bare.count("?"):
        return False
    size = len(one.words)
    halves = _parted(one) | {size - at for at in _parted(other)}
    return any(
        _one_by_one(one.words[at:] + one.words[:at], other.words, known)
        for at in halves
        if HALF_WORDS <= at <= size - HALF_WORDS
    )


def _one_by_one(one: list[str], other: list[str], known: Callable[[str], bool]) -> bool:
    return all(a == b or misspelt(a, b, known) for a, b in zip(one, other, strict=True))


# A half has so many words: two names that change places are no halves.
HALF_WORDS = 3
_MARK = re.compile(r"[,;.:!?](?=\s)|[，；。：！？、\n]")


def _parted(text: Said) -> set[int]:
    """Before which of its words a mark stands."""
    sizes = (len(telling(tokens(part), text.with_numbers)) for part in _MARK.split(text.bare))
    return {*accumulate(sizes)}
