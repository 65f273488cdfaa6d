"""What trained weights are stored in, and what rounding them costs.

bfloat16 has 8 significant bits: its numbers lie |w| / 256 to |w| / 128 apart, and a step of AdamW moves a weight w by
about the learning rate. Rounded to the nearest, most of what a rate of 1e-6 taught is gone. Rounded at random, up with
the probability of how far it lies above the lower neighbour, every weight is right in expectation (Gupta et al. 2015,
arXiv:1502.02551, section 3), and noise of the size of the neighbours' distance is added instead.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

from steps.models import checkpoints
from steps.settings.training import SAVE_DTYPES

# Elements compared at a time.
AT_ONCE = 2**22


def rounded(tensor: Any, save_dtype: str, seed: int, name: str) -> Any:
    """A float32 tensor in what it is stored in. Draws depend on the seed and the tensor's name alone."""
    import torch

    dtype = getattr(torch, SAVE_DTYPES[save_dtype])
    if save_dtype != "bfloat16_stochastic":
        return tensor.to(dtype)
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    draws = torch.randint(2**16, tensor.shape, generator=generator, dtype=torch.int32).to(tensor.device)
    # The lower half of a float32 is what bfloat16 cuts off: with a random number added to it, it carries as often as it
    # is large. Of negative numbers too, whose magnitude stands in the same bits.
    return draws.add_(tensor.float().view(torch.int32)).bitwise_and_(-(2**16)).view(torch.float32).to(dtype)


def round_weights(model: Any, save_dtype: str, seed: int, parent: Path | None) -> dict | None:
    """Give a trained model the type that it is stored in; buffers stay as they are.

    Args:
        model: whole, in float32.
        parent: what it was trained from.

    Returns:
        What rounding cost, over all weights that the parent has too: "equal_trained" and "equal", the share of them
        that is exactly the parent's before and after, and "cosine" of the saved with the trained change (0 where
        nothing is left of it, 1 where nothing was trained). None where nothing was rounded, or there is no parent.
    """
    if SAVE_DTYPES[save_dtype] == "float32":
        return None
    import torch

    start = dict(checkpoints.load_model(parent, torch.float32).named_parameters()) if parent else {}
    sums = dict.fromkeys(("weights", "equal_trained", "equal", "trained", "saved", "both"), 0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stored = rounded(parameter.data, save_dtype, seed, name)
            # A reward model's score is no weight of its parent.
            if name in start:
                # Rows of new tokens stand behind those of the parent.
                known = start[name].numel()
                add(sums, *(tensor.data.flatten()[:known] for tensor in (start[name], parameter, stored)))
            parameter.data = stored
    return cost(sums) if sums["weights"] else None


def add(sums: dict[str, float], start: Any, trained: Any, saved: Any) -> None:
    """Add a flat tensor's to the sums over all."""
    for begin in range(0, len(start), AT_ONCE):
        first, second, third = (one[begin : begin + AT_ONCE].cpu().double() for one in (start, trained, saved))
        change, kept = second - first, third - first
        sums["weights"] += len(first)
        sums["equal_trained"] += (change == 0).sum().item()
        sums["equal"] += (kept == 0).sum().item()
        for key, one, other in (("trained", change, change), ("saved", kept, kept), ("both", change, kept)):
            sums[key] += one.dot(other).item()


def cost(sums: dict[str, float]) -> dict[str, float]:
    """See `round_weights`."""
    shares = {key: sums[key] / sums["weights"] for key in ("equal_trained", "equal")}
    length = math.sqrt(sums["trained"] * sums["saved"])
    cosine = sums["both"] / length if length else float(sums["trained"] == sums["saved"])
    return {key: round(value, 6) for key, value in {**shares, "cosine": cosine}.items()}
