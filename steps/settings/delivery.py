"""Settings of what comes out: pre-flight, report, release."""

from typing import Annotated, Literal

from pydantic import Field

from steps.settings.base import OneOf, Seed, Settings, Share, Unique
from steps.settings.names import spelled

# As long as the hub takes.
RELEASE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
OF_RELEASE = "letters, digits, ., _ and -, at most 96, the first a letter or digit"
DTYPES = ("stored", "float32", "bfloat16", "float16")


class Preflight(Settings):
    """Whether the trainings fit into memory, told before any starts."""

    required: bool = Field(description="Whether every training waits for its own")
    headroom: float = Field(ge=0, lt=1, description="Share of the free memory that is kept free")
    prompt_tokens: int = Field(ge=1, description="Tokens of the longest prompt of stages rl and opd")


class Inspect(Settings):
    """Rows as a model will see them."""

    rows: int = Field(ge=1, description="That are shown, spread evenly over those that are kept")
    looked_at: int = Field(ge=1, description="Rows of the data set that are drawn and encoded")
    seed: Seed = Field(description="Of the draw")


class Report(Settings):
    """The page."""

    keep_general: Share = Field(description="Of the base's general score, that a checkpoint to ship keeps at least")
    language: Literal["en", "zh"] = Field("en", description="Of the page: English or Chinese; its files are English")


class Greedy(Settings):
    """The likeliest token, always."""

    kind: Literal["greedy"]


class Sample(Settings):
    """Draws."""

    kind: Literal["sample"]
    temperature: float = Field(gt=0, description="Of the softmax")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: share of the probability that is drawn from")
    top_k: int = Field(1, ge=1, description="Likeliest tokens that are drawn from")


class Deliver(Settings):
    """The release of one checkpoint."""

    name: Annotated[str, spelled(RELEASE_NAME, OF_RELEASE)] | None = Field(
        description="null is <workload>-<checkpoint>"
    )
    license: (
        Annotated[str, spelled(r"^[a-z0-9][a-z0-9.+-]*$", "small letters, digits, ., + and -: apache-2.0")] | None
    ) = Field(description="An identifier of the hub; null is the base model's")
    languages: Annotated[
        list[Annotated[str, spelled(r"^[a-z]{2,3}$", "two or three small letters: en")]], Unique, Field(min_length=1)
    ] = Field(description="ISO 639")
    dtype: Annotated[str, OneOf(DTYPES)] = Field(description="Of the weights; stored leaves them as they are")
    sampling: Annotated[Greedy | Sample, Field(discriminator="kind")] = Field(
        description="How a server answers where a request says nothing"
    )
