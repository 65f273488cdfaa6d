"""Adapter kinds: what is trained when not every weight is. One entry of `ADAPTERS` is all that is said of a kind.

What a kind does to a weight is in steps/models/adapters/.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from steps.settings.base import ByKind, OneOf, Settings, Share, Steps, Text, Unique

ALL_LINEAR: Literal["all-linear"] = "all-linear"
# What the paper scales: keys, values, and the MLP between its two layers. PEFT scales the queries of Qwen and Llama 4
# in place of the keys, and those of Llama 3 as the paper does; here it is the same for all.
IA3_MODULES = ["k_proj", "v_proj", "down_proj"]
IA3_FEEDFORWARD = ["down_proj"]
Rank = Annotated[int, Field(ge=1, description="Rank of the change of a weight")]
Modules = Annotated[list[Text], Unique, Field(min_length=1)]
Layer = Annotated[int, Field(ge=0)]
Layers = Annotated[list[Layer], Unique, Field(min_length=1)]
# What becomes of a mixture's experts that are stored as one parameter.
EXPERTS = ("adapted", "frozen")
NEW_TOKENS = "Tokens that the tokenizer gets, with a trained row of the embeddings each (sft and cpt)"


class Adapter(Settings):
    """What is trained of a model."""

    kind: str


class Full(Adapter):
    """Every weight."""

    freeze: Modules = Field([], description="Ends of the names of modules whose weights stay as they are, or patterns")
    new_tokens: Modules = Field([], description=NEW_TOKENS)


class Targeted(Adapter):
    """Some layers."""

    target_modules: Literal["all-linear"] | Modules = Field(
        ALL_LINEAR, description="Ends of the names of the layers that are changed, or patterns, or all-linear"
    )
    exclude_modules: Modules = Field([], description="Ends of the names of layers that are not changed, or patterns")
    layers_to_transform: Layers = Field([], description="Numbers of the blocks that are changed; all where not given")
    modules_to_save: Modules = Field([], description="Ends of the names of modules that are trained whole beside it")
    experts: Annotated[str, OneOf(EXPERTS)] = Field(
        EXPERTS[0], description="frozen leaves out a mixture's experts, where the kind cannot change them"
    )


# Where any kind but full attaches: what its table of kinds does not repeat.
WHERE = tuple(name for name in Targeted.keys() if name not in ("kind", "target_modules"))


class Dropped(Targeted):
    """Some layers, of whose inputs a share is dropped."""

    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the inputs of the change that is dropped")


class LowRank(Dropped):
    """W + alpha / r B A."""

    r: Rank
    alpha: float = Field(gt=0, description="The change is scaled by alpha / r")
    rank_pattern: Annotated[dict[Text, Rank], Field(min_length=1)] = Field(
        {}, description="Ends of the names of layers to their own r"
    )
    alpha_pattern: Annotated[dict[Text, Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        {}, description="Ends of the names of layers to their own alpha"
    )
    loraplus_ratio: float = Field(1.0, ge=1, description="Learning rate of B over that of A (arXiv:2402.12354)")
    new_tokens: Modules = Field([], description=NEW_TOKENS)


class AdaLora(Dropped):
    """A budget of rank for all layers, pruned while it trains."""

    init_r: Rank = Field(description="Rank of every layer at the start")
    target_r: Rank = Field(description="Mean rank of the layers at the end")
    alpha: float = Field(gt=0, description="The change is scaled by alpha / init_r")
    tinit: Share = Field(description="Share of the steps before the pruning")
    tfinal: Share = Field(description="Share of the steps after it")
    every: Steps = Field(description="Steps between two prunings")
    orthogonality: float = Field(ge=0, description="Weight in the loss of the distance of A and B from orthogonality")


class Vera(Dropped):
    """Trained scales of shared random matrices."""

    r: Rank
    d_initial: float = Field(0.1, description="What the scales of A start at")


class Oft(Targeted):
    """A block-diagonal rotation of the inputs."""

    block_size: int = Field(ge=2, description="Inputs that one block rotates")


class Boft(Dropped):
    """A product of such rotations."""

    block_size: int = Field(ge=2, description="Inputs that one block rotates")
    factors: int = Field(ge=1, description="Rotations that are multiplied")


class Hra(Targeted):
    """A chain of reflections."""

    r: Rank = Field(description="Reflections that follow each other, an even number")


class Ia3(Targeted):
    """Trained scales of activations."""

    target_modules: Literal["all-linear"] | Modules = Field(
        IA3_MODULES, description="Ends of the names of the layers whose outputs are scaled, or patterns, or all-linear"
    )
    feedforward_modules: list[Text] = Field(
        IA3_FEEDFORWARD, description="Of target_modules those whose inputs are scaled instead"
    )


@dataclass(frozen=True)
class Kind:
    """What an adapter kind is.

    Attributes:
        settings: the class of its keys.
        label: what tables and figures call it.
        look: colour token of its family and marker, in figures.
        rank: the key that has the rank of its change, where that is low.
        whole: it needs every weight whole in each process, and the optimizer as PyTorch has it.
        experts: PEFT changes with it a mixture's experts that are one parameter (LoraConfig.target_parameters).
        tied: PEFT keeps tied embeddings tied beside it (LoraConfig.ensure_weight_tying).
    """

    settings: type[Adapter]
    label: str
    look: tuple[str, str]
    rank: str | None = None
    whole: bool = False
    experts: bool = False
    tied: bool = False


# Colour token -> what the adapters of that colour do to the weights.
FAMILIES = {"neutral": "all weights", "blue": "low rank", "teal": "rotation", "magenta": "scaling", "orange": "path"}
ADAPTERS = {
    "full": Kind(Full, "full", ("neutral", "o")),
    "lora": Kind(LowRank, "LoRA", ("blue", "o"), rank="r", experts=True, tied=True),
    "rslora": Kind(LowRank, "rsLoRA", ("blue", "v"), rank="r", experts=True, tied=True),
    "dora": Kind(LowRank, "DoRA", ("blue", "^"), rank="r", tied=True),
    "qlora": Kind(LowRank, "QLoRA", ("blue", "<"), rank="r", whole=True, tied=True),
    "adalora": Kind(AdaLora, "AdaLoRA", ("blue", ">"), rank="init_r", whole=True),
    "pissa": Kind(LowRank, "PiSSA", ("blue", "X"), rank="r", tied=True),
    "milora": Kind(LowRank, "MiLoRA", ("blue", "P"), rank="r", tied=True),
    "oft": Kind(Oft, "OFT", ("teal", "o")),
    "boft": Kind(Boft, "BOFT", ("teal", "^")),
    "hra": Kind(Hra, "HRA", ("teal", "s"), rank="r"),
    "vera": Kind(Vera, "VeRA", ("magenta", "o")),
    "ia3": Kind(Ia3, "(IA)³", ("magenta", "^")),
}
# Of a kind that has no entry, which a newer run may have written.
UNKNOWN_LOOK = ("muted", "o")

ADAPTER = ByKind({kind: entry.settings for kind, entry in ADAPTERS.items()})


def look(kind: str) -> tuple[str, str]:
    """Colour token and marker of a kind."""
    return ADAPTERS[kind].look if kind in ADAPTERS else UNKNOWN_LOOK
