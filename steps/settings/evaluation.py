"""Settings of what every checkpoint is measured on."""

from typing import Annotated, Any

from pydantic import Field

from steps.settings.base import Seed, Settings, Text, Unique
from steps.settings.names import FileName, FilePath, spelled

Tasks = Annotated[list[FileName], Unique]
LIMIT = "Items per task; null takes all"


class Task(Settings):
    """Where a task's template and data are."""

    stock: str = spelled(
        r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$",
        "names of letters, digits, _, ., + and -, with / between them",
        "",
        description="A file of tasks/ or a task of lm-eval; the task's own name by default",
    )
    data_files: dict[FileName, FilePath] = Field(min_length=1, description="Split to file: jsonl, json, parquet or csv")
    overrides: dict[str, Any] = Field({}, description="Keys of lm-eval's task format")
    question: Text = Field(
        "", description="The field that has the question, where it is none of prompt, question, problem, input"
    )


class Sampled(Settings):
    """Repeated sampling of the items of tasks."""

    limit: int | None = Field(ge=1, description=LIMIT)
    samples: int = Field(ge=2, description="Responses to each item")
    temperature: float = Field(gt=0, description="Of the softmax that is sampled from")
    top_p: float = Field(gt=0, le=1, description="Nucleus: share of the probability that is drawn from")


class Sampling(Sampled):
    """pass@k and majority vote."""

    tasks: Tasks = Field(description="Of those above")


class Measured(Settings):
    """What both evaluations have."""

    batch_size: int = Field(ge=1, description="Rows decoded at once")
    seed: Seed = Field(description="Of sampling")


class Evaluate(Measured):
    """What every checkpoint is measured on."""

    target: Tasks = Field(description="What post-training is for")
    harder: Tasks = Field(description="The target with room above")
    general: Tasks = Field(description="What the base model could do before")
    dev: Tasks = Field(description="What chooses, and is never reported")
    tasks: dict[FileName, Task] = Field(description="Where tasks are that are no file of tasks/ with rows of the world")
    valid: str = Field(description="The entry of data: whose held-out rows give the perplexity")
    limit: int | None = Field(ge=1, description=LIMIT)
    max_new_tokens: int = Field(ge=1, description="Tokens of the longest answer, of tasks without max_gen_toks")
    sampling: Sampling


class Direct(Settings):
    """Once more without chain of thought."""

    prefill: Text = Field(description="What the response is begun with")
    max_new_tokens: int = Field(ge=1, description="Tokens of the longest response")


class Explore(Sampled, Measured):
    """How much a checkpoint can still answer, by many samples."""

    tasks: Tasks = Field(description="That are sampled")
    max_new_tokens: int = Field(ge=1, description="Tokens of the longest response")
    direct: Direct | None = Field(description="Once more without chain of thought; null leaves it")


class Geometry(Settings):
    """How far checkpoints moved from the model that they descend from."""

    prompts: int = Field(ge=1, description="From each of the target and general tasks, at most")
    prompt_tokens: int = Field(ge=1, description="Tokens of a prompt, from its start")
    tokens: int = Field(ge=2, description="Tokens per axis whose activations are compared")
    gram_tokens: int = Field(ge=2, description="Tokens of the Gram matrix")
    top: int = Field(ge=1, description="Directions of each weight matrix, by singular value")
    modules: Annotated[list[Text], Field(min_length=1)] | None = Field(
        description="Ends of the names of the layers that are compared; null is all"
    )
    batch_size: int = Field(ge=1, description="Prompts computed at once")
    seed: Seed = Field(description="Of the choice of prompts")
