"""What computes a training's layers: the implementation of attention, Liger's kernels."""

import importlib.util
from typing import Any

from steps.models.files import one_line


def check(settings: dict) -> None:
    """Refuse what this machine does not have.

    Raises:
        ValueError: naming the setting and the fix.
    """
    flash, liger = settings.get("attention") == "flash_attention_2", settings.get("liger")
    if flash or liger:
        import torch

        key, package = ("liger", "liger_kernel") if liger else ("attention: flash_attention_2", "flash_attn")
        fix = "leave liger out" if liger else "write attention: sdpa"
        if not torch.cuda.is_available():
            raise ValueError(f"{key}: needs a GPU, and this job sees none; {fix}")
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{key}: needs the package {package.replace('_', '-')}, which is not installed; {fix}")


def use(model: Any, settings: dict) -> Any:
    """The model with the implementation of attention that the settings ask for.

    Raises:
        ValueError: the architecture does not have it.
    """
    wanted = settings.get("attention", "auto")
    if wanted != "auto":
        try:
            model.set_attn_implementation(wanted)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"attention: {model.config.model_type} does not have {wanted} ({one_line(error)}); write auto"
            ) from error
    return model
