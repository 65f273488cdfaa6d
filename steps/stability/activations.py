"""What the compared layers put out on the same prompts before and after tuning, and how the two differ."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from steps.core.progress import Progress
from steps.stability.measures import (
    angular_drift,
    conditioned_drift,
    energies,
    gram_distortion,
    linear_cka,
    procrustes,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear


def cut(prompts: list[list[int]], prompt_tokens: int, tokens: int) -> list[list[int]]:
    """The first tokens of each prompt, of as many prompts as fill the cap; the last may lose its end for it.

    What a causal model computes of a token does not depend on those after it: reading no more than is kept is the
    same as dropping the rest.
    """
    kept: list[list[int]] = []
    for ids in prompts:
        ids = ids[: min(prompt_tokens, tokens)]
        if not ids:
            break
        kept.append(ids)
        tokens -= len(ids)
    return kept


def outputs(
    model: Any,
    layers: dict[str, Linear],
    prompts: list[list[int]],
    batch_size: int,
    look: Callable[[str, Tensor, Tensor], None] | None = None,
) -> dict[str, Tensor]:
    """One pass over the prompts, padding removed.

    Args:
        prompts: token ids.
        look: called with a layer's name, inputs [some tokens, in] and outputs [some tokens, out] as they come.

    Returns:
        Layer → [tokens, out], in an order of tokens that depends on the prompts only.

    Raises:
        ValueError: a layer is not given every token (an expert of a mixture).
    """
    import torch

    kept = {
        name: torch.empty(sum(map(len, prompts)), layer.out_features, device=model.device)
        for name, layer in layers.items()
    }
    real, place = torch.empty(0), 0

    def keep(name: str) -> Callable:
        def hook(module: Linear, args: tuple, output: Tensor) -> None:
            if output.shape[:-1].numel() != len(real):
                raise ValueError(f"{name} does not see every token; name others under geometry.modules")
            rows = output.flatten(0, -2)[real]
            kept[name][place : place + len(rows)] = rows
            if look:
                look(name, args[0].flatten(0, -2)[real], rows)

        return hook

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    # Prompts of like length together: less padding.
    ordered = sorted(prompts, key=len)
    try:
        for begin in range(0, len(ordered), batch_size):
            batch = ordered[begin : begin + batch_size]
            width = len(batch[-1])
            tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in batch], device=model.device)
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in batch], device=model.device)
            real = mask.flatten().bool()
            with torch.inference_mode():
                model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)
            place += sum(map(len, batch))
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def axis_measures(
    base: Any,
    tuned: Any,
    layers: dict[str, Linear],
    prompts: list[list[int]],
    frobenius: dict[str, float],
    settings: dict,
    progress: Progress,
    done: int,
) -> dict[str, dict[str, float]]:
    """Layer → the measures of `OF_ACTIVATIONS`, on the prompts of one axis.

    Args:
        layers: the base's, in whose names the tuned model's are found.
        prompts: token ids.
        frobenius: ‖ΔW‖_F of each layer.
        done: what `progress` counts from.
    """
    import torch

    after_layers = {name: tuned.get_submodule(name) for name in layers}
    sums = {name: torch.zeros(3, dtype=torch.float64, device=base.device) for name in layers}

    def add(name: str, inputs: Tensor, written: Tensor) -> None:
        layer = layers[name]
        products = written if layer.bias is None else written - layer.bias
        sums[name] += energies(inputs, products, after_layers[name].weight - layer.weight)

    before = outputs(base, layers, prompts, settings["batch_size"], add)
    after = outputs(tuned, after_layers, prompts, settings["batch_size"])
    tokens = sum(map(len, prompts))
    few = sorted(Random(settings["seed"]).sample(range(tokens), min(settings["gram_tokens"], tokens)))
    measured = {}
    for number, name in enumerate(layers):
        x0, x1 = before.pop(name), after.pop(name)
        aligned, raw = procrustes(x0, x1)
        measured[name] = {
            **conditioned_drift(sums[name], tokens, frobenius[name]),
            "procrustes": aligned,
            "procrustes_raw": raw,
            "gram": gram_distortion(x0[few], x1[few]),
            "cka": linear_cka(x0, x1),
            "cosine": angular_drift(x0, x1),
        }
        progress.update(done + number + 1)
    return measured
