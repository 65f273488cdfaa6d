"""Adapters: what is trained when not every weight is, through PEFT; how it is attached, resumed, saved and counted.

A kind is one way to change a frozen weight W of shape (out, in). s is a scale, the rest is trained:

full     every weight itself
lora     W + s B A, s = alpha / r (arXiv:2106.09685)
rslora   as lora, s = alpha / sqrt(r) (arXiv:2312.03732)
dora     as lora, each row then scaled to a trained length (arXiv:2402.09353)
pissa    as lora; s B A starts as the r largest singular triplets of W, whose rest is frozen (arXiv:2404.02948)
milora   as pissa with the r smallest (arXiv:2406.09044)
qlora    as lora, W in 4 bits while it trains (arXiv:2305.14314)
adalora  W + s B E A, s = alpha / init_r; the least important entries of the diagonal E go (arXiv:2303.10512)
vera     W + diag(b) B diag(d) A; A and B are random, frozen and shared by all layers (arXiv:2310.11454)
oft      W R', R a block-diagonal rotation (arXiv:2306.07280)
boft     diag(s) W R', R a product of such rotations with the inputs permuted between (arXiv:2311.06243)
ia3      the outputs of keys and values and the inputs of the MLP's last layer scaled (arXiv:2205.05638)

Weight decay pulls what is trained to 0: that is back to the base for all but the scales of ia3 and boft, which are 1
there, and for pissa and milora, whose part of W it takes away. Dropout in pissa drops the largest part of W: 0.15 of it
raises the loss of fable's base from 0.44 to 0.80 before anything is trained.

qlora saves memory, not time: the frozen layers take 7.75 times less, and are unpacked again at each use. Before that,
the whole model is in memory once, unquantised. The 4 bits are there in training only: what is saved is a LoRA of the
unquantised base, and merging adds it to the unquantised weights, so that the merged model is not quite the one that
was trained.

A step of fable's base takes this many times that of full (`python -m benches.adapters`, one core): ia3 0.83,
pissa 1.07, oft 1.08, lora and rslora 1.09, milora 1.10, adalora 1.16, qlora 1.21, dora 1.52,
boft of two factors 1.73, vera of rank 256 1.86. At this size the gradient of frozen weights is not
what a step is spent on.
"""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from steps.common import Progress, read_json, write_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
LOW_RANK = ("lora", "rslora", "dora", "pissa", "milora", "qlora", "adalora")
# What the paper scales: keys, values, and the MLP between its two layers. PEFT scales the queries of Qwen and Llama 4
# in place of the keys, and those of Llama 3 as the paper does; here it is the same for all.
IA3_MODULES = ["k_proj", "v_proj", "down_proj"]
IA3_FEEDFORWARD = ["down_proj"]
NAME = "default"  # of the one adapter of a PEFT model
PREFIX = "base_model.model."  # of its tensors' names


# --- what a setting would do ---------------------------------------------------------------------


def matches(module: str, entry: str) -> bool:
    """Whether an entry of target_modules means a module: its name, or the end of it from a point on."""
    return module == entry or module.endswith(f".{entry}")


def targeted(adapter: dict, shapes: dict[str, tuple[int, int]], where: str) -> dict[str, tuple[int, int]]:
    """The shapes of the linear layers that an adapter changes.

    Raises:
        ValueError: an entry of target_modules or feedforward_modules means no linear layer. PEFT skips such an entry.
    """
    entries = adapter.get("target_modules", IA3_MODULES if adapter["kind"] == "ia3" else ALL_LINEAR)
    chosen = shapes
    if entries != ALL_LINEAR:
        for entry in entries:
            if not any(matches(module, entry) for module in shapes):
                raise ValueError(
                    f"{where}.target_modules: {entry} is no linear layer of the model's blocks, which are"
                    f" {', '.join(sorted({name.rpartition('.')[2] for name in shapes}))}"
                )
        chosen = {module: shape for module, shape in shapes.items() if any(matches(module, e) for e in entries)}
    for entry in adapter.get("feedforward_modules", ()):
        if not any(matches(module, entry) for module in chosen):
            raise ValueError(f"{where}.feedforward_modules: {entry} is not among target_modules; add it there")
    return chosen


