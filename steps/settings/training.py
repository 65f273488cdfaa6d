"""What the settings of all trainings have in common."""

import math
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from steps.core.asked import HOW
from steps.settings.adapters import ADAPTER, ADAPTERS, Adapter
from steps.settings.base import THINKING, OneOf, Settings, Share

CURRICULA = ("shuffle", "easy_to_hard")
# A setting's name -> transformers' for it.
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "wsd": "warmup_stable_decay",
}
# Those that end at `min_lr_ratio`: its name in transformers' schedule.
MINIMUM = {"cosine": "min_lr_rate", "wsd": "min_lr_ratio"}
# Share of the steps over which wsd falls, where `decay_ratio` says nothing.
DECAY = 0.1
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# What trained weights are stored in: a setting's name -> torch's dtype.
SAVE_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "bfloat16_stochastic": "bfloat16"}
# A setting's name -> transformers' for it. Those in 8 bits are bitsandbytes' (arXiv:2110.02861); the paged one moves
# its state to the main memory when a GPU's runs out.
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}
# auto leaves the choice to transformers: sdpa where the architecture has it.
ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
TRACKERS = ("none", "wandb", "trackio")
# How the processes of a training are started. Those of APART spread the model, or what trains it, over them; those of
# SHARDED leave none a whole policy.
APART, SHARDED = ("fsdp", "zero2", "zero3"), ("fsdp", "zero3")
LAUNCHES = ("single", "ddp", *APART)
# What a training comes to the same without: a run that changes one of them goes on with the state that it finds. To
# compute a layer again gives the same bits on a CPU (tests/training/test_state.py), and so does a teacher loaded again.
IMMATERIAL = (*HOW, "max_failures")


class Launch(Settings):
    """The processes of a training."""

    kind: Annotated[str, OneOf(LAUNCHES)] = Field(description="How accelerate starts them")
    processes: int = Field(ge=1, description="How many: GPUs, one for each")


class Descent(Settings):
    """What every training has, that of the models that ship included."""

    schedule: Annotated[str, OneOf(tuple(SCHEDULES))] = Field(
        description="How the learning rate falls after the warmup"
    )
    warmup_ratio: float = Field(ge=0, lt=1, description="Share of the steps over which the learning rate rises")
    batch_size: int = Field(ge=1, description="Rows of a forward pass, over all processes")
    gradient_checkpointing: bool = Field(description="Trades a third of the speed for memory")
    weight_decay: float = Field(ge=0, description="Pull of the weights to 0, times the learning rate")
    max_grad_norm: float = Field(gt=0, description="A longer gradient is scaled down to this")
    precision: Annotated[str, OneOf(PRECISIONS)] = Field(
        description="Of the arithmetic; auto is bf16 where a GPU has it"
    )
    saves: int = Field(ge=1, description="Resumable saves over a training, at equal distances")


Betas = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]


class Optimization(Descent):
    """What the training of a recipe has."""

    # Whether its rows are its own, so that they may have tokens that its parent does not know.
    grows: ClassVar[bool] = False

    learning_rate: float = Field(gt=0, description="At its highest")
    optimizer: Annotated[str, OneOf(tuple(OPTIMIZERS))] = Field(description="What turns gradients into steps")
    save_dtype: Annotated[str, OneOf(tuple(SAVE_DTYPES))] = Field(
        "float32", description="What trained weights are stored in; all but float32 rounds them"
    )
    warmup_steps: int | None = Field(None, ge=0, description="Steps over which it rises, in place of warmup_ratio")
    min_lr_ratio: float | None = Field(
        None, gt=0, lt=1, description="What it ends at, over its highest: cosine, wsd (whose warmup begins at it too)"
    )
    decay_ratio: float | None = Field(None, gt=0, le=1, description="Share of the steps over which wsd falls; 0.1")
    betas: Betas | None = Field(None, description="Of the moments of AdamW; 0.9 and 0.999")
    attention: Annotated[str, OneOf(ATTENTION)] = Field("auto", description="What computes attention")
    tracker: Annotated[str, OneOf(TRACKERS)] = Field("none", description="Where it is watched, beside TensorBoard")
    liger: bool = Field(False, description="Liger's fused kernels (a GPU and liger-kernel)")

    @classmethod
    def fit(cls, settings: dict) -> None:
        schedule = settings["schedule"]
        if settings.get("min_lr_ratio") is not None and schedule not in MINIMUM:
            raise ValueError(f"min_lr_ratio: has no effect with schedule {schedule}; write {' or '.join(MINIMUM)}")
        if settings.get("decay_ratio") is not None and schedule != "wsd":
            raise ValueError(f"decay_ratio: has no effect with schedule {schedule}; write wsd")
        most = settings.get("max_steps") or settings.get("steps")
        decay = (settings.get("decay_ratio") or DECAY) if schedule == "wsd" else 0
        if (rise := settings.get("warmup_steps")) is None:
            if settings["warmup_ratio"] + decay > 1:
                raise ValueError(
                    f"warmup_ratio: {settings['warmup_ratio']:g} of warmup and {decay:g} of the fall are more than the"
                    " run; lower one"
                )
        elif most and rise + math.ceil(decay * most) > most:
            raise ValueError(
                f"warmup_steps: {rise} steps of warmup and {math.ceil(decay * most)} of the fall are more than the"
                f" {most} of the run; lower it"
            )
        if settings.get("betas") is not None and settings["optimizer"] == "adafactor":
            raise ValueError("betas: adafactor has none; write optimizer: adamw")
        if settings.get("adapter", {}).get("new_tokens") and not cls.grows:
            raise ValueError("adapter.new_tokens: has an effect on stages sft and cpt; train the tokens there first")
        super().fit(settings)


