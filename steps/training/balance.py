"""The loss that spreads tokens over a mixture's experts, where a model's configuration asks for it.

TRL asks wherever a configuration has a coefficient. Families keep that key in models without experts (Granite 4 of 0
experts), and name no loss in what they return (Llama 4). So the loss is asked of the model at hand. It is a mean over
the places of a forward pass, of which a step has several: each counts as its share of them. What is measured beside a
training is without it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from steps.models import trial

# What a configuration says of it, and how TRL's fused output layer counts experts.
COEFFICIENT, LOGITS = "router_aux_loss_coef", "output_router_logits"
COUNTS = ("num_experts", "num_experts_per_tok")


def asked(model: Any) -> bool:
    """Whether TRL would add the loss: the configuration has a coefficient, and gives a router's logits."""
    config = model.config.get_text_config()
    return hasattr(config, LOGITS) and bool(getattr(config, COEFFICIENT, 0.0))


def counted(model: Any) -> bool:
    """Whether TRL's fused output layer can make the loss, for which it reads the number of experts by two keys."""
    return all(getattr(model.config.get_text_config(), count, 0) for count in COUNTS)


def there(model: Any) -> bool:
    """Whether a model's forward pass returns the loss."""
    import torch
    from transformers.integrations import is_deepspeed_zero3_enabled

    # Without its weights nothing can be tried.
    if is_deepspeed_zero3_enabled():
        return counted(model)
    ids = torch.tensor([trial.made_up(model)[0]], device=model.device)
    try:
        with torch.no_grad():
            loss = model(input_ids=ids, use_cache=False, **{LOGITS: True}).aux_loss
    # What an architecture raises that cannot make it has no common class.
    except Exception:
        return False
    return torch.is_tensor(loss) and bool(torch.isfinite(loss))


@contextlib.contextmanager
def heard(model: Any, wanted: bool = True) -> Iterator[list[Any]]:
    """The loss of each forward pass of a model within, before its coefficient; nothing where it is not wanted."""
    from accelerate.utils import extract_model_from_parallel

    losses: list[Any] = []
    if not wanted:
        yield losses
        return
    own = extract_model_from_parallel(model)
    handles = (
        own.register_forward_pre_hook(lambda _, args, told: (args, told | {LOGITS: True}), with_kwargs=True),
        own.register_forward_hook(lambda _, args, outputs: losses.append(outputs.aux_loss)),
    )
    try:
        yield losses
    finally:
        for handle in handles:
            handle.remove()


def mean(losses: list[Any]) -> Any:
    """Of forward passes that share a part of a step."""
    return sum(losses) / len(losses)


def arguments(model: Any) -> dict[str, float]:
    """Those of a TRL config: the coefficient 0 where the model has no such loss, and that is said in a line."""
    if not asked(model) or there(model):
        return {}
    value = getattr(model.config.get_text_config(), COEFFICIENT)
    print(
        f"{COEFFICIENT}: {model.config.model_type} gives no loss that balances experts: {value:g} counts as 0",
        flush=True,
    )
    return {COEFFICIENT: 0.0}


def coefficient(model: Any) -> float:
    """What the loss is multiplied by in a training; 0 where the model has none or its configuration asks for none."""
    if not asked(model) or arguments(model):
        return 0.0
    return getattr(model.config.get_text_config(), COEFFICIENT)