def check(adapter: dict, shapes: dict[str, tuple[int, int]], where: str = "adapter") -> None:
    """Refuse what PEFT would ignore, change, or take and then fail at.

    Args:
        adapter: settings that the schema has accepted.
        shapes: (out, in) of every linear layer of the base, by module (`checkpoints.linear_shapes`).
        where: what the message calls the settings.

    Raises:
        ValueError: naming the setting, the layer that it does not fit, and the fix.
    """
    kind = adapter["kind"]
    if kind == "full":
        return
    modules = targeted(adapter, shapes, where)
    narrowest = min(modules, key=lambda module: min(modules[module]))
    dropout = adapter.get("dropout", 0.0)
    if kind in LOW_RANK:
        key = "init_r" if kind == "adalora" else "r"
        if adapter[key] > min(modules[narrowest]):
            raise ValueError(
                f"{where}.{key}: {adapter[key]} is above {min(modules[narrowest])}, the rank of {narrowest}; lower it"
            )
    if kind == "adalora" and adapter["target_r"] >= adapter["init_r"]:
        raise ValueError(
            f"{where}.target_r: {adapter['target_r']} is not below init_r {adapter['init_r']}, from which it is pruned"
        )
    if kind == "adalora" and adapter["tinit"] + adapter["tfinal"] >= 1:
        raise ValueError(
            f"{where}.tinit: {adapter['tinit']} + tfinal {adapter['tfinal']} leave no share of the steps to prune in;"
            " lower one"
        )
    if kind == "vera" and adapter.get("d_initial") == 0:
        raise ValueError(f"{where}.d_initial: at 0 no gradient reaches the adapter; PEFT's default is 0.1")
    if kind == "oft" and dropout:
        raise ValueError(f"{where}.dropout: PEFT's oft layers ignore it; remove it")
    if kind in ("oft", "boft"):
        size = adapter["block_size"]
        factors = adapter.get("factors", 1)
        for module, (_, width) in modules.items():
            if width % size:
                raise ValueError(f"{where}.block_size: {size} does not divide {width}, the input width of {module}")
            if factors > 1 and (size % 2 or width % (size * 2 ** (factors - 1))):
                raise ValueError(
                    f"{where}.factors: {factors} with block_size {size} do not fit {width}, the input width of"
                    f" {module}; block_size must be even, and {2 ** (factors - 1)} times it divide the width"
                )
            if 0 < dropout * (width // size) < 1:
                raise ValueError(
                    f"{where}.dropout: {dropout} of the {width // size} blocks of {module} is less than one block, and"
                    " nothing would be dropped; raise it or remove it"
                )


# --- attach --------------------------------------------------------------------------------------


def attach(model: Any, adapter: dict, seed: int, steps: int) -> Any:
    """The model as it will be trained: itself (`full`), or wrapped by PEFT with its weights frozen.

    Equal arguments give equal weights, so that a run that resumes finds the start of an undisturbed one.

    Args:
        model: a causal language model in the precision it trains in; its weights are changed for pissa, milora, qlora.
        seed: draws what is random in the adapter.
        steps: optimizer steps planned; adalora's shares are of them.

    Raises:
        ValueError: a setting that has no effect on this model or with so few steps.
    """
    if adapter["kind"] == "full":
        return model
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import get_peft_model_state_dict
    from transformers import set_seed

    head = model.get_output_embeddings()
    linear = {name: tuple(module.weight.shape) for name, module in linear_layers(model) if module is not head}
    check(adapter, linear)
    config = peft_config(adapter, seed, steps)
    enable_butterfly()
    if adapter["kind"] == "qlora":
        quantise(model)
    set_seed(seed)
    wrapped = get_peft_model(model, config)
    if adapter["kind"] == "qlora":
        # It makes TRL round the adapter to bfloat16.
        del model.is_loaded_in_4bit
    if adapter["kind"] in ("pissa", "milora"):
        take_triplets(wrapped, smallest=adapter["kind"] == "milora")
        state = get_peft_model_state_dict(wrapped)
        wrapped.initial_adapter = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    if adapter["kind"] == "adalora":
        # PEFT adds the penalty to every loss: to that of evaluation, and to that of each part of an accumulated batch
        # in full. `penalised` adds it where it belongs.
        wrapped.base_model.forward = partial(BaseTuner.forward, wrapped.base_model)
    return wrapped


def linear_layers(model: Any) -> list[tuple[str, Any]]:
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def peft_config(adapter: dict, seed: int, steps: int) -> Any:
    """PEFT's configuration of an adapter; everything that is not a setting is PEFT's default, except where noted."""
    import peft

    kind, dropout = adapter["kind"], adapter.get("dropout", 0.0)
    shared = {"task_type": "CAUSAL_LM", "target_modules": adapter.get("target_modules", ALL_LINEAR)}
    if kind == "adalora":
        tinit, tfinal = round(adapter["tinit"] * steps), round(adapter["tfinal"] * steps)
        pruning = range(tinit + 1, steps - tfinal)
        if steps and not any(step % adapter["every"] == 0 for step in pruning):
            raise ValueError(
                f"adapter.every: no multiple of {adapter['every']} lies between tinit and tfinal of this run, steps"
                f" {tinit} and {steps - tfinal} of {steps}; lower it"
            )
        return peft.AdaLoraConfig(
            init_r=adapter["init_r"],
            target_r=adapter["target_r"],
            lora_alpha=adapter["alpha"],
            lora_dropout=dropout,
            tinit=tinit,
            tfinal=tfinal,
            deltaT=adapter["every"],
            orth_reg_weight=adapter["orthogonality"],
            total_step=max(steps, 1),
            **shared,
        )
    if kind == "vera":
        # The projections are the random part of this adapter: another seed draws others.
        return peft.VeraConfig(
            r=adapter["r"],
            d_initial=adapter.get("d_initial", 0.1),
            vera_dropout=dropout,
            projection_prng_key=seed,
            **shared,
        )
    if kind == "oft":
        # PEFT's default approximates the inverse by a series, whose result is not orthogonal.
        return peft.OFTConfig(oft_block_size=adapter["block_size"], use_cayley_neumann=False, **shared)
    if kind == "boft":
        return peft.BOFTConfig(
            boft_block_size=adapter["block_size"],
            boft_n_butterfly_factor=adapter["factors"],
            boft_dropout=dropout,
            **shared,
        )
    if kind == "ia3":
        modules = adapter.get("target_modules", IA3_MODULES)
        feedforward = adapter.get("feedforward_modules", IA3_FEEDFORWARD)
        return peft.IA3Config(**shared | {"target_modules": modules, "feedforward_modules": feedforward})
    return peft.LoraConfig(
        r=adapter["r"],
        lora_alpha=adapter["alpha"],
        lora_dropout=dropout,
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        **shared,
    )


def take_triplets(model: Any, smallest: bool) -> None:
    """Move the r largest or smallest singular triplets of each weight from the weight to its LoRA.

    W = U S V' becomes (W - s B A) + s B A with s B A = U_r S_r V_r', split evenly: A = sqrt(S_r / s) V_r' and
    B = U_r sqrt(S_r / s) (PiSSA eq. 2-4, MiLoRA section 3.2). PEFT has the first of the two only.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    # Each of several processes has a GPU of its own.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    progress = Progress("singular values", len(layers), "layer")
    for done, layer in enumerate(layers, start=1):
        weight, r, scale = layer.get_base_layer().weight, layer.r[NAME], layer.scaling[NAME]
        left, values, right = torch.linalg.svd(weight.data.float().to(device), full_matrices=False)
        chosen = slice(len(values) - r, None) if smallest else slice(r)
        root = (values[chosen] / scale).sqrt()
        a, b = root[:, None] * right[chosen], left[:, chosen] * root
        layer.lora_A[NAME].weight.data = a.to(weight).contiguous()
        layer.lora_B[NAME].weight.data = b.to(weight).contiguous()
        weight.data -= (scale * b @ a).to(weight)
        progress.update(done)


def quantise(model: Any) -> None:
    """Replace the linear layers of the blocks by 4-bit ones: NF4 in blocks of 64, their scales quantised again."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    layers = [(name, layer) for name, layer in linear_layers(model) if layer is not head]
    progress = Progress("4 bits", len(layers), "layer")
    for done, (name, layer) in enumerate(layers, start=1):
        packed = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        packed.weight = Params4bit(layer.weight.data, quant_type="nf4", compress_statistics=True, module=packed)
        packed.bias = layer.bias
        # On CPUs that multiply in bfloat16 it packs the weights anew at the first evaluation, and from then on lets no
        # gradient through in training either.
        packed.support_avx512bf16_for_cpu = False
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, packed.to(layer.weight.device))
        progress.update(done)
    model.is_loaded_in_4bit = True


