"""Measure how far a tuned model moved from its base: its weights, and what they do to prompts of both axes.

Per linear layer inside the transformer blocks: the size and shape of the update of its weights, the drift that the
update causes on the base's activations (target and general prompts apart), and how the layer's outputs differ between
the two models on the same tokens. The measures are those of PEFT-Arena, as its code has them
(`docs/geometry_diagnostics.md`, `tools/csd_single_checkpoint.py`, `activation_geometry_single_checkpoint.py` and
`spectral_analysis.py` of its repository); where it leaves something open, the function says what was chosen.

Both models read the same prompts once per axis, those of the base's evaluation. Weights are float32 on every device:
in bfloat16 the rounding of a merged adapter is as large as a small update. Memory holds both models and, for the axis
at hand, the outputs of both at the compared layers: 8 bytes × tokens × the sum of the layers' output widths (and a few
copies of one layer's at a time, in float64). What changed outside linear layers (embeddings, norms) is in the outputs,
not in the measures of weights.

In: base, tuned checkpoint or adapter, samples.jsonl and results.json of the base's evaluation. Out: modules.csv (a row
per layer), geometry.json (their means). Equal runs write equal bytes.

Run as: python -m steps.geometry --settings '{"prompts": 300, "prompt_tokens": 1024, "tokens": 4096, …}'
    --base data/fable/base --checkpoint results/fable/foundation/sft
    --samples results/fable/evaluation/base/samples.jsonl --evaluation results/fable/evaluation/base/results.json
    --out results/fable/geometry/sft
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from steps import checkpoints
from steps.common import (
    Progress,
    fresh_folder,
    read_json,
    read_jsonl,
    run,
    step_parser,
    write_json,
    write_manifest,
    write_text,
)
from steps.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear, Module

AXES = ("target", "general")
OF_WEIGHTS = (
    "frobenius",
    "relative_frobenius",
    "spectral",
    "relative_spectral",
    "stable_rank",
    "retention",
    "adaptation",
)
OF_ACTIVATIONS = ("csd_abs", "csd_rel", "csd_un", "procrustes", "procrustes_raw", "gram", "cka", "cosine")
MEASURES = (*OF_WEIGHTS, *(f"{measure}_{axis}" for axis in AXES for measure in OF_ACTIVATIONS))
EPSILON = 1e-12  # PEFT-Arena's, added where it adds one


# --- the update of a weight matrix ---------------------------------------------------------------


def weight_measures(before: Tensor, after: Tensor, top: int) -> dict[str, float]:
    """Size and shape of ΔW = W₁ − W₀, and what it does to the main directions of W₀ = U S Vᵀ (PEFT-Arena, spectral).

    Args:
        before, after: W₀ and W₁, [out, in].
        top: directions looked at, from the largest singular value down; all where there are fewer.

    Returns:
        frobenius, relative_frobenius: ‖ΔW‖_F, and as a share of ‖W₀‖_F.
        spectral, relative_spectral: ‖ΔW‖₂, and as a share of ‖W₀‖₂.
        stable_rank: ‖ΔW‖_F² / ‖ΔW‖₂², 1 for rank one, at most the rank; NaN without an update.
        retention: mean over i of |u_iᵀ W₁ v_i − σ_i|, 0 where the main directions keep their strength.
        adaptation: mean over i of ‖ΔW v_i‖₂, 0 where the update lies outside the main directions.
        The means are ours: PEFT-Arena draws both over i.
    """
    import torch

    before, update = before.double(), after.double() - before.double()
    # LAPACK takes a third of the time for a matrix that is higher than it is wide.
    wide = before.shape[0] < before.shape[1]
    left, sigma, right = torch.linalg.svd(before.T if wide else before, full_matrices=False)
    u, v = (right.T, left) if wide else (left, right.T)
    largest = torch.linalg.svdvals(update.T if wide else update)[0].item()
    frobenius = update.norm().item()
    moved = update @ v[:, :top]
    return {
        "frobenius": frobenius,
        "relative_frobenius": frobenius / before.norm().item(),
        "spectral": largest,
        "relative_spectral": largest / sigma[0].item(),
        "stable_rank": frobenius**2 / largest**2 if largest else math.nan,
        # u_iᵀ W₁ v_i − σ_i = u_iᵀ ΔW v_i.
        "retention": (u[:, :top] * moved).sum(0).abs().mean().item(),
        "adaptation": moved.norm(dim=0).mean().item(),
    }


# --- capability-conditioned drift ----------------------------------------------------------------


def energies(inputs: Tensor, products: Tensor, update: Tensor) -> Tensor:
    """Sums over tokens that `conditioned_drift` is made of; those of parts add up to those of the whole.

    Args:
        inputs: h, [tokens, in], what the layer reads in the base.
        products: W₀ h, [tokens, out], without the bias.
        update: ΔW, [out, in].

    Returns:
        [3] float64: Σ‖ΔW h‖², Σ‖W₀ h‖², Σ‖h‖².
    """
    import torch

    return torch.stack([rows.double().square().sum() for rows in (inputs @ update.T, products, inputs)])


def conditioned_drift(sums: Tensor, tokens: int, frobenius: float) -> dict[str, float]:
    """Capability-conditioned drift of one layer (PEFT-Arena, csd): what the update does to inputs of one capability.

    Ratios of means, not means of ratios. With E over tokens and the reference's ε = 1e-12:

    Args:
        sums: [3], of `energies`.
        tokens: how many they were summed over.
        frobenius: ‖ΔW‖_F.

    Returns:
        csd_abs: E‖ΔW h‖².
        csd_rel: E‖ΔW h‖² / (E‖W₀ h‖² + ε).
        csd_un: E‖ΔW h‖² / ((‖ΔW‖_F² + ε)(E‖h‖² + ε)), between 0 and 1: how well the update points at these inputs,
            1/in for inputs without a direction. NaN without an update, for which ε would make it 0.
    """
    moved, output, entered = (sums / tokens).tolist()
    aligned = moved / ((frobenius**2 + EPSILON) * (entered + EPSILON))
    return {
        "csd_abs": moved,
        "csd_rel": moved / (output + EPSILON),
        "csd_un": aligned if frobenius else math.nan,
    }


# --- representations -----------------------------------------------------------------------------


def procrustes(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The drift of outputs when the best rotation is taken out, and the whole of it (PEFT-Arena, activations).

    With column means taken off: min over orthogonal R of ‖X₁ R − X₀‖_F / ‖X₀‖_F, and the same with R = I. The best R
    is U Vᵀ of the singular value decomposition of X₁ᵀ X₀ (Schönemann 1966), so that
    ‖X₁ R − X₀‖² = ‖X₀‖² + ‖X₁‖² − 2 Σσ_i: the singular values are enough. In float64 the difference is good to 1e-7.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.

    Returns:
        (aligned, raw), both ≥ 0 and aligned ≤ raw.
    """
    import torch

    before, after = centred(before), centred(after)
    size = before.norm().item()
    raw = (after - before).norm().item() / (size + EPSILON)
    overlap = torch.linalg.svdvals(thin(after).T @ thin(before)).sum().item()
    left = max(0.0, size**2 + after.norm().item() ** 2 - 2 * overlap)
    # R = I is one of the choices: the bound makes unchanged outputs an exact 0.
    return min(math.sqrt(left) / (size + EPSILON), raw), raw


