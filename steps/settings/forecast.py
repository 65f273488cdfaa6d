"""Settings of the forecast: whether on-policy distillation will help."""

from typing import Annotated

from pydantic import Field

from steps.settings.axes import AXES
from steps.settings.base import SHORT_ANSWER, Draws, OneOf, Share, Unique


class Forecast(Draws):
    """Whether on-policy distillation will help, told before it starts."""

    prompts: int = Field(ge=1, description="Prompts that student and teacher answer")
    top_k: int = Field(ge=1, description="Tokens of the sets whose overlap is measured")
    prefixes: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Unique, Field(min_length=1)] = Field(
        description="Shares of the student's responses from whose ends both go on"
    )
    likeness: Share = Field(description="Bar of the probability on common tokens")
    gain: float = Field(ge=-1, le=1, description="Bar of the teacher's lead in pass rate")
    continuation: float = Field(ge=-1, le=1, description="Bar of that lead from the student's beginnings")
    stop: bool = Field(description="Whether a verdict against it ends the run before the training")
    short_answer_words: int = Field(ge=0, description=SHORT_ANSWER)
    resamples: int = Field(ge=100, description="Of the bootstrap behind the intervals")
    axes: dict[str, Annotated[str, OneOf(AXES)]] = Field(
        description="Data set to the axis of evaluate on which its prompts are judged"
    )

    @classmethod
    def fit(cls, settings: dict) -> None:
        shares = settings["prefixes"]
        if not shares or shares != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
            raise ValueError(f"forecast.prefixes: {shares} must rise between 0 and 1, such as [0.25, 0.5, 0.75]")
        if settings["temperature"] <= 0:
            raise ValueError(
                f"forecast.temperature: {settings['temperature']:g} makes all samples alike; write 1.0, or what opd has"
            )