class BlockDiagonal:
    """What PEFT's CUDA extension for boft computes, in PyTorch: blocks of shape (N, D, H, H) on N diagonals.

    Without that extension, which it tries to compile on the spot for each layer, PEFT takes one factor instead of the
    number asked for. An adapter with more loads where the extension compiles, and where `enable_butterfly`
    was called.
    """

    @staticmethod
    def forward(blocks: Any) -> list[Any]:
        """[(N, D H, D H)]"""
        import torch

        factors, count, size, _ = blocks.shape
        diagonal = torch.arange(count)
        dense = blocks.new_zeros(factors, count, size, count, size)
        dense[:, diagonal, :, diagonal, :] = blocks.transpose(0, 1)
        return [dense.view(factors, count * size, count * size)]

    @staticmethod
    def backward(gradient: Any, blocks: Any) -> list[Any]:
        """[(N, D, H, H)]"""
        import torch

        factors, count, size, _ = blocks.shape
        diagonal = torch.arange(count)
        dense = gradient.reshape(factors, count, size, count, size)
        return [dense[:, diagonal, :, diagonal, :].transpose(0, 1).contiguous()]


def enable_butterfly() -> None:
    """Let PEFT's boft have more than one factor on every machine."""
    import peft.tuners.boft.layer

    peft.tuners.boft.layer._FBD_CUDA = BlockDiagonal


