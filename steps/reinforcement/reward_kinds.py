"""Kinds of rewards, one class each: what it asks of a row, and how it scores a response.

Kinds: `answer` (by the row's judge, of steps/judges), `format` (a pattern), `length`, `instruction` (a constraint that
a program checks), `self` (the start policy's own verdict), `preference` (a reward model) and `custom` (a function of
the user's).
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex

from steps.core import bounded
from steps.core.turns import prompt_turns
from steps.data.rows import RowProblem
from steps.judges.instructions import follows
from steps.judges.judge import Verdict
from steps.judges.rows import RowJudge, by_answer
from steps.reinforcement.reward_model import RewardModel
from steps.settings.rewards import BATCH, CUSTOM_SECONDS, GROUP, ONE

FIELDS = re.compile(r"\{(prompt|response)\}")
# For one response: a pattern takes microseconds unless it backtracks without end.
PATTERN_SECONDS = 1.0


class Scored(NamedTuple):
    """One reward of one sample.

    Attributes:
        error: why there is no reward (it raised, or returned no finite number): the sample scores 0.0 as failed.
        note: "unparsed" (no answer in the response), "ambiguous" (several) "timeout" (nobody can tell) or "silent" (a
            function says nothing of this sample); the value stands, it is not a failure.
    """

    value: float
    error: str | None = None
    note: str | None = None


def too_long(tokens: int, start: int, end: int) -> float:
    """0 up to `start` tokens, then falling linearly to -1 at `end` and beyond.

    The soft overlong punishment of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13).
    """
    return -min(max((tokens - start) / (end - start), 0.0), 1.0)


def fill(template: str, prompt: str, response: str) -> str:
    """The template with its fields in one pass: braces in a response stay what they are."""
    given = {"prompt": prompt, "response": response}
    return FIELDS.sub(lambda match: given[match[1]], template)


def guarded(function: Callable[..., Any], *args: Any) -> Scored:
    """The finite number that a function returns, or why there is none."""
    try:
        return Scored(bounded.finite(function(*args)))
    # Whatever a reward raises costs one sample and is reported by who asked.
    except Exception as error:
        return Scored(0.0, error=bounded.one_line(error))


def question(row: dict) -> str:
    """Text of the last user turn."""
    return next(turn["content"] for turn in reversed(row["messages"]) if turn["role"] == "user")


class Judges:
    """What rewards ask that is loaded once for all of them.

    Args:
        believes: `Engine.choose` of the start policy: ([prompts] of messages, [prompts] of [options]) ->
            [prompts] of [options] probabilities. For the kind self.
        reward_model: folder of a sequence classifier with one label. For the kind preference.
    """

    def __init__(self, believes: Callable[..., list[np.ndarray]] | None, reward_model: Path | None):
        self.believes, self.folder = believes, reward_model
        self.workers: dict[tuple[Path, float], bounded.Worker] = {}

    @cached_property
    def reward_model(self) -> RewardModel:
        assert self.folder
        return RewardModel(self.folder)

    def worker(self, file: Path, seconds: float) -> bounded.Worker:
        """The process that runs a file of the user's: one for all of its functions that have the same limit."""
        return self.workers.setdefault((file, seconds), bounded.Worker(file, seconds))


class Kind:
    """A reward.

    Args:
        name: the recipe's, for messages.
        settings: {"kind", "weight", …}.

    Raises:
        ValueError: what it needs is not there, or is not what it must be.
    """

    def __init__(self, name: str, settings: dict, judges: Judges):
        self.name, self.settings = name, settings

    def problem(self, row: dict) -> RowProblem | None:
        """Why it cannot judge the responses to a row; None where it can."""
        return None

    def score(
        self, rows: list[dict], responses: list[str], tokens: list[int], groups: Sequence[int] = ()
    ) -> list[Scored]:
        """[samples], unweighted; `tokens` is how many each response has, `groups` how many in a row have one prompt."""
        return [self.score_one(*sample) for sample in zip(rows, responses, tokens, strict=True)]

    def score_one(self, row: dict, response: str, tokens: int) -> Scored:
        raise NotImplementedError

    def close(self) -> None:
        """End what it started."""


