"""Settings of stage interpolate: a path from one checkpoint to another, and the best point of it."""

from typing import Annotated

from pydantic import Field

from steps.settings.axes import CAPABILITIES
from steps.settings.base import ByKind, OneOf, Settings, Share, Unique
from steps.settings.evaluation import Tasks

# A path -> the keys that act on it alone.
PATHS = {"additive": (), "cayley": ("generator",)}
Alpha = Annotated[float, Field(ge=0, le=1)]


class Choice(Settings):
    """How the best point is chosen."""

    kind: str


class Budget(Choice):
    """The best on the target of those that lose little."""

    loss: Share = Field(description="Of accuracy on the general tasks, at most")


# knee is the point that lies farthest above the line between both ends.
CHOICES = {"budget": Budget, "knee": Choice}


class Interpolate(Settings):
    """Stage interpolate: which keys act depends on the path."""

    path: Annotated[str, OneOf(tuple(PATHS))] = Field(description="Mixed weights, or rotations turned less")
    generator: Annotated[str, OneOf(("sqrt", "linear"))] = Field("sqrt", description="Of cayley: how alpha scales it")
    alphas: Annotated[list[Alpha], Unique, Field(min_length=2)] = Field(description="Points: 0 is the start, 1 the end")
    rewind: Annotated[str, OneOf(("uniform", "safe", "min"))] = Field(
        description="Whether layers that changed more than others are taken back before alpha"
    )
    choose: Annotated[Choice, ByKind(CHOICES)] = Field(description="How the best point is chosen")
    target: Tasks = Field(description="What the gain is measured on")
    general: Tasks = Field(description="What the loss is measured on")

    @classmethod
    def fit(cls, settings: dict) -> None:
        alphas = settings["alphas"]
        if alphas[0] != 0 or alphas[-1] != 1 or alphas != sorted(set(alphas)):
            raise ValueError(f"alphas: {alphas} must rise from 0 to 1; the points between are compared with both ends")
        for axis in CAPABILITIES:
            if not settings[axis]:
                raise ValueError(f"{axis}: names no task; a point is chosen by its scores on both axes")
        for task in settings["general"]:
            if task in settings["target"]:
                raise ValueError(f"general: {task} already stands under target; name it once")
