"""Settings of the embedded world and of the models pre-trained on it."""

from typing import Annotated

from pydantic import Field

from steps.settings.base import OneOf, Seed, Settings, Share
from steps.settings.training import PRECISIONS, Descent, Packed

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class Lessons(Settings):
    """Rows, people and facts of each kind that the data set lessons has."""

    letters: Count = Field(description="Rows of a puzzle that is overwritten later")
    problems: Count = Field(description="Worked problems")
    rare: Count = Field(description="Problems of eight steps")
    chat: Count = Field(description="Rows of chat")
    new_people: Count = Field(description="People that no document of pre-training names")
    changed: Count = Field(description="Facts that changed since pre-training")
    contradictory: Count = Field(description="Facts asked for twice, one answer wrong")
    both_right: Count = Field(description="Facts asked for twice, both answers right")
    plain_facts: Count = Field(description="Facts as the base knows them")


class World(Settings):
    """What the embedded world has of each kind."""

    seed: Seed = Field(description="Another one is another world")
    problems: Count = Field(description="Clean rows of worked problems")
    chat: Count = Field(description="Clean rows of chat")
    slips: Share = Field(description="Share of worked solutions with a miscounted result")
    planted_per_kind: Count = Field(description="Defective rows added of each kind")
    evaluation_items: AtLeastOne = Field(description="Questions per evaluation task")
    lessons: Lessons
    exercises: AtLeastOne = Field(description="Problems to practise on by reinforcement learning")
    preferences: AtLeastOne = Field(description="Pairs of responses")
    told: AtLeastOne = Field(description="Problems worked in sentences")
    practice: AtLeastOne = Field(description="General questions")


class Size(Settings):
    """What one of the models has of its own."""

    architecture: dict[str, AtLeastOne] = Field(description="Keys of Qwen3Config")
    characters: AtLeastOne = Field(description="Of generated text")
    learning_rate: float = Field(gt=0, description="At its highest")


class Sizes(Settings):
    """The models that ship."""

    base: Size
    large: Size


class Pretrain(Descent, Packed):
    """What the models that ship have in common."""

    sizes: Sizes
    vocab_size: int = Field(ge=259, description="Tokens of the tokenizer that is trained")
    tokenizer_characters: AtLeastOne = Field(description="Of text that the tokenizer is trained on")
    precision: Annotated[str, OneOf(tuple(name for name in PRECISIONS if name != "fp16"))] = Field(
        description="Of the arithmetic; auto is bf16 where a GPU has it"
    )
    seed: Seed = Field(description="Of the weights and of the order of the documents")
