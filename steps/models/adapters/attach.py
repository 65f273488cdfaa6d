"""A model and its adapter, before training; and how many weights of it are trained."""

from functools import partial
from typing import Any

from steps.models.adapters.butterfly import enable_butterfly
from steps.models.adapters.frozen import linear_layers, quantise, take_triplets
from steps.models.adapters.kinds import KINDS, check, peft_config


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

    kind, head = KINDS[adapter["kind"]], model.get_output_embeddings()
    linear = {name: tuple(module.weight.shape) for name, module in linear_layers(model) if module is not head}
    check(adapter, linear)
    config = peft_config(adapter, seed, steps)
    enable_butterfly()
    if kind.four_bit:
        quantise(model)
    set_seed(seed)
    wrapped = get_peft_model(model, config)
    if kind.four_bit:
        # It makes TRL round the adapter to bfloat16.
        del model.is_loaded_in_4bit
    if kind.triplets:
        take_triplets(wrapped, smallest=kind.triplets == "smallest")
        state = get_peft_model_state_dict(wrapped)
        wrapped.initial_adapter = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    if config.peft_type == "ADALORA":
        # PEFT adds the penalty to every loss: to that of evaluation, and to that of each part of an accumulated batch
        # in full. `hooks.penalised` adds it where it belongs.
        wrapped.base_model.forward = partial(BaseTuner.forward, wrapped.base_model)
    return wrapped


def weight_counts(model: Any) -> dict[str, int]:
    """How many weights are trained, and how many there are, frozen ones included, before any conversion."""
    if hasattr(model, "peft_config"):
        of_adapter, total = model.get_nb_trainable_parameters()
        return {"trained": of_adapter, "total": total}
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"trained": sum(size for size, is_trained in sizes if is_trained), "total": sum(size for size, _ in sizes)}
