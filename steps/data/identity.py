"""When two texts are the same, and of what signs a text is made.

Folding for similarity is not identity: "C" and "C#", "5" and "5!", "a[0]" and "a(0)", "2³" and "23" are alike and not
the same. What is left out here changes no question: white space between words, the punctuation that ends a clause, how
wide a character is written, and a greeting or "please solve this" before the question. In code lines, commas and
semicolons count.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import regex
import xxhash

from steps.core.text import UNSPACED

# --- folding -------------------------------------------------------------------------------------

# The last two are letters, and marks when normalized.
_MARKS = regex.compile(r"[\p{M}\uff9e\uff9f]{30}")
# Letters among them; ª, º, ™ and ℠ are words of their own.
_WORDS, _BEYOND_ASCII = "ªº™℠", [*map(chr, range(0x80, 0x20000))]
_SUPERSCRIPT, _SUBSCRIPT = (
    "".join(c for c in _BEYOND_ASCII if unicodedata.decomposition(c).startswith(kind) and c not in _WORDS)
    for kind in ("<super>", "<sub>")
)
# NFKC makes 23 of 2³, 102 of 10₂ and 31/2 of 3½.
_RAISED = re.compile(f"[{_SUPERSCRIPT}]+|[{_SUBSCRIPT}]+|(?<=\\d)[¼-¾⅐-⅞]")
# Ways to write one sign, and characters that nobody sees.
_SIGNS = str.maketrans(
    dict.fromkeys("‐‑‒–−", "-") | dict.fromkeys("‘’ʼ′", "'") | dict.fromkeys("“”„", '"') | {"\u2044": "/"}
    | dict.fromkeys("\u00ad\u200b\u2060\ufeff")
)  # fmt: skip


def fold(text: str) -> str:
    """One way to write each character: NFKC, dashes and quotes of ASCII, 2³ as 2^3 and 10₂ as 10_2.

    In stream-safe form (UAX #15, D4): to sort a run of marks takes the square of their number.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", stream_safe(_RAISED.sub(_lowered, text))).translate(_SIGNS)


def stream_safe(text: str) -> str:
    """A text without a run of more than 30 marks: whoever normalizes it sorts them in the square of their number."""
    return text if text.isascii() else _MARKS.sub("\\g<0>\u034f", text)


def _lowered(found: re.Match) -> str:
    sign = "^" if found[0][0] in _SUPERSCRIPT else "_" if found[0][0] in _SUBSCRIPT else " "
    return sign + found[0]


# --- tokens --------------------------------------------------------------------------------------

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# 1.250,5 and 1.250.000 are written by who writes decimals with a comma.
_POINTED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3})++,\d|(?:\.\d{3}){2,}+(?![.,]?\d))")
_COMMA_DECIMAL = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:\.\d{3})++(?:,\d++)?|\d++,\d++)(?![.,]?\d)")
# Punctuation that ends a clause stands before white space or the end, or next to a script without spaces.
_ENDS = rf"(?:\s|\Z|[{UNSPACED}])"
_NUMBER = r"(?<![\w.])\.\d++(?:\.\d++)*+|\d++(?:\.\d++)*+"
# Indentation is kept: in Python it says what a program does. "5!" and "n!" are factorials, "Stop!" is not.
_SIGN = rf"\n[ \t]++(?=\S)|(?:(?<=[\d)])|(?<=\b[A-Za-z]))!|(?<![{UNSPACED}])[.,;:?!]++(?!{_ENDS})|[^\w\s.,;:?!。、]|_"
# A run of marks that ends a clause is taken as a whole: tried again from each of its marks, a long one takes for ever.
_ENDED = rf"(?<![{UNSPACED}])[.,;:?!]++"
_ASCII = re.compile(rf"[ ]*+(?:([A-Za-z]++|{_NUMBER}|{_SIGN})|{_ENDED})|[ ]++")
# Vowel signs are marks: without them two words of Hindi are one.
_UNICODE = regex.compile(
    rf"(?V1)([[\p{{L}}\p{{M}}\u200c\u200d]--[{UNSPACED}]]++|{_NUMBER}|[{UNSPACED}]|{_SIGN}|[^\s\p{{P}}])|{_ENDED}"
)


def without_thousands(text: str) -> str:
    """1,200 as 1200; of a text with decimal commas beside points of thousands 1.250,5 as 1250.5 and 1,250 as 1.250."""
    if "," not in text and "." not in text:
        return text
    if "." in text and _POINTED.search(text):
        return _COMMA_DECIMAL.sub(lambda found: found[0].replace(".", "").replace(",", "."), text)
    return _THOUSANDS.sub("", text)


# The last sign of a line, a comment.
_STATEMENT = re.compile(r"[;{}][ \t]*+$", re.MULTILINE)
_COMMENT = re.compile(r"(?:\A|\n)(?:#(?!#)|//|>>>)")


def _is_code(text: str) -> bool:
    return bool(
        "```" in text
        or "\n  " in text
        or "\n\t" in text
        or "SELECT " in text
        or ((";" in text or "{" in text or "}" in text) and _STATEMENT.search(text))
        or (("#" in text or "//" in text or ">>>" in text) and _COMMENT.search(text))
    )


# In their place: signs that no text has, each a token.
_LINE, _COMMA, _SEMICOLON = "\x19", "\x18", "\x17"
_LINES = re.compile(r"\n(?=\S)")
_IN_CODE = str.maketrans({",": f" {_COMMA} ", ";": f" {_SEMICOLON} "})


