"""The rotations of an oft adapter."""

import math
from pathlib import Path
from typing import Any

from steps.models.adapters.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from steps.models.files import read_config


def oft_generators(folder: Path) -> dict[str, Any]:
    """The skew-symmetric generators Q of an oft adapter: {module: tensor (blocks, size, size)}.

    Raises:
        ValueError: the folder is not an oft adapter whose rotations are the exact Cayley transforms of such blocks.
    """
    import torch
    from safetensors.torch import load_file

    config = read_config(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).is_file() else {}
    if config.get("peft_type") != "OFT":
        raise ValueError(f"{folder} is no oft adapter; its path of rotations needs one")
    # PEFT's own default of the first is true.
    if config.get("use_cayley_neumann", True) or config.get("block_share") or config.get("coft"):
        raise ValueError(
            f"{folder / ADAPTER_CONFIG}: use_cayley_neumann, block_share and coft must be false; train it here"
        )
    generators = {}
    for name, upper in load_file(folder / ADAPTER_WEIGHTS).items():
        blocks, count = upper.shape
        size = (1 + math.isqrt(1 + 8 * count)) // 2
        rows, columns = torch.triu_indices(size, size, 1)
        generator = upper.new_zeros(blocks, size, size)
        generator[:, rows, columns] = upper
        module = name.removeprefix(PREFIX).removesuffix(".oft_R.weight")
        generators[module] = generator - generator.transpose(1, 2)
    return generators


def cayley(generators: Any) -> Any:
    """R = (I - Q) (I + Q)^-1 of skew-symmetric Q (blocks, size, size): rotations; Q = 0 gives the identity."""
    import torch

    identity = torch.eye(generators.shape[-1], dtype=generators.dtype, device=generators.device)
    return torch.linalg.solve(identity + generators, identity - generators, left=False)


def apply_rotation(weight: Any, rotation: Any) -> Any:
    """W R' with R block-diagonal: weight (out, in), rotation (blocks, size, size), blocks x size = in.

    The layer sees its input rotated, x R, as PEFT's oft layers do: (x R) W' = x (W R')'.
    """
    import torch

    blocks, size, _ = rotation.shape
    parts = weight.reshape(len(weight), blocks, size)
    return torch.einsum("okc,kbc->okb", parts, rotation).reshape(weight.shape)