def linear_cka(before: Tensor, after: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414, equation 5, examples as tokens).

    ‖X₀ᵀ X₁‖_F² / (‖X₀ᵀ X₀‖_F ‖X₁ᵀ X₁‖_F) with column means taken off: 1 for outputs that are equal but for a rotation
    and a factor, near 0 for unrelated ones when tokens are many more than columns.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.

    Returns:
        Between 0 and 1; NaN where all tokens have the same output.
    """
    before, after = thin(centred(before)), thin(centred(after))
    own = (before.T @ before).norm().item() * (after.T @ after).norm().item()
    return (before.T @ after).norm().item() ** 2 / own if own else math.nan


def gram_distortion(before: Tensor, after: Tensor) -> float:
    """How the angles between tokens changed (PEFT-Arena, activations): ‖K₁ − K₀‖_F / ‖K₀‖_F, 0 for a rotation.

    K = Z Zᵀ, where Z is X with every row scaled to length 1; column means stay.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.
    """
    import torch.nn.functional as F

    before, after = F.normalize(before.double()), F.normalize(after.double())
    kernel = before @ before.T
    return (after @ after.T - kernel).norm().item() / (kernel.norm().item() + EPSILON)


def angular_drift(before: Tensor, after: Tensor) -> float:
    """1 − the mean over tokens of the cosine between a token's output before and after: 0 to 2.

    As half of the squared distance of the rows scaled to length 1, which is the same and exact for small angles.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.
    """
    import torch.nn.functional as F

    before, after = F.normalize(before.double()), F.normalize(after.double())
    return (after - before).square().sum(1).mean().item() / 2


def centred(outputs: Tensor) -> Tensor:
    outputs = outputs.double()
    return outputs - outputs.mean(0)


def thin(outputs: Tensor) -> Tensor:
    """The same rows in as many columns as there are tokens, where there are more: turned, which no measure feels.

    Singular values of X₁ᵀ X₀ and norms stay, and the matrices are as small as the token cap allows.
    """
    import torch

    tokens, width = outputs.shape
    return torch.linalg.qr(outputs.T, mode="r").R.T if width > tokens else outputs


# --- what is compared ----------------------------------------------------------------------------


def layer_number(name: str) -> int | None:
    """The first number in a module's name, which is its block's: 2 of model.layers.2.mlp.up_proj."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def linear_layers(model: Module, endings: list[str] | None) -> dict[str, Linear]:
    """The linear layers inside a model's numbered blocks, by name; those whose name ends with an entry, if given.

    Raises:
        ValueError: an entry matches none.
    """
    from torch.nn import Linear

    found = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    found = {name: module for name, module in found.items() if layer_number(name) is not None}
    if endings is None:
        return found
    for ending in endings:
        if not any(ends_with(name, ending) for name in found):
            kinds = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in found))
            raise ValueError(f"geometry.modules: no linear layer's name ends with {ending}; the model has {kinds}")
    return {name: module for name, module in found.items() if any(ends_with(name, ending) for ending in endings)}


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
    prompts: dict[str, list[str]] = {axis: [] for axis in AXES}
    for sample in read_jsonl(samples):
        axis = tasks[sample["task"]]["axis"]
        if sample["kind"] == "greedy" and axis in prompts:
            prompts[axis].append(sample["prompt"])
    for axis, found in prompts.items():
        if not found:
            raise ValueError(f"{samples} has no greedy answer to a task of evaluate.{axis}; name a task there")
        prompts[axis] = Random(f"{seed} {axis}").sample(found, min(limit, len(found)))
    return prompts


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


