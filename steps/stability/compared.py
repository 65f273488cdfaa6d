"""What is compared: which layers of two models, on which prompts."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from steps.core.files import read_json, read_jsonl
from steps.settings.axes import CAPABILITIES

if TYPE_CHECKING:
    from torch.nn import Linear, Module


def layer_number(name: str) -> int | None:
    """The first number in a module's name, which is its block's: 2 of model.layers.2.mlp.up_proj."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def linear_layers(model: Module, endings: list[str] | None) -> dict[str, Linear]:
    """The linear layers inside a model's numbered blocks, by name; those whose name ends with an entry, if given.

    Raises:
        ValueError: an entry matches none.
    """
    from torch.nn import Linear

    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    layers = {name: module for name, module in layers.items() if layer_number(name) is not None}
    if endings is None:
        return layers
    for ending in endings:
        if not any(ends_with(name, ending) for name in layers):
            kinds = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers))
            raise ValueError(f"geometry.modules: no linear layer's name ends with {ending}; the model has {kinds}")
    return {name: module for name, module in layers.items() if any(ends_with(name, ending) for ending in endings)}


def ends_with(name: str, ending: str) -> bool:
    """By whole parts: 9.mlp.up_proj is no end of layers.19.mlp.up_proj."""
    return f".{name}".endswith(f".{ending}")


def check_pair(base: Module, tuned: Module, folders: tuple[Path, Path]) -> None:
    """Raises:
    ValueError: naming the first parameter that one of both models does not have, has in another shape, or not finite.
    """
    ours, theirs = dict(base.named_parameters()), dict(tuned.named_parameters())
    for name in sorted(ours.keys() | theirs.keys()):
        for own, here, there in ((ours, *folders), (theirs, *reversed(folders))):
            if name not in own:
                raise ValueError(f"{name} is in {there} but not in {here}: different architectures")
        if ours[name].shape != theirs[name].shape:
            raise ValueError(
                f"{name} is {list(ours[name].shape)} in {folders[0]} but {list(theirs[name].shape)} in {folders[1]}:"
                " geometry compares a model with the one it was tuned from"
            )
        if not theirs[name].isfinite().all():
            raise ValueError(f"{name} of {folders[1]} is not finite: the training has diverged; lower learning_rate")


def choose_prompts(samples: Path, evaluation: Path, limit: int, seed: int) -> dict[str, list[str]]:
    """Axis → prompts of its tasks' greedy answers, at most `limit`, in a random order.

    Raises:
        ValueError: an axis has none.
    """
    tasks = read_json(evaluation)["tasks"]
    prompts: dict[str, list[str]] = {axis: [] for axis in CAPABILITIES}
    for sample in read_jsonl(samples):
        axis = tasks[sample["task"]]["axis"]
        if sample["kind"] == "greedy" and axis in prompts:
            prompts[axis].append(sample["prompt"])
    for axis, asked in prompts.items():
        if not asked:
            raise ValueError(f"{samples} has no greedy answer to a task of evaluate.{axis}; name a task there")
        prompts[axis] = Random(f"{seed} {axis}").sample(asked, min(limit, len(asked)))
    return prompts
