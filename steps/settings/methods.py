"""Methods of reinforcement learning. One entry of `METHODS` is all that is said of one; how it learns is in
steps/reinforcement/methods.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from steps.settings.base import ByKind, Settings, Share, Steps


class Kind(Settings):
    """Which weights a self-teacher has."""

    kind: str


class Snapshot(Kind):
    """The policy, taken over every so many steps."""

    every: Steps = Field(description="Optimizer steps")


class Ema(Kind):
    """The moving average of the policy."""

    rate: float = Field(gt=0, le=1, description="Share of the policy in the average, at every step")


# live is the policy itself, start what it was before the first step.
SELF_TEACHERS: dict[str, type[Settings]] = {"live": Kind, "start": Kind, "snapshot": Snapshot, "ema": Ema}
SELF_TEACHER = ByKind(SELF_TEACHERS)


class SelfTaught(Settings):
    """What a method is told whose teacher is the policy itself, knowing more."""

    context: str = Field(description="The entry of contexts: that the teacher is asked")
    teacher: Annotated[Kind, SELF_TEACHER] = Field(description="Which weights it has")

    @classmethod
    def fit_stage(cls, method: str, rl: dict) -> None:
        """Whether the settings of a recipe fit those of its method.

        Args:
            method: under whose name `rl` has the settings of this class.

        Raises:
            ValueError: naming the key, its value and the fix.
        """
        context, contexts = rl[method]["context"], rl.get("contexts", {})
        if context not in contexts:
            raise ValueError(f"{method}.context: {context} is none of contexts: {', '.join(contexts)}")


class Sdpo(SelfTaught):
    """The teacher's distributions are distilled."""

    divergence: Share = Field(description="0 is the forward KL, 1 the reverse, 0.5 Jensen-Shannon")
    top_k: int | None = Field(ge=1, description="Likeliest tokens of the student that are compared; null is all")
    ratio_clip: float = Field(gt=0, description="A token of an older policy counts at most so many times")


class Srpo(Sdpo):
    """The same for wrong samples."""

    entropy_weight: float = Field(ge=0, description="A token counts exp(-entropy_weight x the teacher's entropy)")

    @classmethod
    def fit_stage(cls, method: str, rl: dict) -> None:
        super().fit_stage(method, rl)
        samples, iterations = rl["prompts"] * rl["generations"], rl["iterations"]
        if iterations > 1 and rl["batch_size"] < samples:
            # The mean of its weights is of all samples, and the teacher may have moved since.
            raise ValueError(
                f"batch_size: {method} with iterations {iterations} needs all {samples} samples of a step in one pass;"
                " raise it, or set iterations to 1"
            )


class Rlrt(SelfTaught):
    """Advantages are weighted against what the teacher says."""

    mix: Share = Field(description="Share of the weighted advantage")
    clip: float = Field(gt=0, description="Weights are within 1 ± clip")


class Rlsd(Rlrt):
    """Advantages are weighted by what the teacher says."""

    until: int | None = Field(ge=1, description="Step at which mix has fallen to 0; null: it stays")

    @classmethod
    def fit_stage(cls, method: str, rl: dict) -> None:
        super().fit_stage(method, rl)
        context = rl[method]["context"]
        if "{solution}" in rl["contexts"][context]:
            raise ValueError(f"contexts.{context}: {method} shows the answer and no {{solution}}; take it out")


@dataclass(frozen=True)
class Method:
    """What a method is.

    Attributes:
        label: what tables and figures call it.
        paper: where it is from.
        look: colour token and marker, in figures.
        settings: the class of its own section in `rl`; None for one that has none, and no self-teacher.
        distils: its loss compares whole distributions of policy and teacher.
        loss_types: those that its loss is defined with; empty: all.
    """

    label: str
    paper: str
    look: tuple[str, str]
    settings: type[SelfTaught] | None = None
    distils: bool = False
    loss_types: tuple[str, ...] = ()

    def fit(self, name: str, rl: dict) -> None:
        """Whether the settings of a recipe fit the method of this name; raises ValueError with the fix."""
        if self.loss_types and rl["loss_type"] not in self.loss_types:
            fix = " or ".join(self.loss_types)
            raise ValueError(f"loss_type: {rl['loss_type']} is no loss that method {name} has; write {fix}")
        if self.settings:
            if name not in rl:
                raise ValueError(f"{name}: method {name} needs its own settings; write them")
            self.settings.fit_stage(name, rl)


# In the order of tables and legends.
METHODS = {
    "grpo": Method("GRPO", "arXiv:2402.03300", ("blue", "^")),
    # Its loss is a mean over responses.
    "gspo": Method("GSPO", "arXiv:2507.18071", ("blue", "v"), loss_types=("grpo",)),
    # Its loss is a mean over tokens.
    "cispo": Method("CISPO", "arXiv:2506.13585", ("blue", "D"), loss_types=("dapo",)),
    "sdpo": Method("SDPO", "arXiv:2601.20802", ("orange", "o"), Sdpo, distils=True),
    # Both of its branches are over one count of tokens.
    "srpo": Method("SRPO", "arXiv:2604.02288", ("magenta", "s"), Srpo, distils=True, loss_types=("dapo",)),
    "rlsd": Method("RLSD", "arXiv:2604.03128", ("teal", "D"), Rlsd),
    "rlrt": Method("RLRT", "arXiv:2605.10781", ("wine", "v"), Rlrt),
}
UNKNOWN_LOOK = ("muted", "o")


def look(method: str) -> tuple[str, str]:
    """Colour token and marker of a method."""
    return METHODS[method].look if method in METHODS else UNKNOWN_LOOK


def label(method: str) -> str:
    """What tables call a method."""
    return METHODS[method].label if method in METHODS else method
