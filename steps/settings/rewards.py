"""Kinds of reward: what may score a sample. One entry of `REWARDS` for each; steps/reinforcement has how they score."""

from pathlib import Path
from typing import Annotated

import regex
from pydantic import Field

from steps.settings.base import ByKind, OneOf, Settings, Text
from steps.settings.names import FilePath, spelled

# A function may run a program.
CUSTOM_SECONDS = 10.0
CALLS = ONE, GROUP, BATCH = "response", "group", "batch"


class Reward(Settings):
    """One term of the reward of a sample."""

    kind: str
    weight: float = Field(description="In the sum of all")


class Answer(Reward):
    """1 for the row's answer, by the judge of its data set."""


class Format(Reward):
    """1 where a regular expression is found."""

    pattern: Text = Field(description="Regular expression")

    @classmethod
    def fit(cls, settings: dict) -> None:
        try:
            regex.compile(settings["pattern"])
        except regex.error as error:
            raise ValueError(f".pattern: {settings['pattern']!r} is no regular expression ({error})") from None


class Length(Reward):
    """0 up to `start` tokens, falling to -1 at `end` (DAPO, arXiv:2503.14476, equation 13)."""

    start: int = Field(ge=0, description="Tokens")
    end: int = Field(ge=1, description="Tokens")

    @classmethod
    def fit(cls, settings: dict) -> None:
        start, end = settings["start"], settings["end"]
        if not 0 <= start < end:
            raise ValueError(f": start {start} must be below end {end}, and neither negative")


class Instruction(Reward):
    """1 for a response that passes the row's own `check`."""


class Belief(Reward):
    """How much likelier the policy's start says that the response is right."""

    prompt: Text = Field(description="What the start is asked: a template with {prompt} and {response}")
    right: Text = Field(description="Its answer where it believes the response")
    wrong: Text = Field(description="Its answer where it does not")

    @classmethod
    def fit(cls, settings: dict) -> None:
        for name in ("prompt", "response"):
            if f"{{{name}}}" not in settings["prompt"]:
                raise ValueError(f".prompt: the template does not show {{{name}}}; write it where it belongs")
        right, wrong = settings["right"], settings["wrong"]
        if not right.strip() or not wrong.strip() or right == wrong:
            raise ValueError(f": right {right!r} and wrong {wrong!r} must be two different answers")


class Preference(Reward):
    """The score of a reward model."""

    model: str = Field(description="A recipe of stage reward")


class Custom(Reward):
    """What a function of the user's says."""

    file: FilePath = Field(description="Of Python, from the project's root")
    function: str = spelled(
        r"^[A-Za-z_][A-Za-z0-9_]*$",
        "letters, digits and _, the first no digit",
        description="name(prompt, response, answer) -> number or None; with a fourth parameter it gets the row, by name"
        " what the row's source keeps",
    )
    per: Annotated[str, OneOf(CALLS)] = Field(
        CALLS[0],
        description="What a call is about: a response; a group, all responses to a prompt; or a batch, lists of all"
        " that are scored together. Of several it returns a number for each",
    )
    seconds: float = Field(CUSTOM_SECONDS, gt=0, le=3600, description="That a call may take")

    @classmethod
    def fit(cls, settings: dict) -> None:
        if not Path(settings["file"]).is_file():
            raise ValueError(f".file: {settings['file']} is missing; the path is relative to the project's root")


REWARDS: dict[str, type[Reward]] = {
    "answer": Answer,
    "format": Format,
    "length": Length,
    "instruction": Instruction,
    "self": Belief,
    "preference": Preference,
    "custom": Custom,
}
REWARD = ByKind(REWARDS)


def fit(rewards: dict[str, dict]) -> None:
    """What the classes cannot say of the rewards of a recipe, by their names.

    Raises:
        ValueError: the message names the reward, the key and the fix.
    """
    if not rewards:
        raise ValueError("rewards: there is none; name one, such as answer: {kind: answer, weight: 1.0}")
    if not any(one["weight"] for one in rewards.values()):
        raise ValueError("rewards: every weight is 0, so nothing is learned; give one reward a weight")
    for name, one in rewards.items():
        try:
            REWARDS[one["kind"]].fit(one)
        except ValueError as error:
            raise ValueError(f"rewards.{name}{error}") from None
