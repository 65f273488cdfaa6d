"""The kinds of judges that a data set may name, one entry each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from steps.judges.choices import Choices
from steps.judges.judge import Judge, Verdict
from steps.judges.mathematics import Checker
from steps.judges.patterns import Patterns
from steps.judges.programs import Programs
from steps.judges.reading import Mark


class Judging(Protocol):
    """What a kind makes."""

    def judge(self, gold: str, response: str, mark: Mark = ..., question: str = ...) -> Verdict:
        """The verdict on a response to a question, by the gold answer of its row."""

    def refusal(self, gold: str | None, question: str = ...) -> str:
        """Why no response to a question could be right by this gold answer; "" where one can."""


@dataclass(frozen=True)
class Kind:
    """A kind of judge.

    Attributes:
        answer: what the gold answer of a row is.
        takes: what is right.
        make: given what compares in processes that are killed, makes a judge.
        marked: a response gives its answer behind a mark.
        written: the gold answer is what a right response writes there.
    """

    answer: str
    takes: str
    make: Callable[[Checker], Judging]
    marked: bool = True
    written: bool = True


JUDGES: dict[str, Kind] = {
    "exact": Kind("a text", "the same form, as above", lambda checker: Judge("exact", checker)),
    "number": Kind(
        "an amount, a time, an option, a list of them",
        "also the same amount: `$18`, `18 dollars`, `1.8e1`, `36/2`, `eighteen`, `9 + 9 = 18` for 18, `25%` for 25,"
        " `2 hours 30 minutes` for `150 minutes`; times, options, lists, tuples and intervals part by part",
        lambda checker: Judge("number", checker),
    ),
    "math": Kind(
        "an expression, an equation, a set, an interval",
        "also equal expressions and equations: Math-Verify's grammar and SymPy, in processes that are killed after 2"
        " seconds of computing",
        lambda checker: Judge("math", checker),
    ),
    "choice": Kind(
        "a letter, several of them (`A, C`), or the text of an option",
        "the same options, by letter, by text or by both; texts are read from the question, where it lists them a line"
        " each (`(A) Paris`, `B. Rome`). A letter with another one's text is none",
        lambda checker: Choices(),
    ),
    "pattern": Kind(
        "a regular expression, as the module `regex` has them",
        "what it matches from end to end; in processes that are killed as those of `math` are",
        Patterns,
        written=False,
    ),
    "code": Kind(
        'tests: `{"inputs": […], "outputs": […]}` of a program, with `"fn_name"` of a function, or lines of'
        " `assert call == literal`",
        "a program, the last block of Python, that passes them all",
        lambda checker: Programs(),
        marked=False,
        written=False,
    ),
}
