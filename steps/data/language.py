"""Whether the turns of a row are written in the languages that are wanted.

The language is py3langid's (naive Bayes over n-grams of bytes, Lui and Baldwin 2012, its model in the wheel) among
those of `LANGUAGES`, where it is sure of it; text in a script that none of these is written in is of another language.
It takes code, quotations and names for the language that they look like, so that a turn which reads as another language
is read again without them. A row that asks for another language, as a translation does, may hold it.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import Any

import regex

from steps.data.identity import stream_safe
from steps.settings.data import LANGUAGES

# Bytes of letters in UTF-8: fifteen Latin letters, five Chinese characters. Less is a name, and no evidence.
MIN_LETTER_BYTES = 15
# Terms and titles in Latin letters stand in rows of every other script: there a response of fewer is one.
MIN_LATIN_BYTES = 40
MIN_PROBABILITY = 0.95
# First words of the Unicode names of the letters that each language is written in; of the others of `LANGUAGES`, Latin.
_CYRILLIC, _HAN = ("CYRILLIC",), ("CJK",)
SCRIPTS = {
    "ru": _CYRILLIC, "uk": _CYRILLIC, "el": ("GREEK",), "ar": ("ARABIC",), "he": ("HEBREW",), "hi": ("DEVANAGARI",),
    "ko": ("HANGUL",), "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", *_HAN), "zh": _HAN,
}  # fmt: skip
# Letters of formulas and of other widths, which any language may use.
COMMON = {
    "FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC", "MICRO", "FEMININE", "MASCULINE", "MODIFIER", "MATHEMATICAL",
    "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "SUPERSCRIPT", "SUBSCRIPT", "OHM", "KELVIN", "ANGSTROM",
}  # fmt: skip
# Of other scripts the classifier says whatever is least unlike.
KNOWN_SCRIPTS = {"LATIN", *COMMON, *(script for scripts in SCRIPTS.values() for script in scripts)}
# Share of the bytes of a turn's letters from which it is written in a script beside quoted Latin ones: `什么是 API？`
OWN_SHARE = 0.2
# Bytes of letters of a script of its own that make an instruction: 总结.
MIN_OWN_BYTES = 6
_PARTS, MOST_PARTS = re.compile(r"[\n:：。.!?！？]"), 100

_LATIN = regex.compile(r"\p{Latin}+")
_LETTERS = regex.compile(r"[\p{L}\p{M}]+")
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
# Each is bounded: what is opened and never closed costs what it is long.
_FOREIGN_BODIES = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\([^\\]{0,300}(?:\\[^)][^\\]{0,300}){0,30}\\\)"
    r"|\\\[[^\\]{0,300}(?:\\[^\]][^\\]{0,300}){0,30}\\\]|\\[A-Za-z]+|</?[A-Za-z][^<>\n]{0,300}>"
    r"|(?:https?://|www\.)\S+|[^\s@]{1,64}@\S{1,255}"
    "|\"[^\"\n]*\"|“[^”]{0,500}”|«[^»]{0,500}»|「[^」]{0,500}」|『[^』]{0,500}』|《[^》\n]{0,500}》|(?<!\\w)'[^'\n]*'(?!\\w)",
    re.DOTALL,
)
# Signs of which prose has few; and what begins a line of code.
_CODE_SIGNS = re.compile(r"[{}\[\]<>=;_|&\\^~+]|\w\(")
_CODE_LINE = re.compile(
    r"\s*(?:import |from \w+ import|#include|def |class |return\b|public |private |//|/\*|\$ |>>> )"
)
CODE_SHARE = 0.06
# Bytes of letters in words without a capital, of which the name of a person, place or work has few.
MIN_SMALL_BYTES = 8
_CAPITALISED = regex.compile(r"\b\p{Lu}[\p{L}\p{M}'’.-]*")
# A word with a capital inside a sentence.
_NAME = regex.compile(r"(?<=[^\s.!?:。！？]\s+)\p{Lu}[\p{L}\p{M}'’.-]*")
# What asks for another language: the word for translation in the languages of LANGUAGES, and names of languages.
_ASKS = re.compile(
    r"translat|übersetz|trad(?:u[cz]|ui)|vertaal|vertaling|tłumacz|översätt|çevir|перев[её]д|перевод|переклад|μετ[αά]φρ|ترجم"
    r"|תרגם|תרגום|अनुवाद|번역|訳|译|譯|[英法德俄日韩韓葡西意阿拉泰越汉漢中国國][语語文]"
    r"|\b(?:english|german|spanish|french|italian|portuguese|dutch|polish|swedish|turkish|russian|ukrainian|greek|arabic"
    r"|hebrew|hindi|korean|japanese|chinese|mandarin|latin|thai|vietnamese)\b",
    re.IGNORECASE,
)


def foreign_turn(turns: dict[str, str], wanted: Collection[str]) -> tuple[str, str] | None:
    """The first turn in another language than those wanted, and how that is known: None of a row without one.

    Args:
        turns: column → text. A row of which no turn has letters enough is judged as a whole, under `messages`.
    """
    texts = {column: text for column, text in turns.items() if _is_evidence(text)}
    if not texts and _is_evidence(whole := "\n".join(turns.values())):
        texts = {"messages": whole}
    foreign = {column: found for column, text in texts.items() if (found := _foreign(text, wanted))}
    if foreign and _is_about_language(turns, wanted):
        return None
    for column, found in foreign.items():
        if not _is_term(texts[column], turns, wanted):
            return column, found
    return None


def _is_about_language(turns: dict[str, str], wanted: Collection[str]) -> bool:
    """Whether a row speaks of translation or of a language in a wanted one, or puts a wanted one before another."""
    if any(_other(text, wanted) and _holds(text, wanted) for text in turns.values()):
        return True
    return any(_ASKS.search(text) for text in turns.values()) and _is_held(turns, wanted)


def _is_term(text: str, turns: dict[str, str], wanted: Collection[str]) -> bool:
    is_short = text.isascii() and _size(text) < MIN_LATIN_BYTES
    return is_short and all(language in SCRIPTS for language in wanted) and _is_held(turns, wanted)


def _is_held(turns: dict[str, str], wanted: Collection[str]) -> bool:
    """Whether a wanted language is in the row at all, if in few words."""
    parts = (part for text in turns.values() for part in _parts(text) if _LETTERS.search(part))
    return any(_own_letters(part, wanted) or _read_as(part)[0] in wanted for part in parts)


def _holds(text: str, wanted: Collection[str]) -> bool:
    """Whether a part of a text is surely in a wanted language, as an instruction before what it is about."""
    for part in _parts(_prose(text)):
        own = _own_letters(part, wanted)
        if _size(own or part) < (MIN_OWN_BYTES if own else MIN_LETTER_BYTES):
            continue
        language, probability = _read_as(own or part)
        if language in wanted and (own or probability >= MIN_PROBABILITY):
            return True
    return False


def _parts(text: str) -> list[str]:
    """The first sentences and lines of a text: an instruction is among them."""
    return _PARTS.split(text, MOST_PARTS)[:MOST_PARTS]


def _foreign(text: str, wanted: Collection[str]) -> str | None:
    """How it is known that a text is in another language; None where it is not."""
    if script := _unknown_script(text):
        return f"most of its letters are {script}, which no language is written in that can be told apart"
    if (found := _other(text, wanted)) is None or _holds(text, wanted):
        return None
    prose = _prose(text)
    if not prose.isupper() and _size(_CAPITALISED.sub(" ", prose)) < MIN_SMALL_BYTES:
        return None
    for part in (prose, _NAME.sub(" ", prose)):
        if not _is_evidence(part) or _other(_own_letters(part, wanted) or part, wanted) is None:
            return None
    language, probability = found
    return f"it reads as {language}, with probability {probability:.3f}"


def _other(text: str, wanted: Collection[str]) -> tuple[str, float] | None:
    language, probability = _read_as(text)
    return (language, probability) if language not in wanted and probability >= MIN_PROBABILITY else None


def _read_as(text: str) -> tuple[str, float]:
    """The language that a text reads as, and its probability."""
    return _identifier().classify(stream_safe(text))


def _own_letters(text: str, wanted: Collection[str]) -> str:
    """A text without its Latin letters, where enough of the others are of a wanted language's own script; "" elsewhere.
    Latin is nobody's own: it stands in texts of every script."""
    scripts = {script for language in wanted for script in SCRIPTS.get(language, ())}
    if not scripts or text.isascii():
        return ""
    letters = "".join(_LETTERS.findall(text))
    own = "".join(letter for letter in letters if _script(letter) in scripts)
    if not own or len(own.encode()) < OWN_SHARE * len(letters.encode()):
        return ""
    return _LATIN.sub(" ", text)


def _prose(text: str) -> str:
    """A text without code, formulas, quotations and addresses."""
    lines = _FOREIGN_BODIES.sub(" ", text).split("\n")
    return "\n".join(line for line in lines if not _is_code(line))


def _is_code(line: str) -> bool:
    return bool(_CODE_LINE.match(line)) or len(_CODE_SIGNS.findall(line)) > CODE_SHARE * len(line)


def _is_evidence(text: str) -> bool:
    return _size(text) >= MIN_LETTER_BYTES


def _size(text: str) -> int:
    """Bytes of its letters."""
    if text.isascii():
        return len(text.encode().translate(None, _NO_LETTERS))
    return len("".join(_LETTERS.findall(text)).encode())


def _unknown_script(text: str) -> str | None:
    """The script of more than half of the letters, where the classifier knows no language of it."""
    if text.isascii():
        return None
    letters = "".join(_LETTERS.findall(text))
    if letters.isascii():
        return None
    script, count = Counter(map(_script, letters)).most_common(1)[0]
    return script.lower() if script not in KNOWN_SCRIPTS and 2 * count > len(letters) else None


@functools.cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # An archive of arrays, read without pickle.
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
