"""What the settings of stages that learn from samples of their own have in common."""

from typing import Annotated, Literal

from pydantic import Field

from steps.settings.base import OneOf, Settings, Steps
from steps.settings.names import spelled
from steps.settings.training import CURRICULA, Adapted, Optimization

ENGINES = ("auto", "transformers", "vllm")


class Transformers(Settings):
    """The policy itself samples."""

    kind: Literal["transformers"]


class Colocated(Settings):
    """vLLM samples, beside the policy on the same device."""

    kind: Literal["vllm"]
    mode: Literal["colocate"]
    memory: float = Field(gt=0, lt=1, description="Share of the device's memory that it takes")


class Server(Settings):
    """vLLM samples, as a server that runs elsewhere."""

    kind: Literal["vllm"]
    mode: Literal["server"]
    url: str = spelled("^https?://", "an address that begins with http:// or https://", description="Where it answers")


VllmSampler = Annotated[Colocated | Server, Field(discriminator="mode")]
Sampler = Annotated[Transformers | VllmSampler, Field(discriminator="kind")]


class PassRate(Settings):
    """Rows train whose pass rate lies strictly between."""

    above: float = Field(le=1, description="Share of right samples")
    below: float = Field(ge=0, description="Share of right samples")


# The settings that leave tokens out of what is drawn from, as engines call them too, and what leaves all in.
TRUNCATION = {"top_p": 1.0, "top_k": None, "min_p": 0.0}


def truncation(settings: dict) -> dict:
    """Those of them that leave some out."""
    return {key: settings[key] for key, whole in TRUNCATION.items() if settings.get(key, whole) != whole}


class OnPolicy(Optimization, Adapted):
    """A training on samples that the policy writes while it learns."""

    steps: Steps = Field(description="Optimizer steps")
    prompts: int = Field(ge=1, description="Rows of a step")
    pass_rate: PassRate | None = Field(description="Rows that train, by the pass rate of the start; null takes all")
    curriculum: Annotated[str, OneOf(CURRICULA)] = Field(description="Order of the prompts; by pass rate, or shuffled")
    temperature: float = Field(gt=0, description="Of the softmax that is sampled from")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus: share of the probability that is drawn from")
    top_k: int | None = Field(None, ge=2, description="The likeliest tokens, so many, that are drawn from")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="Share of the likeliest token's probability from which on one is drawn"
    )
    max_new_tokens: int = Field(ge=1, description="Tokens of the longest response; a longer one is cut")
    sample_batch: int = Field(ge=1, description="Samples written at once")
    sampler: Sampler = Field(description="Who writes them")

    @staticmethod
    def check_batch(settings: dict) -> None:
        """Raise a ValueError for samples of a step that do not fill whole forward passes."""
        samples = settings["prompts"] * settings["generations"]
        if samples % settings["batch_size"]:
            raise ValueError(
                f"batch_size: {settings['batch_size']} does not divide the {samples} samples of a step"
                f" (prompts {settings['prompts']} x generations {settings['generations']})"
            )
