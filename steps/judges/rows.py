"""Judging rows: what of a row says whether a response is right, and the verdicts of all samples of all rows."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from steps.core.progress import Progress
from steps.judges.instructions import follows
from steps.judges.judge import SECONDS, Verdict, kind_for
from steps.judges.kinds import JUDGES, Judging
from steps.judges.mathematics import Checker
from steps.judges.reading import Mark, said, short_answer

MARK_OF: dict[str, Mark] = {"worked": "either", "short": "none"}


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


def question(row: dict) -> str:
    """The last user turn; "" of a row without one."""
    return next((turn["content"] for turn in reversed(row["messages"]) if turn["role"] == "user"), "")


def by_answer(row: dict) -> dict:
    """The row as one that asks for its answer alone, if it has a constraint besides."""
    return {key: value for key, value in row.items() if key != "check"}


def kind_of_row(row: dict, gold: str) -> str:
    """The judge of a row: that of its data set, which the row has, or the first that its answer needs."""
    return row.get("judge") or kind_for([gold])


def marks_answer(row: dict) -> bool:
    """Whether a response to a row with an answer gives it behind a mark."""
    return JUDGES[kind_of_row(row, row["answer"])].marked


def judges_of(rows: Iterable[dict], short_answer_words: int = 0) -> dict[str, int]:
    """How many rows each judge has, as `RowJudge.verdict` gives them to it: of `JUDGES`, `instruction` for a row with a
    "check", `none` for one that nobody can judge. For a manifest."""

    def judge(row: dict) -> str:
        if "check" in row:
            return "instruction"
        found = reference(row, short_answer_words)
        return "none" if found is None else kind_of_row(row, found[1])

    return dict(sorted(Counter(map(judge, rows)).items()))


class RowJudge:
    """Judges responses by their rows. A context manager, because of the processes that compare expressions.

    Args:
        seconds: that one comparison of expressions may compute.
        workers: of them at a time; None for as many as the step was given cores.
    """

    def __init__(self, seconds: float = SECONDS, workers: int | None = None):
        self.workers = workers or int(os.environ.get("OMP_NUM_THREADS") or 1)
        self.checker = Checker(seconds, self.workers)
        self.judges = {name: kind.make(self.checker) for name, kind in JUDGES.items()}

    def __enter__(self) -> "RowJudge":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End its processes."""
        self.checker.__exit__(None, None, None)

    def of(self, row: dict, gold: str) -> Judging:
        """The judge of a row with this gold answer."""
        return self.judges[kind_of_row(row, gold)]

    def verdict(self, row: dict, response: str, short_answer_words: int = 0) -> Verdict:
        """Whether a response does what a row asks: keeps its "check", or answers as the row does."""
        if "check" in row:
            right = follows(response, row["check"])
            return Verdict("right" if right else "wrong", said(response), f"the constraint {row['check']['kind']}")
        found = reference(row, short_answer_words)
        if found is None:
            return Verdict("unverifiable", "", "the row has no answer to compare with")
        kind, gold = found
        return self.of(row, gold).judge(gold, response, MARK_OF[kind], question(row))

    def verdicts(
        self, rows: Sequence[dict], responses: Sequence[Sequence[str]], short_answer_words: int = 0, what: str = ""
    ) -> list[list[Verdict]]:
        """The verdicts on [rows][samples], some at a time; `what` for the person who waits."""
        pairs = [(row, text) for row, own in zip(rows, responses, strict=True) for text in own]
        progress = Progress(what, len(pairs), "answers") if what else None
        found = []
        with ThreadPoolExecutor(self.workers) as threads:
            for verdict in threads.map(lambda pair: self.verdict(*pair, short_answer_words), pairs):
                found.append(verdict)
                if progress:
                    progress.update(len(found))
        each = iter(found)
        return [[next(each) for _ in own] for own in responses]

    def refusal(self, row: dict) -> str:
        """Why no response to a row with an answer could be right; "" where one can."""
        answer = row.get("answer")
        if not (answer or "").strip():
            return "it has no answer"
        return self.of(row, answer).refusal(answer, question(row))


def can_be_judged(row: dict, short_answer_words: int) -> bool:
    """Whether a row says what is right."""
    return "check" in row or reference(row, short_answer_words) is not None


def unverifiable(verdicts: Sequence[Sequence[Verdict]]) -> int:
    """How many of [rows][samples] nobody can tell."""
    return sum(verdict.outcome == "unverifiable" for verdict in chain.from_iterable(verdicts))
