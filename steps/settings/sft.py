"""Settings of stage sft: fine-tuning on rows as they are."""

from typing import Annotated, ClassVar

from pydantic import Field

from steps.settings.base import OneOf, Settings, Steps
from steps.settings.training import CURRICULA, Adapted, Curriculum, Optimization, Packed, Thoughts


class Buckets(Settings):
    """Rows of one conflict group never share a batch."""

    every: Steps = Field(description="Optimizer steps after which learned groups are let go")


class Resample(Settings):
    """Sources whose held-out rows are forgotten get more of the batches."""

    every: Steps = Field(description="Optimizer steps between two looks")
    drop: float = Field(ge=0, lt=1, description="Relative drop of the accuracy that counts as forgotten")
    share: float = Field(gt=0, lt=1, description="Of the batches that follow, for what was forgotten")


class Progressive(Settings):
    """Training ends when an epoch made it worse."""

    delta: float = Field(ge=0, description="Rise of the validation loss, in nats, that is worse")


class KeepBest(Settings):
    """The weights with the lowest validation loss."""

    patience: int | None = Field(None, ge=1, description="Measurements without a lower one after which training ends")
    min_delta: float = Field(0.0, ge=0, description="By how much lower it must be, in nats")


class Sft(Optimization, Packed, Adapted, Curriculum, Thoughts):
    """Stage sft, by TRL's SFTTrainer."""

    grows: ClassVar[bool] = True

    completion_only_loss: bool = Field(description="The loss counts what the assistant says only")
    order: Annotated[str, OneOf((*CURRICULA, "sources"))] = Field(
        description="All rows mixed, by their pass rate, or source after source"
    )
    trajectory: int = Field(ge=0, description="How often every row's loss and correctness is measured")
    buckets: Buckets | None = Field(description="Dealing of conflict groups")
    resample: Resample | None = Field(description="Returning to what was forgotten")
    progressive: Progressive | None = Field(description="Stopping in time; epochs is then the most")
    eval_steps: int | None = Field(
        None, ge=1, description="Steps between two validation losses; four in all by default"
    )
    keep_best: KeepBest | None = Field(None, description="Keeping the best weights; epochs is then the most")

    @classmethod
    def fit(cls, settings: dict) -> None:
        super().fit(settings)
        for key in ("keep_best", "max_steps"):
            if settings["progressive"] and settings.get(key) is not None:
                raise ValueError(f"{key}: progressive chooses the end of an epoch; remove one")
        if settings["progressive"] and settings["epochs"] != int(settings["epochs"]):
            raise ValueError(
                f"epochs: {settings['epochs']} must be whole with progressive, which looks after each epoch"
            )
        if settings["progressive"] and settings["order"] != "shuffle":
            raise ValueError(
                f"order: {settings['order']} knows no epoch over all rows, after which progressive looks; write shuffle"
            )
        if settings["order"] == "sources" and settings.get("bucket_shares"):
            raise ValueError("bucket_shares: has no effect with order: sources; write shuffle or easy_to_hard")
        if settings["buckets"] and settings.get("bucket_shares"):
            raise ValueError("bucket_shares: deals rows more than once, which buckets would keep apart; remove one")
        if settings["progressive"] and settings["adapter"]["kind"] == "adalora":
            raise ValueError("progressive: may end a run before adalora has pruned to target_r; remove it")
        if settings["buckets"] and settings["order"] != "shuffle":
            raise ValueError(
                f"order: {settings['order']} has no effect with buckets, which deal an epoch's rows; remove it"
            )