# --- under way -----------------------------------------------------------------------------------


def adalora(model: Any) -> Any:
    """PEFT's AdaLoraModel inside a model that is trained with adalora, else None."""
    config = getattr(model, "peft_config", {}).get(NAME)
    return model.base_model if config is not None and config.peft_type == "ADALORA" else None


def penalised(loss: Any, model: Any, accumulation: int) -> Any:
    """The loss with the gradient of adalora's penalty and its own value; without adalora, the loss.

    The penalty keeps A and B near orthogonal: orthogonality times the mean of ||A A' - I||_F and ||B' B - I||_F over
    all of them (AdaLoRA eq. 4, where PEFT takes the mean of norms for the sum of squares). Only its gradient is added,
    so that the log compares with that of other adapters.

    Args:
        accumulation: how many such losses share a step.
    """
    import torch

    tuner = adalora(model)
    weight = tuner.peft_config[NAME].orth_reg_weight if tuner else 0
    if not weight:
        return loss
    norms = []
    for name, parameter in tuner.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            square = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            norms.append(torch.linalg.matrix_norm(square - torch.eye(len(square), device=square.device)))
    penalty = weight * torch.stack(norms).mean() / accumulation
    return loss + penalty - penalty.detach()


def after_step(model: Any, step: int) -> None:
    """What an adapter does after an optimizer step, counted from 1, while the gradients are there: adalora prunes."""
    if tuner := adalora(model):
        tuner.update_and_allocate(step)


