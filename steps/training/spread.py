"""Tensors that a strategy spread over the processes: put together, dealt out, gathered at the end."""

from typing import Any

from steps.core import processes
from steps.training import zero


def whole(tensor: Any) -> Any:
    """A tensor with all its parts: where a strategy spread them over the processes, in the first one's main memory, and
    nothing in the others. All processes must call it."""
    if zero.owns(tensor):
        return zero.whole(tensor)
    return processes.kept(tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def spread(tensor: Any, like: Any) -> Any:
    """A whole tensor, spread over the processes as another one of its shape is."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def put(target: Any, tensor: Any) -> None:
    """Copy a whole tensor into one that may be spread over the processes."""
    import torch

    with torch.no_grad():
        target.copy_(spread(tensor, target))


def settle(model: Any) -> None:
    """Spread again what an evaluation left whole, in the precision that is computed in: FSDP's last layers."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather(trainer: Any) -> bool:
    """Give the first process the whole model; true there, where the checkpoint is then written.

    All processes must call it. What was spread over them is not trained any further.
    """
    import torch
    from torch.distributed.fsdp import FSDPModule

    settle(trainer.model)
    gathered: dict[Any, Any] = {}  # tied parameters stay tied
    for module in trainer.model.modules():
        if isinstance(module, FSDPModule):
            # FSDP put a class of its own in front of the module's, which would look for the parts.
            module.__class__ = type(module).__bases__[1]
        for name, parameter in list(module.named_parameters(recurse=False)):
            # What ZeRO does not train it has no master copy of, and an adapter's checkpoint does not need it.
            if hasattr(parameter, "full_tensor") or (zero.owns(parameter) and parameter.requires_grad):
                if parameter not in gathered:
                    full = whole(parameter).detach()
                    gathered[parameter] = torch.nn.Parameter(full, requires_grad=parameter.requires_grad)
                module._parameters[name] = gathered[parameter]
    return processes.first()
