r"""The judge of a data set or task: what a response answers, and whether that is what its row asks for.

Kinds: `exact` (one text, as `canonical` has it), `number` (also units, separators, fractions, times, words; lists and
intervals part by part), `math` (also expressions, by Math-Verify's grammar in processes that are killed). Each takes
what those before it take. `auto` is the first that every gold answer of a data set needs. Other kinds: `kinds`.

A response that marks several different answers is `ambiguous`, and not right: whoever is paid for one of them would
name them all. `unread` has no answer to compare, `unverifiable` one that nobody can compare, or prose where a short
answer is asked for: neither is wrong.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from steps.judges.canonical import canonical
from steps.judges.comparison import Mathematics, Outcome, Unverifiable, compare, kind_of, without_unit
from steps.judges.latex import for_grammar, tidy
from steps.judges.mathematics import Checker
from steps.judges.reading import Mark, Read, count_words, read

KINDS = ("exact", "number", "math")
AUTO = "auto"
# Seconds that one comparison may compute: milliseconds for what a person would write.
SECONDS = 2.0
# Answers without a letter or a digit.
_SIGNS = frozenset("∅ ∞ -∞ {} + - * / = < > ≤ ≥".split())
# Tests of a program, which another judge runs; and other rows of verl's.
_TESTS = re.compile(r'\s*(?:\{\s*"(?:inputs|outputs|fn_name)"\s*:|\[?\s*"?assert[ (])')
_OBJECT = re.compile(r'\s*\{\s*"[^"]*"\s*:')
# Comparisons that are not made twice: samples of one row repeat each other.
REMEMBERED = 1 << 14
# Different answers of a response that are looked at, and comparisons of expressions that all of them may cost. Each has
# a limit, but a response may mark thousands.
MOST_ANSWERS, MOST_COMPARISONS = 64, 64
# Words of a response beside a short gold from which it is prose, and of each word of the gold.
PROSE, PROSE_PER_WORD = 4, 2

# What is wrong with a gold answer, by what a comparison with itself gives.
REFUSALS = {
    "right": "",
    "wrong": "it is not equal to itself",
    "unread": "it cannot be read",
    "no_gold": "it cannot be read",
    "timeout": "to compare it takes too long",
    "error": "to compare it takes too much memory",
}


class Verdict(NamedTuple):
    """What a judge says of a response.

    Attributes:
        read: what the response answers, as it stands there.
        why: for a person, on one line.
    """

    outcome: Outcome
    read: str
    why: str

    @property
    def right(self) -> bool:
        """Whether the response answers rightly; what nobody can tell does not."""
        return self.outcome == "right"

    @property
    def sure(self) -> bool | None:
        """`right`, and None where it cannot be told."""
        return None if self.outcome == "unverifiable" else self.right


class Judge:
    """Judges responses.

    Args:
        kind: of `KINDS`.
        checker: whose processes compare expressions; whoever gives it ends them.
    """

    def __init__(self, kind: str, checker: Checker | None = None):
        self.kind, self.checker = kind, checker or Checker(SECONDS)
        self.known: dict[tuple[str, str], str] = {}

    def judge(self, gold: str, response: str, mark: Mark = "either", question: str = "") -> Verdict:
        """Judge one response; `mark` is where its answer stands."""
        return self.judge_read(gold, read(response, mark))

    def judge_read(self, gold: str, found: Read) -> Verdict:
        """The verdict on all that a response marks: its last answer counts, and a different one beside it."""
        if not found.answers:
            return Verdict("unread", "", "no marked answer")
        last = found.answers[-1]
        others = {*found.answers} - {last}
        if len(others) >= MOST_ANSWERS:
            return Verdict("ambiguous", found, f"more than {MOST_ANSWERS} different answers are marked")
        mathematics = self._bounded() if self.kind == "math" else None
        outcome, why = self._parts(gold, last, mathematics)
        told = (self._parts(gold, answer, mathematics)[0] for answer in dict.fromkeys(found.answers) if answer != last)
        if any((one == "right") != (outcome == "right") for one in told):
            return Verdict("ambiguous", found, "several different answers are marked")
        if outcome != "right" and found.prose and _is_prose(found.prose, gold):
            return Verdict("unverifiable", found, "prose, where a short answer is asked for")
        return Verdict(outcome, found, why)

    def _compare(self, gold: str, answer: str, mathematics: Mathematics | None) -> tuple[Outcome, str]:
        """Whether an answer is the gold one, and why (not)."""
        if self.kind == "exact":
            right = canonical(answer) == canonical(gold)
            return ("right", "the same text") if right else ("wrong" if answer.strip() else "unread", "another text")
        try:
            return compare(gold, answer, mathematics)
        except Unverifiable as problem:
            return "unverifiable", str(problem)

    def refusal(self, gold: str | None, question: str = "") -> str:
        """Why no response could be right by this gold answer; "" where one can."""
        if not (gold or "").strip():
            return "it is empty"
        assert gold is not None
        if not any(map(str.isalnum, gold)) and canonical(gold) not in _SIGNS:
            return "it has no letter and no digit"
        if _TESTS.match(gold):
            return "it is the tests of a program; write `judge: code` in the data set"
        if _OBJECT.match(gold):
            return "it is an object of JSON"
        if self.kind != "math" or kind_of(gold) != "expression":
            return ""
        # With its spelling taken away, which alone would call it right.
        formula = for_grammar(without_unit(tidy(gold))[0]) or ""
        return REFUSALS[self._asked(formula, formula)]

    def _parts(self, gold: str, parts: tuple[str, ...], mathematics: Mathematics | None) -> tuple[Outcome, str]:
        """The verdict on one answer: on its parts together or, of one answer given twice, on each."""
        told = self._compare(gold, ", ".join(parts), mathematics)
        if told[0] == "right" or len(parts) == 1:
            return told
        each = (self._compare(gold, part, mathematics) for part in parts)
        return next((found for found in each if found[0] != "right"), ("right", "each part is"))

    def _bounded(self) -> Mathematics:
        """What compares the expressions of one response: none after the first that nobody can tell."""
        left = MOST_COMPARISONS

        def mathematics(given: str, gold: str) -> bool:
            nonlocal left
            if not left:
                raise Unverifiable("there is more to compare than an answer has")
            left -= 1
            outcome = self._asked(given, gold)
            if outcome in ("timeout", "error"):
                left = 0
                raise Unverifiable(f"{given[:40]}: {REFUSALS[outcome]}")
            return outcome == "right"

        return mathematics

    def _asked(self, given: str, gold: str) -> str:
        """What the checker says of two expressions, once."""
        pair = given, gold
        if pair not in self.known:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            self.known[pair] = self.checker.ask(pair)
        return self.known[pair]


def _is_prose(text: str, gold: str) -> bool:
    return count_words(text) > max(PROSE, PROSE_PER_WORD * count_words(gold))


def kind_for(golds: Iterable[str]) -> str:
    """The judge that a data set with these gold answers needs."""
    found, are_options = "exact", True
    for gold in golds:
        kind = "number" if gold.isascii() and gold.isdigit() else kind_of(gold)
        if kind in ("expression", "structure", "base"):
            return "math"
        are_options = are_options and kind == "choice"
        if kind in ("number", "time", "choice") or "\\" in gold:
            found = "number"
    return "choice" if found == "number" and are_options else found
