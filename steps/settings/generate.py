"""Settings of what a teacher writes to the prompts of a data set, and says of it."""

from pydantic import Field

from steps.settings.base import SHORT_ANSWER, Draws, Settings, Share


class Generate(Draws):
    """Responses that a teacher writes to the prompts of a data set."""

    top_p: float = Field(gt=0, le=1, description="Nucleus: share of the probability that is drawn from")
    verify: bool = Field(description="Whether wrong answers are rejected")
    short_answer_words: int = Field(ge=0, description=SHORT_ANSWER)
    min_tokens: int = Field(ge=1, description="Tokens of the shortest response")
    max_repetition: Share = Field(description="Share of runs of eight words, and of lines, that may be repeats")
    keep: int | None = Field(ge=1, description="Responses kept per prompt; null keeps all")

    @classmethod
    def fit(cls, settings: dict) -> None:
        n, keep, limit = settings["samples"], settings["keep"], settings["max_new_tokens"]
        if settings["temperature"] == 0:
            if n > 1:
                raise ValueError(
                    f"generate.samples: {n} at temperature 0 are all alike; set 1, or raise the temperature"
                )
            if settings["top_p"] < 1:
                raise ValueError(
                    "generate.top_p: it changes nothing at temperature 0; set 1.0, or raise the temperature"
                )
        if keep is not None and keep > n:
            raise ValueError(f"generate.keep: {keep} of {n} samples can never be reached; lower it, or set null")
        if settings["min_tokens"] >= limit:
            raise ValueError(f"generate.min_tokens: {settings['min_tokens']} must be below max_new_tokens, {limit}")


class Logprobs(Settings):
    """A teacher's distributions at the tokens that it wrote."""

    top_k: int = Field(ge=1, description="Likeliest tokens kept of each")
    max_length: int = Field(ge=8, description="Tokens of the longest row; a longer one is skipped and counted")
    batch_size: int = Field(ge=1, description="Rows computed at once")
