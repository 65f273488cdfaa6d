"""Merge methods, and the settings of stage merge. One entry of `MERGES` is all that is said of a method; what becomes
of tensors is in steps/models/merging.py.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from steps.settings.base import OneOf, Seed, Settings, Share
from steps.settings.delivery import DTYPES

TOKENIZERS = ("same", "union")


@dataclass(frozen=True)
class MergeMethod:
    """What a merge method is.

    Attributes:
        what: what becomes of corresponding weights p_i of the parents, and where that is from.
        keys: the settings that act.
        over_base: it merges what was learned on top of a model, which the parents need in common.
        pairwise: it is between two parents.
        normalized: weights are divided by their sum where `normalize` says nothing.
    """

    what: str
    keys: tuple[str, ...]
    over_base: bool = False
    pairwise: bool = False
    normalized: bool = False


_WEIGHTED = ("weights", "normalize")
_DRAWN = (*_WEIGHTED, "density", "scale", "seed")
MERGES = {
    "linear": MergeMethod("the sum of w_i p_i; the weights sum to 1 (model soups, arXiv:2203.05482)", _WEIGHTED),
    "slerp": MergeMethod(
        "the arc from the first parent to the second, each tensor taken as one vector; linear where their cosine is"
        " above 0.9995, as it is for 17 of the 46 tensors of two fine-tunes of fable's base",
        ("t",),
        pairwise=True,
    ),
    "task_arithmetic": MergeMethod(
        "base + scale × the sum of w_i (p_i − base) (arXiv:2212.04089)", (*_WEIGHTED, "scale"), over_base=True
    ),
    "ties": MergeMethod(
        "the same of trimmed changes, the `density` largest of each tensor; only parents that agree with the sign of"
        " the sum count, and their weights are scaled to sum to 1 (arXiv:2306.01708)",
        (*_WEIGHTED, "density", "scale"),
        over_base=True,
        normalized=True,
    ),
    "dare_linear": MergeMethod(
        "task_arithmetic of changes of which a random share `density` is kept, scaled up to the L1 norm of the whole"
        " change (arXiv:2311.03099 scales by 1 / density, which this is on average)",
        _DRAWN,
        over_base=True,
    ),
    "dare_ties": MergeMethod(
        "dare_linear with the vote on signs of ties, without its scaling of the weights", _DRAWN, over_base=True
    ),
    "della_linear": MergeMethod(
        "dare_linear, where of each row of a matrix the larger changes are kept more often: from density − epsilon for"
        " the smallest to density + epsilon for the largest, by rank (arXiv:2406.11617)",
        (*_DRAWN, "epsilon"),
        over_base=True,
    ),
    "della": MergeMethod(
        "della_linear with the vote on signs of ties and its scaling of the weights",
        (*_DRAWN, "epsilon"),
        over_base=True,
        normalized=True,
    ),
    "breadcrumbs": MergeMethod(
        "task_arithmetic of changes without the `gamma` largest of each tensor, of which the `density` largest others"
        " are kept (arXiv:2312.06795)",
        (*_WEIGHTED, "density", "gamma", "scale"),
        over_base=True,
    ),
    "breadcrumbs_ties": MergeMethod(
        "breadcrumbs with the vote on signs of ties, without its scaling of the weights",
        (*_WEIGHTED, "density", "gamma", "scale"),
        over_base=True,
    ),
    "model_stock": MergeMethod(
        "base + t × the mean of the n changes, t = n c / (1 + (n − 1) c), where c is the mean cosine of two of them,"
        " of each tensor as a vector: parents that agree are kept, what points anywhere is left out; not for parents"
        " that oppose each other, whose t is below 0 (arXiv:2403.19522)",
        (),
        over_base=True,
    ),
    "passthrough": MergeMethod(
        "layers of the parents stacked as `slices` lists them; embeddings are of the first slice's parent, the last"
        " norm and the head, where it is not tied to them, of the last one's",
        ("slices",),
    ),
}
# Over depth: one number for all layers, or numbers from the first layer to the last, between which it is interpolated.
OverDepth = float | Annotated[list[float], Field(min_length=2)]


class Slice(Settings):
    """Consecutive layers of one parent."""

    parent: int = Field(ge=0, description="Its place in `from`, counted from 0")
    layers: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        description="The first, counted from 0, and the one after the last"
    )


class Merge(Settings):
    """Stage merge: which keys act depends on the method."""

    method: Annotated[str, OneOf(tuple(MERGES))] = Field(description="What becomes of corresponding weights")
    weights: Annotated[list[OverDepth], Field(min_length=2)] | None = Field(
        None, description="One number per parent, or numbers over depth; null gives all the same, with a sum of 1"
    )
    normalize: bool | None = Field(
        None, description="Weights are divided by their sum; null is the method's own way (ties and della do)"
    )
    t: Share | Annotated[list[Share], Field(min_length=2)] = Field(
        0.5, description="Of slerp: 0 is the first parent, 1 the second; may be numbers over depth"
    )
    density: float | Annotated[list[float], Field(min_length=2)] = Field(
        0.5, description="Share of the change that is kept, above 0; may be numbers over depth"
    )
    gamma: float = Field(0.01, ge=0, lt=1, description="Of breadcrumbs: share of the largest changes that is dropped")
    epsilon: float = Field(0.15, gt=0, lt=0.5, description="Of della: how far shares lie around density")
    scale: float = Field(1.0, description="Factor of the merged change")
    seed: Seed = Field(0, description="Of the part that dare and della drop")
    slices: Annotated[list[Slice], Field(min_length=1)] | None = Field(
        None, description="Of passthrough: the layers of the result, in order"
    )
    dtype: Annotated[str, OneOf(DTYPES)] = Field(
        "stored", description="Of the result's weights; stored is the widest of the parents'"
    )
    tokenizer: Annotated[str, OneOf(TOKENIZERS)] = Field(
        "same", description="same refuses parents of other tokens; union gives the result the added tokens of all"
    )