def state(model: Any) -> tuple[dict[str, Any], dict]:
    """Tensors, and the rest as JSON, that an adapter needs to resume besides its trained weights."""
    tuner = adalora(model)
    if not tuner:
        return {}, {}
    allocator = tuner.rankallocator
    tensors = {f"ipt.{name}": tensor for name, tensor in allocator.exp_avg_ipt.items()}
    tensors |= {f"unc.{name}": tensor for name, tensor in allocator.exp_avg_unc.items()}
    return tensors, {"rank_pattern": tuner.peft_config[NAME].rank_pattern}


def restore(model: Any, tensors: dict[str, Any], rest: dict) -> None:
    """Bring back what `state` gave."""
    if tuner := adalora(model):
        allocator = tuner.rankallocator
        for name, parameter in tuner.model.named_parameters():
            if f"ipt.{name}" in tensors:
                allocator.exp_avg_ipt[name] = tensors[f"ipt.{name}"].to(parameter.device)
                allocator.exp_avg_unc[name] = tensors[f"unc.{name}"].to(parameter.device)
                allocator.ipt[name] = allocator.exp_avg_ipt[name]  # that it is there says that the averages are
        tuner.peft_config[NAME].rank_pattern = rest["rank_pattern"]


def trained(model: Any) -> dict[str, int]:
    """How many weights are trained, and how many there are, frozen ones included, before any conversion."""
    if hasattr(model, "peft_config"):
        of_adapter, total = model.get_nb_trainable_parameters()
        return {"trained": of_adapter, "total": total}
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"trained": sum(size for size, is_trained in sizes if is_trained), "total": sum(size for size, _ in sizes)}


# --- save and read -------------------------------------------------------------------------------


def save(model: Any, out: Path, parent: Path) -> None:
    """Write a trained adapter so that it loads on its untouched parent.

    What pissa and milora took from the parent's weights is put back: with the start A0, B0 and the end A, B the change
    is s (B A - B0 A0), a plain LoRA of rank 2 r on the whole weight: B' = [B, -B0] and A' = [A; A0].
    """
    config = model.peft_config[NAME]
    config.base_model_name_or_path = str(parent)
    model.save_pretrained(out)
    settings = read_json(out / CONFIG)
    if initial := getattr(model, "initial_adapter", None):
        import torch
        from safetensors.torch import load_file, save_file

        tensors = load_file(out / WEIGHTS)
        for name, start in initial.items():
            down = "lora_A" in name
            tensors[name] = torch.cat([tensors[name], start if down else -start], dim=0 if down else 1).contiguous()
        save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
        settings |= {"r": 2 * config.r, "lora_alpha": 2 * config.lora_alpha}
    # PEFT keeps the module names as a set, whose order changes from process to process.
    write_json(out / CONFIG, {key: sorted(v) if isinstance(v, list) else v for key, v in settings.items()})


def oft_generators(folder: Path) -> dict[str, Any]:
    """The skew-symmetric generators Q of an oft adapter: {module: tensor (blocks, size, size)}.

    Raises:
        ValueError: the folder is not an oft adapter whose rotations are the exact Cayley transforms of such blocks.
    """
    import torch
    from safetensors.torch import load_file

    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if config.get("peft_type") != "OFT":
        raise ValueError(f"{folder} is no oft adapter; its path of rotations needs one")
    if config["use_cayley_neumann"] or config["block_share"] or config["coft"]:
        raise ValueError(f"{folder / CONFIG}: use_cayley_neumann, block_share and coft must be false; train it here")
    generators = {}
    for name, upper in load_file(folder / WEIGHTS).items():
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
