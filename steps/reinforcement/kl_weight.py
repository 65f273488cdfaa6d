"""The weight of the divergence from the start in the loss, step by step.

A number stays. `linear` and `cosine` go from one weight to another and stay there. `adaptive` is the controller of
Ziegler et al. 2019 (arXiv:1909.08593, section 2.2), by which the weight follows the divergence that was measured:

    e = clip(KL / target - 1, -0.2, 0.2)        β' = β (1 + gain e)

There KL is of whole responses and gain 0.1; here it is what the log's `kl` has: a mean over tokens, in nats.
"""

import math
from collections.abc import Sequence

# How far off the target counts, at most: as in the paper.
CLIP = 0.2
# The column of the log.
COLUMN = "kl_weight"


def kl_weight(kl: float | dict, step: int, history: Sequence[dict]) -> float:
    """Of one optimizer step.

    Args:
        kl: the setting.
        step: optimizer steps before this one.
        history: what was logged of each of them, {"kl", `COLUMN`, …}; of `adaptive` it is all that there is to resume.
    """
    if not isinstance(kl, dict):
        return kl
    if kl["kind"] == "adaptive":
        return adapted(kl, next((entry for entry in reversed(history) if COLUMN in entry), None))
    done = min(step / kl["until"], 1.0)
    if kl["kind"] == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return kl["from"] + (kl["to"] - kl["from"]) * done


def adapted(kl: dict, last: dict | None) -> float:
    """From what was logged of the step before (None: there was none), which has no divergence where nothing counted."""
    if last is None:
        return kl["from"]
    if "kl" not in last:  # all that was written in that step is masked
        return last[COLUMN]
    off = min(max(last["kl"] / kl["target"] - 1, -CLIP), CLIP)
    return last[COLUMN] * (1 + kl["gain"] * off)
