"""What DeepSpeed's ZeRO spreads over the processes, put together and dealt out again.

Its own checkpoints are pickles of each process's parts. These functions give the parts as whole tensors, by parameter,
so that a state is the same files as with any other launch. Every process must call them.
"""

from typing import Any

from steps.core import processes


def owns(tensor: Any) -> bool:
    """Whether ZeRO has the master copy of a parameter: stage 3 marks those that it spreads, stage 2 its fragments."""
    return hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping")


def whole(parameter: Any) -> Any:
    """A trained parameter in fp32."""
    from deepspeed.utils import safe_get_full_fp32_param

    return processes.kept(safe_get_full_fp32_param(parameter).clone())


def trained(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def optimizer_state(trainer: Any) -> dict:
    """As the state_dict of the optimizer that ZeRO spreads, of whole tensors: {"state": {index of a trained parameter:
    {name: tensor}}, "param_groups": […]}."""
    from deepspeed.utils import safe_get_full_optimizer_state

    inner, flat = trainer.optimizer.optimizer.optimizer, _flat(trainer)
    _link(trainer)
    step = inner.state[flat[0]]["step"]
    names = [name for name in inner.state[flat[0]] if name != "step"]
    states = {
        index: {"step": step.clone()}
        | {n: processes.kept(safe_get_full_optimizer_state(parameter, n).clone()) for n in names}
        for index, parameter in enumerate(trained(trainer.model))
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in inner.param_groups]
    return {"state": states, "param_groups": groups}


def restore(trainer: Any, weights: dict[str, Any], optimizer: dict) -> None:
    """Bring back the trained weights, by name, and what `optimizer_state` gave.

    The model's own weights, which ZeRO may keep in a lower precision, must have been loaded before it was set up.
    """
    import torch

    inner = trainer.optimizer.optimizer.optimizer
    example = optimizer["state"][0]
    for part in _flat(trainer):
        moments = {name: torch.zeros_like(part) for name in example if name != "step"}
        inner.state[part] = {"step": example["step"].clone()} | moments
    _link(trainer)
    names = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    for index, (name, parameter) in enumerate(zip(names, trained(trainer.model), strict=True)):
        _set(parameter, weights[name])
        for moment, value in optimizer["state"][index].items():
            if moment != "step":
                _set(parameter, value, moment)
    for group, saved in zip(inner.param_groups, optimizer["param_groups"], strict=True):
        group.update(saved)


def _flat(trainer: Any) -> list[Any]:
    """The tensors that this process's optimizer trains: its parts of all parameters, end to end."""
    zero = trainer.optimizer.optimizer
    stage3 = hasattr(zero, "fp32_partitioned_groups_flat")
    return list(zero.fp32_partitioned_groups_flat if stage3 else zero.single_partition_of_fp32_groups)


def _link(trainer: Any) -> None:
    """Stage 2 notes where a parameter's moments are after the first group's first step, when others have none yet."""
    zero = trainer.optimizer.optimizer
    if hasattr(zero, "single_partition_of_fp32_groups"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _set(parameter: Any, value: Any, name: str | None = None) -> None:
    """Deal out a whole tensor: the fp32 weight, or a moment of it."""
    import torch

    if not hasattr(parameter, "ds_id"):
        parameter.set_full_hp_param(value.to(parameter.device), name)
        return
    # DeepSpeed's own setter fails where a parameter's size is no multiple of the number of processes.
    zero = parameter._z3_optimizer
    part, _ = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=name)
    padding = part.numel() * processes.count() - value.numel()
    padded = torch.nn.functional.pad(value.flatten(), (0, padding))
    part.data.copy_(padded.narrow(0, part.numel() * processes.rank(), part.numel()))
