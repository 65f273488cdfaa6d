"""What a training asks of an adapter beyond its weights: its penalty, what follows a step, what a resumed run needs.

Only adalora has any of it.
"""

from typing import Any

from steps.models.adapters.files import NAME


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
