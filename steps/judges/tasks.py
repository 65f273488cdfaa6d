"""What the files of `tasks/` name: filters, which read answers, and scores, each by the judge that it is called after.

lm-eval's filters take (responses per document, documents), its scores a document and the filtered answers.
"""

import functools
import string
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

from steps.judges.instructions import follows
from steps.judges.judge import SECONDS, Judge
from steps.judges.kinds import JUDGES, Judging
from steps.judges.mathematics import Checker
from steps.judges.reading import NO_ANSWER, Mark, Read, last_number, read

Filter = Callable[[list[list[str]], Any], list[list[str]]]


def _reading(mark: Mark) -> Filter:
    return lambda responses, docs: [[read(text, mark) or NO_ANSWER for text in texts] for texts in responses]


def filter_marked(responses: list[list[str]], docs) -> list[list[str]]:
    r"""What follows `####` or stands in \boxed."""
    return _reading("either")(responses, docs)


def filter_first_line(responses: list[list[str]], docs) -> list[list[str]]:
    """The first line, which is the answer."""
    return _reading("none")(responses, docs)


def filter_last_number(responses: list[list[str]], docs) -> list[list[str]]:
    """The last number, wherever it stands."""
    return [[last_number(text) or NO_ANSWER for text in texts] for texts in responses]


@functools.cache
def _judge(kind: str) -> Judge:
    return Judge(kind)


@functools.cache
def _judging(kind: str) -> Judging:
    return JUDGES[kind].make(Checker(SECONDS))


def _score(kind: str, gold: str, answer: str) -> float:
    if answer == NO_ANSWER:
        return 0.0
    found = answer if isinstance(answer, Read) else Read([(answer,)])
    return float(_judge(kind).judge_read(gold, found).right)


def score_number(doc: dict, answers: list[str]) -> dict[str, float]:
    return {"exact_match": _score("number", str(doc["answer"]), answers[0])}


def score_target(doc: dict, answers: list[str]) -> dict[str, float]:
    return {"exact_match": _score("number", str(doc["target"]), answers[0])}


def score_math(doc: dict, answers: list[str]) -> dict[str, float]:
    """Beside it, by the code of MATH's paper as lm-eval has it: strings brought to one form."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    published = is_equiv(answers[0].rpartition(" | ")[2], doc["answer"])
    return {"exact_match": _score("math", doc["answer"], answers[0]), "hendrycks_math": float(published)}


def score_choice(doc: dict, responses: list[str]) -> dict[str, float]:
    """The letter or the text of an option that the question lists, behind a mark."""
    return _whole("choice", doc, responses[0])


def score_code(doc: dict, responses: list[str]) -> dict[str, float]:
    """A program that passes the tests which the row has for an answer."""
    return _whole("code", doc, responses[0])


def _whole(kind: str, doc: dict, response: str) -> dict[str, float]:
    return {"exact_match": float(_judging(kind).judge(doc["answer"], response, "either", _question(doc)).right)}


def _question(doc: dict) -> str:
    return str(doc.get("prompt", doc.get("question", "")))


def score_question(doc: dict, answers: list[str]) -> dict[str, float]:
    """Any of the row's answers will do, as SQuAD compares them (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    return {"exact_match": float(bare(answers[0]) in map(bare, doc["answer"]))}


def score_instruction(doc: dict, responses: list[str]) -> dict[str, float]:
    return {"exact_match": float(follows(responses[0], doc["check"]))}


def bare(answer: str) -> str:
    """An answer in small letters without punctuation, articles and surplus spaces: SQuAD's normalization, with the
    punctuation of every script as MLQA has it (Lewis et al. 2020, arXiv:1910.07475)."""
    kept = "".join(letter for letter in answer.casefold() if not _is_punctuation(letter))
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter)[0] == "P"


# --- what they ask of a row ------------------------------------------------------------------------


def _no_answer(value: Any, doc: dict) -> str:
    return "" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "must be text or a number"


def _no_text(value: Any, doc: dict) -> str:
    return "" if isinstance(value, str) else "must be text"


def _no_texts(value: Any, doc: dict) -> str:
    right = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return "" if right else "must be a list of texts"


def _no_option(value: Any, doc: dict) -> str:
    return _refusal("choice", value, doc) if isinstance(value, str) else "must be text"


def _no_tests(value: Any, doc: dict) -> str:
    return _refusal("code", value, doc) if isinstance(value, str) else "must be the text of tests"


def _refusal(kind: str, gold: str, doc: dict) -> str:
    why = _judging(kind).refusal(gold, _question(doc))
    return f"is none that a response could meet ({' '.join(why.split())})" if why else ""


def _no_check(value: Any, doc: dict) -> str:
    try:
        follows("", value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "must be a constraint with the fields of its kind"
    return ""


class Asked(NamedTuple):
    """What a function above asks of a row: a field, and what is wrong with its value in a row ("" for nothing); and
    the judge that it goes by."""

    field: str
    wrong: Callable[[Any, dict], str]
    judge: str


ASKED: dict[str, Asked] = {
    "score_number": Asked("answer", _no_answer, "number"),
    "score_target": Asked("target", _no_answer, "number"),
    "score_math": Asked("answer", _no_text, "math"),
    "score_choice": Asked("answer", _no_option, "choice"),
    "score_code": Asked("answer", _no_tests, "code"),
    "score_question": Asked("answer", _no_texts, "squad"),
    "score_instruction": Asked("check", _no_check, "instruction"),
}


def judge_of(score: Any) -> str:
    """The judge of a task, by the function that scores its answers; "lm-eval" for one that is not of these."""
    own = getattr(score, "__module__", "") == __name__
    return ASKED[score.__name__].judge if own else "lm-eval"
