"""Constraints on a response that a program checks, as IFEval does (Zhou et al. 2023, arXiv:2311.07911)."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from steps.judges.reading import UNSPACED_WORD, said

_PUNCTUATION = ".,;:!?\"'()。，、；：！？「」『』“”‘’（）"
_FENCED = re.compile(r"\s*```(?:json)?[^\n]*\n(.*?)```\s*", re.DOTALL | re.IGNORECASE)
_BULLET = re.compile(r"^[ \t]*(?:[-+•]|\*(?!\*))[ \t]*\S", re.MULTILINE)
_TITLE = re.compile(r"<<[^<>\n]*[^<>\s][^<>\n]*>>")
_QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ("『", "』"))


@dataclass(frozen=True)
class Check:
    """A kind of constraint.

    Attributes:
        asks: of a response.
        fields: that it must have.
        keeps: whether a response, of these words, keeps it.
    """

    asks: str
    fields: tuple[str, ...]
    keeps: Callable[[str, list[str], dict], bool]


def _words(text: str) -> list[str]:
    """The words of a text, in small letters; where words are not spaced, its characters."""
    parts = (part.strip(_PUNCTUATION) for part in UNSPACED_WORD.sub(r" \1 ", text).casefold().split())
    return [part for part in parts if part]


def _holds(given: list[str], word: str) -> bool:
    return f" {' '.join(_words(word))} " in f" {' '.join(given)} "


def _has_all(given: list[str], check: dict) -> bool:
    return all(_holds(given, word) for word in check["words"])


def _repeats(response: str, given: list[str], check: dict) -> bool:
    word = _words(check["word"])
    return len(given) == len(word) * check["times"] and given == word * check["times"]


def _begins(response: str, given: list[str], check: dict) -> bool:
    first = _words(check["first"])
    return _has_all(given, check) and given[: len(first)] == first


def _ends(response: str, given: list[str], check: dict) -> bool:
    last = _words(check["last"])
    return _has_all(given, check) and given[-len(last) :] == last


def _is_json(response: str, given: list[str], check: dict) -> bool:
    fenced = _FENCED.fullmatch(response)
    try:
        json.loads(fenced[1] if fenced else response)
    except (ValueError, RecursionError):
        return False
    return True


def _is_quoted(response: str, given: list[str], check: dict) -> bool:
    text = response.strip()
    return any(text.startswith(begin) and text.endswith(end) and len(text) > 1 for begin, end in _QUOTES)


def _paragraphs(response: str) -> list[str]:
    return [part for part in re.split(r"\n[ \t]*\n", response) if part.strip()]


def _keeps_all(response: str, given: list[str], check: dict) -> bool:
    return all(CHECKS[one["kind"]].keeps(response, given, one) for one in check["checks"])


CHECKS: dict[str, Check] = {
    "repeat": Check("the word `word` so many `times`, and nothing else", ("word", "times"), _repeats),
    "uppercase": Check(
        "all `words`, and no small letter",
        ("words",),
        lambda response, given, check: _has_all(given, check) and response == response.upper(),
    ),
    "lowercase": Check(
        "all `words`, and no capital",
        ("words",),
        lambda response, given, check: _has_all(given, check) and response == response.lower(),
    ),
    "starts_with": Check("all `words`, and `first` at its beginning", ("words", "first"), _begins),
    "ends_with": Check("all `words`, and `last` at its end", ("words", "last"), _ends),
    "word_count": Check(
        "all `words` among exactly `count` words; in a script without spaces each character is one",
        ("words", "count"),
        lambda response, given, check: _has_all(given, check) and len(given) == check["count"],
    ),
    "word_limits": Check(
        "from `least` to `most` words",
        ("least", "most"),
        lambda response, given, check: check["least"] <= len(given) <= check["most"],
    ),
    "contains": Check("all `words`", ("words",), lambda response, given, check: _has_all(given, check)),
    "excludes": Check(
        "none of `words`, and something",
        ("words",),
        lambda response, given, check: not any(_holds(given, word) for word in check["words"]) and bool(given),
    ),
    "paragraphs": Check(
        "`count` paragraphs, with empty lines between them",
        ("count",),
        lambda response, given, check: len(_paragraphs(response)) == check["count"],
    ),
    "bullets": Check(
        "`count` lines that begin with `-`, `*`, `+` or `•`",
        ("count",),
        lambda response, given, check: len(_BULLET.findall(response)) == check["count"],
    ),
    "json": Check("JSON and nothing else, fenced or not", (), _is_json),
    "title": Check("a title in `<<` and `>>`", (), lambda response, given, check: _TITLE.search(response) is not None),
    "quoted": Check("quotation marks around it", (), _is_quoted),
    "no_commas": Check(
        "no comma of any script, and something",
        (),
        lambda response, given, check: not re.search("[,，、،]", response) and bool(given),
    ),
    "all": Check("what each of `checks` asks", ("checks",), _keeps_all),
}


def follows(response: str, check: dict) -> bool:
    """Whether a response keeps its constraint, which is of a kind of `CHECKS` and has its fields.

    Raises:
        ValueError: the kind is unknown, or a field of it is missing.
    """
    response = said(response)
    for one in (check, *(check["checks"] if check["kind"] == "all" else ())):
        if one["kind"] not in CHECKS or (one is not check and one["kind"] == "all"):
            raise ValueError(f"check.kind: {one['kind']!r} is not a known constraint; docs/data.md lists them")
        if missing := next((field for field in CHECKS[one["kind"]].fields if field not in one), None):
            raise ValueError(f"check.{missing}: the kind {one['kind']} needs it")
    return CHECKS[check["kind"]].keeps(response, _words(response), check)