# --- one pass ------------------------------------------------------------------------------------


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

    found = {
        name: torch.empty(sum(map(len, prompts)), layer.out_features, device=model.device)
        for name, layer in layers.items()
    }
    real, place = torch.empty(0), 0

    def keep(name: str) -> Callable:
        def hook(module: Linear, args: tuple, output: Tensor) -> None:
            if output.shape[:-1].numel() != len(real):
                raise ValueError(f"{name} does not see every token; name others under geometry.modules")
            rows = output.flatten(0, -2)[real]
            found[name][place : place + len(rows)] = rows
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
    return found


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

    def add(name: str, inputs: Tensor, found: Tensor) -> None:
        layer = layers[name]
        products = found if layer.bias is None else found - layer.bias
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


# --- files ---------------------------------------------------------------------------------------


def modules_csv(rows: list[dict]) -> str:
    """A row per module; numbers to 9 digits, an undefined one empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["module", "layer", "kind", *MEASURES], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {m: "" if math.isnan(row[m]) else f"{row[m]:.9g}" for m in MEASURES}
        writer.writerow(row | values)
    return text.getvalue()


def summary(rows: list[dict]) -> dict[str, float | None]:
    """Mean of every measure over the modules for which it is defined; None where it is for none."""
    means: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if not math.isnan(row[measure])]
        means[measure] = float(f"{math.fsum(values) / len(values):.9g}") if values else None
    return means


def main(args: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    started = time.time()
    settings = args.settings
    inputs = [*checkpoints.check(args.base), *checkpoints.check(args.checkpoint), args.samples, args.evaluation]
    texts = choose_prompts(args.samples, args.evaluation, settings["prompts"], settings["seed"])
    tokenizer = checkpoints.load_tokenizer(args.base)
    if tokenizer.get_vocab() != checkpoints.load_tokenizer(args.checkpoint).get_vocab():
        raise ValueError(f"{args.checkpoint / 'tokenizer.json'} has another vocabulary than that of {args.base}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, tuned = (
        checkpoints.load_model(folder, torch.float32).to(device).eval().requires_grad_(False)
        for folder in (args.base, args.checkpoint)
    )
    check_pair(base, tuned, (args.base, args.checkpoint))
    layers = linear_layers(base, settings["modules"])
    # As the evaluation coded them.
    engine = Engine(base, tokenizer, settings["batch_size"])
    longest = min(settings["prompt_tokens"], engine.max_length)
    prompts = {axis: cut(engine.encode(found), longest, settings["tokens"]) for axis, found in texts.items()}

    progress = Progress("geometry", len(layers) * (1 + len(AXES)), "measurements")
    measured: dict[str, dict] = {}
    for name, layer in layers.items():
        measured[name] = weight_measures(layer.weight, tuned.get_submodule(name).weight, settings["top"])
        progress.update(len(measured))
    frobenius = {name: found["frobenius"] for name, found in measured.items()}
    for number, axis in enumerate(AXES, start=1):
        found = axis_measures(base, tuned, layers, prompts[axis], frobenius, settings, progress, number * len(layers))
        for name, values in found.items():
            measured[name] |= {f"{measure}_{axis}": value for measure, value in values.items()}
    rows = [
        {"module": name, "layer": layer_number(name), "kind": name.rsplit(".", 1)[-1], **found}
        for name, found in measured.items()
    ]

    out = fresh_folder(args.out)
    write_text(out / "modules.csv", modules_csv(rows))
    read = {axis: len(found) for axis, found in prompts.items()}
    tokens = {axis: sum(map(len, found)) for axis, found in prompts.items()}
    moved = sum(value > 0 for value in frobenius.values())
    write_json(
        out / "geometry.json",
        {
            "base": str(args.base),
            "checkpoint": str(args.checkpoint),
            "prompts": read,
            "tokens": tokens,
            "moved": moved,
            "summary": summary(rows),
        },
    )
    write_manifest(
        out,
        step="geometry",
        settings=settings,
        inputs=inputs,
        counts={"modules": len(rows), "moved": moved, "prompts": read, "tokens": tokens},
        seed=settings["seed"],
        started=started,
        tokens=2 * sum(tokens.values()),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the model that was tuned")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the tuned model or adapter")
    parser.add_argument("--samples", type=Path, required=True, help="samples.jsonl of the base's evaluation")
    parser.add_argument("--evaluation", type=Path, required=True, help="results.json of the base's evaluation")
    run(main, parser)