class Answer(Kind):
    """1 where the row's judge takes the response for right."""

    def __init__(self, name: str, settings: dict, judges: Judges):
        super().__init__(name, settings, judges)
        self.judge = RowJudge()

    def problem(self, row: dict) -> RowProblem | None:
        refusal = self.judge.refusal(row)
        if not refusal:
            return None
        hint = f"the reward {self.name} could never grant it: correct the answer or remove the row"
        return RowProblem("unjudgeable", "answer", hint, refusal)

    def score(
        self, rows: list[dict], responses: list[str], tokens: list[int], groups: Sequence[int] = ()
    ) -> list[Scored]:
        each = self.judge.verdicts([*map(by_answer, rows)], [[text] for text in responses])
        return [judged(verdict) for (verdict,) in each]

    def close(self) -> None:
        self.judge.close()


class Format(Kind):
    """1 where the pattern is found. By `regex`, which keeps a time limit; unlike `re`'s its `\\w` takes vowel signs and
    other marks of a word, as Unicode does (UTS #18)."""

    def score_one(self, row: dict, response: str, tokens: int) -> Scored:
        return guarded(self.found, response)

    def found(self, response: str) -> float:
        pattern = self.settings["pattern"]
        try:
            return float(regex.search(pattern, response, regex.DOTALL, timeout=PATTERN_SECONDS) is not None)
        except TimeoutError:
            raise TimeoutError(
                f"the pattern backtracks for more than {PATTERN_SECONDS:g} s; write it simpler"
            ) from None


class Length(Kind):
    """0 for a short response, falling to -1 for a long one."""

    def score_one(self, row: dict, response: str, tokens: int) -> Scored:
        return Scored(too_long(tokens, self.settings["start"], self.settings["end"]))


class Instruction(Kind):
    """1 where the response does what the row's `check` asks."""

    def problem(self, row: dict) -> RowProblem | None:
        try:
            follows("", row["check"])
        except (KeyError, TypeError, ValueError) as error:
            hint = f"the reward {self.name} asks for it: add a check that steps/judges/instructions.py knows"
            return RowProblem("unjudgeable", "check", hint, bounded.one_line(error))
        return None

    def score_one(self, row: dict, response: str, tokens: int) -> Scored:
        return Scored(float(follows(response, row["check"])))


class Self(Kind):
    """Probability of `right` against `wrong`: the start policy's belief that the response is good."""

    def __init__(self, name: str, settings: dict, judges: Judges):
        super().__init__(name, settings, judges)
        assert judges.believes is not None, "the kind self asks the start policy"
        self.believes = judges.believes

    def score(
        self, rows: list[dict], responses: list[str], tokens: list[int], groups: Sequence[int] = ()
    ) -> list[Scored]:
        prompts = [
            [{"role": "user", "content": fill(self.settings["prompt"], question(row), response)}]
            for row, response in zip(rows, responses, strict=True)
        ]
        options = [self.settings["right"], self.settings["wrong"]]
        return [guarded(float, belief[0]) for belief in self.believes(prompts, [options] * len(prompts))]


class Preference(Kind):
    """What a reward model gives the response."""

    def __init__(self, name: str, settings: dict, judges: Judges):
        super().__init__(name, settings, judges)
        if judges.folder is None:
            raise ValueError(f"rewards.{name}: the kind preference needs a reward model; give --reward-model")
        self.model = judges.reward_model

    def score(
        self, rows: list[dict], responses: list[str], tokens: list[int], groups: Sequence[int] = ()
    ) -> list[Scored]:
        conversations = [
            [*prompt_turns(row["messages"]), {"role": "assistant", "content": response}]
            for row, response in zip(rows, responses, strict=True)
        ]
        return [guarded(float, value) for value in self.model.score(conversations)]


