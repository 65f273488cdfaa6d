"""Verifiable rewards: what a response answers, and whether that is right. Pure functions, no heavy import.

Three kinds of task share them. *Worked* responses end in `#### answer`, as GSM8K's do (Cobbe et al. 2021,
arXiv:2110.14168). *Short* responses are the answer. *Instructions* carry a constraint that a program checks on
any response, as IFEval does (Zhou et al. 2023, arXiv:2311.07911).

The functions at the end are the glue that the task files in `tasks/` name.
"""

import re
import string
import unicodedata
from collections.abc import Callable
from typing import Any

from steps.data.canonical import CLOSING, NUMBER, canonical, closed, without_separators

# What lm-eval's own filters return when they find no answer; shared, so that a vote skips it for every task.
NO_ANSWER = "[invalid]"

# Scripts without spaces between words, by the characters that a word has: Han and kana about two, Thai, Lao, Burmese
# and Khmer, whose vowels and tones are characters of their own, about four.
_SHORT_WORDS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LONG_WORDS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_SHORT, _LONG = re.compile(f"[{_SHORT_WORDS}]"), re.compile(f"[{_LONG_WORDS}]")
_UNSPACED = re.compile(f"([{_SHORT_WORDS}{_LONG_WORDS}])")
_DOLLAR = re.compile(r"^\$(?=\s?[\d.])")


def said(response: str) -> str:
    """A response without the thinking before it: what follows the last `</think>`, where there is one. Qwen3's chat
    template puts a block of it, if an empty one, before every answer that is trained on."""
    _, thought, rest = response.rpartition("</think>")
    return rest.lstrip() if thought else response


def normalize(text: str) -> str:
    """First line of an answer, to show: without thousands separators, dollar sign, closing mark and surplus spaces."""
    line = " ".join(text.strip().split("\n", 1)[0].split())
    text = closed(_DOLLAR.sub("", without_separators(line)))
    return text if text.strip(CLOSING) else ""


def worked_answer(response: str) -> str | None:
    """What follows the last `####` behind the thinking, normalized; None when there is none or nothing after it."""
    _, marker, tail = said(response).rpartition("####")
    return (normalize(tail) or None) if marker else None


def last_number(response: str) -> str | None:
    """The last number anywhere in the response, normalized: the lenient reading of a worked response."""
    found = NUMBER.findall(said(response))
    return normalize(found[-1]) if found else None


def equal(answer: str, expected: str) -> bool:
    """Whether two answers say the same: `steps/data/canonical.py` has what is folded and what is not."""
    return canonical(answer) == canonical(expected)


def boxed(response: str) -> str | None:
    r"""What the last \boxed{…} behind the thinking holds; None when there is none, or it is not closed."""
    response = said(response)
    begin = response.rfind(r"\boxed{") + len(r"\boxed{")
    depth = 1
    for at in range(begin, len(response)) if r"\boxed{" in response else ():
        depth += (response[at] == "{") - (response[at] == "}")
        if depth == 0:
            return response[begin:at].strip() or None
    return None


def bare(answer: str) -> str:
    """An answer in small letters without punctuation, articles and surplus spaces: SQuAD's normalization, with the
    punctuation of every script as MLQA has it (Lewis et al. 2020, arXiv:1910.07475)."""
    kept = "".join(letter for letter in answer.casefold() if not _is_punctuation(letter))
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter)[0] == "P"


