r"""The judge of a data set or task: what a response answers, and whether that is what its row asks for.

Kinds: `exact` (one text, as `canonical` has it), `number` (also units, separators, fractions, times, words; lists and
intervals part by part), `math` (also expressions, by Math-Verify's grammar in processes that are killed). Each takes
what those before it take. `auto` is the first that every gold answer of a data set needs.

A response that marks several different answers is `ambiguous`, and not right: whoever is paid for one of them would
name them all. `unread` has no answer to compare, `unverifiable` one that nobody can compare, or prose where a short
answer is asked for: neither is wrong.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from steps.judges.canonical import canonical
from steps.judges.comparison import Mathematics, Outcome, Unverifiable, compare, kind_of
from steps.judges.instructions import follows
from steps.judges.mathematics import Checker
from steps.judges.reading import count_words, marked, normalize, said, short_answer

KINDS = ("exact", "number", "math")
AUTO = "auto"
# Seconds that one comparison may compute: milliseconds for what a person would write.
SECONDS = 2.0
# Words of a response beside a short gold from which it is prose, and of each word of the gold.
PROSE, PROSE_PER_WORD = 4, 2


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
    """Judges responses. A context manager, because of the processes that compare expressions.

    Args:
        kind: of `KINDS`.
        seconds: that one comparison of expressions may compute.
        workers: of them at a time; None for as many as the step was given cores.
    """

    def __init__(self, kind: str, seconds: float = SECONDS, workers: int | None = None):
        self.kind = kind
        self.workers = workers or int(os.environ.get("OMP_NUM_THREADS") or 1)
        self.checker = Checker(seconds, self.workers)
        self.known: dict[tuple[str, str], bool | str] = {}

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_) -> None:
        self.checker.__exit__(None, None, None)

    def judge(self, gold: str, response: str, mark: str = "either") -> Verdict:
        """Judge one response; `mark` is where its answer stands, of `reading.MARKS`."""
        answers = marked(response, mark)
        if not answers:
            return Verdict("unread", "", "no marked answer")
        if mark != "none":
            answers = _without_headings(answers)
        return self._together(gold, answers, said(response) if mark == "none" else None)

    def judge_all(self, triples: Iterable[tuple[str, str, str]]) -> list[Verdict]:
        """Judge (gold, response, mark) triples, some at a time where expressions are compared."""
        triples = list(triples)
        if self.kind != "math" or self.workers == 1:
            return [self.judge(*triple) for triple in triples]
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(lambda triple: self.judge(*triple), triples))

    def compare(self, gold: str, answer: str) -> tuple[Outcome, str]:
        """Whether an answer is the gold one, and why (not)."""
        if self.kind == "exact":
            right = canonical(answer) == canonical(gold)
            return ("right", "the same text") if right else ("wrong" if answer.strip() else "unread", "another text")
        try:
            return compare(gold, answer, self._mathematics if self.kind == "math" else None)
        except Unverifiable as problem:
            return "unverifiable", str(problem)

    def refusal(self, gold: str | None) -> str:
        """Why no response could be right by this gold answer; "" where one can."""
        if not (gold or "").strip():
            return "it is empty"
        assert gold is not None
        if self.kind == "math" and kind_of(gold) == "expression":
            outcome, why = self._known_to_itself(gold)
            return "" if outcome == "right" else why
        return "" if canonical(gold) else "nothing of it is left to compare"

    def _known_to_itself(self, gold: str) -> tuple[Outcome, str]:
        """The verdict on the gold itself with spelling taken away, which alone would call it right."""
        from steps.judges.latex import for_grammar, tidy

        formula = for_grammar(tidy(gold)) or ""
        try:
            return ("right", "") if self._mathematics(formula, formula) else ("wrong", "it is not equal to itself")
        except Unverifiable as problem:
            return "unverifiable", str(problem)

    def _together(self, gold: str, answers: Sequence[str], whole: str | None) -> Verdict:
        """The verdict on all that a response marks: its last answer counts, and a different one beside it."""
        last = answers[-1]
        outcome, why = self.compare(gold, last)
        others = {answer for answer in answers[:-1] if canonical(answer) != canonical(last)}
        told = [self.compare(gold, answer)[0] for answer in others]
        if len({one == "right" for one in (outcome, *told)}) > 1:
            return Verdict("ambiguous", " | ".join(answers), "several different answers are marked")
        if outcome != "right" and whole is not None and _is_prose(whole, gold):
            return Verdict("unverifiable", normalize(last), "prose, where a short answer is asked for")
        return Verdict(outcome, normalize(last), why)

    def _mathematics(self, given: str, gold: str) -> bool:
        pair = given, gold
        if pair not in self.known:
            outcome = self.checker.ask(pair)
            if outcome in ("timeout", "error"):
                what = "takes too long" if outcome == "timeout" else "needs more memory than a comparison has"
                self.known[pair] = f"{given[:40]} {what}"
            else:
                self.known[pair] = outcome == "right"
        found = self.known[pair]
        if isinstance(found, str):
            raise Unverifiable(found)
        return found


def _without_headings(answers: list[str]) -> list[str]:
    """`#### Step 1: add` is a heading of Markdown where an answer follows; alone it is what is answered."""
    kept = [answer for answer in answers if not (answer and not any(map(str.isdigit, answer)) and answer[-1:] == ":")]
    return kept or answers


def _is_prose(text: str, gold: str) -> bool:
    return count_words(text) > max(PROSE, PROSE_PER_WORD * count_words(gold))


def kind_for(golds: Iterable[str]) -> str:
    """The judge that a data set with these gold answers needs."""
    found = "exact"
    for gold in golds:
        kind = kind_of(gold)
        if kind in ("expression", "structure", "base"):
            return "math"
        if kind in ("number", "time", "choice") or "\\" in gold:
            found = "number"
    return found


# --- rows ----------------------------------------------------------------------------------------


def reference(row: dict, short_answer_words: int) -> tuple[str, str] | None:
    """(kind, answer) of a row whose answer can be verified; None of another.

    Kind `worked`: the row has an answer behind "####" or in \\boxed, or has one and no response. Kind `short`: its
    response, one line of at most `short_answer_words` words, is the answer. A row of several assistant turns has no
    single answer.
    """
    turns = [message["role"] for message in row["messages"]]
    if turns.count("assistant") > 1 or turns[-1] not in ("assistant", "user"):
        return None
    if row["answer"] is not None:
        return "worked", row["answer"]
    found = short_answer(row["messages"][-1]["content"], short_answer_words) if turns[-1] == "assistant" else None
    return None if found is None else ("short", found)


MARK_OF = {"worked": "either", "short": "none"}


def verdict(judge: Judge, row: dict, response: str, short_answer_words: int) -> Verdict:
    """Whether a response does what a row asks: keeps its "check", or answers as the row does."""
    if "check" in row:
        right = follows(response, row["check"])
        return Verdict("right" if right else "wrong", said(response), f"the constraint {row['check']['kind']}")
    found = reference(row, short_answer_words)
    if found is None:
        return Verdict("unverifiable", "", "the row has no answer to compare with")
    return judge.judge(found[1], response, MARK_OF[found[0]])