class Epochs(Settings):
    """What a training on rows has, each of them read so many times."""

    epochs: float = Field(gt=0, description="Passes over the rows")
    gradient_accumulation: int = Field(ge=1, description="Forward passes per optimizer step")
    max_length: int = Field(ge=8, description="Tokens of the longest row; longer rows are skipped and counted")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps at most; epochs then end sooner")


class Packed(Epochs):
    """What a training on single texts has."""

    packing: bool = Field(description="Rows of a batch share sequences without seeing each other")
    neftune_alpha: float = Field(0.0, ge=0, description="Noise on the embeddings while it trains (arXiv:2310.05914)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of each token's weight the share for all tokens alike")

    @classmethod
    def fit(cls, settings: dict) -> None:
        super().fit(settings)
        if settings.get("neftune_alpha") and settings["packing"]:
            raise ValueError(
                "neftune_alpha: its noise goes by the length of a row, which packing hides; write packing: false"
            )
        if settings.get("label_smoothing") and settings.get("objective", "tokens") != "tokens":
            raise ValueError(f"label_smoothing: has no effect with objective {settings['objective']}; remove it")
        if settings.get("label_smoothing") and settings.get("liger"):
            raise ValueError("label_smoothing: liger computes the loss without it; remove one")


class Thoughts(Settings):
    """What a training on conversations has."""

    thinking: Annotated[str, OneOf(THINKING)] = Field(description="What becomes of the thoughts of rows")


class BucketShares(Settings):
    """How much of an epoch the rows of each bucket have, by the pass rate of `bucket.model`."""

    easy: Share = Field(0.0, description="Rows that it mostly solves")
    medium: Share = Field(0.0, description="Rows between")
    hard: Share = Field(0.0, description="Rows that it seldom solves")
    unverified: Share = Field(0.0, description="Rows without an answer")

    @model_validator(mode="after")
    def _together_they_are_an_epoch(self) -> "BucketShares":
        total = self.easy + self.medium + self.hard + self.unverified
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}; they must sum to 1")
        return self


class Curriculum(Settings):
    """What a training on rows may do by their difficulty."""

    order: Annotated[str, OneOf(CURRICULA)] = Field(description="All rows mixed, or by their pass rate")
    bucket_shares: BucketShares | None = Field(
        description="Of an epoch, by bucket of difficulty; null takes all rows alike"
    )


class Adapted(Settings):
    """What a training of a part of the weights may have."""

    adapter: Annotated[Adapter, ADAPTER] = Field(description="What is trained: every weight, or an adapter")

    @classmethod
    def fit(cls, settings: dict) -> None:
        super().fit(settings)
        if settings.get("keep_best") is not None and settings["adapter"]["kind"] == "adalora":
            raise ValueError("keep_best: may keep weights from before adalora has pruned to target_r; remove it")
        if settings["adapter"]["kind"] != "full" and settings.get("save_dtype", "float32") != "float32":
            raise ValueError(
                f"save_dtype: {settings['save_dtype']} rounds what adapter kind full trains; an adapter is small and"
                " stored as trained: write float32"
            )


def material(settings: dict) -> dict:
    """The settings of a training that its result depends on."""
    return {key: value for key, value in settings.items() if key not in IMMATERIAL}


def check_apart(settings: dict) -> None:
    """Raise a ValueError for what needs every weight, its gradient and its moments whole in each process."""
    adapter = settings.get("adapter", {"kind": "full"})["kind"]
    unfit = {
        # bitsandbytes and Adafactor know no parts of a matrix; ZeRO's are vectors, which Adafactor treats otherwise.
        f"optimizer: {settings['optimizer']}": settings["optimizer"] != "adamw",
        f"adapter.kind: {adapter}": ADAPTERS[adapter].whole,
        "progressive": bool(settings.get("progressive")),
        "keep_best": settings.get("keep_best") is not None,
        # Their sums of parameters are one group's, and a frozen one is in none.
        "adapter.loraplus_ratio": settings.get("adapter", {}).get("loraplus_ratio", 1) > 1,
        "adapter.freeze": bool(settings.get("adapter", {}).get("freeze")),
        "adapter.modules_to_save": bool(settings.get("adapter", {}).get("modules_to_save")),
        "adapter.new_tokens": bool(settings.get("adapter", {}).get("new_tokens")),
        # DeepSpeed scales its loss itself, which a state does not hold.
        "precision: fp16": settings["precision"] == "fp16",
    }
    for name in (name for name, is_unfit in unfit.items() if is_unfit):
        raise ValueError(f"{name}: does not go with launch kinds fsdp, zero2 and zero3; change it, or write kind: ddp")


def check_divided(settings: dict, among: int) -> None:
    """Raise a ValueError for a training whose steps cannot be divided among so many processes."""
    if settings["batch_size"] < among:
        raise ValueError(
            f"batch_size: {settings['batch_size']} rows of a forward pass cannot be divided among {among} processes;"
            " raise it, or launch fewer"
        )
    if among > 1 and settings.get("loss_type") == "bnpo":
        raise ValueError(
            "loss_type: bnpo is a mean over the tokens of each pass, which several processes divide; write dapo, or"
            " launch one"
        )
    # Who learns from samples of its own has prompts, which are divided too.
    for key in ("prompts", "batch_size") if "prompts" in settings else ():
        if settings[key] % among:
            raise ValueError(
                f"{key}: {settings[key]} cannot be divided evenly among {among} processes; write a multiple, or launch"
                " another number"
            )
