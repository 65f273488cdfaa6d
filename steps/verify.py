"""Verifiable rewards: what a response answers, and whether that is right. Pure functions, no heavy import.

Three kinds of task share them. *Worked* responses end in `#### answer`, as GSM8K's do (Cobbe et al. 2021,
arXiv:2110.14168). *Short* responses are the answer. *Instructions* carry a constraint that a program checks on
any response, as IFEval does (Zhou et al. 2023, arXiv:2311.07911).

The functions at the end are the glue that the task files in `tasks/` name.
"""

import re
import string
from decimal import Decimal

# What lm-eval's own filters return when they find no answer; shared, so that a vote skips it for every task.
NO_ANSWER = "[invalid]"

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def said(response: str) -> str:
    """A response without the thinking before it: what follows the last `</think>`, where there is one. Qwen3's chat
    template puts a block of it, if an empty one, before every answer that is trained on."""
    _, thought, rest = response.rpartition("</think>")
    return rest.lstrip() if thought else response


def normalize(text: str) -> str:
    """First line of an answer without thousands separators, currency sign, closing period and surplus spaces."""
    line = text.strip().split("\n", 1)[0]
    return " ".join(line.replace(",", "").removeprefix("$").split()).removesuffix(".").rstrip()


def worked_answer(response: str) -> str | None:
    """What follows the last `####`, normalized; None when there is no marker or nothing after it."""
    _, marker, tail = response.rpartition("####")
    return (normalize(tail) or None) if marker else None


def last_number(response: str) -> str | None:
    """The last number anywhere in the response, normalized: the lenient reading of a worked response."""
    found = NUMBER.findall(response)
    return normalize(found[-1]) if found else None


def equal(answer: str, expected: str) -> bool:
    """Equal as numbers (exactly, 42 = 42.0) when both are numbers, else as normalized text regardless of case."""
    return canonical(answer) == canonical(expected)


def canonical(answer: str) -> Decimal | str:
    """The key under which equal answers meet: a number, or case-folded normalized text."""
    text = normalize(answer)
    return Decimal(text) if NUMBER.fullmatch(text) else text.casefold()


def boxed(response: str) -> str | None:
    r"""What the last \boxed{…} holds; None when there is none, or it is not closed."""
    begin = response.rfind(r"\boxed{") + len(r"\boxed{")
    depth = 1
    for at in range(begin, len(response)) if r"\boxed{" in response else ():
        depth += (response[at] == "{") - (response[at] == "}")
        if depth == 0:
            return response[begin:at].strip() or None
    return None


def bare(answer: str) -> str:
    """An answer in small letters without punctuation, articles and surplus spaces."""
    kept = "".join(letter for letter in answer.casefold() if letter not in string.punctuation)
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


# --- instructions --------------------------------------------------------------------------------


def _words(response: str) -> list[str]:
    return [word for word in (part.strip(".,;:!?\"'()") for part in response.split()) if word]


def follows(response: str, check: dict) -> bool:
    """Whether a response keeps its constraint.

    Kinds: `repeat` {word, times}: that word so often and nothing else. `uppercase` {words}: all of them, in
    capitals, no small letter. `starts_with` {words, first}, `ends_with` {words, last}: all of them, and the
    first (last) word is that. `word_count` {words, count}: all of them among exactly so many words.

    Raises:
        ValueError: the kind is unknown.
    """
    response = said(response)
    given = _words(response)
    small = [word.casefold() for word in given]
    kind = check["kind"]
    if kind == "repeat":
        return small == [check["word"].casefold()] * check["times"]
    if kind == "uppercase":
        return response == response.upper() and set(given) >= {word.upper() for word in check["words"]}
    if not set(small) >= {word.casefold() for word in check["words"]}:
        return False
    if kind == "starts_with":
        return small[:1] == [check["first"].casefold()]
    if kind == "ends_with":
        return small[-1:] == [check["last"].casefold()]
    if kind == "word_count":
        return len(given) == check["count"]
    raise ValueError(f"check.kind: {kind!r} is not a known constraint; steps/verify.py lists them")


# --- rows ------------------------------------------------------------------------------------------


def reference(row: dict, short_answer_words: int) -> tuple[str, str] | None:
    """(kind, answer) of a row whose answer can be verified; None of another.

    Kind `worked`: the row has an answer behind "####". Kind `short`: its response, one line of at most
    `short_answer_words` words, is the answer. A row of several assistant turns has no single answer.
    """
    turns = [message["role"] for message in row["messages"]]
    if turns.count("assistant") != 1 or turns[-1] != "assistant":
        return None
    if row["answer"] is not None:
        return "worked", row["answer"]
    response = said(row["messages"][-1]["content"]).strip()
    if "\n" in response or len(response.split()) > short_answer_words or not normalize(response):
        return None
    return "short", normalize(response)


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
    return {"exact_match": float(equal(answers[0], doc["answer"]))}


def score_target(doc: dict, answers: list[str]) -> dict[str, float]:
    return {"exact_match": float(equal(answers[0], doc["target"]))}


def score_boxed(doc: dict, answers: list[str]) -> dict[str, float]:
    """By the code of MATH's paper, as lm-eval has it."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return {"exact_match": float(is_equiv(answers[0], doc["answer"]))}


def score_question(doc: dict, answers: list[str]) -> dict[str, float]:
    """Any of the row's answers will do, as SQuAD compares them (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    return {"exact_match": float(bare(answers[0]) in map(bare, doc["answer"]))}


def score_instruction(doc: dict, responses: list[str]) -> dict[str, float]:
    return {"exact_match": float(follows(responses[0], doc["check"]))}