class Custom(Kind):
    """What a function of the user's returns, in a process of its own."""

    def __init__(self, name: str, settings: dict, judges: Judges):
        super().__init__(name, settings, judges)
        path, self.function = Path(settings["file"]), settings["function"]
        self.per = settings.get("per", ONE)
        # By the names of columns: why it cannot be called with them, "" where it can.
        self.refusals: dict[tuple[str, ...], str] = {}
        self.worker = judges.worker(path, settings.get("seconds", CUSTOM_SECONDS))
        try:
            self.worker.start()
        except bounded.Failed as error:
            raise ValueError(f"rewards.{name}.file: {path} does not run ({error})") from None
        try:
            self.worker.check(self.function, *[None] * 4)
        except bounded.Failed as error:
            taken = {ONE: "prompt, response, answer", GROUP: "prompt, responses, answer"}
            raise ValueError(
                f"rewards.{name}.function: {path} has no function {self.function!r} that takes"
                f" ({taken.get(self.per, 'prompts, responses, answers')}) or, besides, the row ({error}); correct the"
                " name, or what it takes"
            ) from None

    def problem(self, row: dict) -> RowProblem | None:
        """Whether the row has the columns that the function asks for by name."""
        own = columns([row])
        if (names := tuple(own)) not in self.refusals:
            try:
                self.worker.check(self.function, *[None] * 4, columns=own)
                self.refusals[names] = ""
            except bounded.Failed as error:
                self.refusals[names] = str(error)
        if not self.refusals[names]:
            return None
        hint = f"the reward {self.name} asks for it: name it under `keep:` of the row's source"
        return RowProblem("unjudgeable", "extra", hint, self.refusals[names])

    def score(
        self, rows: list[dict], responses: list[str], tokens: list[int], groups: Sequence[int] = ()
    ) -> list[Scored]:
        if self.per == ONE:
            return super().score(rows, responses, tokens)
        if self.per == BATCH:
            answers = [row.get("answer") for row in rows]
            return self.called(len(rows), [*map(question, rows)], responses, answers, rows, columns(rows))
        scored: list[Scored] = []
        for size in groups:
            row, own = rows[len(scored)], responses[len(scored) : len(scored) + size]
            scored += self.called(size, question(row), own, row.get("answer"), row, row.get("extra", {}))
        return scored

    def called(self, count: int, *given: Any) -> list[Scored]:
        """What it returns of several samples, all of which fail where it does."""
        *arguments, named = given
        try:
            return [*map(returned, self.worker.call_many(self.function, count, *arguments, columns=named))]
        except bounded.Failed as error:
            return [Scored(0.0, error=str(error))] * count

    def score_one(self, row: dict, response: str, tokens: int) -> Scored:
        given, named = (question(row), response, row.get("answer"), row), row.get("extra", {})
        try:
            return returned(self.worker.call(self.function, *given, columns=named))
        except bounded.Failed as error:
            return Scored(0.0, error=str(error))

    def close(self) -> None:
        self.worker.close()


def columns(rows: Sequence[dict]) -> dict[str, list]:
    """What the sources of rows keep, by name: [rows], None where a row has it not."""
    names = dict.fromkeys(name for row in rows for name in row.get("extra", ()))
    return {name: [row.get("extra", {}).get(name) for row in rows] for name in names}


def returned(value: float | None) -> Scored:
    """What a function of the user's says of a sample."""
    return Scored(0.0, note="silent") if value is None else Scored(value)


# What of a verdict is noted beside a reward.
NOTES = {"unread": "unparsed", "unverifiable": "timeout", "ambiguous": "ambiguous"}


def judged(verdict: Verdict) -> Scored:
    """The reward for a verdict."""
    return Scored(float(verdict.right), note=NOTES.get(verdict.outcome))


KINDS: dict[str, type[Kind]] = {
    "answer": Answer,
    "format": Format,
    "length": Length,
    "instruction": Instruction,
    "self": Self,
    "preference": Preference,
    "custom": Custom,
}
