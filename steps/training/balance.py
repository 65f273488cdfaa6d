"""The loss that spreads tokens over a mixture's experts, where TRL would ask a model for it.

TRL asks wherever a configuration has a coefficient. Families keep that key in models without experts (Granite 4 of 0
experts), name no loss in what they return (Llama 4), or count their experts by another key than TRL reads. So the loss
is asked of the model at hand.
"""

from typing import Any

from steps.models import trial

# What a configuration says of it, and how TRL's fused output layer counts experts.
COEFFICIENT, LOGITS = "router_aux_loss_coef", "output_router_logits"
COUNTS = ("num_experts", "num_experts_per_tok")


def asked(model: Any) -> bool:
    """Whether TRL would add the loss: the configuration has a coefficient, and gives a router's logits."""
    config = model.config.get_text_config()
    return hasattr(config, LOGITS) and bool(getattr(config, COEFFICIENT, 0.0))


def there(model: Any) -> bool:
    """Whether a model has the loss in the ways in which TRL takes it: from a forward pass, and made of its experts'
    number."""
    import torch
    from transformers.integrations import is_deepspeed_zero3_enabled

    if not all(getattr(model.config.get_text_config(), count, 0) for count in COUNTS):
        return False
    # Without its weights nothing can be tried.
    if is_deepspeed_zero3_enabled():
        return True
    ids = torch.tensor([trial.made_up(model)[0]], device=model.device)
    try:
        with torch.no_grad():
            loss = model(input_ids=ids, use_cache=False, **{LOGITS: True}).aux_loss
    # What an architecture raises that cannot make it has no common class.
    except Exception:
        return False
    return torch.is_tensor(loss) and bool(torch.isfinite(loss))


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
