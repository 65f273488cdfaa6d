"""What a response may cost where nothing can end it: its reading, in the process of the training."""

import re
import signal
from contextlib import contextmanager
from itertools import product

import pytest

from steps.judges import canonical, reading
from steps.judges.judge import MOST_ANSWERS, MOST_COMPARISONS, Judge
from steps.judges.rows import RowJudge
from steps.judges.strict import strict_verdicts

LONG = 50_000


@contextmanager
def within(seconds: float):
    """Of computing, on a busy machine too; what runs in C is ended as well."""
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


LONG_RESPONSES = {
    "blanks between boxes": r"\boxed{1}" + " " * LONG + r"x\boxed{2}",
    "blanks behind a box": r"\boxed{1}" + " \n" * LONG,
    "blanks in a text between boxes": r"\boxed{1}\text{" + " " * LONG + r"x\boxed{2}",
    "dollars between boxes": r"\boxed{1}" + "$ " * LONG + r"x\boxed{2}",
    "boxes beside each other": "".join(rf"\boxed{{{i}}}" for i in range(LONG // 10)),
    "nested boxes": r"\boxed{" * (LONG // 7) + "}" * (LONG // 7),
    "blanks in marks of boxes": (r"\boxed" + " " * 20) * (LONG // 25),
    "marks that are none": "#### 42\n" + "#" * LONG + "\nx",
    "marks": "####" * LONG,
    "answers": "\n".join(f"#### {i}" for i in range(LONG // 10)),
    "thousands": "1" + ",000" * (LONG // 10) + ",0",
    "thousands behind a mark": "#### 1" + ",000" * (LONG // 4) + ",0",
    "a word without an end": "#### " + "a'" * LONG + "x1!",
    "headings": "#### " + ":*" * LONG + "x",
    "steps": "#### step" + " " * LONG,
    "thoughts": "<think></think>" * (LONG // 15) + "#### 42",
    "ends": ("</s>" + " " * 100) * (LONG // 100) + "x",
    "exclamations": "#### " + "a" * LONG + "!" * LONG,
    "lines": "\n" * LONG + "#### 42",
}


@pytest.mark.parametrize("what", LONG_RESPONSES)
def test_a_long_response_is_read_in_seconds(what):
    response = LONG_RESPONSES[what]
    row = {"messages": [{"role": "user", "content": "?"}], "answer": "42"}
    with RowJudge(workers=1) as judge, within(20):
        for mark in ("either", "####", "boxed", "none"):
            reading.read(response, mark)
        reading.last_number(response)
        reading.short_answer(response, 12)
        judge.verdict(row, response)
        strict_verdicts(judge, [row], [response], [True])


def test_patterns_that_give_nothing_back_find_what_those_do_that_try_all():
    """Each against the same pattern as it would be written without regard to time, on all short texts of its signs."""
    slow = re.compile(r"[\s$,;.]*(?:\\text\{)?\s*(?:and|or|,|;|)\s*\}?[\s$]*", re.IGNORECASE)
    for text in texts([" ", "$", ",", "and", "}", "\\text{", "x"], 4):
        assert bool(reading._BESIDE.fullmatch(text)) == bool(slow.fullmatch(text)), text
    group = r"\d{1,3}(?:,\d{3})+(?![\d,]*\d)"
    thousands = re.compile(rf"(?<![\d.,(\[{{]){group}")
    number = re.compile(rf"(?<![\d.])(?:(?<![\w)])[-+])?(?:{group}|\d+)(?:\.\d+)?|(?<![\d.])(?:(?<![\w)])[-+])?\.\d+")
    for text in texts(["1", ",", "000", ".", "-", " "], 5):
        assert canonical._THOUSANDS.findall(text) == thousands.findall(text), text
        assert canonical.NUMBER.findall(text) == number.findall(text), text


def texts(signs: list[str], longest: int) -> list[str]:
    return ["".join(text) for length in range(longest + 1) for text in product(signs, repeat=length)]


class Counting:
    """In place of a Checker: what it is asked, and what it says."""

    def __init__(self, outcome: str):
        self.outcome, self.asked = outcome, 0

    def ask(self, pair: tuple[str, str]) -> str:
        self.asked += 1
        return self.outcome


TOWERS = [rf"9^{{9^{{9^{{{i}}}}}}}" for i in range(500)]


@pytest.mark.parametrize("outcome", ["timeout", "error", "wrong", "right"])
@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("\n".join(f"#### {tower}" for tower in TOWERS[:50]), "x+1"),
        (" so far ".join(rf"\boxed{{{tower}}}" for tower in TOWERS[:50]), "x+1"),
        (" ".join(rf"\boxed{{{tower}}}" for tower in TOWERS), "x+1"),
        ("\n".join(f"#### {tower}" for tower in TOWERS), "x+1"),
        (rf"\boxed{{{', '.join(TOWERS[:20])}}}", ", ".join(f"x+{i}" for i in range(1, 21))),
        (rf"\boxed{{\{{{', '.join(TOWERS[:20])}\}}}}", rf"\{{{', '.join(f'x+{i}' for i in range(1, 21))}\}}"),
    ],
)
def test_a_response_costs_few_comparisons_and_one_that_takes_too_long(response, gold, outcome):
    checker = Counting(outcome)
    found = Judge("math", checker).judge(gold, response)  # type: ignore[arg-type]
    assert checker.asked <= (1 if outcome in ("timeout", "error") else MOST_COMPARISONS)
    if outcome != "right":
        assert not found.right


def test_more_different_answers_than_are_looked_at_are_several():
    many = "\n".join(f"#### {i}" for i in range(MOST_ANSWERS))
    assert Judge("number").judge("7", many).why == "several different answers are marked"
    assert Judge("number").judge("7", f"{many}\n#### 7.5").outcome == "ambiguous"
    assert Judge("number").judge("7", "\n".join(["#### 7"] * 1000)).right


def test_what_follows_an_answer_in_more_sharps_is_seen():
    row = {"messages": [{"role": "user", "content": "?"}], "answer": "42"}
    with RowJudge(workers=1) as judge:
        texts = ["#### 42", "x\n#### 42\n ", "#### 42\n##### No: 43", "#### 42\nNo", "####\n42"]
        found = strict_verdicts(judge, [row] * 5, texts, [True] * 5)
    assert [verdict.right for verdict in found] == [True, True, False, False, False]
