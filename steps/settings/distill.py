"""Settings of stage distill, on what a teacher wrote."""

from typing import Annotated

from pydantic import Field

from steps.settings.base import OneOf
from steps.settings.training import Adapted, Curriculum, Optimization, Packed, Thoughts

OBJECTIVES = ("tokens", "forward_kl")


class Distill(Optimization, Packed, Adapted, Curriculum, Thoughts):
    """Stage distill, on what a teacher wrote."""

    objective: Annotated[str, OneOf(OBJECTIVES)] = Field(description="Its tokens, or its distributions at them")
