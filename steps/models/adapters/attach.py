"""A model and its adapter, before training; and how many weights of it are trained."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from steps.core import processes
from steps.models.adapters import layers
from steps.models.adapters.butterfly import enable_butterfly
from steps.models.adapters.experts import check_frozen, check_reached
from steps.models.adapters.frozen import quantise, take_triplets
from steps.models.adapters.kinds import KINDS, check, peft_config
from steps.models.adapters.targets import (
    ROUTERS,
    TOWERS,
    entries,
    left_out,
    matches,
    targeted,
    targeted_embeddings,
    wanted,
)
from steps.models.adapters.tokens import grow
from steps.settings.adapters import ADAPTERS, ALL_LINEAR


def attach(model: Any, adapter: dict, seed: int, steps: int, new_ids: Sequence[int] = ()) -> Any:
    """The model as it will be trained: itself (`full`), or wrapped by PEFT with its weights frozen.

    Equal arguments give equal weights, so that a run that resumes finds the start of an undisturbed one.

    Args:
        model: a causal language model or a reward model, in the precision it trains in; its weights are changed for
            pissa, milora, qlora.
        seed: draws what is random in the adapter.
        steps: optimizer steps planned; adalora's shares are of them.
        new_ids: of the tokens that `tokens.add` gave the tokenizer.

    Raises:
        ValueError: a setting that has no effect on this model or with so few steps.
    """
    grow(model, new_ids)
    if adapter["kind"] == "full":
        layers.freeze(model, adapter.get("freeze", []))
        if len(new_ids) and not model.get_input_embeddings().weight.requires_grad:
            raise ValueError("adapter.freeze: freezes the embeddings, and new_tokens are rows of them; leave one out")
        return model
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import get_peft_model_state_dict
    from transformers import set_seed

    kind = KINDS[adapter["kind"]]
    targets = find_targets(model, adapter) | saved_beside(model, adapter, new_ids)
    config = peft_config(adapter, seed, steps, targets)
    if not hasattr(model, "prepare_inputs_for_generation"):
        # A reward model, which generates nothing.
        config.task_type = None
    enable_butterfly()
    if kind.four_bit:
        quantise(model)
    set_seed(seed)
    wrapped = get_peft_model(model, config)
    if kind.four_bit:
        # It makes TRL round the adapter to bfloat16.
        del model.is_loaded_in_4bit
    check_attached(wrapped, targets)
    if kind.triplets:
        take_triplets(wrapped, smallest=kind.triplets == "smallest")
        state = {name: tensor for name, tensor in get_peft_model_state_dict(wrapped).items() if ".lora_" in name}
        wrapped.initial_adapter = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    if config.peft_type == "ADALORA":
        # PEFT adds the penalty to every loss: to that of evaluation, and to that of each part of an accumulated batch
        # in full. `hooks.penalised` adds it where it belongs.
        wrapped.base_model.forward = partial(BaseTuner.forward, wrapped.base_model)
    return wrapped


def find_targets(model: Any, adapter: dict, where: str = "adapter") -> dict[str, list[str]]:
    """PEFT's target_modules and target_parameters by full name, as the settings mean them on the model at hand.

    What of all-linear is left out is said in a line.

    Raises:
        ValueError: the settings do not fit the model, or leave its experts out without saying so.
    """
    shapes, experts = layers.shapes_of(model), chosen_experts(model, adapter, where)
    past = sorted(name for name in layers.passed_by(model, shapes) if not left_out(adapter, name))
    if named := [name for name in past for entry in wanted(adapter) if entry != ALL_LINEAR and matches(name, entry)]:
        raise ValueError(
            f"{where}.target_modules: {named[0]} is handed to the kernels of {model.config.model_type} without an"
            " adapter's change of it; take it out"
        )
    shapes = {name: shape for name, shape in shapes.items() if name not in past}
    routed = bool(layers.expert_parameters(model))
    check(adapter, shapes, where, experts, routed)
    names = [*targeted(adapter, shapes, where, experts, routed)]
    notes = {
        "routers": [name for name in shapes if ROUTERS.search(name) and name not in names and routed],
        "towers of other senses": [name for name in shapes if TOWERS.search(name) and name not in names],
        "layers whose weights are handed to kernels without an adapter's change": past,
    }
    if ADAPTERS[adapter["kind"]].tied:  # a LoRA to PEFT
        beyond = layers.beyond_peft(model, names)
        notes["layers that PEFT takes for experts by their names"] = sorted(beyond)
        names = [name for name in names if name not in beyond]
    transposed = [name for name in names if layers.is_transposed(model.get_submodule(name))]
    if transposed and not KINDS[adapter["kind"]].transposed:
        raise ValueError(
            f"{where}.kind: {adapter['kind']} cannot change {transposed[0]}, whose weight is transposed (Conv1D); write"
            " kind: lora"
        )
    if entries(adapter) == ALL_LINEAR and processes.first():
        for what, left in notes.items():
            if left:
                print(f"{where}: {len(left)} {what} stay as they are (such as {left[0]})", flush=True)
    if not names and not experts and not targeted_embeddings(adapter):
        raise ValueError(f"{where}: no linear layer is left to change; see target_modules and exclude_modules")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for entry in targeted_embeddings(adapter):
        found = [layers.name_of(model, part) for part in ends]
        meant = [name for name in found if name and matches(name, entry)]
        if not meant:
            raise ValueError(f"{where}.target_modules: {entry} is none of {', '.join(filter(None, found))}; correct it")
        if layers.is_tied(model):
            raise ValueError(
                f"{where}.target_modules: {entry} is tied to the output layer, whose change PEFT would merge twice;"
                " name it in modules_to_save"
            )
        names += meant
    return {"target_modules": sorted(names)} | ({"target_parameters": sorted(experts)} if experts else {})


def chosen_experts(model: Any, adapter: dict, where: str) -> list[str]:
    """The experts' parameters that an adapter changes.

    Raises:
        ValueError: its kind does not reach them, and it does not say `experts: frozen`.
    """
    every = layers.expert_parameters(model)
    if adapter.get("experts") == "frozen":
        check_frozen(bool(every), where)
        return []
    meant = [name for name in every if any(entry == ALL_LINEAR or matches(name, entry) for entry in wanted(adapter))]
    meant = [name for name in meant if not left_out(adapter, name)]
    total = sum(parameter.numel() for parameter in model.parameters())
    check_reached(adapter, sum(every[name].numel() for name in meant) / total, where)
    return meant


def saved_beside(model: Any, adapter: dict, new_ids: Sequence[int], where: str = "adapter") -> dict[str, Any]:
    """PEFT's keys for what is trained besides: whole modules, rows of new tokens.

    Raises:
        ValueError: an entry means no module, or one whose tie PEFT would cut.
    """
    keys: dict[str, Any] = {}
    embeddings = {
        name
        for part in (model.get_input_embeddings(), model.get_output_embeddings())
        if (name := layers.name_of(model, part))
    }
    whole = []
    for entry in adapter.get("modules_to_save", ()):
        found = [name for name, _ in model.named_modules() if matches(name, entry)]
        if not found:
            raise ValueError(f"{where}.modules_to_save: {entry} is no module of the model; correct or remove it")
        whole += found
    if whole:
        keys["modules_to_save"] = sorted(set(whole))
        if layers.is_tied(model) and embeddings & {*whole}:
            if not ADAPTERS[adapter["kind"]].tied:
                raise ValueError(
                    f"{where}.modules_to_save: {min(embeddings & {*whole})} is tied, which PEFT keeps beside"
                    f" lora and its kin and not beside {adapter['kind']}; remove it, or write kind: lora"
                )
            keys["ensure_weight_tying"] = True
    if new_ids:
        if embeddings & {*whole}:
            raise ValueError(f"{where}.new_tokens: modules_to_save trains all rows already; take the embeddings out")
        rows = embeddings if not layers.is_tied(model) else {layers.name_of(model, model.get_input_embeddings())}
        keys["trainable_token_indices"] = {name: [*new_ids] for name in sorted(filter(None, rows))}
    return keys


def check_attached(wrapped: Any, targets: dict[str, list[str]]) -> None:
    """Raise an AssertionError where PEFT changes other layers than those that were found."""
    for key, found in (
        ("target_modules", wrapped.base_model.targeted_module_names),
        ("target_parameters", wrapped.base_model.targeted_parameter_names),
    ):
        asked = {*targets.get(key, ())}
        assert {*found} == asked, f"PEFT's {key} are not those asked for: {sorted(asked ^ {*found})[:5]}"


def weight_counts(model: Any) -> dict[str, int]:
    """How many weights are trained, and how many there are, frozen ones included, before any conversion."""
    if hasattr(model, "peft_config"):
        of_adapter, total = model.get_nb_trainable_parameters()
        return {"trained": of_adapter, "total": total}
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"trained": sum(size for size, is_trained in sizes if is_trained), "total": sum(size for size, _ in sizes)}
