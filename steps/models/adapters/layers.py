"""What of a model an adapter can change, found on the model at hand: its linear layers and its experts."""

import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any

from steps.models.adapters.targets import OF_EXPERTS, Shapes, inside

# Linear layers of GPT-2 and its kin, whose weights are (in, out).
TRANSPOSED = "Conv1D"
# How families count a mixture's experts.
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# What only state-space mixers and their kin have, and how their code hands a layer's weight to a kernel itself.
STATE = "A_log"
HANDED_ON = re.compile(r"\bself\.(\w+)\.weight\b(?!\.)")


def is_transposed(module: Any) -> bool:
    return type(module).__name__ == TRANSPOSED


def linear_layers(model: Any) -> dict[str, Any]:
    """Every linear layer but the output layer, by name."""
    import torch

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or is_transposed(module)) and module is not head
    }


def shapes_of(model: Any) -> Shapes:
    """(out, in) of those layers."""
    shapes = {}
    for name, module in linear_layers(model).items():
        rows, columns = module.weight.shape
        shapes[name] = (columns, rows) if is_transposed(module) else (rows, columns)
    return shapes


def expert_parameters(model: Any) -> dict[str, Any]:
    """A mixture's experts that are stored as one parameter of three dimensions each, by name: those that are called
    experts, and others with a first side for each expert (JetMoe's are input_linear and output_linear)."""
    told = model.config.get_text_config().to_dict()
    counts = {told[key] for key in EXPERT_COUNTS if isinstance(told.get(key), int)} - {0}

    def routed(name: str, parameter: Any) -> bool:
        if parameter.dim() != 3:
            return False
        if OF_EXPERTS.search(name):
            return True
        # A convolution over time has three dimensions too.
        owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
        return parameter.shape[0] in counts and 1 not in parameter.shape[1:] and not owner.startswith("Conv")

    return {name: parameter for name, parameter in model.named_parameters() if routed(name, parameter)}


def name_of(model: Any, wanted: Any) -> str | None:
    """What a model calls one of its modules."""
    return next((name for name, module in model.named_modules() if module is wanted), None)


def is_tied(model: Any) -> bool:
    """Whether the output layer has the weights of the embeddings."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embeddings.weight


def beyond_peft(model: Any, names: list[str]) -> set[str]:
    """Of the layers those that PEFT's LoRA takes for others by their names.

    For mixtures it reads gate_proj, up_proj, down_proj and gate as the experts' and the router's, as transformers 4
    called them, and so those of shared experts and of dense blocks (PEFT 0.21: `_convert_peft_config_moe`).
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    lost = set()
    for last in {name.rpartition(".")[2] for name in names}:
        probe = LoraConfig(target_modules=[last])
        try:
            convert_peft_config_for_transformers(probe, model, None)
            kept = last in (probe.target_modules or ())
        except ValueError:  # one of two that it fuses
            kept = False
        if not kept:
            lost.add(last)
    return {name for name in names if name.rpartition(".")[2] in lost}


def passed_by(model: Any, names: Iterable[str]) -> set[str]:
    """Of the layers those whose weight a state-space mixer hands to its kernels without calling the layer, which is
    where an adapter adds its change: `out_proj` of Mamba 2 and its kin on a GPU, `dt_proj` of Mamba everywhere.

    PEFT refuses some of these layers in a list of families, and lets a change of the others be without effect.
    """
    found = set()
    for name in names:
        parent, _, last = name.rpartition(".")
        mixer = model.get_submodule(parent)
        if hasattr(mixer, STATE) and last in _handed_on(type(mixer)):
            found.add(name)
    return found


@functools.cache
def _handed_on(mixer: type) -> frozenset[str]:
    return frozenset(HANDED_ON.findall(inspect.getsource(mixer)))


def freeze(model: Any, entries: list[str], where: str = "adapter.freeze") -> None:
    """Leave what some modules have untrained.

    Raises:
        ValueError: an entry means no module, or nothing is left to train.
    """
    for entry in entries:
        found = [parameter for name, parameter in model.named_parameters() if inside(name, entry)]
        if not found:
            last = sorted({re.sub(r"\d+", "*", name.rpartition(".")[0]) for name, _ in model.named_parameters()})
            raise ValueError(f"{where}: {entry} is no module of the model, which has {', '.join(last)}")
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{where}: leaves nothing to train; take an entry out")