def _as_code(text: str) -> str:
    """A text of which lines, commas and semicolons are tokens; an indented line is one already."""
    return _LINES.sub(f"\n{_LINE}", text.translate(_IN_CODE))


def tokens(text: str) -> list[str]:
    """Words, numbers and every sign that can change what a text asks, in their case; clause-ending punctuation goes."""
    text = fold(text)
    if ("," in text or "\n" in text or ";" in text) and _is_code(text):
        text = _as_code(text)
    else:
        text = without_thousands(text)
    return [*filter(None, (_ASCII if text.isascii() else _UNICODE).findall(text))]


# --- the opening of a question -------------------------------------------------------------------

# A clause of such words alone asks nothing. The last line is Chinese, a character a word.
_OPENINGS = frozenset("""
please kindly the a an this that these here is following below question problem task exercise riddle one solve answer
think about consider carefully hello hi hey thanks thank you dear there can could would will help me with my now i have
need let us q tell hope doing well good morning afternoon evening everyone sorry are really your was wondering just
""".split()) | frozenset(
    "请問问您你好解答回以下面的這这个個道題题目思考一想看有里谢謝我是帮幫忙仔细細"
    "认認真完成麻烦煩能可吗嗎决決做先现現在"
)  # fmt: skip
# Of a Chinese clause that asks nothing, beside such characters: a request, a greeting alone, or what the question is
# called. The characters make other words, too: 认真, 完成, 我能, 你好看.
_CHINESE_OPENING = re.compile(
    "[请請].|麻[烦煩][你您]|[帮幫](?:我|忙)|(?<!在)下面|以下|[问問][你您]|想一想|思考一下"
    "|[这這有是]一?[个個道](?:[问問]?[题題])|^[你您]好$|^[谢謝]{2}[你您]?$|^(?:[问問]|[问問]?[题題]目?)$"
)
# Before a colon "你好" is what is asked about.
_GREETING = frozenset("你好 您好 谢谢 謝謝 谢谢你 謝謝你 谢谢您 謝謝您".split())
_CLAUSE = re.compile(r"\s*([^.!?:,;\n。！？：，；]{1,80})[.!?:,;\n。！？：，；]+\s*")
_POLITE = re.compile(r"\s*(?:please|kindly)\s+(?=\w)", re.IGNORECASE)
_OPENING_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")


def _names(clause: re.Match) -> bool:
    """Whether a Chinese clause of opening characters is none, but something that is asked about."""
    said = clause[1].strip()
    if said.isascii():
        return False
    return not _CHINESE_OPENING.search(said) or (said in _GREETING and clause[0].rstrip()[-1] in ":：")


def asked(text: str) -> str:
    """A question without the clauses before it that ask nothing ("Hello! Please solve this problem: …")."""
    at = 0
    while (clause := _CLAUSE.match(text, at)) and clause.end() < len(text):
        if not all(word in _OPENINGS for word in _OPENING_WORD.findall(clause[1].lower())) or _names(clause):
            break
        at = clause.end()
    polite = _POLITE.match(text, at)
    return text[polite.end() if polite else at :]


# --- clauses -------------------------------------------------------------------------------------

_CLAUSE_END = re.compile(r"""(?<=[.!?:;])\s+|(?<=[。！？：；])|\n+|["“”„«»「」『』]|(?<!\w)'|'(?!\w)""")


def segments(text: str) -> list[list[str]]:
    """The tokens of its sentences, lines, quotations and what colons part, in small letters; none is empty."""
    return list(filter(None, (tokens(clause) for clause in _CLAUSE_END.split(text.lower()))))


# --- keys ----------------------------------------------------------------------------------------


def hash64(parts: list[str]) -> int:
    """64 bits of a list of texts. Two of a million different ones agree with probability 3e-8."""
    return xxhash.xxh3_64_intdigest("\x1f".join(parts).encode())


class Key(NamedTuple):
    """Of a text. Two are the same where `case` agrees but for its lowest bit, or where `any_case` does and one of them
    leaves case out (`case` 0) while the other begins with a capital (the lowest bit): see `resolved`."""

    any_case: int
    case: int


_SINGLE = re.compile(r"(?<=\x1f)[A-HJ-Z](?=\x1f|\Z)")


def key_of(parts: list[str]) -> Key:
    """The key of a text of these tokens.

    Case counts ("Polish", "polish"), except where a text of several words has small letters alone, or none: its writer
    left case out. That a letter stands alone as a capital counts even then ("the code of A").
    """
    joined = "\x1f".join(parts)
    lower = joined.lower()
    if len(parts) > 1 and (lower == joined or joined.isupper()):
        return Key(_hash(lower), 0)
    if len(parts) < 2:
        found = _hash(joined)
        return Key(found, found | 1)
    single = "".join(_SINGLE.findall(joined))
    found = _hash(joined[0].lower() + joined[1:])
    return Key(_hash(f"{lower}\x1e{single}" if single else lower), found | 1 if joined[0].isupper() else found & ~1)


def resolved(any_case: np.ndarray, case: np.ndarray) -> np.ndarray:
    """uint64 [texts]: equal for texts that are the same, of their keys."""
    found, one = any_case.copy(), np.uint64(1)
    for members in groups(any_case):
        cases = case[members] >> one
        if len(np.unique(cases[cases > 0])) > 1 or not (case[members] & one).any():
            found[members] = np.where(cases > 0, cases, any_case[members])
    return found


def groups(key: np.ndarray) -> Iterator[np.ndarray]:
    """Index arrays, ascending, of the rows that share a key with another row."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(key) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(key)])
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode()) or 1