def count_words(text: str) -> int:
    """Words of a text in any script; where words are not spaced, as many as its characters usually make. At least 1."""
    spaced = sum(any(map(str.isalnum, part)) for part in _UNSPACED.sub(" ", text).split())
    return max(1, spaced + -(-len(_SHORT.findall(text)) // 2) + -(-len(_LONG.findall(text)) // 4))


# --- instructions --------------------------------------------------------------------------------


_PUNCTUATION = ".,;:!?\"'()。，、；：！？「」『』“”‘’（）"


def _words(text: str) -> list[str]:
    """The words of a text, in small letters; where words are not spaced, its characters."""
    parts = (part.strip(_PUNCTUATION) for part in _UNSPACED.sub(r" \1 ", text).casefold().split())
    return [part for part in parts if part]


def _holds(given: list[str], word: str) -> bool:
    return f" {' '.join(_words(word))} " in f" {' '.join(given)} "


def follows(response: str, check: dict) -> bool:
    """Whether a response keeps its constraint.

    Kinds: `repeat` {word, times}: that word so often and nothing else. `uppercase` {words}: all of them, in
    capitals, no small letter. `starts_with` {words, first}, `ends_with` {words, last}: all of them, and the
    first (last) word is that. `word_count` {words, count}: all of them among exactly so many words; in a script
    without spaces each character counts as one.

    Raises:
        ValueError: the kind is unknown.
    """
    response = said(response)
    given, kind = _words(response), check["kind"]
    if kind == "repeat":
        return given == _words(check["word"]) * check["times"]
    if not all(_holds(given, word) for word in check["words"]):
        return False
    if kind == "uppercase":
        return response == response.upper()
    if kind == "starts_with":
        first = _words(check["first"])
        return given[: len(first)] == first
    if kind == "ends_with":
        last = _words(check["last"])
        return given[-len(last) :] == last
    if kind == "word_count":
        return len(given) == check["count"]
    raise ValueError(f"check.kind: {kind!r} is not a known constraint; steps/data/answers.py lists them")


# --- rows ------------------------------------------------------------------------------------------


def short_answer(response: str, short_answer_words: int) -> str | None:
    """A response that is an answer by itself: one line of at most so many words; None of another."""
    text = said(response).strip()
    # No word of an answer has 40 characters: most responses need no counting.
    if "\n" in text or len(text) > 40 * short_answer_words or count_words(text) > short_answer_words:
        return None
    return normalize(text) or None


def reference(row: dict, short_answer_words: int) -> tuple[str, str] | None:
    """(kind, answer) of a row whose answer can be verified; None of another.

    Kind `worked`: the row has an answer behind "####", or has one and no response. Kind `short`: its response, one line
    of at most `short_answer_words` words, is the answer. A row of several assistant turns has no single answer.
    """
    turns = [message["role"] for message in row["messages"]]
    if turns.count("assistant") > 1 or turns[-1] not in ("assistant", "user"):
        return None
    if row["answer"] is not None:
        return "worked", row["answer"]
    found = short_answer(row["messages"][-1]["content"], short_answer_words) if turns[-1] == "assistant" else None
    return None if found is None else ("short", found)


def given_answer(kind: str, response: str) -> str:
    r"""What a response answers; "" for nothing. A worked one, behind its last `####` or, without one, in its last
    \boxed: solutions of MATH and OpenMathReasoning have no other mark."""
    return (worked_answer(response) or boxed(response) or "") if kind == "worked" else normalize(said(response))


def solves(row: dict, response: str, short_answer_words: int) -> bool | None:
    """Whether a response does what a row asks: keeps its "check", or answers as the row does; None where neither can
    be told."""
    if "check" in row:
        return follows(response, row["check"])
    found = reference(row, short_answer_words)
    return None if found is None else equal(given_answer(found[0], response), found[1])


# --- glue of tasks/*.yaml: lm-eval filters take (responses per document, documents) -----------------


def filter_worked(responses: list[list[str]], docs) -> list[list[str]]:
    return [[worked_answer(text) or NO_ANSWER for text in texts] for texts in responses]


def filter_last_number(responses: list[list[str]], docs) -> list[list[str]]:
    return [[last_number(text) or NO_ANSWER for text in texts] for texts in responses]


def filter_first_line(responses: list[list[str]], docs) -> list[list[str]]:
    return [[normalize(said(text)) or NO_ANSWER for text in texts] for texts in responses]


def filter_boxed(responses: list[list[str]], docs) -> list[list[str]]:
    return [[boxed(text) or NO_ANSWER for text in texts] for texts in responses]


def score_answer(doc: dict, answers: list[str]) -> dict[str, float]:
    return {"exact_match": float(equal(answers[0], str(doc["answer"])))}


def score_target(doc: dict, answers: list[str]) -> dict[str, float]:
    return {"exact_match": float(equal(answers[0], str(doc["target"])))}


def score_boxed(doc: dict, answers: list[str]) -> dict[str, float]:
    """By the code of MATH's paper, as lm-eval has it."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return {"exact_match": float(is_equiv(answers[0], doc["answer"]))}


def score_question(doc: dict, answers: list[str]) -> dict[str, float]:
    """Any of the row's answers will do, as SQuAD compares them (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    return {"exact_match": float(bare(answers[0]) in map(bare, doc["answer"]))}


def score_instruction(doc: dict, responses: list[str]) -> dict[str, float]:
    return {"exact_match": float(follows(responses[0], doc["check"]))}


def _no_answer(value: Any) -> str:
    return "" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "must be text or a number"


def _no_text(value: Any) -> str:
    return "" if isinstance(value, str) else "must be text"


def _no_texts(value: Any) -> str:
    right = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return "" if right else "must be a list of texts"


def _no_check(value: Any) -> str:
    try:
        follows("", value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "must be a constraint with the fields of its kind"
    return ""


# What the functions above read of a row, and what is wrong with it: "" for nothing.
ASKED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "score_answer": ("answer", _no_answer),
    "score_target": ("target", _no_answer),
    "score_boxed": ("answer", _no_text),
    "score_question": ("answer", _no_texts),
    "score_instruction": ("check", _no_check),
}
