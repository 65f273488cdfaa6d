"""Merge methods, and the settings of stage merge. One entry of `MERGES` is all that is said of a method; what becomes
of tensors is in steps/models/merging.py.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from steps.settings.base import OneOf, Seed, Settings, Share


@dataclass(frozen=True)
class MergeMethod:
    """What a merge method is.

    Attributes:
        what: what becomes of corresponding weights p_i of the parents, and where that is from.
        keys: the settings that act.
        over_base: it merges what was learned on top of a model, which the parents need in common.
        pairwise: it is between two parents.
    """

    what: str
    keys: tuple[str, ...]
    over_base: bool = False
    pairwise: bool = False


MERGES = {
    "linear": MergeMethod("the sum of w_i p_i; the weights sum to 1 (model soups, arXiv:2203.05482)", ("weights",)),
    "slerp": MergeMethod(
        "the arc from the first parent to the second, each tensor taken as one vector; linear where their cosine is"
        " above 0.9995, as it is for 17 of the 46 tensors of two fine-tunes of fable's base",
        ("t",),
        pairwise=True,
    ),
    "task_arithmetic": MergeMethod(
        "base + scale × the sum of w_i (p_i − base) (arXiv:2212.04089)", ("weights", "scale"), over_base=True
    ),
    "ties": MergeMethod(
        "the same of trimmed changes, the `density` largest of each tensor; only parents that agree with the sign of"
        " the sum count, and their weights are scaled to sum to 1 (arXiv:2306.01708)",
        ("weights", "density", "scale"),
        over_base=True,
    ),
    "dare_linear": MergeMethod(
        "task_arithmetic of changes of which a random share `density` is kept, scaled up to the L1 norm of the whole"
        " change (arXiv:2311.03099 scales by 1 / density, which this is on average)",
        ("weights", "density", "scale", "seed"),
        over_base=True,
    ),
    "dare_ties": MergeMethod(
        "dare_linear with the vote on signs of ties, without its scaling of the weights",
        ("weights", "density", "scale", "seed"),
        over_base=True,
    ),
    "model_stock": MergeMethod(
        "base + t × the mean of the n changes, t = n c / (1 + (n − 1) c), where c is the mean cosine of two of them,"
        " of each tensor as a vector: parents that agree are kept, what points anywhere is left out; not for parents"
        " that oppose each other, whose t is below 0 (arXiv:2403.19522)",
        (),
        over_base=True,
    ),
}


class Merge(Settings):
    """Stage merge: which keys act depends on the method."""

    method: Annotated[str, OneOf(tuple(MERGES))] = Field(description="What becomes of corresponding weights")
    weights: Annotated[list[float], Field(min_length=2)] | None = Field(
        None, description="One number per parent; null gives all the same, with a sum of 1"
    )
    t: Share = Field(0.5, description="Of slerp: 0 is the first parent, 1 the second")
    density: float = Field(0.5, gt=0, le=1, description="Share of the change that is kept")
    scale: float = Field(1.0, description="Factor of the merged change")
    seed: Seed = Field(0, description="Of the part that dare drops")
