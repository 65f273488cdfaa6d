"""Paths between two checkpoints, point by point."""

import math
from collections.abc import Callable
from typing import Any

from steps.models.adapters.rotation import apply_rotation, cayley, oft_generators
from steps.models.weights import DTYPES, Weights

FIRST_LAYERS = 5


def layer(name: str) -> int | None:
    """The layer a tensor belongs to: the first number in its name, as in model.layers.3.mlp.up_proj.weight."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


class Additive:
    """The straight line between two models.

    Attributes:
        names: of all tensors.
    """

    def __init__(self, start: Weights, end: Weights):
        self.start, self.end = start, end
        self.names = list(start.tensors)

    def share(self, alpha: float) -> float:
        """How much of the change a point has."""
        return alpha

    def strengths(self) -> dict[int, float]:
        """||W_end - W||_F / ||W||_F of each layer."""
        changed: dict[int, float] = {}
        whole: dict[int, float] = {}
        for name in self.names:
            if (index := layer(name)) is not None:
                start, end = self.start.tensor(name).double(), self.end.tensor(name).double()
                changed[index] = changed.get(index, 0.0) + (end - start).square().sum().item()
                whole[index] = whole.get(index, 0.0) + start.square().sum().item()
        return {index: math.sqrt(changed[index] / whole[index]) for index in sorted(changed)}

    def dtype(self, name: str) -> Any:
        """The wider torch dtype of both models."""
        import torch

        return torch.promote_types(
            *(getattr(torch, DTYPES[model.tensors[name].dtype]) for model in (self.start, self.end))
        )

    def tensor(self, name: str, share: float) -> Any:
        """One tensor of the point that has this share of the change, computed in float32 at least.

        A weight that is the same at both ends is so in between: the sum of shares 1 - a and a would round it.
        """
        import torch

        dtype = self.dtype(name)
        if share in (0, 1):
            return (self.end if share else self.start).tensor(name).to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        return torch.lerp(self.start.tensor(name).to(wide), self.end.tensor(name).to(wide), share).to(dtype)


class Cayley(Additive):
    """The rotations of an oft adapter, turned less.

    Attributes:
        generators: tensor name → skew-symmetric Q, [blocks, size, size] in float64.
    """

    def __init__(self, start: Weights, end: Weights, generator: str):
        super().__init__(start, end)
        self.generator = generator
        generators = oft_generators(end.folder)
        self.generators = {f"{module}.weight": values.double() for module, values in generators.items()}
        assert self.generators.keys() <= {*self.names}, f"{end.folder} rotates what {start.folder} does not store"

    def share(self, alpha: float) -> float:
        return math.sqrt(alpha) if self.generator == "sqrt" else alpha

    def strengths(self) -> dict[int, float]:
        """||Q||_F / sqrt(elements of Q) of each layer."""
        import torch

        layers: dict[int, list[Any]] = {}
        for name, values in self.generators.items():
            layers.setdefault(layer(name), []).append(values.flatten())
        return {index: torch.cat(layers[index]).square().mean().sqrt().item() for index in sorted(layers)}

    def rotation(self, name: str, share: float) -> Any:
        """R = Cayley(share Q), [blocks, size, size] in float32, orthogonal to 1e-5."""
        import torch

        rotation = cayley(self.generators[name] * share).float()
        error = (rotation @ rotation.mT - torch.eye(rotation.shape[-1])).abs().max().item()
        assert error < 1e-5, f"{name}: R R' is {error:g} from the identity"
        return rotation

    def tensor(self, name: str, share: float) -> Any:
        if name not in self.generators or share in (0, 1):
            return super().tensor(name, share)
        weight = self.start.tensor(name).float()
        return apply_rotation(weight, self.rotation(name, share)).to(self.dtype(name))


def rewinding(path: Additive, rewind: str) -> dict[int, float]:
    """The factor of each layer's change."""
    if rewind == "uniform":
        return {index: 1.0 for name in path.names if (index := layer(name)) is not None}
    strengths = path.strengths()
    moved = [strength for strength in strengths.values() if strength > 0]
    if not moved:
        return dict.fromkeys(strengths, 1.0)
    first = moved[:FIRST_LAYERS]
    wanted = min(moved) if rewind == "min" else sum(first) / len(first)
    return {index: wanted / strength if strength > 0 else 1.0 for index, strength in strengths.items()}


def point(path: Additive, alpha: float, scales: dict[int, float]) -> Callable[[str], Any]:
    """What gives the tensors of a point by name."""
    return lambda name: path.tensor(name, scales.get(layer(name), 1.0) * path.share(alpha))
